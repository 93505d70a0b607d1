"""Where a key is kept, as text: what `init` and meshca.toml say, and what the ledger records as ``key_ref``.

    file                                          sealed in the home; recorded as its key id
    store                                         sealed in the database; recorded with its key id: store:KEY_ID
                                                  (either with @GENERATION where it was made for an earlier one)
    openbao:MOUNT/NAME                            recorded with the key's version: openbao:MOUNT/NAME@VERSION
    pkcs11:token=T;object=O?module-path=/lib.so   a PKCS #11 URI (RFC 7512), recorded as it stands

Rules kept here: the text names a key and never carries a secret (a URI with ``pin-value`` is refused, unquoted in the
error); what is unknown is refused, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, unquote_to_bytes

from meshca.errors import InvalidInputError

KeyType = Literal["ec-p256", "ec-p384"]
KEY_TYPES: tuple[KeyType, ...] = ("ec-p256", "ec-p384")
FORMS = "file, store, openbao:transit/NAME, or pkcs11:token=…;object=…?module-path=…"

_TRANSIT = re.compile(
    r"(?P<mount>[\w.-]+(?:/[\w.-]+)*)/(?P<name>\w(?:[\w.-]*\w)?)(?:@(?P<version>[1-9][0-9]{0,8}))?", re.ASCII
)
_OBJECT_PARTS = ("token", "serial", "manufacturer", "model", "slot-id", "object", "id", "type")
_QUERY_PARTS = ("module-path", "pin-source")
_LONGEST = 1024
_PLAIN = "-._~:[]@!$'()*+,="  # RFC 7512 §2.3: what both parts of the URI may hold unescaped


class KeyPlaceError(InvalidInputError):
    """The text names no place of a key."""


@dataclass(frozen=True, slots=True)
class FilePlace:
    """A sealed file of the home; ``key_id`` empty: for a new key. ``generation`` 0: that of its CA."""

    key_id: str = ""
    generation: int = 0

    def __str__(self) -> str:
        return _with_generation(self.key_id, self.generation) if self.key_id else "file"


@dataclass(frozen=True, slots=True)
class StorePlace:
    """A sealed row of the database, which all replicas share; the rest is as for files."""

    key_id: str = ""
    generation: int = 0

    def __str__(self) -> str:
        return f"store:{_with_generation(self.key_id, self.generation)}" if self.key_id else "store"


@dataclass(frozen=True, slots=True)
class TransitPlace:
    """A key of OpenBao's or Vault's transit engine; ``version`` 0: whichever is the newest."""

    mount: str
    name: str
    version: int = 0

    def __str__(self) -> str:
        return f"openbao:{self.mount}/{self.name}" + (f"@{self.version}" if self.version else "")


@dataclass(frozen=True, slots=True)
class Pkcs11Place:
    """A key of a PKCS #11 token: how to recognise token and object, and what opens them."""

    token: Mapping[str, str]  # of token, serial, manufacturer, model, slot-id
    label: str
    object_id: bytes = b""
    module: str = ""
    pin_source: str = field(default="", repr=False)

    def __str__(self) -> str:
        path = [f"{name}={_escaped(value)}" for name, value in sorted(self.token.items())]
        path += [f"object={_escaped(self.label)}"] if self.label else []
        path += [f"id={''.join(f'%{byte:02X}' for byte in self.object_id)}"] if self.object_id else []
        query = [
            f"{name}={_escaped(value, also='/?')}"
            for name, value in (("module-path", self.module), ("pin-source", self.pin_source))
            if value
        ]
        return "pkcs11:" + ";".join(path) + ("?" + "&".join(query) if query else "")


Place = FilePlace | StorePlace | TransitPlace | Pkcs11Place


def parse_place(text: str, what: str = "key") -> Place:
    """Read where a new key is to be; errors call it ``what``.

    Raises:
        KeyPlaceError: It is none of the forms.
    """
    if len(text) > _LONGEST:
        raise KeyPlaceError(f"longer than {_LONGEST} characters", field=what)
    if text == "file":
        return FilePlace()
    if text == "store":
        return StorePlace()
    if text.startswith("openbao:"):
        return _transit(text, what)
    if text.startswith("pkcs11:"):
        return _pkcs11(text.removeprefix("pkcs11:"), what)
    raise KeyPlaceError("not a place where keys are kept", field=what, remedy=f"write {FORMS}")


