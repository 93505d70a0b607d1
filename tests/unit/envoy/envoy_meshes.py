"""Small meshes for the generator's tests, and the real messages of what it makes of them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from meshca.envoy.generator import generate
from meshca.envoy.placement import Placement
from meshca.envoy.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Generated
from meshca.envoy.snapshot import Endpoint, Snapshot
from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities
from meshca.mesh.model import CLASSES, SPECS, VIRTUAL_GATEWAY, VIRTUAL_NODE, MeshObject, ObjectKey
from meshca.policy.admission import Policy
from meshca.spiffe.id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("m.test")
MESH = "demo"


def node_id(name: str) -> SpiffeId:
    return SpiffeId(DOMAIN, f"/mesh/{MESH}/virtualNode/{name}")


def node_key(name: str) -> ObjectKey:
    return ObjectKey(MESH, VIRTUAL_NODE, "", name)


def gateway_id(name: str) -> SpiffeId:
    return SpiffeId(DOMAIN, f"/mesh/{MESH}/virtualGateway/{name}")


def gateway_key(name: str) -> ObjectKey:
    return ObjectKey(MESH, VIRTUAL_GATEWAY, "", name)


def made(kind: str, name: str, spec: Mapping[str, Any], parent: str = "") -> MeshObject:
    shape: Any = CLASSES[kind]  # the kind says which spec goes with it
    item: MeshObject = shape(MESH, name, SPECS[kind].model_validate(spec), parent)
    return item


def mutual(mode: str = "STRICT", names: tuple[str, ...] | None = ()) -> dict[str, Any]:
    """Return a listener's tls; ``names`` None: without validation."""
    sds = {"sds": {"secretName": "default"}}
    tls: dict[str, Any] = {"mode": mode, "certificate": sds}
    if names is not None:
        tls["validation"] = {"trust": {"sds": {"secretName": "ROOTCA"}}}
        if names:
            tls["validation"]["subjectAlternativeNames"] = {"match": {"exact": list(names)}}
    return tls


def server(
    name: str, protocol: str = "http", port: int = 9080, tls: dict[str, Any] | None = None, **listener: Any
) -> MeshObject:
    spec: dict[str, Any] = {
        "listeners": [{"portMapping": {"port": port, "protocol": protocol}, **listener}],
        "serviceDiscovery": {"dns": {"hostname": f"{name}.apps.local"}},
    }
    if tls is not None:
        spec["listeners"][0]["tls"] = tls
    return made("virtualNode", name, spec)


def client(name: str, *services: str, **spec: Any) -> MeshObject:
    backends = [{"virtualService": {"virtualServiceName": service}} for service in services]
    return made("virtualNode", name, {"backends": backends, **spec})


def service(name: str, node: str | None = None, router: str | None = None) -> MeshObject:
    if node is not None:
        return made("virtualService", name, {"provider": {"virtualNode": {"virtualNodeName": node}}})
    if router is not None:
        return made("virtualService", name, {"provider": {"virtualRouter": {"virtualRouterName": router}}})
    return made("virtualService", name, {})


def router(name: str, protocol: str = "http", *ports: int) -> MeshObject:
    mappings = [{"portMapping": {"port": port, "protocol": protocol}} for port in ports or (8080,)]
    return made("virtualRouter", name, {"listeners": mappings})


def gateway(name: str, *listeners: Mapping[str, Any], **spec: Any) -> MeshObject:
    """Return a gateway; without listeners it has one on port 8088."""
    return made("virtualGateway", name, {"listeners": list(listeners) or [entry(8088)], **spec})


def entry(port: int, protocol: str = "http", **parts: Any) -> dict[str, Any]:
    """Return a listener."""
    return {"portMapping": {"port": port, "protocol": protocol}, **parts}


def gateway_route(
    name: str, service: str, match: Mapping[str, Any], kind: str = "httpRoute", target: Mapping[str, Any] | None = None,
    **spec: Any,
) -> MeshObject:  # fmt: skip
    action: dict[str, Any] = {"target": {"virtualService": {"virtualServiceName": service}, **(target or {})}}
    action.update({key: spec.pop(key) for key in ("rewrite",) if key in spec})
    return made("gatewayRoute", name, {kind: {"match": dict(match), "action": action}, **spec}, "gw")


def route(parent: str, name: str, weights: Mapping[str, int], kind: str = "httpRoute", **spec: Any) -> MeshObject:
    targets = [{"virtualNode": node, "weight": weight} for node, weight in weights.items()]
    body: dict[str, Any] = {"action": {"weightedTargets": targets}}
    if kind != "tcpRoute":
        body["match"] = spec.pop("match", {} if kind == "grpcRoute" else {"prefix": "/"})
    body.update({key: spec.pop(key) for key in ("timeout", "retryPolicy") if key in spec})
    return made("route", name, {kind: body, **spec}, parent)


def snapshot(
    *objects: MeshObject,
    epochs: Mapping[str, int] | None = None,
    suspended: tuple[str, ...] = (),
    mesh: Mapping[str, Any] | None = None,
    endpoints: Mapping[str, tuple[Endpoint, ...]] | None = None,
) -> Snapshot:
    mesh_set = MeshSet((made("mesh", MESH, mesh or {}), *objects))
    ids = identities(mesh_set, DOMAIN)
    policy = Policy.of(mesh_set, ids, DOMAIN)
    where = {node_key(name): found for name, found in (endpoints or {}).items()}
    return Snapshot(mesh_set, policy, ids, epochs or {}, frozenset(map(node_id, suspended)), where)


def message(resource: Generated) -> Any:
    """Return the real message of a resource."""
    package, _, name = resource.type_url.removeprefix("type.googleapis.com/").rpartition(".")
    modules = {CLUSTER: "cluster_pb2", LISTENER: "listener_pb2", ROUTES: "route_pb2", ENDPOINTS: "endpoint_pb2"}
    kind = getattr(importlib.import_module(f"{package}.{modules[resource.type_url]}"), name)
    return kind.FromString(resource.body)


def messages(state: Snapshot, node: str | ObjectKey, placement: Placement | None = None) -> dict[str, Any]:
    """Return all that a node (or gateway, by key) gets, by name; endpoints have the name of their cluster."""
    key = node_key(node) if isinstance(node, str) else node
    found = generate(key, state, placement or Placement())
    return {f"eds:{one.name}" if one.type_url == ENDPOINTS else one.name: message(one) for one in found}


def unpacked(packed: Any, kind: Any) -> Any:
    """Return the message inside an Any."""
    inner = kind()
    assert packed.Unpack(inner)
    return inner
