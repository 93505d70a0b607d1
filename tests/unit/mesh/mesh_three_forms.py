"""One small mesh with every kind of object, written in the three forms."""

from __future__ import annotations

import json
from typing import Any

MESH_NAME = "shop"


def api() -> str:
    """Return the mesh as create-inputs of App Mesh's API: JSON values one after the other."""
    return "\n".join(json.dumps(item, indent=2) for item in _api())


def _api() -> list[dict[str, Any]]:
    return [
        {"meshName": "shop", "spec": {"egressFilter": {"type": "ALLOW_ALL"}}},
        {"meshName": "shop", "virtualNodeName": "web", "spec": _web()},
        {"meshName": "shop", "virtualNodeName": "cart", "spec": _cart()},
        {"meshName": "shop", "virtualRouterName": "cart", "spec": {"listeners": [_port(8080, "http")]}},
        {"meshName": "shop", "virtualRouterName": "cart", "routeName": "blue", "spec": _route()},
        {
            "meshName": "shop",
            "virtualServiceName": "cart.shop.local",
            "spec": {"provider": {"virtualRouter": {"virtualRouterName": "cart"}}},
        },
        {
            "meshName": "shop",
            "virtualServiceName": "direct.shop.local",
            "spec": {"provider": {"virtualNode": {"virtualNodeName": "cart"}}},
        },
        {"meshName": "shop", "virtualGatewayName": "door", "spec": _door()},
        {"meshName": "shop", "virtualGatewayName": "door", "gatewayRouteName": "in", "spec": _gateway_route()},
    ]


def _port(port: int, protocol: str) -> dict[str, Any]:
    return {"portMapping": {"port": port, "protocol": protocol}}


def _web() -> dict[str, Any]:
    acm = {"certificateAuthorityArns": ["arn:aws:acm-pca:eu-west-1:123456789012:certificate-authority/one"]}
    names = {"match": {"exact": ["spiffe://m.test/cart", "cart.shop.local"]}}
    return {
        "listeners": [
            {
                **_port(8080, "http2"),
                "healthCheck": {
                    "protocol": "http2", "healthyThreshold": 2, "unhealthyThreshold": 3, "intervalMillis": 5000,
                    "timeoutMillis": 2000, "path": "/ping", "port": 8080,
                },
                "timeout": {"http2": {"perRequest": {"unit": "s", "value": 5}, "idle": {"unit": "ms", "value": 900}}},
                "connectionPool": {"http2": {"maxRequests": 10}},
                "outlierDetection": {
                    "maxServerErrors": 5, "interval": {"unit": "s", "value": 30},
                    "baseEjectionDuration": {"unit": "s", "value": 10}, "maxEjectionPercent": 50,
                },
            }
        ],
        "serviceDiscovery": {"dns": {"hostname": "web.shop.local", "responseType": "ENDPOINTS"}},
        "backendDefaults": {
            "clientPolicy": {"tls": {"enforce": True, "ports": [8080], "validation": {"trust": {"acm": acm}}}}
        },
        "backends": [
            {
                "virtualService": {
                    "virtualServiceName": "cart.shop.local",
                    "clientPolicy": {
                        "tls": {
                            "certificate": {"sds": {"secretName": "spiffe://m.test/web"}},
                            "validation": {
                                "trust": {"sds": {"secretName": "spiffe://m.test"}},
                                "subjectAlternativeNames": names,
                            },
                        }
                    },
                }
            },
            {"virtualService": {"virtualServiceName": "direct.shop.local"}},
        ],
        "logging": {"accessLog": {"file": {"path": "/dev/stdout", "format": {"text": "%PROTOCOL%"}}}},
    }  # fmt: skip


