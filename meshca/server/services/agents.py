"""What people do about agents: let them join, look at them, evict them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from meshca.attest.join import new_token, parse_token
from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.authority.records import CertificateFilter
from meshca.delivery.peers import agent_holder
from meshca.errors import ConflictError, InvalidInputError, NotFoundError
from meshca.policy.entitlement import is_proven_by_platform
from meshca.server.parts import Parts
from meshca.server.services.calls import Unary
from meshca.spiffe import reserved
from meshca.spiffe.id import IdentityError, SpiffeId
from meshca.store.agents import AgentRow, Agents
from meshca.v1 import admin_pb2 as pb

_USUAL, _LONGEST = timedelta(minutes=10), timedelta(days=7)
_SHORTEST = timedelta(seconds=1)
_REASON = "privilegeWithdrawn"


def _require_joinable(agent_id: str) -> None:
    """Raise for an id that a platform vouches for: its agent would be behind all that its cluster or role is parent of.

    Raises:
        InvalidInputError: It is one.
    """
    if is_proven_by_platform(agent_id):
        raise InvalidInputError(
            "agents of a cluster or an AWS role prove it by --method, not by a token",
            field="agent",
            value=agent_id,
            remedy="choose a name that does not begin with k8s. or aws.",
        )


def agent_of(text: str, parts: Parts) -> tuple[str, SpiffeId]:
    """Return id and identity of an agent named by either.

    Raises:
        InvalidInputError: It is no name for an agent.
    """
    trust_domain = parts.state.snapshot.trust_domain
    try:
        if text.startswith("spiffe:"):
            spiffe_id = SpiffeId.parse(text)
            found = reserved.agent_id(spiffe_id) if spiffe_id.trust_domain == trust_domain else None
            if found is None:
                raise InvalidInputError("no agent of this trust domain", field="agent", value=text)
            return found, spiffe_id
        return text, reserved.agent(trust_domain, text)
    except IdentityError as error:
        raise InvalidInputError(str(error), field="agent", value=text) from error


class AgentsService:
    """The agents of this trust domain, as operators see them."""

    def __init__(self, parts: Parts, agents: Agents) -> None:
        self._parts = parts
        self._agents = agents

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"CreateToken": self.create_token, "ListAgents": self.agents, "EvictAgent": self.evict}

    async def create_token(self, request: Any, actor: str) -> Any:
        """Return what an agent may join with, once."""
        agent_id, spiffe_id = agent_of(request.agent, self._parts)
        _require_joinable(agent_id)
        snapshot, now = self._parts.state.snapshot, self._parts.house.clock.now()
        if spiffe_id in snapshot.suspended:
            raise ConflictError(
                "the agent was evicted",
                field="agent",
                value=agent_id,
                remedy=f"`meshca resume {spiffe_id}` lets it back",
            )
        if snapshot.trust.signing is None:
            raise ConflictError("there is no issuing CA", remedy="see `meshca status`")
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else _USUAL
        if not _SHORTEST <= ttl <= _LONGEST:
            raise InvalidInputError(f"from {_SHORTEST} to {_LONGEST}", field="ttl", value=str(ttl))
        text = new_token(os.urandom, hashlib.sha256(self._root()).digest())
        entry = AuditEntry(audit.CREATE_JOIN, str(spiffe_id), OK, f"until {(now + ttl).isoformat()}", actor)
        stored = parse_token(text).secret_hash
        await asyncio.to_thread(self._agents.add_token, stored, agent_id, now + ttl, now, entry)
        reply = pb.CreateTokenReply(token=text, spiffe_id=str(spiffe_id))
        reply.expires.FromDatetime(now + ttl)
        return reply

    async def agents(self, _: Any, __: str) -> Any:
        """Return every agent that has attested, and those that were evicted."""
        rows = await asyncio.to_thread(self._agents.list)
        snapshot = self._parts.state.snapshot
        known = {row.id for row in rows}
        evicted = {found for each in snapshot.suspended if (found := reserved.agent_id(each))} - known
        messages = [self._message(row, len(snapshot.registrations_of(row.id))) for row in rows]
        messages += [
            pb.AgentRecord(
                id=one,
                spiffe_id=str(agent_of(one, self._parts)[1]),
                state="evicted",
                registrations=len(snapshot.registrations_of(one)),
            )
            for one in sorted(evicted)
        ]
        return pb.ListAgentsReply(agents=messages)

    async def evict(self, request: Any, actor: str) -> Any:
        """Suspend an agent, and revoke what it and the workloads behind it hold."""
        agent_id, spiffe_id = agent_of(request.agent, self._parts)
        if agent_id not in {row.id for row in await asyncio.to_thread(self._agents.list)}:
            raise NotFoundError("no such agent", field="agent", value=agent_id, remedy="see `meshca agents`")
        serials = await asyncio.to_thread(self._evict, agent_id, spiffe_id, actor)
        await self._parts.publication.join()
        return pb.EvictAgentReply(spiffe_id=str(spiffe_id), revoked=serials)

    def _evict(self, agent_id: str, spiffe_id: SpiffeId, actor: str) -> list[str]:
        authority, now = self._parts.house.authority, self._parts.house.clock.now()
        # First the agent: from here on it gets nothing more for those behind it.
        done = authority.suspend(spiffe_id, _REASON, actor)
        serials = [*done.serials, *done.already]
        for record in authority.certificates(CertificateFilter(now, None, "valid")):
            if record.holder.startswith(agent_holder(agent_id, "")):
                authority.revoke(record.serial, _REASON, actor)
                serials.append(record.serial)
        self._agents.forget(agent_id, AuditEntry(audit.EVICT, str(spiffe_id), OK, f"{len(serials)} revoked", actor))
        return serials

    def _root(self) -> bytes:
        """Return the root above the CA that signs now: the server's own certificate leads there."""
        trust = self._parts.state.snapshot.trust
        parent = trust.active_record.parent_id
        by_id = {ca.id: ca.certificate for ca in trust.roots}
        return by_id.get(parent) or trust.roots[0].certificate

    def _message(self, row: AgentRow, behind: int) -> Any:
        spiffe_id = reserved.agent(self._parts.state.snapshot.trust_domain, row.id)
        message = pb.AgentRecord(
            id=row.id,
            spiffe_id=str(spiffe_id),
            state=self._state(row, spiffe_id, self._parts.house.clock.now()),
            method=row.method,
            registrations=behind,
        )
        message.attested_at.FromDatetime(row.attested_at)
        message.not_after.FromDatetime(row.not_after)
        return message

    def _state(self, row: AgentRow, spiffe_id: SpiffeId, now: datetime) -> str:
        if spiffe_id in self._parts.state.snapshot.suspended:
            return "evicted"
        if any(remote.spiffe_id == spiffe_id for remote in self._parts.tcp.gate.remotes()):
            return "connected"
        return "expired" if row.not_after <= now else "attested"
