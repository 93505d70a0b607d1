"""An agent's own certificate: how it is got, renewed, and got again.

Rules kept here (design §7):
- With a join token nothing of it is sent before the server has shown the root that the token names.
- The key is made here and lies in memory alone. Each certificate has a key of its own.
- Renewed at half life; past its end the method is asked again, and where it can't be, what to do is said, again and
  again. Whoever is behind the agent is served from memory meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import structlog

from meshca.attest.join import JoinToken
from meshca.client.agent import AgentApi, AgentCertificate
from meshca.client.tunnel import Identity, Meeting, Tunnel, meeting, unverified_meeting
from meshca.delivery.ports import Clock
from meshca.errors import MeshcaError, RefusedError, UnauthenticatedError, UnavailableError
from meshca.keys.requesting import new_request
from meshca.spiffe.bundle import pem
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.csr import check_csr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = structlog.get_logger(__name__)

Address = tuple[str, int]
# A server that is back is found soon; one that refuses is not asked, and its audit log not filled, as often.
_FIRST_PAUSE, _LONGEST_ABSENCE, _LONGEST_PAUSE = 0.5, 2.0, 5.0


@dataclass(frozen=True, slots=True)
class Own:
    """A certificate of this agent's, its key, and whom it trusts with it."""

    spiffe_id: SpiffeId
    serial: str
    not_after: datetime
    identity: Identity = field(repr=False)
    bundle: bytes = field(repr=False)

    def meeting(self) -> Meeting:
        """Return how to meet the server with it."""
        return meeting(self.spiffe_id.trust_domain, self.bundle, self.identity)


class Method(Protocol):
    """How an agent proves who it is."""

    name: str
    remedy: str  # what a person does when it does not work any more

    async def attest(self, address: Address) -> Own:
        """Get a certificate.

        Raises:
            MeshcaError: There is none.
        """


class SpentTokenError(UnavailableError):
    """The token has let this agent in before, and no other has taken its place."""


@dataclass(slots=True)
class ByJoinToken:
    """A join token; ``read`` reads it anew, so that another in its place is found."""

    read: Callable[[], JoinToken]
    spent: JoinToken | None = field(default=None, repr=False)
    name: str = "join_token"
    remedy: str = "make a token with `meshca token AGENT` on the server, and put it where this agent reads it"

    async def attest(self, address: Address) -> Own:
        """Join."""
        token = await asyncio.to_thread(self.read)
        if token == self.spent:
            # Not shown again: the server would refuse it, and write that down, every time.
            raise SpentTokenError("this token has let the agent in before", remedy=self.remedy)
        async with _api(address, unverified_meeting) as api:
            shown = await api.trust()
        root = _required_root(token, shown.roots)
        trust_domain = TrustDomain(shown.trust_domain)

        async def secret(_: str) -> bytes:
            return token.secret

        own = await _attest(address, trust_domain, pem([root]), self.name, secret)
        self.spent = token
        return own


@dataclass(slots=True)
class ByProof:
    """A proof that can be had again and again, for a server whose roots are known (Kubernetes, AWS).

    ``prove`` is given the trust domain, and the SHA-256 (hex) of the key that the certificate is to be for.
    """

    name: str
    bundle: Callable[[], bytes] = field(repr=False)
    prove: Callable[[str, str], bytes] = field(repr=False)
    remedy: str = "see what the server's audit log says of the refusal"

    async def attest(self, address: Address) -> Own:
        """Prove it."""
        bundle = await asyncio.to_thread(self.bundle)
        async with _api(address, unverified_meeting) as api:
            # Its word for its trust domain: what it is worth, its certificate under these roots says.
            trust_domain = TrustDomain((await api.trust()).trust_domain)

        async def prove(key: str) -> bytes:
            return await asyncio.to_thread(self.prove, str(trust_domain), key)

        return await _attest(address, trust_domain, bundle, self.name, prove)


@dataclass(slots=True)
class ByCertificate:
    """An X.509 identity of an agent, from files: followed by one whose key never was in a file."""

    read: Callable[[], Own]
    name: str = "x509"
    remedy: str = "make another identity for this agent, and put it in the place of the old one"

    async def attest(self, address: Address) -> Own:
        """Renew it for a key of our own."""
        return await renewed(address, await asyncio.to_thread(self.read))


async def renewed(address: Address, own: Own) -> Own:
    """Return the certificate that follows another.

    Raises:
        MeshcaError: There is none.
    """
    async with _api(address, own.meeting) as api:
        key, csr = new_request()
        return _own(await api.renew(csr), key)


