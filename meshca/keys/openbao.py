"""Keys in the transit engine of OpenBao or Vault: they sign there and never leave.

Rules kept here:
- A key is recorded with its version, and signs with exactly this version: rotated by somebody else it stays the CA's.
- We hand over a hash and get back a DER signature.
"""

from __future__ import annotations

import base64
from typing import Any

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from meshca.authority.ports import KeyUnavailableError
from meshca.keys.openbao_client import Bao, BaoMissingError, BaoRefusedError
from meshca.keys.place import KeyType, TransitPlace
from meshca.keys.proof import WrongKeyError, digest_of, key_type_of
from meshca.x509.publickey import ca_id

_log = structlog.get_logger(__name__)

_TYPE_NAMES: dict[KeyType, str] = {"ec-p256": "ecdsa-p256", "ec-p384": "ecdsa-p384"}
_HASHES: dict[KeyType, str] = {"ec-p256": "sha2-256", "ec-p384": "sha2-384"}


class TransitSigner:
    """Signs with one version of a transit key. Any thread may call it."""

    __slots__ = ("_bao", "_hash", "_place", "_spki")

    def __init__(self, bao: Bao, place: TransitPlace, spki: bytes) -> None:
        self._bao, self._place, self._spki = bao, place, spki
        self._hash = _HASHES[key_type_of(spki, str(place))]

    @property
    def key_id(self) -> str:
        """The id of the CA that the key belongs to."""
        return ca_id(self._spki)

    @property
    def key_ref(self) -> str:
        """The key's place, with its version."""
        return str(self._place)

    @property
    def spki(self) -> bytes:
        """The public key."""
        return self._spki

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over ``data``.

        Raises:
            KeyUnavailableError: OpenBao does not sign; the message says why.
        """
        digest = base64.b64encode(digest_of(data, self._spki)).decode()

        def signature(client: Any) -> bytes:
            answer = client.secrets.transit.sign_data(
                self._place.name,
                hash_input=digest,
                key_version=self._place.version,
                hash_algorithm=self._hash,
                prehashed=True,
                marshaling_algorithm="asn1",
                mount_point=self._place.mount,
            )
            return base64.b64decode(answer["data"]["signature"].split(":", 2)[2], validate=True)

        try:
            return self._bao.call(self.key_ref, signature)
        except BaoMissingError as error:
            raise BaoMissingError(
                error.message,
                field=self.key_ref,
                remedy="the key or its version is lost: restore it from a backup of OpenBao, or rotate the CA",
            ) from None
        except BaoRefusedError as error:
            if error.field != self.key_ref:  # it was the login
                raise
            path = f"{self._place.mount}/sign/{self._place.name}"
            raise BaoRefusedError(
                error.message,
                field=self.key_ref,
                remedy=f'allow `path "{path}" {{ capabilities = ["update"] }}` in the policy of a valid token',
            ) from None

    def __repr__(self) -> str:
        return f"TransitSigner({self._place})"


def create_transit_key(bao: Bao, place: TransitPlace, kind: KeyType | None, *, fresh: bool) -> TransitSigner:
    """Return the signer of the newest version of a key, which is made where it is missing.

    ``fresh``: a version that nobody has used, so a key that exists gets another one. ``kind`` None: whatever the key
    is, P-256 for a new one.

    Raises:
        KeyUnavailableError: OpenBao has no such key and does not let us make it, or does not answer.
        WrongKeyError: There is a key, but of another type.
    """
    if place.version:
        return open_transit_key(bao, place, kind)
    found = _read(bao, place)
    if found is None:
        _make(bao, place, kind or "ec-p256")
        found = _read(bao, place)
    elif fresh:
        bao.call(str(place), lambda client: client.secrets.transit.rotate_key(place.name, mount_point=place.mount))
        found = _read(bao, place)
    if found is None:
        raise BaoMissingError("OpenBao made the key and does not show it", field=str(place), remedy="see OpenBao's log")
    return _signer(bao, TransitPlace(place.mount, place.name, int(found["latest_version"])), found, kind)


def open_transit_key(bao: Bao, place: TransitPlace, kind: KeyType | None = None) -> TransitSigner:
    """Return the signer of the version that ``place`` names."""
    found = _read(bao, place)
    if found is None:
        raise BaoMissingError("OpenBao has no such key", field=str(place), remedy="restore it from a backup of OpenBao")
    return _signer(bao, place, found, kind)


def _read(bao: Bao, place: TransitPlace) -> dict[str, Any] | None:
    def read(client: Any) -> dict[str, Any]:
        data: dict[str, Any] = client.secrets.transit.read_key(place.name, mount_point=place.mount)["data"]
        return data

    try:
        return bao.call(str(place), read)
    except BaoMissingError:
        return None
    except BaoRefusedError as error:
        if error.field != str(place):
            raise
        path = f"{place.mount}/keys/{place.name}"
        remedy = f'allow `path "{path}" {{ capabilities = ["read"] }}` in the token\'s policy'
        raise BaoRefusedError(error.message, field=str(place), remedy=remedy) from None


def _make(bao: Bao, place: TransitPlace, kind: KeyType) -> None:
    name = _TYPE_NAMES[kind]
    try:
        bao.call(
            str(place),
            lambda client: client.secrets.transit.create_key(place.name, key_type=name, mount_point=place.mount),
        )
    except (BaoMissingError, BaoRefusedError) as error:
        if error.field != str(place):
            raise
        enable = f"`bao secrets enable -path={place.mount} transit` and " if isinstance(error, BaoMissingError) else ""
        remedy = f"let an administrator run {enable}`bao write -f {place.mount}/keys/{place.name} type={name}`"
        raise type(error)(
            f"there is no such key, and it cannot be made: {error.message}", field=str(place), remedy=remedy
        ) from None
    _log.info("made a key in OpenBao", key=str(place), type=name)


def _signer(bao: Bao, place: TransitPlace, found: dict[str, Any], kind: KeyType | None) -> TransitSigner:
    where = str(place)
    if found.get("type") not in _TYPE_NAMES.values():
        raise WrongKeyError(
            f"a key of type {str(found.get('type'))[:40]!r} is no CA key",
            field=where,
            remedy=f"name a key of type {' or '.join(_TYPE_NAMES.values())}, or a new one",
        )
    if found.get("exportable") or found.get("allow_plaintext_backup"):
        _log.warning("this key of OpenBao may be exported: it can leave", key=where)
    spki = _public_key(found, place)
    if kind is not None and key_type_of(spki, where) != kind:
        raise WrongKeyError(f"the key that exists is no {kind}", field=where, remedy="name another key, or its type")
    return TransitSigner(bao, place, spki)


def _public_key(found: dict[str, Any], place: TransitPlace) -> bytes:
    try:
        pem = found["keys"][str(place.version)]["public_key"]
        return load_pem_public_key(pem.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (KeyError, TypeError, AttributeError, ValueError, UnsupportedAlgorithm):
        raise KeyUnavailableError(
            "OpenBao shows no public key of this version", field=str(place), remedy="restore it, or name another key"
        ) from None
