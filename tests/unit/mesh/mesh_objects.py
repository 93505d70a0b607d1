"""Small objects, documents and their findings, for the tests of both pure rooms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from meshca.mesh.findings import Finding, SpecError
from meshca.mesh.forest import MeshSet
from meshca.mesh.model import CLASSES, SPECS, VIRTUAL_GATEWAY, VIRTUAL_NODE, MeshObject, ObjectKey
from meshca.mesh.source import NamedSpec, Parsed, Source, parse_documents
from meshca.spiffe.id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("m.test")
MESH = "shop"
ARN = "arn:aws:appmesh:eu-west-1:123456789012"


def key(name: str, kind: str = VIRTUAL_NODE, parent: str = "") -> ObjectKey:
    return ObjectKey(MESH, kind, parent, name)


def spiffe_id(name: str, kind: str = VIRTUAL_NODE) -> SpiffeId:
    return SpiffeId(DOMAIN, f"/mesh/{MESH}/{kind}/{name}")


GATEWAY_ID = spiffe_id("door", VIRTUAL_GATEWAY)


def examples(count: int) -> settings:
    """Return a property's settings: no clock, since others may be busy on the same machine."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# -- objects


def made(kind: str, name: str, spec: Mapping[str, Any] | None = None, parent: str = "") -> MeshObject:
    shape: Any = CLASSES[kind]  # the kind says which spec goes with it
    item: MeshObject = shape(MESH, name, SPECS[kind].model_validate(spec or {}, context={"mesh": MESH}), parent)
    return item


def listener(port: int = 80, protocol: str = "http", **fields: Any) -> dict[str, Any]:
    return {"portMapping": {"port": port, "protocol": protocol}, **fields}


def node(name: str, *backends: str, listeners: tuple[dict[str, Any], ...] = (listener(),), **spec: Any) -> MeshObject:
    written: dict[str, Any] = {"backends": [backend(service) for service in backends], "listeners": list(listeners)}
    if listeners:
        written["serviceDiscovery"] = {"dns": {"hostname": f"{name}.local"}}
    return made("virtualNode", name, {**written, **spec})


def backend(service: str, **fields: Any) -> dict[str, Any]:
    return {"virtualService": {"virtualServiceName": service, **fields}}


def service(name: str, *, node: str = "", router: str = "") -> MeshObject:
    if node:
        return made("virtualService", name, {"provider": {"virtualNode": {"virtualNodeName": node}}})
    if router:
        return made("virtualService", name, {"provider": {"virtualRouter": {"virtualRouterName": router}}})
    return made("virtualService", name)


def router(name: str, *listeners: dict[str, Any]) -> MeshObject:
    return made("virtualRouter", name, {"listeners": list(listeners or (listener(),))})


def target(node: str, weight: int = 1, port: int | None = None) -> dict[str, Any]:
    return {"virtualNode": node, "weight": weight, **({} if port is None else {"port": port})}


def route(parent: str, name: str, *targets: dict[str, Any], kind: str = "httpRoute", **fields: Any) -> MeshObject:
    body: dict[str, Any] = {"action": {"weightedTargets": list(targets)}}
    if kind != "tcpRoute":
        body["match"] = {} if kind == "grpcRoute" else {"prefix": "/"}
    if "match" in fields:
        body["match"] = {**body.get("match", {}), **fields.pop("match")}
    return made("route", name, {kind: body, **fields}, parent)


def gateway(name: str = "door", *listeners: dict[str, Any], **spec: Any) -> MeshObject:
    return made("virtualGateway", name, {"listeners": list(listeners or (listener(443),)), **spec})


def gateway_route(
    name: str, service: str, parent: str = "door", port: int | None = None, priority: int | None = None
) -> MeshObject:
    leads_to: dict[str, Any] = {"virtualService": {"virtualServiceName": service}}
    if port is not None:
        leads_to["port"] = port
    spec: dict[str, Any] = {"httpRoute": {"match": {"prefix": f"/{name}"}, "action": {"target": leads_to}}}
    if priority is not None:
        spec["priority"] = priority
    return made("gatewayRoute", name, spec, parent)


def mesh_set(*objects: MeshObject) -> MeshSet:
    return MeshSet((made("mesh", MESH), *objects))


# -- tls


def mutual(*names: object, mode: str = "STRICT", sds: str = "default") -> dict[str, Any]:
    """Return a listener's tls that asks for a certificate, of these names if there are any."""
    return {"mode": mode, "certificate": {"sds": {"secretName": sds}}, "validation": validation(*names)}


def client_policy(*names: object, **tls: Any) -> dict[str, Any]:
    return {"tls": {"validation": validation(*names), **tls}}


def validation(*names: object) -> dict[str, Any]:
    found: dict[str, Any] = {"trust": {"sds": {"secretName": "ROOTCA"}}}
    if names:
        found["subjectAlternativeNames"] = {"match": {"exact": [str(name) for name in names]}}
    return found


# -- texts


def create_input(kind: str, name: str, spec: Any, parent: str = "", **envelope: Any) -> dict[str, Any]:
    """Return an object as `aws appmesh create-…` takes it."""
    names = {f"{kind}Name": name}
    if parent:
        names["virtualRouterName" if kind == "route" else "virtualGatewayName"] = parent
    return {"meshName": MESH, **names, "spec": spec, **envelope}


def parsed(
    text: object,
    path: str = "a.json",
    *,
    variables: Mapping[str, str] | None = None,
    named: NamedSpec | None = None,
    mesh: str | None = None,
) -> Parsed:
    """Return what a text holds; what is no text is written as JSON first."""
    written = text if isinstance(text, str) else json.dumps(text)
    return parse_documents([Source(path, written, named, mesh)], variables)


def refusals(text: object, path: str = "a.json", **said: Any) -> list[Finding]:
    """Return the errors that a text is refused for."""
    with pytest.raises(SpecError) as caught:
        parsed(text, path, **said)
    errors = [finding for finding in caught.value.findings if finding.severity == "error"]
    assert all(str(error) in str(caught.value) for error in errors[:100])
    return errors


def refusal(text: object, path: str = "a.json", **said: Any) -> Finding:
    """Return the one error that a text is refused for."""
    (error,) = refusals(text, path, **said)
    return error


def spec_refusal(kind: str, spec: Any, parent: str = "") -> Finding:
    """Return the one error that a spec is refused for."""
    return refusal(create_input(kind, "it", spec, parent))
