"""Fetches the bundles of federated trust domains when they are due.

Rules kept here (SPIFFE Federation §4.1, §6.2):
- What is due stands in the store; a replica claims it before it asks. The refresh hint is kept between a minute and an
  hour, ten percent sooner or later by chance; what failed is tried again within five minutes.
- A bundle's sequence never goes back; only an administrator who brings a bundle sets it back.
- Nothing that breaks a rule takes the place of what is held. Each change, and each refusal that is new, is audited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from meshca.authority import audit
from meshca.authority.audit import OK, REFUSED, AuditEntry
from meshca.errors import InvalidInputError, MeshcaError, NotFoundError, RefusedError, UnavailableError
from meshca.server import bundle_client
from meshca.server.bundle_client import Meeting
from meshca.server.federations import bundles_of, parsed
from meshca.server.house import House
from meshca.spiffe import bundle as bundles
from meshca.spiffe.foreign import ForeignBundle
from meshca.spiffe.id import TrustDomain
from meshca.store.federation import HTTPS_WEB, Endpoint, Federation

_log = structlog.get_logger(__name__)

USUAL = timedelta(minutes=5)
SHORTEST, LONGEST = timedelta(minutes=1), timedelta(hours=1)
_CLAIMED = timedelta(minutes=1)
_JITTER = 0.1
_LONGEST_FAILURE = 500

Fetch = Callable[[str, Meeting], Awaitable[bytes]]


class Federator:
    """Keeps the bundles of others up to date. Lives on the event loop."""

    def __init__(
        self,
        house: House,
        changed: Callable[[], Awaitable[None]],
        chance: Callable[[], float],
        fetch: Fetch = bundle_client.fetch,
    ) -> None:
        self._house = house
        self._changed = changed
        self._chance = chance
        self._fetch = fetch
        self.known: tuple[Federation, ...] = ()
        """The federations as they were looked at last."""

    async def tick(self) -> None:
        """Fetch what is due."""
        now = self._house.clock.now()
        await self._look()
        due = [one for one in self.known if one.due_at <= now]
        await asyncio.gather(*(self._one_due(one, now) for one in due))
        if due:
            await self._look()

    async def refresh(self, trust_domain: TrustDomain, actor: str) -> Federation:
        """Fetch one now, and return how it stands.

        Raises:
            NotFoundError: It is not federated.
        """
        found = await asyncio.to_thread(self._house.federations.find, trust_domain)
        if found is None:
            raise NotFoundError("not federated", field="trust domain", value=str(trust_domain))
        await self._update(found, actor)
        await self._look()
        return next((one for one in self.known if one.endpoint == found.endpoint), found)

    async def _look(self) -> None:
        self.known = tuple(await asyncio.to_thread(self._house.federations.list))

    async def fetched(self, endpoint: Endpoint, held: bytes) -> tuple[bytes, ForeignBundle]:
        """Fetch a bundle, given the one that is held of its trust domain (empty: none), and return it raw and read.

        Raises:
            MeshcaError: There is none that may be believed.
        """
        raw = await self._fetch(endpoint.url, await self._meeting(endpoint, held))
        found = await asyncio.to_thread(parsed, raw, endpoint.trust_domain)
        if held:
            _require_no_older(found, parsed(held, endpoint.trust_domain))
        return raw, found

    def next_at(self, found: ForeignBundle | None) -> datetime:
        """Return when a bundle is due again; None: it could not be fetched."""
        hint = USUAL if found is None or found.refresh_hint is None else _seconds(found.refresh_hint)
        every = min(max(hint, SHORTEST), LONGEST if found is not None else USUAL)
        return self._house.clock.now() + every * (1 + _JITTER * (2 * self._chance() - 1))

    async def _one_due(self, federation: Federation, now: datetime) -> None:
        if await asyncio.to_thread(self._house.federations.claim, federation, now + _CLAIMED):
            await self._update(federation, "schedule")

    async def _update(self, federation: Federation, actor: str) -> None:
        try:
            raw, found = await self.fetched(federation.endpoint, federation.bundle)
        except MeshcaError as error:
            await self._failed(federation, error, actor)
            return
        now, subject = self._house.clock.now(), str(federation.endpoint.trust_domain)
        entry = None
        if not federation.bundle or parsed(federation.bundle, federation.endpoint.trust_domain) != found:
            entry = AuditEntry(audit.FETCH_BUNDLE, subject, OK, described(found), actor)
        new = replace(
            federation, bundle=raw, sequence=found.sequence, due_at=self.next_at(found), fetched_at=now, failure=""
        )
        if await asyncio.to_thread(self._house.federations.fetched, new, entry) and entry is not None:
            _log.info("bundle of a federated trust domain", trust_domain=subject, what=described(found))
            await self._changed()

    async def _failed(self, federation: Federation, error: MeshcaError, actor: str) -> None:
        text, entry = str(error)[:_LONGEST_FAILURE], None
        if text != federation.failure:
            _log.warning("no bundle", trust_domain=str(federation.endpoint.trust_domain), reason=text)
            if not isinstance(error, UnavailableError):
                subject = str(federation.endpoint.trust_domain)
                entry = AuditEntry(audit.FETCH_BUNDLE, subject, REFUSED, text, actor)
        await asyncio.to_thread(self._house.federations.failed, federation.endpoint, text, self.next_at(None), entry)

    async def _meeting(self, endpoint: Endpoint, held: bytes) -> Meeting:
        if endpoint.profile == HTTPS_WEB:
            return await asyncio.to_thread(bundle_client.web_meeting)
        server = endpoint.endpoint_id
        if server is None:
            raise InvalidInputError("https_spiffe needs the SPIFFE ID of the server", field="endpoint-id")
        pem = await asyncio.to_thread(self._roots_of, server.trust_domain, endpoint.trust_domain, held)
        if not pem:
            raise InvalidInputError(
                f"there is no bundle of {server.trust_domain} to know the server by",
                field="bundle",
                remedy="bring it with --bundle FILE: there `meshca bundle --format spiffe` prints it",
            )
        return bundle_client.spiffe_meeting(server, pem)

    def _roots_of(self, of: TrustDomain, trust_domain: TrustDomain, held: bytes) -> bytes:
        if of == trust_domain:
            return bundles.pem(parsed(held, of).roots) if held else b""
        if of == self._house.authority.realm.trust_domain:
            return self._house.authority.trust.bundle_pem
        found = bundles_of(self._house.federations.list()).get(of)
        return b"" if found is None else found.pem


def described(found: ForeignBundle) -> str:
    """Return what a bundle is, in a line."""
    sequence = "without a sequence" if found.sequence is None else f"sequence {found.sequence}"
    return f"{sequence}, {len(found.roots)} CA certificates, JWT keys {found.jwt_key_count}"


def _require_no_older(found: ForeignBundle, held: ForeignBundle) -> None:
    if held.sequence is not None and (found.sequence is None or found.sequence < held.sequence):
        raise RefusedError(
            f"its sequence went back from {held.sequence}",
            field="spiffe_sequence",
            value=str(found.sequence),
            remedy="if they have begun anew: `meshca federate TD --url U --bundle FILE`",
        )


def _seconds(hint: int) -> timedelta:
    return timedelta(seconds=min(hint, LONGEST // timedelta(seconds=1)))
