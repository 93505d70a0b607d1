"""What an agent is told, and what it asks for those behind it.

Rules kept here (design §6 and §7):
- An agent is told of registrations whose parent it is, and of no others; a change is pushed.
- A certificate is issued for an identity that a registration of this agent names, and for no other; the key's owner is
  whoever the agent says it is, which is why an agent has to be trusted with all that it is the parent of.
- Holders are called by the agent's words under the agent's own name: none can speak for another's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC
from typing import Any

from meshca.authority import audit
from meshca.authority.records import CertificateFilter
from meshca.client.status import code_of
from meshca.delivery.peers import AgentPeer, agent_holder
from meshca.delivery.ports import Leaf
from meshca.delivery.snapshot import Snapshot
from meshca.delivery.view import LiveView
from meshca.delivery.workload_state import der_of
from meshca.errors import ExhaustedError, InvalidInputError, MeshcaError, RefusedError, UnavailableError
from meshca.policy.hostnames import HostNames, host_names
from meshca.server.door import Call, TcpDoor
from meshca.server.issuance import DnsNamesRefusedError, Order
from meshca.server.parts import Parts
from meshca.server.services.calls import Streaming, Unary
from meshca.spiffe.id import SpiffeId
from meshca.v1 import agent_pb2 as pb
from meshca.x509.profiles import SVID
from meshca.xds.source import NodeInfo

_LARGEST_BATCH = 1000
_MOST_REFUSALS = 100
_COLONS = agent_holder("", "").count(":")
_WORD = re.compile(r"[A-Za-z0-9:._-]{1,128}")


class NotItsParentError(RefusedError):
    """The agent is not the parent of this identity."""


class HoldingsService:
    """Serves the agents that are connected."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._revoked = 0
        parts.state.watch_revoked(self._note_revoked)

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"Sign": self.sign, "Token": self.token, "Acknowledge": self.acknowledge, "Report": self.report}

    def streams(self) -> Mapping[str, Streaming]:
        """Return the streaming methods by the names of the API."""
        return {"Watch": self.watch}

    async def watch(self, _: Any, call: Call) -> AsyncIterator[Any]:
        """Yield what an agent may hold, now and after each change."""
        agent_id, changed = call.agent_id, asyncio.Event()
        stop = self._parts.state.watch(changed.set)
        self._parts.agents.watching[agent_id] += 1
        last: Any = None
        dead: tuple[int, list[str]] = (-1, [])
        try:
            while self._parts.condition.state != "draining":
                changed.clear()
                if dead[0] != self._revoked:
                    dead = (self._revoked, await asyncio.to_thread(self._dead, agent_id))
                if (message := self._message(agent_id, dead[1])) != last:
                    last = message
                    yield message
                await changed.wait()
        finally:
            self._parts.agents.watching[agent_id] -= 1
            stop()
        raise UnavailableError("the server is going down", remedy="connect again in a moment")

    async def sign(self, request: Any, call: Call) -> Any:
        """Issue a batch; each request is answered for itself."""
        if len(request.requests) > _LARGEST_BATCH:
            raise ExhaustedError(f"at most {_LARGEST_BATCH} certificates a call", value=str(len(request.requests)))
        agent_id = call.agent_id
        allowed = self._identities(agent_id)
        wanted = [self._order(one, agent_id, allowed) for one in request.requests]
        issued = iter(await self._parts.issuance.many([order for order in wanted if isinstance(order, Order)]))
        answers = [next(issued) if isinstance(order, Order) else order for order in wanted]
        for order, answer in zip(wanted, answers, strict=True):
            if isinstance(order, Order) and isinstance(answer, DnsNamesRefusedError):
                # Other refusals are audited by the authority; this one never got there.
                self._parts.journal.refused(f"agent:{agent_id}", audit.ISSUE, str(order.spiffe_id), str(answer))
            # On the Workload API each process acknowledges for itself (its word has colons), and processes are many.
            shared = isinstance(order, Order) and order.holder.count(":") == _COLONS
            if isinstance(order, Order) and isinstance(answer, Leaf) and shared:
                self._parts.desk.behind.setdefault(order.holder, set()).add(order.spiffe_id)
        return pb.SignReply(results=[_result(answer) for answer in answers])

    async def token(self, request: Any, call: Call) -> Any:
        """Make a JWT-SVID for somebody behind an agent."""
        tokens, actor = self._parts.desk.workloads.services.tokens, f"agent:{call.agent_id}"
        if not request.audience:
            await tokens.ready()
            return pb.TokenReply()
        try:
            spiffe_id = self._required(request.spiffe_id, call.agent_id)
        except MeshcaError as error:
            self._parts.journal.refused(actor, audit.ISSUE, request.spiffe_id, str(error))
            raise
        return pb.TokenReply(token=await tokens.token(spiffe_id, tuple(request.audience), actor))

    async def acknowledge(self, request: Any, call: Call) -> Any:
        """Note what those behind an agent have in force."""
        for one in request.acknowledgements[:_LARGEST_BATCH]:
            holder = agent_holder(call.agent_id, _required_word(one.holder))
            if one.serial:
                self._parts.agents.has_leaf(holder, SpiffeId.parse(one.spiffe_id))
            spiffe_id = SpiffeId.parse(one.spiffe_id)
            await acknowledge(self._parts, holder, spiffe_id, one.generation, one.serial)
            if one.jwt_generation:
                until = one.jwt_until.ToDatetime(tzinfo=UTC)
                self._parts.journal.jwt_in_force(holder, spiffe_id, one.jwt_generation, until)
        return pb.AcknowledgeReply()

    async def report(self, request: Any, call: Call) -> Any:
        """Audit what an agent has refused to those who called it; who that was is its word."""
        for one in request.refusals[:_MOST_REFUSALS]:
            self._parts.journal.refused(f"agent:{call.agent_id} {one.actor}", one.action, one.subject, one.reason)
        return pb.ReportReply()

    def _order(self, one: Any, agent_id: str, allowed: frozenset[SpiffeId]) -> Order | MeshcaError:
        actor = f"agent:{agent_id}"
        try:
            spiffe_id = _required_identity(one.spiffe_id, agent_id, allowed)
            if not one.csr:
                raise InvalidInputError("there is no CSR", field="csr")
            holder = agent_holder(agent_id, _required_word(one.holder))
        except MeshcaError as error:
            self._parts.journal.refused(actor, audit.ISSUE, one.spiffe_id, str(error))
            return error
        return Order(
            spiffe_id,
            holder,
            "stream",
            actor,
            csr=one.csr,
            dns_names=tuple(one.dns_names),
            host_names=self._host_names(spiffe_id) if one.dns_names else None,
        )

    def _host_names(self, spiffe_id: SpiffeId) -> HostNames | None:
        mesh = self._parts.state.snapshot.mesh
        node = mesh.identities.holder(spiffe_id)
        return None if node is None else host_names(mesh.mesh_set, node)

    def _required(self, text: str, agent_id: str) -> SpiffeId:
        return _required_identity(text, agent_id, self._identities(agent_id))

    def _identities(self, agent_id: str) -> frozenset[SpiffeId]:
        return frozenset(entry.spiffe_id for entry, _ in _behind(agent_id, self._parts.state.snapshot))

    def _message(self, agent_id: str, dead: list[str]) -> Any:
        snapshot = self._parts.state.snapshot
        behind = _behind(agent_id, snapshot)
        identities = {entry.spiffe_id for entry, _ in behind}
        trust, asked = snapshot.trust, self._parts.agents.rotations
        return pb.Holdings(
            trust_domain=str(snapshot.trust_domain),
            holdings=[
                pb.Holding(
                    id=entry.id,
                    spiffe_id=str(entry.spiffe_id),
                    selectors=sorted(map(str, entry.selectors)),
                    node_id=node_id,
                    federates_with=sorted(map(str, entry.federates_with)),
                )
                for entry, node_id in behind
            ],
            suspended=sorted(map(str, identities & snapshot.suspended)),
            revoked=dead,
            trust=pb.AgentTrust(
                generation=trust.generation,
                bundle=trust.bundle_pem,
                crl=trust.crl_pem,
                tainted=sorted(trust.tainted),
                leaf_crl_only=trust.leaf_crl_only,
            ),
            frozen=snapshot.frozen is not None,
            rotations={str(one): asked[one] for one in identities if asked[one]},
            jwt_generation=snapshot.jwt.generation,
            jwt_bundle=snapshot.jwt.bundle,
            federated=_federated(behind, snapshot),
            key_types=self._parts.house.authority.profiles[SVID.name].key_types,
        )

    def _dead(self, agent_id: str) -> list[str]:
        """Return the serials of leaves behind an agent that are revoked and not expired."""
        now, prefix = self._parts.house.clock.now(), agent_holder(agent_id, "")
        rows = self._parts.house.authority.certificates(CertificateFilter(now, None, "revoked"))
        return sorted(row.serial for row in rows if row.not_after > now and row.holder.startswith(prefix))

    def _note_revoked(self, _: frozenset[str]) -> None:
        self._revoked += 1
        self._parts.state.tell()


