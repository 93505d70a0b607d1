"""Selectors: what a registration may ask of a process, and how it is spelled.

Rules kept here (design §7):
- S1 A selector has one spelling; any other is refused, so that nobody registers what can never hold.
- S2 `unix:path` and `unix:sha256` stand only beside `unix:uid` or `unix:gid`: a process can connect, fork, and then
  become the trusted program.
- S3 `k8s:sa` and `k8s:pod-name` stand only beside `k8s:ns`: every namespace has a `default` of its own.
- S4 `x509:self` stands alone: no process has it, whoever calls over TCP with the node's certificate has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from meshca.errors import InvalidInputError

UID, GID = "unix:uid", "unix:gid"
PATH, SHA256 = "unix:path", "unix:sha256"
UNIT = "systemd:unit"
CONTAINER = "container:id"
NAMESPACE, SERVICE_ACCOUNT, POD_NAME, POD_UID = "k8s:ns", "k8s:sa", "k8s:pod-name", "k8s:pod-uid"

_LARGEST_ID = 2**32 - 2  # (uid_t)-1 means 'no change' to chown(2) and is nobody's
_LONGEST_PATH = 4095  # PATH_MAX without its NUL
_LONGEST_NAME = 253  # RFC 1123 subdomain
_LONGEST_UNIT = 255  # systemd.unit(5)

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+)+")
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"


@dataclass(frozen=True, slots=True)
class _Form:
    """How the value of one type of selector is spelled, for the eye and for the machine."""

    shown: str
    pattern: re.Pattern[str]
    longest: int


_HEX_64 = re.compile(r"[0-9a-f]{64}")
_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_FORMS = {
    UID: _Form("N", _NUMBER, 10),
    GID: _Form("N", _NUMBER, 10),
    PATH: _Form("/ABSOLUTE/PATH without . and ..", _PATH, _LONGEST_PATH),
    SHA256: _Form("64 hex digits in lower case", _HEX_64, 64),
    UNIT: _Form("NAME.service", re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap)"), _LONGEST_UNIT),
    CONTAINER: _Form("64 hex digits in lower case", _HEX_64, 64),
    NAMESPACE: _Form("NAMESPACE", re.compile(_LABEL), 63),
    SERVICE_ACCOUNT: _Form("SERVICE-ACCOUNT", _SUBDOMAIN, _LONGEST_NAME),
    POD_NAME: _Form("POD", _SUBDOMAIN, _LONGEST_NAME),
    # A static pod's is the hash of its manifest.
    POD_UID: _Form("UID", re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}"), 36),
}
_NEEDS: dict[str, tuple[str, ...]] = {
    PATH: (UID, GID),
    SHA256: (UID, GID),
    SERVICE_ACCOUNT: (NAMESPACE,),
    POD_NAME: (NAMESPACE,),
}


class SelectorError(InvalidInputError):
    """A selector that is not understood, or does not stand alone."""


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """A property of a process that the kernel vouches for."""

    type: str
    value: str

    def __str__(self) -> str:
        return f"{self.type}:{self.value}"


SELF = Selector("x509", "self")


def parse_selector(text: str) -> Selector:
    """Return the selector that a text spells in its one canonical way.

    Raises:
        SelectorError: it is of no type that is known, or its value has another form (S1).
    """
    if text == str(SELF):
        return SELF
    first, _, rest = text.partition(":")
    second, colon, value = rest.partition(":")
    kind = f"{first}:{second}"
    form = _FORMS.get(kind)
    if form is None or not colon:
        known = ", ".join((*_FORMS, str(SELF)))
        raise SelectorError(
            f"a selector is TYPE:VALUE with one of the types {known}",
            field="selector",
            value=text,
            remedy="such as unix:uid:1000",
        )
    if len(value) > form.longest or not form.pattern.fullmatch(value) or _is_no_id(kind, value):
        raise SelectorError(f"it is spelled {kind}:{form.shown}", field="selector", value=text, remedy=_remedy(kind))
    return Selector(kind, value)


def require_sound(selectors: Iterable[Selector]) -> None:
    """Raise unless each of one registration's selectors has beside it what it needs, and no more (S2, S3, S4).

    Raises:
        SelectorError: one stands alone.
    """
    found = tuple(selectors)
    if SELF in found and len(found) > 1:
        raise SelectorError("stands alone", field="selector", value=str(SELF), remedy="register the others apart")
    types = {selector.type for selector in found}
    for selector in sorted(found):
        needed = _NEEDS.get(selector.type)
        if needed and types.isdisjoint(needed):
            raise SelectorError(
                f"stands only beside {' or '.join(needed)}",
                field="selector",
                value=str(selector),
                remedy=f"add --selector {needed[0]}:…",
            )


def _is_no_id(kind: str, value: str) -> bool:
    return kind in {UID, GID} and int(value) > _LARGEST_ID


def _remedy(kind: str) -> str:
    if kind in {UID, GID}:
        return f"give the number that `id` shows, from 0 to {_LARGEST_ID} without leading zeros"
    return "every property has one spelling"