class OwnIdentity:
    """Keeps an agent's certificate good. Lives on one event loop."""

    def __init__(self, address: Address, method: Method, clock: Clock) -> None:
        self._address = address
        self._method = method
        self._clock = clock
        self._own: Own | None = None
        self._half: datetime = clock.now()
        self.changed: Callable[[Own], None] = lambda _: None
        """Called with each new certificate."""

    @property
    def own(self) -> Own:
        """Return the certificate.

        Raises:
            UnavailableError: There is none yet.
        """
        if self._own is None:
            raise UnavailableError("this agent has not attested yet")
        return self._own

    def meeting(self) -> Meeting:
        """Return how to meet the server now."""
        return self.own.meeting()

    def trust(self, bundle: bytes) -> None:
        """Trust these roots from now on."""
        if self._own is not None and bundle:
            self._own = replace(self._own, bundle=bundle)

    async def run(self) -> None:
        """Attest, and renew until cancelled; a first attestation that is refused ends it.

        Raises:
            MeshcaError: The method does not work, and there is no certificate yet.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._step()
                pause = _FIRST_PAUSE
            except MeshcaError as error:
                if self._own is None and not isinstance(error, UnavailableError):
                    raise
                self._tell(error)
                await asyncio.sleep(min(pause, self._until_the_end()))
                pause = min(pause * 2, _LONGEST_ABSENCE if isinstance(error, UnavailableError) else _LONGEST_PAUSE)

    async def _step(self) -> None:
        own = self._own
        now = self._clock.now()
        if own is None or own.not_after <= now:
            self._put(await self._method.attest(self._address))
        elif now >= self._half:
            await self._renewed(own)
        else:
            await asyncio.sleep(min((self._half - now).total_seconds(), _LONGEST_PAUSE))

    def _until_the_end(self) -> float:
        """Return how long our certificate is still good; where it isn't, as long as anybody may wait."""
        left = 0.0 if self._own is None else (self._own.not_after - self._clock.now()).total_seconds()
        return left if left > 0 else _LONGEST_PAUSE

    async def _renewed(self, own: Own) -> None:
        try:
            self._put(await renewed(self._address, own))
        except (RefusedError, UnauthenticatedError):
            # Evicted, or revoked: the method may let it in again, a certificate will not.
            self._put(await self._method.attest(self._address))

    def _put(self, own: Own) -> None:
        now = self._clock.now()
        # Not from its start, which is back-dated: a short life would be half over at once.
        self._own, self._half = own, now + (own.not_after - now) / 2
        _log.info("attested", agent=str(own.spiffe_id), serial=own.serial, until=own.not_after.isoformat())
        self.changed(own)

    def _tell(self, error: MeshcaError) -> None:
        own = self._own
        if own is not None and own.not_after <= self._clock.now():
            ended = own.not_after.isoformat(timespec="seconds")
            _log.error("own certificate expired", at=ended, reason=str(error), remedy=self._method.remedy)
        else:
            _log.warning("own certificate not renewed", reason=str(error))


def _required_root(token: JoinToken, roots: tuple[bytes, ...]) -> bytes:
    """Return the root that the token is for.

    Raises:
        WrongRootError: The server did not show it.
    """
    last: MeshcaError | None = None
    for root in roots:
        try:
            token.require_root(root)
        except MeshcaError as error:
            last = error
        else:
            return root
    raise last or UnauthenticatedError("the server shows no root", remedy="is --server a meshca server?")


async def _attest(
    address: Address, trust_domain: TrustDomain, roots: bytes, method: str, prove: Callable[[str], Awaitable[bytes]]
) -> Own:
    async with _api(address, lambda: meeting(trust_domain, roots, None)) as api:
        # Met before anything is proved: what is brought is for this server alone.
        await api.trust()
        key, csr = new_request()
        payload = await prove(hashlib.sha256(check_csr(csr, None).spki).hexdigest())
        return _own(await api.attest(method, payload, csr), key)


def _own(made: AgentCertificate, key: bytes) -> Own:
    return Own(
        SpiffeId.parse(made.spiffe_id),
        made.serial,
        made.not_after,
        Identity(made.chain, key),
        made.bundle,
    )


@asynccontextmanager
async def _api(address: Address, meet: Callable[[], Meeting]) -> AsyncIterator[AgentApi]:
    tunnel = Tunnel(address, meet)
    await tunnel.start()
    api = AgentApi(tunnel)
    try:
        yield api
    finally:
        await api.close()
        await tunnel.close()