def _cart() -> dict[str, Any]:
    arn = "arn:aws:acm:eu-west-1:123456789012:certificate/cart"
    return {
        "listeners": [
            {
                **_port(80, "http"),
                "tls": {
                    "mode": "STRICT",
                    "certificate": {"acm": {"certificateArn": arn}},
                    "validation": {"trust": {"file": {"certificateChain": "/keys/ca.pem"}}},
                },
                "connectionPool": {"http": {"maxConnections": 100, "maxPendingRequests": 7}},
            }
        ],
        "serviceDiscovery": {
            "awsCloudMap": {
                "namespaceName": "shop.local", "serviceName": "cart",
                "attributes": [{"key": "colour", "value": "blue"}],
            }
        },
        "logging": {
            "accessLog": {"file": {"path": "/dev/stdout", "format": {"json": [{"key": "p", "value": "%PROTOCOL%"}]}}}
        },
    }  # fmt: skip


def _route() -> dict[str, Any]:
    headers = [
        {"name": "x-colour", "match": {"exact": "blue"}, "invert": True},
        {"name": "x-size", "match": {"range": {"start": 1, "end": 9}}},
        {"name": "x-here"},
    ]
    return {
        "priority": 10,
        "httpRoute": {
            "match": {
                "prefix": "/", "method": "GET", "scheme": "http", "headers": headers, "port": 8080,
                "queryParameters": [{"name": "q", "match": {"exact": "1"}}],
            },
            "action": {"weightedTargets": [{"virtualNode": "cart", "weight": 1, "port": 80}]},
            "retryPolicy": {
                "maxRetries": 2, "perRetryTimeout": {"unit": "ms", "value": 200},
                "httpRetryEvents": ["server-error"], "tcpRetryEvents": ["connection-error"],
            },
            "timeout": {"perRequest": {"unit": "s", "value": 3}},
        },
    }  # fmt: skip


def _door() -> dict[str, Any]:
    files = {"certificateChain": "/keys/door.pem", "privateKey": "/keys/door.key"}
    return {
        "listeners": [{**_port(8443, "http"), "tls": {"mode": "PERMISSIVE", "certificate": {"file": files}}}],
        "backendDefaults": {
            "clientPolicy": {"tls": {"validation": {"trust": {"file": {"certificateChain": "/keys/ca.pem"}}}}}
        },
    }


def _gateway_route() -> dict[str, Any]:
    target = {"virtualService": {"virtualServiceName": "cart.shop.local"}, "port": 8080}
    rewrite = {"hostname": {"defaultTargetHostname": "DISABLED"}, "prefix": {"value": "/v2/"}}
    return {
        "priority": 5,
        "httpRoute": {
            "match": {"prefix": "/cart/", "hostname": {"suffix": ".shop.test"}},
            "action": {"target": target, "rewrite": rewrite},
        },
    }


PARAMETERS = {"ServicesDomain": "shop.local", "Mutual": "true", "WebPort": "8080"}
"""Values for the template below."""

