"""JWT-SVIDs: what they claim, and when a claim is believed.

Rules kept here (JWT-SVID §3, RFC 7519 §4.1, design §7):
- An audience is always named, and bounded in number and length: whoever gets a token for several can use it at the
  others (JWT-SVID §6.2).
- A token of ours lives five minutes at most, and not past its key.
- It is verified with the keys of its subject's trust domain, and no other's; an expired one is refused without leeway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from meshca.errors import InvalidInputError
from meshca.spiffe import jws
from meshca.spiffe.id import IdentityError, SpiffeId, TrustDomain
from meshca.spiffe.jws import PublicKey, Token, TokenError

LONGEST_LIFE = timedelta(minutes=5)
MOST_AUDIENCES = 8
LONGEST_AUDIENCE = 512
_AHEAD = timedelta(seconds=60)  # how far the clock of another trust domain's issuer may be ahead of ours

Keys = Mapping[str, PublicKey]
"""The signing keys of one trust domain, by ``kid``."""


class AudienceError(InvalidInputError):
    """No audience, or none that can be."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token of ours says."""

    spiffe_id: SpiffeId
    audience: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    token_id: str
    issuer: str = ""

    @property
    def members(self) -> dict[str, object]:
        """Return the claims as they stand in the token; one audience as text, for readers that know no lists."""
        found: dict[str, object] = {
            "sub": str(self.spiffe_id),
            "aud": self.audience[0] if len(self.audience) == 1 else list(self.audience),
            "iat": int(self.issued_at.timestamp()),
            "exp": int(self.expires_at.timestamp()),
            "jti": self.token_id,
        }
        return {**found, "iss": self.issuer} if self.issuer else found


@dataclass(frozen=True, slots=True)
class Verified:
    """Whose a token is, and all that it claims."""

    spiffe_id: SpiffeId
    claims: Mapping[str, object] = field(repr=False)


def audience_of(wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the audiences asked for, each once, in their order.

    Raises:
        AudienceError: There is none, or too many, or one is empty, too long or not printable.
    """
    found = tuple(dict.fromkeys(wanted))
    if not found:
        raise AudienceError("a token is for somebody (JWT-SVID §3.2)", field="audience", remedy="name who will read it")
    if len(found) > MOST_AUDIENCES:
        raise AudienceError(f"{len(found)} audiences; at most {MOST_AUDIENCES}", field="audience", remedy="one is best")
    for each in found:
        require_audience(each)
    return found


def require_audience(text: str) -> None:
    """Check one audience.

    Raises:
        AudienceError: It is empty, too long or not printable.
    """
    if not text.strip() or len(text.encode("utf-8", "replace")) > LONGEST_AUDIENCE or not text.isprintable():
        raise AudienceError(
            f"an audience is printable text of 1 to {LONGEST_AUDIENCE} bytes", field="audience", value=text
        )


def verify(text: str, audience: str, keys: Mapping[TrustDomain, Keys], now: datetime) -> Verified:
    """Say whose token this is, for an audience.

    Raises:
        TokenError: It is not to be believed.
        AudienceError: There is no such audience.
    """
    require_audience(audience)
    token = jws.parse(text)
    subject = _subject(token)
    key = keys.get(subject.trust_domain, {}).get(token.kid)
    if key is None:
        raise TokenError("no key of its trust domain has this id", field="token", value=f"kid {token.kid}")
    jws.verify(token, key)
    _require_time(token, now)
    if audience not in _audiences(token):
        raise TokenError("it is for another audience", field="token", value=audience)
    return Verified(subject, token.claims)


def _subject(token: Token) -> SpiffeId:
    subject = token.claims.get("sub")
    if not isinstance(subject, str):
        raise TokenError("it names no subject (JWT-SVID §3.1)", field="token")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except IdentityError as error:
        raise TokenError(str(error), field="token") from None
    if spiffe_id.is_trust_domain:
        raise TokenError("its subject is a trust domain, no workload", field="token", value=subject)
    return spiffe_id


def _audiences(token: Token) -> tuple[str, ...]:
    found = token.claims.get("aud")
    if isinstance(found, str):
        return (found,)
    if isinstance(found, list) and found and all(isinstance(each, str) for each in found):
        return tuple(found)
    raise TokenError("it names no audience (JWT-SVID §3.2)", field="token")


def _require_time(token: Token, now: datetime) -> None:
    if _seconds(token, "exp", required=True) <= now.timestamp():
        raise TokenError("it has expired", field="token")
    latest = (now + _AHEAD).timestamp()
    for claim in ("nbf", "iat"):
        if _seconds(token, claim) > latest:
            raise TokenError(f"its {claim} lies in the future", field="token")


def _seconds(token: Token, claim: str, *, required: bool = False) -> float:
    found = token.claims.get(claim)
    if found is None and claim not in token.claims and not required:
        return 0.0
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise TokenError(f"its {claim} is no time (RFC 7519 §2)", field="token")
    return found
