"""A desk with everything behind it faked but mesh, policy and CA: for tests of delivery."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fakes.ca import TRUST_DOMAIN, World, spki_of

from meshca.attest.process import Process, read_start_time
from meshca.authority.requests import Issued, IssueRequest, Refused
from meshca.delivery.desk import Desk, Services
from meshca.delivery.ports import Leaf
from meshca.delivery.snapshot import MeshState, Snapshot
from meshca.delivery.view import LiveView
from meshca.mesh.forest import MeshSet
from meshca.mesh.identity import identities
from meshca.mesh.source import parse_envelope
from meshca.policy.admission import Policy
from meshca.policy.entitlement import Registration, Selector
from meshca.spiffe.id import SpiffeId
from meshca.xds.source import NodeInfo

MESH = "shop"


def node_id(name: str) -> str:
    return f"mesh/{MESH}/virtualNode/{name}"


def spiffe_id(name: str) -> SpiffeId:
    return SpiffeId(TRUST_DOMAIN, f"/{node_id(name)}")


def virtual_node(name: str, *backends: str, ports: Sequence[int] = (8080,), sans: Sequence[str] = ()) -> dict[str, Any]:
    """Return a node whose listeners want client certificates."""
    validation: dict[str, Any] = {"trust": {"sds": {"secretName": "ROOTCA"}}}
    if sans:
        validation["subjectAlternativeNames"] = {"match": {"exact": list(sans)}}
    tls = {"mode": "STRICT", "certificate": {"sds": {"secretName": "default"}}, "validation": validation}
    spec = {
        "listeners": [{"portMapping": {"port": port, "protocol": "http"}, "tls": tls} for port in ports],
        "serviceDiscovery": {"dns": {"hostname": "127.0.0.1"}},
        "backends": [{"virtualService": {"virtualServiceName": service}} for service in backends],
    }
    return {"kind": "virtualNode", "meshName": MESH, "virtualNodeName": name, "spec": spec}


def virtual_service(name: str, node: str) -> dict[str, Any]:
    """Return a service that a node provides."""
    spec = {"provider": {"virtualNode": {"virtualNodeName": node}}}
    return {"kind": "virtualService", "meshName": MESH, "virtualServiceName": name, "spec": spec}


def mesh_state(*objects: dict[str, Any], revision: int = 1) -> MeshState:
    """Return the state of a mesh with these objects."""
    every = ({"kind": "mesh", "meshName": MESH, "spec": {}}, *objects)
    mesh_set = MeshSet(parse_envelope(json.dumps(item)) for item in every)
    found = identities(mesh_set, TRUST_DOMAIN)
    return MeshState(revision, mesh_set, found, Policy.of(mesh_set, found, TRUST_DOMAIN))


SHOP = (
    virtual_node("front", "back.shop"),
    virtual_node("back"),
    virtual_node("other", "alone.shop"),
    virtual_node("alone"),
    virtual_service("back.shop", "back"),
    virtual_service("alone.shop", "alone"),
)


def entry(name: str, uid: int) -> Registration:
    """Entitle a uid to a node."""
    return Registration(f"{name}-{uid}", spiffe_id(name), frozenset({Selector("unix:uid", str(uid))}))


@dataclass
class Notes:
    """A journal that remembers."""

    refusals: list[tuple[str, str, str]] = field(default_factory=list)
    in_force: dict[tuple[str, SpiffeId], int] = field(default_factory=dict)
    leaves: dict[tuple[str, SpiffeId], str] = field(default_factory=dict)
    jwt: dict[tuple[str, SpiffeId], tuple[int, datetime]] = field(default_factory=dict)
    nacks: list[str] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)

    def refused(self, actor: str, action: str, subject: str, reason: str) -> None:
        self.refusals.append((actor, action, subject))

    def trust_in_force(self, holder: str, spiffe_id: SpiffeId, generation: int) -> None:
        self.in_force[holder, spiffe_id] = generation

    def leaf_in_force(self, holder: str, spiffe_id: SpiffeId, issuer_id: str) -> None:
        self.leaves[holder, spiffe_id] = issuer_id

    def jwt_in_force(self, holder: str, spiffe_id: SpiffeId, generation: int, until: datetime) -> None:
        self.jwt[holder, spiffe_id] = (generation, until)

    def rejected(self, node: str, type_url: str, digests: Collection[str], message: str) -> None:
        self.nacks.append(message)

    def unsafe(self, name: str, reason: str) -> None:
        self.withheld.append(name)


class Hall:
    """A desk, and callers that come to it; every caller is this very process under some uid."""

    def __init__(self, *objects: dict[str, Any], entitled: Sequence[str] = ()) -> None:
        self.world = World()
        self.notes = Notes()
        snapshot = Snapshot(
            TRUST_DOMAIN,
            mesh_state(*(objects or SHOP)),
            self.world.authority.trust,
            tuple(entry(name, os.geteuid()) for name in entitled),
        )
        services = Services(self, self, self.notes, self.world.clock, lambda: 0.5, followed=self.notes.jwt_in_force)
        self.desk = Desk(services, snapshot)
        self.callers = {"us": self.process()}

    def process(self) -> Process:
        pid = os.getpid()
        return Process(pid, os.geteuid(), os.getegid(), frozenset(), read_start_time(pid))

    def lookup(self, peer: str) -> Process | None:
        return self.callers.get(peer)

    async def leaf(self, spiffe_id: SpiffeId, holder: str, requested_by: str) -> Leaf:
        key = ec.generate_private_key(ec.SECP256R1())
        request = IssueRequest(spiffe_id, spki_of(key), None, holder, "stream", requested_by)
        (answer,) = self.world.authority.issue([request])
        if isinstance(answer, Refused):
            raise answer.error
        assert isinstance(answer, Issued)
        made, pem = answer.certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        now = self.world.clock.now()
        return Leaf(made.serial, spiffe_id, made.not_before, made.not_after, now, answer.chain_pem, pem)

    async def held(self, serial: str, spiffe_id: SpiffeId, holder: str) -> Leaf | None:
        return None

    def change(self, **fields: Any) -> None:
        """Put a changed snapshot in force."""
        self.desk.replace(replace(self.desk.snapshot, **fields))

    async def open(self, node: str = "front", *, dedicated: bool = True) -> LiveView:
        """Open a view as the Envoy of a node."""
        return await self.desk.open("us", NodeInfo(node_id(node)), dedicated=dedicated)
