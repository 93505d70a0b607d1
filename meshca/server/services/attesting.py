"""How agents get their own certificates: the first for what a method proves, the next for the one before.

Rules kept here (design §7):
- A method proves an agent's id; the CSR names nobody, or exactly that. What the caller says of itself is not heard.
- A join token is used up in the transaction that writes the intent of the certificate, for the CSR's key alone.
- An agent that was evicted is suspended, and the ledger issues it nothing, whatever it proves.
- Every refusal is audited; neither token nor payload ever stands in a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from meshca.attest.join import hash_secret
from meshca.authority import audit
from meshca.authority.requests import ISSUED_ONCE
from meshca.delivery.peers import agent_holder
from meshca.delivery.ports import Leaf
from meshca.errors import InvalidInputError, MeshcaError, RefusedError, UnavailableError
from meshca.policy.hostnames import host_names
from meshca.server.door import Call
from meshca.server.issuance import Order
from meshca.server.parts import Parts
from meshca.server.proving import Method, Proven
from meshca.server.services.calls import Unary
from meshca.spiffe import reserved
from meshca.spiffe.id import SpiffeId
from meshca.store.agents import AgentRow, Agents
from meshca.v1 import agent_pb2 as pb

JOIN_TOKEN = "join_token"  # noqa: S105 - a method's name
OWN = "self"  # how an agent's own certificate is called behind it
_LARGEST_PAYLOAD = 64 << 10


class AttestationRefusedError(RefusedError):
    """What was brought proves nothing."""


class AttestingService:
    """Gives agents their own certificates."""

    def __init__(self, parts: Parts, agents: Agents, methods: Mapping[str, Method]) -> None:
        self._parts = parts
        self._agents = agents
        self._methods = {JOIN_TOKEN: self._join, **methods}

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"ShowTrust": self.trust, "Attest": self.attest, "Renew": self.renew}

    async def trust(self, _: Any, __: Call) -> Any:
        """Return the roots, which are no secret."""
        snapshot = self._parts.state.snapshot
        roots = [root.certificate for root in snapshot.trust.roots]
        return pb.ShowTrustReply(trust_domain=str(snapshot.trust_domain), roots=roots)

    async def attest(self, request: Any, call: Call) -> Any:
        """Issue an agent's first certificate."""
        try:
            proven = await self._proven(request)
            leaf = await self._issue(proven.agent_id, request.csr, proven.token_hash)
        except UnavailableError:
            raise
        except MeshcaError as error:
            self._parts.journal.refused(call.actor, audit.ATTEST, request.method[:64], str(error))
            raise
        await self._note(proven.agent_id, request.method, leaf)
        return self._reply(leaf)

    async def renew(self, request: Any, call: Call) -> Any:
        """Issue the next certificate to an agent that has one, or to a node that is let in for that alone."""
        if reserved.agent_id(call.spiffe_id) is None:
            return self._reply(await self._issue_to_self(call.spiffe_id, request.csr))
        leaf = await self._issue(call.agent_id, request.csr, "")
        await self._note(call.agent_id, "", leaf)
        return self._reply(leaf)

    async def _proven(self, request: Any) -> Proven:
        method = self._methods.get(request.method)
        if method is None:
            known = ", ".join(sorted(self._methods))
            raise InvalidInputError("not offered here", field="method", value=request.method, remedy=f"one of {known}")
        if len(request.payload) > _LARGEST_PAYLOAD:
            raise InvalidInputError(f"more than {_LARGEST_PAYLOAD} bytes", field="payload")
        return await method(request.payload, request.csr)

    async def _join(self, payload: bytes, _: bytes) -> Proven:
        secret_hash = hash_secret(payload)
        agent_id = await asyncio.to_thread(self._agents.token_agent, secret_hash)
        if agent_id is None:
            raise AttestationRefusedError(
                "no token of this trust domain", field="token", remedy="make one with `meshca token AGENT`"
            )
        return Proven(agent_id, secret_hash.hex())

    async def _issue(self, agent_id: str, csr: bytes, token_hash: str) -> Leaf:
        if not csr:
            raise InvalidInputError("there is no CSR", field="csr")
        spiffe_id = reserved.agent(self._parts.state.snapshot.trust_domain, agent_id)
        holder = agent_holder(agent_id, OWN)
        order = Order(spiffe_id, holder, "agent", f"agent:{agent_id}", csr=csr, token_hash=token_hash)
        return await self._parts.issuance.one(order)

    async def _issue_to_self(self, spiffe_id: SpiffeId, csr: bytes) -> Leaf:
        if not csr:
            raise InvalidInputError("there is no CSR", field="csr")
        mesh = self._parts.state.snapshot.mesh
        node = mesh.identities.holder(spiffe_id)
        if node is None:
            raise RefusedError("no longer in any mesh", field="certificate", value=str(spiffe_id))
        names = host_names(mesh.mesh_set, node)
        # Files, written once: nobody else hears when they are in use, so no rotation waits for them.
        order = Order(spiffe_id, ISSUED_ONCE, "file", str(spiffe_id), csr=csr, host_names=names)
        return await self._parts.issuance.one(order)

    async def _note(self, agent_id: str, method: str, leaf: Leaf) -> None:
        now = self._parts.house.clock.now()
        row = AgentRow(agent_id, method, now, leaf.serial, leaf.not_after)
        await asyncio.to_thread(self._agents.put, row)

    def _reply(self, leaf: Leaf) -> Any:
        bundle = self._parts.state.snapshot.trust.bundle_pem
        reply = pb.AgentCertificate(
            spiffe_id=str(leaf.spiffe_id), serial=leaf.serial, chain=leaf.chain_pem, bundle=bundle
        )
        reply.not_before.FromDatetime(leaf.not_before)
        reply.not_after.FromDatetime(leaf.not_after)
        return reply