CLOUDFORMATION = """
AWSTemplateFormatVersion: "2010-09-09"
Parameters:
  ServicesDomain: {Type: String}
  Mutual: {Type: String, AllowedValues: ["true", "false"], Default: "false"}
  WebPort: {Type: Number, Default: 9090}
  Ejection: {Type: Number, Default: 50}
  Events: {Type: CommaDelimitedList, Default: server-error}
Conditions:
  IsMutual: !Equals [!Ref Mutual, "true"]
  IsPlain: !Not [{Condition: IsMutual}]
  IsBoth: !And [!Condition IsMutual, !Condition IsPlain]
Mappings:
  Weights: {blue: {cart: 1}}
  Paths: {keys: {ca: /keys/ca.pem}}
Resources:
  Bucket: {Type: AWS::S3::Bucket, Properties: {BucketName: !ImportValue of-another-stack}}
  Mesh:
    Type: AWS::AppMesh::Mesh
    Properties:
      MeshName: shop
      Spec: {EgressFilter: {Type: !If [IsBoth, DROP_ALL, ALLOW_ALL]}}
  Web:
    Type: AWS::AppMesh::VirtualNode
    Properties:
      MeshName: !GetAtt Mesh.MeshName
      VirtualNodeName: web
      Spec:
        Listeners:
          - PortMapping: {Port: !Ref WebPort, Protocol: http2}
            HealthCheck:
              Protocol: http2
              HealthyThreshold: "2"
              UnhealthyThreshold: 3
              IntervalMillis: 5000
              TimeoutMillis: 2000
              Path: /ping
              Port: !Ref WebPort
            Timeout: {HTTP2: {PerRequest: {Unit: s, Value: 5}, Idle: {Unit: ms, Value: 900}}}
            ConnectionPool: {HTTP2: {MaxRequests: 10}}
            OutlierDetection:
              MaxServerErrors: 5
              Interval: {Unit: s, Value: 30}
              BaseEjectionDuration: {Unit: s, Value: 10}
              MaxEjectionPercent: !Ref Ejection
        ServiceDiscovery: {DNS: {Hostname: !Sub "web.${ServicesDomain}", ResponseType: ENDPOINTS}}
        BackendDefaults:
          ClientPolicy:
            TLS:
              Enforce: !If [IsMutual, "true", "false"]
              Ports: [!Ref WebPort]
              Validation:
                Trust:
                  ACM:
                    CertificateAuthorityArns: ["arn:aws:acm-pca:eu-west-1:123456789012:certificate-authority/one"]
        Backends:
          - VirtualService:
              VirtualServiceName: !GetAtt [CartService, VirtualServiceName]
              ClientPolicy:
                TLS:
                  Certificate: {SDS: {SecretName: "spiffe://m.test/web"}}
                  Validation:
                    Trust: {SDS: {SecretName: "spiffe://m.test"}}
                    SubjectAlternativeNames:
                      Match: {Exact: ["spiffe://m.test/cart", !Join [".", [cart, !Ref ServicesDomain]]]}
          - VirtualService: {VirtualServiceName: {"Fn::GetAtt": [Direct, VirtualServiceName]}}
          - !If [IsPlain, {VirtualService: {VirtualServiceName: gone}}, !Ref "AWS::NoValue"]
        Logging: {AccessLog: {File: {Path: /dev/stdout, Format: {Text: "%PROTOCOL%"}}}}
  Cart:
    Type: AWS::AppMesh::VirtualNode
    Properties:
      MeshName: {Ref: MeshNameOverride}
      VirtualNodeName: cart
      Spec:
        Listeners:
          - PortMapping: {Port: 80, Protocol: http}
            TLS:
              Mode: STRICT
              Certificate: {ACM: {CertificateArn: !Ref Certificate}}
              Validation:
                Fn::If:
                  - IsMutual
                  - Trust: {File: {CertificateChain: !FindInMap [Paths, keys, ca]}}
                  - Ref: AWS::NoValue
            ConnectionPool: {HTTP: {MaxConnections: 100, MaxPendingRequests: 7}}
        ServiceDiscovery:
          AWSCloudMap:
            NamespaceName: !GetAtt Zone.Name
            ServiceName: cart
            Attributes: [{Key: colour, Value: blue}]
        Logging: {AccessLog: {File: {Path: /dev/stdout, Format: {Json: [{Key: p, Value: "%PROTOCOL%"}]}}}}
  CartRouter:
    Type: AWS::AppMesh::VirtualRouter
    Properties:
      MeshName: !GetAtt Mesh.MeshName
      VirtualRouterName: cart
      Spec: {Listeners: [{PortMapping: {Port: 8080, Protocol: http}}]}
  CartRoute:
    Type: AWS::AppMesh::Route
    Properties:
      MeshName: !GetAtt Mesh.MeshName
      VirtualRouterName: !GetAtt CartRouter.VirtualRouterName
      RouteName: blue
      Spec:
        Priority: 10
        HttpRoute:
          Match:
            Prefix: /
            Method: GET
            Scheme: http
            Headers:
              - {Name: x-colour, Match: {Exact: blue}, Invert: "true"}
              - {Name: x-size, Match: {Range: {Start: 1, End: 9}}}
              - {Name: x-here}
            Port: 8080
            QueryParameters: [{Name: q, Match: {Exact: 1}}]
          Action:
            WeightedTargets:
              - {VirtualNode: !GetAtt Cart.VirtualNodeName, Weight: !FindInMap [Weights, blue, cart], Port: 80}
          RetryPolicy:
            MaxRetries: 2
            PerRetryTimeout: {Unit: ms, Value: 200}
            HttpRetryEvents: !Ref Events
            TcpRetryEvents: [connection-error]
          Timeout: {PerRequest: {Unit: s, Value: 3}}
  CartService:
    Type: AWS::AppMesh::VirtualService
    Properties:
      MeshName: !GetAtt Mesh.MeshName
      VirtualServiceName: !Sub ["cart.${Domain}", {Domain: !Ref ServicesDomain}]
      Spec: {Provider: {VirtualRouter: {VirtualRouterName: !GetAtt CartRouter.VirtualRouterName}}}
  Direct:
    Type: AWS::AppMesh::VirtualService
    Properties:
      MeshName: !GetAtt Mesh.MeshName
      VirtualServiceName: !Sub "direct.${ServicesDomain}"
      Spec: {Provider: {VirtualNode: {VirtualNodeName: !Sub "${Cart.VirtualNodeName}"}}}
  Door:
    Type: AWS::AppMesh::VirtualGateway
    Properties:
      MeshName: !GetAtt Mesh.MeshName
      VirtualGatewayName: door
      Spec:
        Listeners:
          - PortMapping: {Port: 8443, Protocol: http}
            TLS:
              Mode: PERMISSIVE
              Certificate: {File: {CertificateChain: /keys/door.pem, PrivateKey: /keys/door.key}}
        BackendDefaults: {ClientPolicy: {TLS: {Validation: {Trust: {File: {CertificateChain: /keys/ca.pem}}}}}}
  In:
    Type: AWS::AppMesh::GatewayRoute
    DependsOn: [Door]
    Properties:
      MeshName: !GetAtt Mesh.MeshName
      VirtualGatewayName: !GetAtt Door.VirtualGatewayName
      GatewayRouteName: in
      Spec:
        Priority: 5
        HttpRoute:
          Match: {Prefix: /cart/, Hostname: {Suffix: .shop.test}}
          Action:
            Target: {VirtualService: {VirtualServiceName: !GetAtt CartService.VirtualServiceName}, Port: 8080}
            Rewrite: {Hostname: {DefaultTargetHostname: DISABLED}, Prefix: {Value: /v2/}}
Outputs:
  Bucket: {Value: !GetAtt Bucket.Arn}
"""
OUTSIDE = {
    "MeshNameOverride": "shop",
    "Certificate": "arn:aws:acm:eu-west-1:123456789012:certificate/cart",
    "Zone.Name": "shop.local",
}
"""What resources of other types would give the template."""

