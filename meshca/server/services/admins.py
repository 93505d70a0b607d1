"""Administrators over TCP: who they are, and their certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.authority.requests import ISSUED_ONCE
from meshca.delivery.ports import Leaf
from meshca.errors import InvalidInputError, RefusedError
from meshca.server.issuance import Order
from meshca.server.parts import Parts
from meshca.server.services.calls import Unary
from meshca.server.services.roles import ROLES
from meshca.spiffe import reserved
from meshca.spiffe.id import IdentityError, SpiffeId
from meshca.store.admins import Admins
from meshca.v1 import admin_pb2 as pb


class AdminService:
    """Adds administrators, and renews what they call with."""

    def __init__(self, parts: Parts, admins: Admins) -> None:
        self._parts = parts
        self._admins = admins

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"AddAdmin": self.add, "RenewAdmin": self.renew}

    async def add(self, request: Any, actor: str) -> Any:
        """Let somebody call over TCP, and issue the first certificate."""
        role = request.role or ROLES[0]
        if role not in ROLES:
            raise InvalidInputError("no such role", field="role", value=role, remedy=", ".join(ROLES))
        try:
            spiffe_id = reserved.admin(self._parts.state.snapshot.trust_domain, request.name)
        except IdentityError as error:
            raise InvalidInputError(str(error), field="name", value=request.name) from error
        ttl = request.ttl.ToTimedelta() if request.HasField("ttl") else None
        leaf = await self._issue(spiffe_id, request.csr, actor, ttl)
        entry = AuditEntry(audit.ADD_ADMIN, str(spiffe_id), OK, f"role {role}", actor)
        # After the certificate: without a role it opens nothing.
        await asyncio.to_thread(self._admins.put, request.name, role, self._parts.house.clock.now(), entry)
        return self._reply(leaf, role)

    async def renew(self, request: Any, actor: str) -> Any:
        """Issue the caller's next certificate."""
        name = reserved.admin_name(SpiffeId.parse(actor)) if actor.startswith("spiffe:") else None
        if name is None:
            raise RefusedError("only who calls over TCP has a certificate to renew", value=actor)
        role = await asyncio.to_thread(self._admins.role, name)
        return self._reply(await self._issue(SpiffeId.parse(actor), request.csr, actor, None), role or "")

    async def _issue(self, spiffe_id: SpiffeId, csr: bytes, actor: str, ttl: timedelta | None) -> Leaf:
        if not csr:
            raise InvalidInputError("there is no CSR", field="csr")
        return await self._parts.issuance.one(
            Order(spiffe_id, ISSUED_ONCE, "admin", requested_by=actor, csr=csr, ttl=ttl)
        )

    def _reply(self, leaf: Leaf, role: str) -> Any:
        reply = pb.AddAdminReply(bundle=self._parts.state.snapshot.trust.bundle_pem, role=role)
        made = reply.certificate
        made.serial, made.spiffe_id, made.chain = leaf.serial, str(leaf.spiffe_id), leaf.chain_pem
        made.not_before.FromDatetime(leaf.not_before)
        made.not_after.FromDatetime(leaf.not_after)
        return reply