class AgentSource:
    """Opens the views of agents' streams. Implements ``xds.source.Source``."""

    def __init__(self, parts: Parts, door: TcpDoor) -> None:
        self._desk = parts.desk
        self._door = door

    async def open(self, peer: str, node: NodeInfo, *, dedicated: bool) -> LiveView:
        """Open the view of one stream.

        Raises:
            MeshcaError: It is not served.
        """
        if dedicated:
            raise InvalidInputError("agents ask for secrets by ADS")
        call = await self._door.admit("DeltaAggregatedResources", peer)
        try:
            view = self._desk.open_for(AgentPeer(call.agent_id), node, lambda: self._door.release(call))
        except BaseException:
            self._door.release(call)
            raise
        call.ended.add_done_callback(lambda ended: _end(view, ended))
        return view


def _end(view: LiveView, ended: asyncio.Future[None]) -> None:
    if not ended.cancelled() and isinstance(error := ended.exception(), MeshcaError):
        view.end(error)


async def acknowledge(parts: Parts, holder: str, spiffe_id: SpiffeId, generation: int, serial: str) -> None:
    """Note that a holder has put a trust generation (0: none), and a leaf ("": none), in force.

    Raises:
        InvalidInputError: There is no such generation, or no such leaf of this holder.
    """
    if not 0 <= generation <= parts.state.snapshot.trust.generation:
        raise InvalidInputError("there is no such generation", field="generation", value=str(generation))
    if serial:
        leaf = await asyncio.to_thread(parts.house.authority.certificate, serial)
        if leaf is None or (leaf.spiffe_id, leaf.holder) != (spiffe_id, holder):
            raise InvalidInputError("no leaf of this holder", field="serial", value=serial)
        parts.journal.leaf_in_force(holder, spiffe_id, leaf.issuer_id)
    if generation:
        parts.journal.trust_in_force(holder, spiffe_id, generation)


