"""Federation: whom else to believe, each about their own identities."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from meshca.authority import audit
from meshca.authority.audit import OK, AuditEntry
from meshca.delivery.snapshot import MeshState
from meshca.envoy.names import identity_scope
from meshca.errors import InvalidInputError, MeshcaError, UnavailableError
from meshca.server.federations import endpoint_of, parsed
from meshca.server.federator import described
from meshca.server.parts import Parts
from meshca.server.services.calls import Unary
from meshca.spiffe.foreign import ForeignBundle
from meshca.spiffe.id import TrustDomain
from meshca.store.federation import Endpoint, Federation
from meshca.v1 import admin_pb2 as pb

_NO_SEQUENCE = -1
_LONGEST_FAILURE = 500


class FederationService:
    """What people do with federations."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {
            "Federate": self.federate,
            "Unfederate": self.unfederate,
            "RefreshFederation": self.refresh,
            "ListFederations": self.federations,
        }

    async def federate(self, request: Any, actor: str) -> Any:
        """Believe another trust domain; what is known of it already is replaced."""
        with self._audited(actor, audit.FEDERATE, request.trust_domain):
            endpoint = endpoint_of(request.trust_domain, request.url, request.profile, request.endpoint_id)
            if endpoint.trust_domain == self._parts.state.snapshot.trust_domain:
                raise InvalidInputError("that is our own trust domain", field="TD", value=request.trust_domain)
            held = request.bundle
            brought = parsed(held, endpoint.trust_domain) if held else None
            if not held and (known := await self._known(endpoint.trust_domain)) is not None:
                held, brought = known.bundle, parsed(known.bundle, endpoint.trust_domain) if known.bundle else None
            federation = await self._first(endpoint, held, brought)
        now = self._parts.house.clock.now()
        reason = f"{endpoint.profile} {endpoint.url} {endpoint.endpoint_id or ''}; {_described(federation)}"
        entry = AuditEntry(audit.FEDERATE, str(endpoint.trust_domain), OK, reason, actor)
        await asyncio.to_thread(self._parts.house.federations.put, federation, now, entry)
        await self._parts.state.federated()
        return _message(federation)

    async def unfederate(self, request: Any, actor: str) -> Any:
        """Believe it no longer; connections with its identities end."""
        trust_domain = TrustDomain(request.trust_domain)
        scopes = sorted(_scopes(self._parts.state.snapshot.mesh, trust_domain))
        entry = AuditEntry(audit.UNFEDERATE, str(trust_domain), OK, f"{len(scopes)} identities drained", actor)
        await asyncio.to_thread(self._parts.house.federations.remove, trust_domain, scopes, entry)
        await self._parts.state.federated()
        return pb.UnfederateReply()

    async def refresh(self, request: Any, actor: str) -> Any:
        """Fetch a bundle now."""
        return _message(await self._parts.federator.refresh(TrustDomain(request.trust_domain), actor))

    async def federations(self, _: Any, __: str) -> Any:
        """Return the federated trust domains."""
        found = await asyncio.to_thread(self._parts.house.federations.list)
        return pb.ListFederationsReply(federations=[_message(one) for one in found])

    async def _known(self, trust_domain: TrustDomain) -> Federation | None:
        return await asyncio.to_thread(self._parts.house.federations.find, trust_domain)

    async def _first(self, endpoint: Endpoint, held: bytes, known: ForeignBundle | None) -> Federation:
        """Fetch for the first time; an endpoint that does not answer now is one that will, if a bundle is held."""
        federator = self._parts.federator
        try:
            raw, found = await federator.fetched(endpoint, held)
        except UnavailableError as error:
            if known is None:
                raise
            failure = str(error)[:_LONGEST_FAILURE]
            return Federation(endpoint, held, known.sequence, federator.next_at(None), None, failure)
        now = self._parts.house.clock.now()
        return Federation(endpoint, raw, found.sequence, federator.next_at(found), now)

    @contextmanager
    def _audited(self, actor: str, action: str, subject: str) -> Iterator[None]:
        try:
            yield
        except UnavailableError:
            raise
        except MeshcaError as error:
            self._parts.journal.refused(actor, action, subject, str(error))
            raise


def _scopes(mesh: MeshState, trust_domain: TrustDomain) -> set[str]:
    """Return the drain scopes of the identities of a trust domain that our policies name."""
    sides = (*mesh.policy.listeners.values(), *mesh.policy.backends.values())
    named = {one for admission in sides for one in admission.ids if one.trust_domain == trust_domain}
    return {identity_scope(one) for one in named}


def _read(federation: Federation) -> ForeignBundle | None:
    return parsed(federation.bundle, federation.endpoint.trust_domain) if federation.bundle else None


def _described(federation: Federation) -> str:
    found = _read(federation)
    return "no bundle yet" if found is None else described(found)


def _message(federation: Federation) -> Any:
    endpoint, found = federation.endpoint, _read(federation)
    message = pb.Federation(
        trust_domain=str(endpoint.trust_domain),
        url=endpoint.url,
        profile=endpoint.profile,
        endpoint_id=str(endpoint.endpoint_id or ""),
        roots=0 if found is None else len(found.roots),
        jwt_keys=0 if found is None else found.jwt_key_count,
        sequence=_NO_SEQUENCE if federation.sequence is None else federation.sequence,
        failure=federation.failure,
    )
    message.due_at.FromDatetime(federation.due_at)
    if federation.fetched_at is not None:
        message.fetched_at.FromDatetime(federation.fetched_at)
    return message
