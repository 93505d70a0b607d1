"""Making JWT-SVIDs.

Rules (design §7): a token is for a named audience and lives five minutes at most, no longer than a leaf would, and not
past its key; none is answered for an identity that is suspended, while issuance is frozen, or of a key that is not in
office, and the ledger decides that in the commit that audits it. So every token that anybody was given stands in the
audit log, by its id (``jti``); a row of its own it has not, since it cannot be revoked: it ends before a list would
reach its readers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from meshca.authority import audit
from meshca.authority.audit import AuditEntry
from meshca.authority.freezing import FrozenError
from meshca.authority.issuing import SuspendedError
from meshca.authority.jwt_keys import JwtKeys
from meshca.authority.jwt_trust import NoSigningKeyError
from meshca.authority.ports import Ports
from meshca.authority.records import AuthorityRecord
from meshca.authority.requests import require_issuable
from meshca.errors import MeshcaError
from meshca.spiffe import jwks, jws
from meshca.spiffe.id import SpiffeId
from meshca.spiffe.jwtsvid import LONGEST_LIFE, Claims, audience_of

_ID_BYTES = 16
_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A wish for one token."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    requested_by: str


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token that stands in the audit log."""

    spiffe_id: SpiffeId
    token_id: str
    expires_at: datetime
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Makes tokens. Any thread may call it."""

    ports: Ports
    keys: JwtKeys
    issuer: str = ""  # what OpenID Connect knows us by

    @property
    def life(self) -> timedelta:
        """Return how long a token lives at most."""
        return min(LONGEST_LIFE, self.keys.pace.lifetimes.leaf)

    def issue(self, request: TokenRequest) -> IssuedToken:
        """Make a token.

        Raises:
            AudienceError: There is no audience, or none that can be.
            RefusedError: The identity is not issued, or suspended, or issuance is frozen.
            UnavailableError: No key signs now, or the ledger does not answer; nothing was released.
        """
        require_issuable(request.spiffe_id, "stream", self.keys.trust_domain)
        audience = audience_of(request.audience)
        for _ in range(_ATTEMPTS):
            made = self._made(request, audience)
            if made is not None:
                return made
            self.keys.refresh()  # another process may have put another key in office
        raise self._refusal(request.spiffe_id)

    def _made(self, request: TokenRequest, audience: tuple[str, ...]) -> IssuedToken | None:
        """Return a token that the ledger has admitted, or None."""
        now = self.ports.clock.now().replace(microsecond=0)
        signing = self._signing(now)
        claims = Claims(
            spiffe_id=request.spiffe_id,
            audience=audience,
            issued_at=now,
            expires_at=min(now + self.life, signing.not_after),
            token_id=self.ports.entropy(_ID_BYTES).hex(),
            issuer=self.issuer,
        )
        text = self._signed(claims, signing)
        if not self.ports.ledger.admit_token(request.spiffe_id, signing.id, _entry(claims, signing.id, request)):
            return None
        return IssuedToken(request.spiffe_id, claims.token_id, claims.expires_at, text)

    def _signing(self, now: datetime) -> AuthorityRecord:
        try:
            return self.keys.require().require_signing(now)
        except NoSigningKeyError as error:
            if (freeze := self.ports.ledger.frozen()) is not None:  # which keeps one from being made
                raise FrozenError(freeze) from error
            raise

    def _signed(self, claims: Claims, signing: AuthorityRecord) -> str:
        key = jwks.public_key(signing.spki)
        alg = jws.algorithm_of(key)
        signed = jws.signing_input(alg, signing.id, claims.members)
        text = jws.compact(signed, alg, self.ports.keys.signer(signing).sign(signed))
        jws.verify(jws.parse(text), key)  # what leaves us is good, whatever the key store did
        return text

    def _refusal(self, spiffe_id: SpiffeId) -> MeshcaError:
        """Return why the ledger did not admit a token."""
        if (freeze := self.ports.ledger.frozen()) is not None:
            return FrozenError(freeze)
        if spiffe_id in self.ports.ledger.suspended():
            return SuspendedError("the identity is suspended", value=str(spiffe_id), remedy="see meshca resume")
        return NoSigningKeyError("the signing key was replaced a moment ago", remedy="call again")


def _entry(claims: Claims, key_id: str, request: TokenRequest) -> AuditEntry:
    until = claims.expires_at.isoformat(timespec="seconds")
    reason = f"token {claims.token_id} for {', '.join(claims.audience)} until {until}, key {key_id}"
    return AuditEntry(audit.ISSUE_JWT, str(claims.spiffe_id), audit.OK, reason, request.requested_by)