KUBERNETES = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh: shop, door: open}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {mesh: shop}}
  egressFilter: {type: ALLOW_ALL}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: web, namespace: shop}
spec:
  awsName: web
  podSelector: {matchLabels: {app: web}}
  listeners:
    - portMapping: {port: 8080, protocol: http2}
      healthCheck:
        protocol: http2
        healthyThreshold: 2
        unhealthyThreshold: 3
        intervalMillis: 5000
        timeoutMillis: 2000
        path: /ping
        port: 8080
      timeout: {http2: {perRequest: {unit: s, value: 5}, idle: {unit: ms, value: 900}}}
      connectionPool: {http2: {maxRequests: 10}}
      outlierDetection:
        maxServerErrors: 5
        interval: {unit: s, value: 30}
        baseEjectionDuration: {unit: s, value: 10}
        maxEjectionPercent: 50
  serviceDiscovery: {dns: {hostname: web.shop.local, responseType: ENDPOINTS}}
  backendDefaults:
    clientPolicy:
      tls:
        enforce: true
        ports: [8080]
        validation:
          trust:
            acm: {certificateAuthorityARNs: ["arn:aws:acm-pca:eu-west-1:123456789012:certificate-authority/one"]}
  backends:
    - virtualService:
        virtualServiceRef: {name: cart}
        clientPolicy:
          tls:
            certificate: {sds: {secretName: "spiffe://m.test/web"}}
            validation:
              trust: {sds: {secretName: "spiffe://m.test"}}
              subjectAlternativeNames: {match: {exact: ["spiffe://m.test/cart", cart.shop.local]}}
  backendGroups: [{name: others}]
  logging: {accessLog: {file: {path: /dev/stdout, format: {text: "%PROTOCOL%"}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: BackendGroup
metadata: {name: others, namespace: shop}
spec:
  virtualservices: [{name: cart, namespace: shop}, {name: direct}]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: cart-node, namespace: shop}
spec:
  awsName: cart
  listeners:
    - portMapping: {port: 80, protocol: http}
      tls:
        mode: STRICT
        certificate: {acm: {certificateARN: "arn:aws:acm:eu-west-1:123456789012:certificate/cart"}}
        validation: {trust: {file: {certificateChain: /keys/ca.pem}}}
      connectionPool: {http: {maxConnections: 100, maxPendingRequests: 7}}
  serviceDiscovery:
    awsCloudMap: {namespaceName: shop.local, serviceName: cart, attributes: [{key: colour, value: blue}]}
  logging: {accessLog: {file: {path: /dev/stdout, format: {json: [{key: p, value: "%PROTOCOL%"}]}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: cart, namespace: shop}
spec:
  awsName: cart
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  routes:
    - name: blue
      priority: 10
      httpRoute:
        match:
          prefix: /
          method: GET
          scheme: http
          headers:
            - {name: x-colour, match: {exact: blue}, invert: true}
            - {name: x-size, match: {range: {start: 1, end: 9}}}
            - {name: x-here}
          port: 8080
          queryParameters: [{name: q, match: {exact: "1"}}]
        action:
          weightedTargets: [{virtualNodeRef: {name: cart-node}, weight: 1, port: 80}]
        retryPolicy:
          maxRetries: 2
          perRetryTimeout: {unit: ms, value: 200}
          httpRetryEvents: [server-error]
          tcpRetryEvents: [connection-error]
        timeout: {perRequest: {unit: s, value: 3}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  awsName: cart.shop.local
  provider: {virtualRouter: {virtualRouterRef: {name: cart}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: direct, namespace: shop}
spec:
  awsName: direct.shop.local
  provider:
    virtualNode:
      virtualNodeARN: "arn:aws:appmesh:eu-west-1:123456789012:mesh/shop/virtualNode/cart"
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: door, namespace: shop}
spec:
  awsName: door
  namespaceSelector: {matchExpressions: [{key: door, operator: In, values: [open]}]}
  listeners:
    - portMapping: {port: 8443, protocol: http}
      tls:
        mode: PERMISSIVE
        certificate: {file: {certificateChain: /keys/door.pem, privateKey: /keys/door.key}}
  backendDefaults: {clientPolicy: {tls: {validation: {trust: {file: {certificateChain: /keys/ca.pem}}}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: GatewayRoute
metadata: {name: in, namespace: shop}
spec:
  awsName: in
  priority: 5
  httpRoute:
    match: {prefix: /cart/, hostname: {suffix: .shop.test}}
    action:
      target: {virtualService: {virtualServiceRef: {name: cart}}, port: 8080}
      rewrite: {hostname: {defaultTargetHostname: DISABLED}, prefix: {value: /v2/}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {spec: {containers: [{image: "${WEB_IMAGE}"}]}}}
"""