def _behind(agent_id: str, snapshot: Snapshot) -> list[tuple[Any, str]]:
    """Return the registrations of an agent, with the node ids of their identities."""
    holder = snapshot.mesh.identities.holder
    found = ((entry, holder(entry.spiffe_id)) for entry in snapshot.registrations_of(agent_id))
    return [(entry, str(node)) for entry, node in found if node is not None]


def _federated(behind: list[tuple[Any, str]], snapshot: Snapshot) -> list[Any]:
    """Return the bundles that some registration behind an agent may have."""
    wanted = sorted({domain for entry, _ in behind for domain in entry.federates_with} & snapshot.federated.keys())
    found = (snapshot.federated[one] for one in wanted)
    return [
        pb.FederatedBundle(trust_domain=str(one.trust_domain), roots=der_of(one), jwt_keys=one.jwt_keys)
        for one in found
    ]


def _required_identity(text: str, agent_id: str, allowed: frozenset[SpiffeId]) -> SpiffeId:
    """Return an identity that the agent is the parent of.

    Raises:
        NotItsParentError: It is not.
        IdentityError: It is none.
    """
    spiffe_id = SpiffeId.parse(text)
    if spiffe_id not in allowed:
        raise NotItsParentError(
            f"no registration of it has the agent {agent_id} as its parent",
            field="identity",
            value=text,
            remedy=f"meshca register NODE --selector S --parent {agent_id}",
        )
    return spiffe_id


def _required_word(word: str) -> str:
    if not _WORD.fullmatch(word):
        raise InvalidInputError("a holder is a short word", field="holder", value=word)
    return word


def _result(answer: Leaf | MeshcaError) -> Any:
    if isinstance(answer, MeshcaError):
        return pb.SignResult(failure=pb.WorkloadFailure(code=code_of(answer).value[0], message=str(answer)))
    made = pb.WorkloadCertificate(serial=answer.serial, chain=answer.chain_pem, issuer=answer.issuer_id)
    made.not_before.FromDatetime(answer.not_before)
    made.not_after.FromDatetime(answer.not_after)
    made.signed_at.FromDatetime(answer.signed_at)
    return pb.SignResult(certificate=made)
