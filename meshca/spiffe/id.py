"""SPIFFE IDs and trust domains.

Rules kept here:
- An identity is parsed once, at the edge; a `SpiffeId` or `TrustDomain` that exists is valid.
- One spelling per identity: what is not already in canonical form is refused, never folded (SPIFFE-ID §2.1 demands
  lower case from issuers, and we are one).
- Limits of SPIFFE-ID §2.3: an ID has at most 2,048 bytes, a trust domain name at most 255.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from meshca.errors import InvalidInputError

MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255

_SCHEME = "spiffe://"
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
# Segments that start with a dot take the slow way, which tells '.' and '..' from '...' and '.well-known'.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class IdentityError(InvalidInputError):
    """The text is not a SPIFFE ID or trust domain name in its one canonical spelling."""


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """A trust domain name, for example ``prod.example``."""

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise IdentityError("the trust domain is empty (SPIFFE-ID §2.1)", field="trust domain")
        # fullmatch, because "$" would also accept a final newline.
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise IdentityError(
                "a trust domain holds only the characters a-z 0-9 . - _ (SPIFFE-ID §2.1)",
                field="trust domain",
                value=self.name,
                remedy="write it in lower case, without port, user or percent sign",
            )
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES:
            raise IdentityError(
                f"a trust domain has at most {MAX_TRUST_DOMAIN_BYTES} bytes (SPIFFE-ID §2.3)",
                field="trust domain",
                value=self.name,
            )

    @property
    def id(self) -> SpiffeId:
        """The SPIFFE ID of the trust domain itself, which has no path."""
        return SpiffeId(self)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A SPIFFE ID: a trust domain and a path, which is empty or ``/segment/segment…``."""

    trust_domain: TrustDomain
    path: str = ""

    def __post_init__(self) -> None:
        if not _PLAIN_PATH.fullmatch(self.path):
            _require_path(self.path)
        if len(_SCHEME) + len(self.trust_domain.name) + len(self.path) > MAX_ID_BYTES:
            raise _too_long(str(self))

    @classmethod
    def parse(cls, text: str | bytes) -> SpiffeId:
        """Parse the canonical spelling ``spiffe://trust-domain/path``.

        Raises:
            IdentityError: the text breaks a rule of SPIFFE-ID §2.
        """
        shown = text if isinstance(text, str) else text.decode("ascii", "backslashreplace")
        if len(text) > MAX_ID_BYTES:
            raise _too_long(shown)
        if not shown.startswith(_SCHEME):
            raise IdentityError(
                "a SPIFFE ID starts with spiffe:// in lower case (SPIFFE-ID §2)",
                field="SPIFFE ID",
                value=shown,
                remedy="write it as spiffe://trust-domain/path",
            )
        name, slash, rest = shown[len(_SCHEME) :].partition("/")
        return cls(TrustDomain(name), slash + rest)

    @property
    def segments(self) -> tuple[str, ...]:
        """The segments of the path; none for the ID of a trust domain."""
        return tuple(self.path.split("/")[1:])

    @property
    def is_trust_domain(self) -> bool:
        """Whether this is the ID of a trust domain itself."""
        return not self.path

    def __str__(self) -> str:
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"


def _too_long(text: str) -> IdentityError:
    rule = f"a SPIFFE ID has at most {MAX_ID_BYTES} bytes (SPIFFE-ID §2.3)"
    return IdentityError(rule, field="SPIFFE ID", value=text, remedy="use a shorter path")


def _require_path(path: str) -> None:
    """Raise unless every segment follows SPIFFE-ID §2.2; ``...`` is legal, ``.`` and ``..`` are not."""
    if not path:
        return
    if path[0] != "/":
        raise _path_error("a path starts with /", path, "write it as spiffe://trust-domain/path")
    for segment in path[1:].split("/"):
        if not segment:
            raise _path_error("a path has no empty segment and no trailing slash", path, "leave the extra / out")
        if segment in {".", ".."}:
            raise _path_error("a path segment is neither '.' nor '..'", path, "write the path that is meant in full")
        if not _SEGMENT.fullmatch(segment):
            rule = "a path segment holds only the characters a-z A-Z 0-9 . - _"
            raise _path_error(rule, path, "nothing is percent-encoded; use another name")


def _path_error(rule: str, path: str, remedy: str) -> IdentityError:
    return IdentityError(f"{rule} (SPIFFE-ID §2.2)", field="SPIFFE ID path", value=path, remedy=remedy)
