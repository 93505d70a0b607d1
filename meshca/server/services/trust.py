"""Trust: CAs, bundle, and a watch for those who keep files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from meshca.authority.records import ISSUING, ROOT, AuthorityRecord, CertificateFilter
from meshca.delivery.snapshot import Snapshot
from meshca.errors import InvalidInputError, NotFoundError, UnavailableError
from meshca.server.parts import Parts
from meshca.server.services.calls import Streaming, Unary
from meshca.spiffe import bundle
from meshca.spiffe.id import SpiffeId
from meshca.v1 import admin_pb2 as pb

# How often others should fetch the bundle again, in seconds.
REFRESH_HINT = 300


def bundle_in(form: str, snapshot: Snapshot) -> bytes:
    """Return the trust bundle as ``pem``, ``spiffe`` or ``jwks``.

    Raises:
        InvalidInputError: There is no such form.
    """
    ders = [root.certificate for root in snapshot.trust.roots]
    match form:
        case "" | "pem":
            return snapshot.trust.bundle_pem
        case "spiffe":
            return bundle.spiffe_jwks(ders, snapshot.trust.generation, REFRESH_HINT)
        case "jwks":
            return bundle.jwks(ders)
    raise InvalidInputError("no such form", field="format", value=form, remedy="pem, spiffe or jwks")


class TrustService:
    """What people and file drops ask about trust."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {"ShowAuthorities": self.authorities, "Bundle": self.bundle, "AcknowledgeTrust": self.acknowledge}

    def streams(self) -> Mapping[str, Streaming]:
        """Return the streaming methods by the names of the API."""
        return {"WatchTrust": self.watch}

    async def authorities(self, _: Any, __: str) -> Any:
        """Return all CAs that are not removed."""
        return await asyncio.to_thread(self._authorities)

    async def bundle(self, request: Any, _: str) -> Any:
        """Return the bundle."""
        return pb.BundleReply(bundle=bundle_in(request.format, self._parts.state.snapshot))

    async def acknowledge(self, request: Any, _: str) -> Any:
        """Note that a holder has put a trust generation in force."""
        if not 1 <= request.generation <= self._parts.state.snapshot.trust.generation:
            raise InvalidInputError("there is no such generation", field="generation", value=str(request.generation))
        self._parts.journal.trust_in_force(request.holder, SpiffeId.parse(request.spiffe_id), request.generation)
        return pb.AcknowledgeTrustReply()

    async def watch(self, request: Any, _: str) -> AsyncIterator[Any]:
        """Yield the trust now and after each change."""
        watched = SpiffeId.parse(request.spiffe_id) if request.spiffe_id else None
        changed = asyncio.Event()
        stop = self._parts.state.watch(changed.set)
        last: Any = None
        try:
            while self._parts.condition.state != "draining":
                changed.clear()
                message = await self._trust(watched)
                if message != last:
                    last = message
                    yield message
                await changed.wait()
        finally:
            stop()
        raise UnavailableError("the server is going down", remedy="connect again in a moment")

    async def _trust(self, watched: SpiffeId | None) -> Any:
        snapshot = self._parts.state.snapshot
        revoked = await asyncio.to_thread(self._revoked, watched) if watched else []
        return pb.Trust(
            generation=snapshot.trust.generation,
            bundle=snapshot.trust.bundle_pem,
            crl=snapshot.trust.crl_pem,
            revoked=revoked,
            suspended=watched in snapshot.suspended,
        )

    def _revoked(self, watched: SpiffeId) -> list[str]:
        now = self._parts.house.clock.now()
        rows = self._parts.house.authority.certificates(CertificateFilter(now, watched, "revoked"))
        return [row.serial for row in rows if row.not_after > now]

    def _authorities(self) -> Any:
        records = [record for record in self._parts.house.ledger.authorities() if record.state != "removed"]
        return pb.ShowAuthoritiesReply(
            roots=[self._authority(record) for record in records if record.role == ROOT],
            issuing=[self._authority(record) for record in records if record.role == ISSUING],
        )

    def _authority(self, record: AuthorityRecord) -> Any:
        message = pb.Authority(id=record.id, state=record.state, generation=record.generation)
        message.not_after.FromDatetime(record.not_after)
        if record.state == "prepared":
            behind = self._parts.house.acknowledgements.stragglers(record.generation, self._parts.house.clock.now())
            message.waiting_for.extend(f"{found.spiffe_id} {found.holder}" for found in behind)
        return message


def crl_of(file_name: str, snapshot: Snapshot) -> bytes:
    """Return the DER of the CRL that ``<issuer>.crl`` names.

    Raises:
        NotFoundError: No CA in use has this id.
    """
    crl = snapshot.trust.crls.get(file_name.removesuffix(".crl"))
    if crl is None or not file_name.endswith(".crl"):
        raise NotFoundError("no CA in use has this id", field="issuer", value=file_name)
    return crl.der
