"""Whom everybody believes when a JWT-SVID comes: a set of signing keys.

Rules: a set is immutable and whole; a key that has expired or was removed is not in it; one key at most signs. What a
prepared key will sign can be verified by all who were given the set before it does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from meshca.authority.records import AuthorityRecord
from meshca.errors import UnavailableError
from meshca.spiffe import jwks

_IN_USE = ("prepared", "active", "old")


class NoSigningKeyError(UnavailableError):
    """No key signs JWT-SVIDs now."""


@dataclass(frozen=True, slots=True)
class JwtTrust:
    """The signing keys of our trust domain; the bundle's generation counts its changes."""

    generation: int = 0
    keys: tuple[AuthorityRecord, ...] = ()

    @property
    def published(self) -> tuple[tuple[str, bytes], ...]:
        """Return ``kid`` and public key (DER) of each."""
        return tuple((key.id, key.spki) for key in self.keys)

    @property
    def bundle(self) -> bytes:
        """Return them as a JWK set."""
        return _bundle(self.published)

    @property
    def signing(self) -> AuthorityRecord | None:
        """Return the key that signs, if there is one."""
        return next((key for key in self.keys if key.state == "active"), None)

    def require_signing(self, now: datetime) -> AuthorityRecord:
        """Return the key that signs.

        Raises:
            NoSigningKeyError: There is none that has not expired.
        """
        if self.signing is None or self.signing.not_after <= now:
            raise NoSigningKeyError("no key signs JWT-SVIDs now", remedy="see meshca status and ca show")
        return self.signing


def build_jwt_trust(generation: int, records: Iterable[AuthorityRecord], at: datetime) -> JwtTrust:
    """Put together what is in use at this moment."""
    kept = [record for record in records if record.state in _IN_USE and record.not_after > at]
    return JwtTrust(generation, tuple(sorted(kept, key=lambda record: (record.generation, record.id))))


@lru_cache(maxsize=8)
def _bundle(published: tuple[tuple[str, bytes], ...]) -> bytes:
    return jwks.document(jwks.members(published))
