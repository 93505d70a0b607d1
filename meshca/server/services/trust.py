"""Trust: CAs, bundle, and a watch for those who keep files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from meshca.authority import audit
from meshca.authority.jwt_keys import REFRESHED
from meshca.authority.records import INTERMEDIATE, ISSUING, JWT, ROOT, CertificateFilter
from meshca.authority.succession import Progress
from meshca.delivery.snapshot import Snapshot
from meshca.errors import InvalidInputError, MeshcaError, NotFoundError, UnavailableError
from meshca.server.parts import Parts
from meshca.server.services.acknowledging import acknowledge
from meshca.server.services.calls import Streaming, Unary
from meshca.server.services.certificates import required_holder
from meshca.spiffe import bundle, jwks
from meshca.spiffe.id import SpiffeId
from meshca.v1 import admin_pb2 as pb
from meshca.x509.carequest import request_pem

# How often others should fetch the bundle again, in seconds.
REFRESH_HINT = int(REFRESHED.total_seconds())


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
            return bundle.spiffe_jwks(ders, sequence_of(snapshot), REFRESH_HINT, jwks.members(snapshot.jwt.published))
        case "jwks":
            return bundle.jwks(ders, jwks.members(snapshot.jwt.published))
    raise InvalidInputError("no such form", field="format", value=form, remedy="pem, spiffe or jwks")


def sequence_of(snapshot: Snapshot) -> int:
    """Return a number that grows with every change of the bundle: both of its parts count up."""
    return snapshot.trust.generation + snapshot.jwt.generation


class TrustService:
    """What people and file drops ask about trust."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def calls(self) -> Mapping[str, Unary]:
        """Return the methods by the names of the API."""
        return {
            "ShowAuthorities": self.authorities,
            "RotateAuthority": self.rotate,
            "TaintAuthority": self.taint,
            "CaRequest": self.request,
            "ImportChain": self.bring,
            "Bundle": self.bundle,
            "AcknowledgeTrust": self.acknowledge,
        }

    def streams(self) -> Mapping[str, Streaming]:
        """Return the streaming methods by the names of the API."""
        return {"WatchTrust": self.watch, "WatchRotation": self.watch_rotation}

    async def authorities(self, _: Any, __: str) -> Any:
        """Return all CAs that are not removed."""
        return await asyncio.to_thread(self._authorities)

    async def rotate(self, request: Any, actor: str) -> Any:
        """Replace a root, an issuing CA or the key that signs JWT-SVIDs before its time."""
        role = {ROOT: ROOT, ISSUING: ISSUING, JWT: JWT}.get(request.role)
        if role is None:
            raise InvalidInputError("no such role", field="role", value=request.role, remedy="root, issuing or jwt")
        with self._audited(actor, audit.ROTATE, role):
            return pb.RotateAuthorityReply(id=await self._parts.rotations.rotate(role, actor))

    async def watch_rotation(self, request: Any, _: str) -> AsyncIterator[Any]:
        """Yield how far a rotation has come until it is done."""
        async for progress in self._parts.rotations.watch(request.id):
            yield _progress(progress)

    async def taint(self, request: Any, actor: str) -> Any:
        """Mark a CA, and all below it, as believed stolen."""
        with self._audited(actor, audit.TAINT, request.id):
            return pb.TaintAuthorityReply(ids=await self._parts.rotations.taint(request.id, actor))

    async def request(self, _: Any, actor: str) -> Any:
        """Return the request for the next issuing CA's certificate."""
        with self._audited(actor, audit.REQUEST, ISSUING):
            request, is_new = await self._parts.rotations.request(actor)
        reply = pb.CaRequestReply(id=request.key_id, csr=request_pem(request.csr), is_new=is_new)
        reply.created_at.FromDatetime(request.created_at)
        return reply

    async def bring(self, request: Any, actor: str) -> Any:
        """Take in a chain that an upstream has signed, or its CRLs."""
        with self._audited(actor, audit.IMPORT, "trust"):
            imported = await self._parts.rotations.bring(request.chain, list(request.crls), actor)
        reply = pb.ImportChainReply(warnings=imported.warnings)
        if imported.issuing is not None:
            reply.id, reply.parent = imported.issuing.id, imported.issuing.parent_id
        return reply

    async def bundle(self, request: Any, _: str) -> Any:
        """Return the bundle."""
        return pb.BundleReply(bundle=bundle_in(request.format, self._parts.state.snapshot))

    async def acknowledge(self, request: Any, _: str) -> Any:
        """Note that a holder has put a trust generation in force."""
        if request.generation < 1:
            raise InvalidInputError("there is no such generation", field="generation", value=str(request.generation))
        holder = required_holder(request.holder)
        spiffe_id = SpiffeId.parse(request.spiffe_id)
        await acknowledge(self._parts, holder, spiffe_id, request.generation, request.serial)
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

    @contextmanager
    def _audited(self, actor: str, action: str, subject: str) -> Iterator[None]:
        """Audit a refusal; what fails for want of a key store or an upstream is no refusal."""
        try:
            yield
        except UnavailableError:
            raise
        except MeshcaError as error:
            self._parts.journal.refused(actor, action, subject, str(error))
            raise

    async def _trust(self, watched: SpiffeId | None) -> Any:
        snapshot = self._parts.state.snapshot
        revoked = await asyncio.to_thread(self._revoked, watched) if watched else []
        return pb.Trust(
            generation=snapshot.trust.generation,
            bundle=snapshot.trust.bundle_pem,
            crl=snapshot.trust.crl_pem,
            revoked=revoked,
            suspended=watched in snapshot.suspended,
            leaf_crl_only=snapshot.trust.leaf_crl_only,
        )

    def _revoked(self, watched: SpiffeId) -> list[str]:
        now = self._parts.house.clock.now()
        rows = self._parts.house.authority.certificates(CertificateFilter(now, watched, "revoked"))
        return [row.serial for row in rows if row.not_after > now]

    def _authorities(self) -> Any:
        found = self._parts.house.authority.succession.progresses()
        return pb.ShowAuthoritiesReply(
            roots=[_shown(one) for one in found if one.record.role == ROOT],
            intermediates=[_shown(one) for one in found if one.record.role == INTERMEDIATE],
            issuing=[_shown(one) for one in found if one.record.role == ISSUING],
            jwt=map(_shown, self._parts.house.authority.jwt_keys.progress()),
        )


def _shown(progress: Progress) -> Any:
    record = progress.record
    message = pb.Authority(
        id=record.id,
        state=record.state,
        generation=record.generation,
        waiting_for=map(str, progress.waiting_for),
        tainted=record.tainted_at is not None,
        parent=record.parent_id,
        key=record.key_ref,
    )
    message.not_after.FromDatetime(record.not_after)
    if record.state == "prepared" and record.activate_at is not None:
        message.activate_at.FromDatetime(record.activate_at)
    if progress.deadline is not None:
        message.deadline.FromDatetime(progress.deadline)
    return message


def _progress(progress: Progress) -> Any:
    record = progress.record
    message = pb.RotationProgress(
        id=record.id,
        role=record.role,
        state=record.state,
        holders=progress.holders,
        waiting_for=map(str, progress.waiting_for),
    )
    if progress.deadline is not None:
        message.deadline.FromDatetime(progress.deadline)
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
