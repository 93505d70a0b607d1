"""Registrations: which processes may have which identity."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.errors import InvalidInputError
from meshca.policy.entitlement import Registration, parse_selector
from meshca.policy.selector import require_sound
from meshca.server.parts import Parts
from meshca.server.services.agents import agent_of
from meshca.server.services.calls import Unary
from meshca.spiffe.id import TrustDomain
from meshca.v1 import admin_pb2 as pb

_ID_BYTES = 8
_MOST_SELECTORS = 16


class RegistrationService:
    """What people do with registrations."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"Register": self.register, "Registrations": self.registrations, "Unregister": self.unregister}

    async def register(self, request: Any, actor: str) -> Any:
        """Entitle processes to a node's identity."""
        registration = self._wanted(request)
        entry = AuditEntry(audit.REGISTER, str(registration.spiffe_id), OK, _described(registration), actor)
        now = self._parts.house.clock.now()
        await asyncio.to_thread(self._parts.house.registrations.add, registration, now, entry)
        await self._parts.state.registered()
        return _message(registration)

    async def registrations(self, _: Any, __: str) -> Any:
        """Return all registrations."""
        found = await asyncio.to_thread(self._parts.house.registrations.list)
        return pb.RegistrationsReply(registrations=[_message(entry) for entry in found])

    async def unregister(self, request: Any, actor: str) -> Any:
        """Remove a registration; streams that only it entitled end."""

        def entry(gone: Registration) -> AuditEntry:
            return AuditEntry(audit.UNREGISTER, str(gone.spiffe_id), OK, _described(gone), actor)

        await asyncio.to_thread(self._parts.house.registrations.remove, request.id, entry)
        await self._parts.state.registered()
        return pb.UnregisterReply()

    def _wanted(self, request: Any) -> Registration:
        parent = agent_of(request.parent, self._parts)[0] if request.parent else ""
        if not 1 <= len(request.selectors) <= _MOST_SELECTORS:
            raise InvalidInputError(
                f"1 to {_MOST_SELECTORS} selectors", field="selector", remedy="such as unix:uid:1000"
            )
        identities = self._parts.state.snapshot.mesh.identities
        spiffe_id = identities.of(identities.resolve(request.node))
        selectors = frozenset(parse_selector(text) for text in request.selectors)
        require_sound(selectors)
        federates_with = frozenset(map(TrustDomain, request.federates_with))
        if self._parts.state.snapshot.trust_domain in federates_with:
            raise InvalidInputError("that is our own trust domain", field="federates-with")
        return Registration(secrets.token_hex(_ID_BYTES), spiffe_id, selectors, parent, federates_with)


def _described(registration: Registration) -> str:
    behind = f" behind agent {registration.parent}" if registration.parent else ""
    with_others = "".join(f", federates with {domain}" for domain in sorted(registration.federates_with))
    return f"{registration.id}: {' '.join(sorted(map(str, registration.selectors)))}{behind}{with_others}"


def _message(registration: Registration) -> Any:
    return pb.Registration(
        id=registration.id,
        spiffe_id=str(registration.spiffe_id),
        selectors=sorted(map(str, registration.selectors)),
        parent=registration.parent,
        federates_with=sorted(map(str, registration.federates_with)),
    )
