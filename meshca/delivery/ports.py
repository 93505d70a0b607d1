"""What delivery asks of others. The server implements all of it; the agent will, too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from meshca.attest.process import Process
from meshca.errors import UnavailableError
from meshca.spiffe.id import SpiffeId


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf; without ``key_pem`` (PKCS #8) it is one that its holder has and we no longer can send.

    Its life counts from ``signed_at``: ``not_before`` is back-dated, or its issuer's.
    """

    serial: str
    spiffe_id: SpiffeId
    not_before: datetime
    not_after: datetime
    signed_at: datetime
    chain_pem: bytes = field(default=b"", repr=False)
    key_pem: bytes = field(default=b"", repr=False)
    issuer_id: str = ""


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> datetime:
        """Return the time, aware, in UTC."""


class Issuing(Protocol):
    """Makes leaves for streams."""

    async def leaf(self, spiffe_id: SpiffeId, holder: str, requested_by: str) -> Leaf:
        """Make a key and have it certified.

        Raises:
            MeshcaError: There is none: suspended, no key, no disk.
        """

    async def held(self, serial: str, spiffe_id: SpiffeId, holder: str) -> Leaf | None:
        """Return the leaf with this serial if it is this holder's, valid and not revoked."""


class TokenIssuing(Protocol):
    """Makes JWT-SVIDs."""

    async def token(self, spiffe_id: SpiffeId, audience: tuple[str, ...], requested_by: str) -> str:
        """Return a token of this identity for this audience, which stands in the audit log.

        Raises:
            MeshcaError: There is none: suspended, frozen, no key, no disk.
        """

    async def ready(self) -> None:
        """See that there is a key that signs, so that the bundle that is asked for is not empty.

        Raises:
            MeshcaError: There is none.
        """


class NoTokens:
    """Makes none."""

    async def token(self, spiffe_id: SpiffeId, audience: tuple[str, ...], requested_by: str) -> str:
        """Refuse."""
        raise UnavailableError("no JWT-SVIDs are issued here")

    async def ready(self) -> None:
        """Refuse."""
        raise UnavailableError("no JWT-SVIDs are issued here")


class Followed(Protocol):
    """Takes note of who follows the JWT bundle; never blocks and never raises."""

    def __call__(self, holder: str, spiffe_id: SpiffeId, generation: int, until: datetime, /) -> None:
        """Note that a holder has this generation, and counts as following the bundle until then."""


def not_waited_for(_: str, __: SpiffeId, ___: int, ____: datetime, /) -> None:
    """Take no note: where nobody rotates keys by it."""


class Attestor(Protocol):
    """Says who is behind a connection. Implemented by ``attest.gate.Gate``."""

    def lookup(self, peer: str) -> Process | None:
        """Return the process behind ``context.peer()``, or None for a stranger."""


class Journal(Protocol):
    """Takes note of refusals and acknowledgements; never blocks and never raises."""

    def refused(self, actor: str, action: str, subject: str, reason: str) -> None:
        """Log, count and audit a refusal."""

    def trust_in_force(self, holder: str, spiffe_id: SpiffeId, generation: int) -> None:
        """Note that a holder has acknowledged all of this trust generation."""

    def leaf_in_force(self, holder: str, spiffe_id: SpiffeId, issuer_id: str) -> None:
        """Note that a holder has acknowledged a leaf of this CA."""

    def rejected(self, node: str, type_url: str, digests: Collection[str], message: str) -> None:
        """Note that an Envoy has NACKed contents."""

    def unsafe(self, name: str, reason: str) -> None:
        """Raise an alarm: a resource was held back because an Envoy would have taken it and then failed."""