def parse_reference(text: str) -> Place:
    """Read a ``key_ref`` of the ledger.

    Raises:
        KeyPlaceError: It is none.
    """
    if match := re.fullmatch(r"(store:)?([0-9a-f]{20})(?:@([1-9][0-9]{0,17}))?", text):
        return (StorePlace if match[1] else FilePlace)(match[2], int(match[3] or 0))
    place = parse_place(text, "key_ref")
    if place in (FilePlace(), StorePlace()) or (isinstance(place, TransitPlace) and not place.version):
        raise KeyPlaceError("names a place and no key", field="key_ref", value=text)
    return place


def require_key_type(text: str, what: str = "--key-type") -> KeyType:
    """Return the type that ``text`` names.

    Raises:
        KeyPlaceError: There is none of that name.
    """
    for kind in KEY_TYPES:
        if text == kind:
            return kind
    raise KeyPlaceError("no type of CA key", field=what, value=text, remedy=f"use {' or '.join(KEY_TYPES)}")


def _with_generation(key_id: str, generation: int) -> str:
    return f"{key_id}@{generation}" if generation else key_id


def _transit(text: str, what: str) -> TransitPlace:
    match = _TRANSIT.fullmatch(text.removeprefix("openbao:"))
    if match is None:
        remedy = "write openbao:MOUNT/NAME, such as openbao:transit/meshca-root; letters, digits, _ . -"
        raise KeyPlaceError("not a key of the transit engine", field=what, value=text, remedy=remedy)
    return TransitPlace(match["mount"], match["name"], int(match["version"] or 0))


def _pkcs11(text: str, what: str) -> Pkcs11Place:
    path, _, query = text.partition("?")
    found = _parts(path, ";", _OBJECT_PARTS, what)
    asked = _parts(query, "&", _QUERY_PARTS, what)
    if found.get("type", b"private") != b"private":
        raise KeyPlaceError("a CA signs with a private key", field=what, remedy="leave type out, or say type=private")
    if not ("object" in found or "id" in found):
        raise KeyPlaceError("names no object", field=what, remedy="add object=LABEL")
    words = {name: _word(value, name, what) for name, value in {**found, **asked}.items() if name != "id"}
    token = {name: words[name] for name in _OBJECT_PARTS[:5] if name in words}
    if not token:
        raise KeyPlaceError("names no token", field=what, remedy="add token=LABEL")
    return Pkcs11Place(
        token=token,
        label=words.get("object", ""),
        object_id=found.get("id", b""),
        module=words.get("module-path", ""),
        pin_source=words.get("pin-source", "").removeprefix("file://").removeprefix("file:"),
    )


def _parts(text: str, separator: str, known: tuple[str, ...], what: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name == "pin-value":
            remedy = "put the PIN into a file and name it with pin-source=FILE, or set MESHCA_PKCS11_PIN"
            raise KeyPlaceError("a PIN does not belong into a URI", field=what, remedy=remedy)
        # Neither the value nor the whole URI is shown: it might be a PIN in the wrong place.
        if name not in known or not equals:
            shown = name if re.fullmatch(r"[a-z-]{1,20}", name) and equals else "something"
            remedy = f"known there are {', '.join(known)}"
            raise KeyPlaceError(f"{shown} is no part of a PKCS #11 URI that is understood", field=what, remedy=remedy)
        if name in found:
            raise KeyPlaceError(f"{name} stands twice", field=what)
        if not value or re.search(r"%(?![0-9A-Fa-f]{2})", value):
            raise KeyPlaceError(f"{name} is empty or wrongly escaped", field=what, remedy="escape as in RFC 7512")
        found[name] = unquote_to_bytes(value)
    return found


def _word(value: bytes, name: str, what: str) -> str:
    try:
        word = value.decode()
    except UnicodeDecodeError:
        raise KeyPlaceError(f"{name} is not UTF-8", field=what) from None
    if not word.isprintable():
        raise KeyPlaceError(f"{name} holds a control character", field=what)
    if name == "slot-id" and not re.fullmatch(r"[0-9]{1,20}", word):
        raise KeyPlaceError("slot-id is a decimal number", field=what)
    return word


def _escaped(value: str, also: str = "") -> str:
    return quote(value, safe=_PLAIN + also)
