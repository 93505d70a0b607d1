"""Random meshes, their policies, and the same answers by brute force."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st
from unit.mesh.mesh_objects import (
    DOMAIN,
    GATEWAY_ID,
    backend,
    client_policy,
    gateway,
    gateway_route,
    listener,
    mesh_set,
    mutual,
    node,
    route,
    router,
    service,
    spiffe_id,
    target,
)

from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities
from meshca.mesh.model import MeshObject
from meshca.policy.admission import Policy

NODES = ("a", "b", "c")
SERVICES = ("s", "t")
PORTS = (80, 81)
IDS = (*(str(spiffe_id(name)) for name in NODES), str(GATEWAY_ID), "spiffe://other.test/x", "a.local")
OWN = "spiffe://m.test/own"


def policy_of(*objects: MeshObject) -> Policy:
    return policy_over(mesh_set(*objects))


def policy_over(found: MeshSet) -> Policy:
    return Policy.of(found, identities(found, DOMAIN), DOMAIN)


_exact = st.lists(st.sampled_from(IDS), unique=True, max_size=2)
_policies = st.none() | st.builds(
    lambda names, ports, enforce: client_policy(*names, enforce=enforce, **({} if ports is None else {"ports": ports})),
    _exact,
    st.none() | st.lists(st.sampled_from(PORTS), unique=True),
    st.booleans(),
)


@st.composite
def _listeners(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], ...]:
    found = []
    for port in draw(st.lists(st.sampled_from(PORTS), unique=True)):
        tls = draw(st.none() | st.builds(lambda names, mode: mutual(*names, mode=mode), _exact,
                                         st.sampled_from(["STRICT", "PERMISSIVE", "DISABLED"])))  # fmt: skip
        if tls is not None and name == "c":
            tls["certificate"]["sds"]["secretName"] = OWN
        found.append(listener(port) if tls is None else listener(port, tls=tls))
    return tuple(found)


@st.composite
def meshes(draw: st.DrawFn) -> tuple[MeshObject, ...]:
    """Return three nodes, two services behind a node, a router or nothing, and perhaps a gateway."""
    listeners = {name: draw(_listeners(name)) for name in NODES}
    objects = [router("r", listener(80)), gateway(backendDefaults=_defaults(draw))]
    for name in NODES:
        backends = [
            backend(called, **({} if written is None else {"clientPolicy": written}))
            for called in draw(st.lists(st.sampled_from(SERVICES), unique=True))
            for written in (draw(_policies),)
        ]
        objects.append(node(name, listeners=listeners[name], backends=backends, backendDefaults=_defaults(draw)))
    for called in SERVICES:
        provider = draw(st.sampled_from(["", "r", *NODES]))
        objects.append(service(called, router="r") if provider == "r" else service(called, node=provider))
    for index, name in enumerate(draw(st.lists(st.sampled_from(NODES), max_size=2))):
        ports = [one["portMapping"]["port"] for one in listeners[name]]
        chosen = draw(st.sampled_from(ports)) if ports else None
        objects.append(route("r", f"route{index}", target(name, weight=draw(st.integers(0, 1)), port=chosen)))
    objects += [
        gateway_route(f"g{called}", called, port=_gateway_port(called, objects))
        for called in draw(st.lists(st.sampled_from(SERVICES), unique=True))
    ]
    return tuple(objects)


def _defaults(draw: st.DrawFn) -> dict[str, Any]:
    written = draw(_policies)
    return {} if written is None else {"clientPolicy": written}


def _gateway_port(called: str, objects: list[MeshObject]) -> int | None:
    """Return a port where the service has several, since its route must name one then."""
    specs = {item.key[1:]: item.spec.plain() for item in objects}
    provider = specs["virtualService", "", called].get("provider", {}).get("virtualNode")
    listeners = specs["virtualNode", "", provider["virtualNodeName"]]["listeners"] if provider else []
    return listeners[0]["portMapping"]["port"] if len(listeners) > 1 else None


# -- the same answers, read off the specs


class _Plain(NamedTuple):
    kind: str
    name: str
    spiffe_id: str
    spec: dict[str, Any]


class _Way(NamedTuple):
    """A service that a client calls, and where it leads: nodes, and ports that listen."""

    client: _Plain
    service: str
    nodes: set[str]
    ports: list[tuple[str, int]]


class Brute:
    """Who may call whom, read off the specs one by one."""

    def __init__(self, objects: tuple[MeshObject, ...]) -> None:
        self._objects = [_Plain(item.kind, item.name, _id(item), item.spec.plain()) for item in objects]
        self._ways = [
            _Way(client, called, {node.spiffe_id for node, _ in self._targets(called)}, self._ports(called))
            for client in self._objects
            for called in self._called(client)
        ]

    def calls(self) -> set[tuple[str, str, int]]:
        """Return client, server and port of every call that both sides admit."""
        accepted, admitted = self.backends(), self.listeners()
        return {
            (way.client.spiffe_id, server, port)
            for way in self._ways
            for server, port in way.ports
            if server in accepted[way.client.spiffe_id, way.service] and way.client.spiffe_id in admitted[server, port]
        }

    def listeners(self) -> dict[tuple[str, int], set[str]]:
        """Return whom each listener admits."""
        return {
            (item.spiffe_id, one["portMapping"]["port"]): self._clients(item, one)
            for item in self._objects
            if item.kind in {"virtualNode", "virtualGateway"}
            for one in item.spec["listeners"]
        }

    def backends(self) -> dict[tuple[str, str], set[str]]:
        """Return whom each client accepts behind each of its services."""
        return {(way.client.spiffe_id, way.service): self._servers(way) for way in self._ways}

    def _clients(self, server: _Plain, listening: dict[str, Any]) -> set[str]:
        names = _names(listening.get("tls", {}))
        if names:
            return _spiffe(names)
        here = (server.spiffe_id, listening["portMapping"]["port"])
        return {way.client.spiffe_id for way in self._ways if here in way.ports}

    def _servers(self, way: _Way) -> set[str]:
        written = way.client.spec["backendDefaults"].get("clientPolicy", {})
        for one in way.client.spec.get("backends", []):
            if one["virtualService"]["virtualServiceName"] == way.service:
                written = one["virtualService"].get("clientPolicy", written)
        tls = written.get("tls", {})
        applies = "ports" not in tls or any(port in tls["ports"] for _, port in way.ports)
        return _spiffe(_names(tls)) if applies and _names(tls) else way.nodes

    def _called(self, client: _Plain) -> set[str]:
        if client.kind == "virtualNode":
            return {one["virtualService"]["virtualServiceName"] for one in client.spec["backends"]}
        if client.kind != "virtualGateway":
            return set()
        actions = (item.spec["httpRoute"]["action"] for item in self._objects if item.kind == "gatewayRoute")
        return {action["target"]["virtualService"]["virtualServiceName"] for action in actions}

    def _ports(self, called: str) -> list[tuple[str, int]]:
        return [
            (node.spiffe_id, one["portMapping"]["port"])
            for node, wanted in self._targets(called)
            for one in node.spec["listeners"]
            if wanted in {None, one["portMapping"]["port"]}
        ]

    def _targets(self, called: str) -> list[tuple[_Plain, int | None]]:
        """Return the nodes that a service leads to, each with the port that its route names."""
        nodes = {item.name: item for item in self._objects if item.kind == "virtualNode"}
        routes = [item.spec["httpRoute"]["action"] for item in self._objects if item.kind == "route"]
        service = next(item for item in self._objects if (item.kind, item.name) == ("virtualService", called))
        provider = service.spec.get("provider", {})
        if "virtualNode" in provider:
            return [(nodes[provider["virtualNode"]["virtualNodeName"]], None)]
        weighted = [action["weightedTargets"][0] for action in routes if "virtualRouter" in provider]
        return [(nodes[one["virtualNode"]], one.get("port")) for one in weighted]


def _names(tls: dict[str, Any]) -> list[str]:
    found: list[str] = tls.get("validation", {}).get("subjectAlternativeNames", {}).get("match", {}).get("exact", [])
    return found


def _spiffe(names: list[str]) -> set[str]:
    return {name for name in names if name.startswith("spiffe://")}


def _id(item: MeshObject) -> str:
    if OWN in str(item.spec.plain().get("listeners", "")):
        return OWN
    return f"spiffe://m.test/mesh/{item.mesh}/{item.kind}/{item.name}"
