"""A private key sealed under a passphrase: scrypt (RFC 7914), then AES-256-GCM.

Rules kept here:
- A sealed key is bound to the key id, role, trust domain and generation that it was made for, as associated data: put
  in another's place, it does not open.
- A wrong passphrase and a damaged file are told apart, by a check value that the passphrase derives beside the key.
- The private key leaves this module only as a signer; no error, repr or log ever holds it or the passphrase.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from meshca.authority.ports import KeyUnavailableError
from meshca.errors import MeshcaError
from meshca.spiffe.id import TrustDomain
from meshca.x509.publickey import ca_id, curve_of

FORMAT = "meshca-sealed-key/1"

_COST = 2**15  # 32 MiB and about a tenth of a second, once per key and start
_COSTS = {2**power for power in range(15, 18)}  # what a file may ask for: enough, and no more than 128 MiB
_BLOCK_SIZE, _PARALLEL = 8, 1
_SALT_BYTES, _NONCE_BYTES, _KEY_BYTES, _CHECK_BYTES = 16, 12, 32, 16
_RESTORE = "restore it from a backup"


class SealedKeyError(KeyUnavailableError):
    """A sealed key does not open."""


class WrongPassphraseError(SealedKeyError):
    """The passphrase is not the one that the key was sealed under."""


class DamagedKeyError(SealedKeyError):
    """The sealed key is not what was written, or not in the place that it was written for."""


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """What a sealed key belongs to."""

    key_id: str
    role: str
    trust_domain: TrustDomain
    generation: int

    def as_json(self) -> dict[str, str | int]:
        """Return the binding as it stands in the file."""
        return {
            "key_id": self.key_id,
            "role": self.role,
            "trust_domain": self.trust_domain.name,
            "generation": self.generation,
        }


class SealedSigner:
    """Signs with a key that was sealed. Any thread may call it; ``key_ref`` empty: its id, which names its file."""

    __slots__ = ("_curve", "_key", "_key_id", "_key_ref", "_spki")

    def __init__(self, key: ec.EllipticCurvePrivateKey, key_ref: str = "") -> None:
        self._key = key
        self._key_ref = key_ref
        self._spki = spki_of(key)
        self._key_id = ca_id(self._spki)
        curve = curve_of(self._spki)
        if curve is None:
            raise DamagedKeyError("a CA key is EC P-256 or P-384")
        self._curve = curve

    @property
    def key_id(self) -> str:
        """The id of the CA that the key belongs to."""
        return self._key_id

    @property
    def key_ref(self) -> str:
        """Where the sealed key lies."""
        return self._key_ref or self._key_id

    @property
    def spki(self) -> bytes:
        """The public key."""
        return self._spki

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over ``data``, with SHA-256 for P-256 and SHA-384 for P-384."""
        return self._key.sign(data, self._curve.ecdsa)

    def __repr__(self) -> str:
        return f"SealedSigner({self._key_id})"


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public half of a key as DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def seal(private_key: ec.EllipticCurvePrivateKey, passphrase: bytes, binding: KeyBinding) -> bytes:
    """Return the JSON text of the sealed key.

    Raises:
        DamagedKeyError: the binding names another key.
    """
    if ca_id(spki_of(private_key)) != binding.key_id:
        raise DamagedKeyError("the key is not the one that the binding names", field=f"key {binding.key_id}")
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    header = {
        "format": FORMAT,
        "binding": binding.as_json(),
        "scrypt": {"n": _COST, "r": _BLOCK_SIZE, "p": _PARALLEL, "salt": _text(salt)},
    }
    key, check = _derive(passphrase, salt, _COST)
    plain = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    sealed = AESGCM(key).encrypt(nonce, plain, _canonical(header))
    document = {**header, "check": _text(check), "nonce": _text(nonce), "aes-256-gcm": _text(sealed)}
    return json.dumps(document, indent=2).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed key as it lies somewhere; errors call it ``name``, such as the path of its file."""

    blob: bytes = field(repr=False)
    name: str

    def open(self, passphrase: bytes, binding: KeyBinding, key_ref: str = "") -> SealedSigner:
        """Open a key that has to be the one that ``binding`` says.

        Raises:
            WrongPassphraseError: the passphrase does not fit.
            DamagedKeyError: it was changed, cut, or made for another place.
        """
        return SealedSigner(_opened(self, passphrase, binding), key_ref)

    def resealed(self, key_id: str, old: bytes, new: bytes) -> bytes | None:
        """Return the same key, with the same binding, under a new passphrase; None where it is under that already.

        Raises:
            WrongPassphraseError: neither passphrase fits.
            DamagedKeyError: it was changed, cut, or is not the key ``key_id``.
        """
        binding = self._binding()
        if binding.key_id != key_id:
            raise DamagedKeyError(f"this is the sealed key {binding.key_id}", field=self.name, remedy=_RESTORE)
        try:
            _opened(self, new, binding)
        except WrongPassphraseError:
            return seal(_opened(self, old, binding), new, binding)
        return None

    def require_passphrase(self, passphrase: bytes) -> None:
        """Check that the passphrase opens it.

        Raises:
            WrongPassphraseError: It does not.
            DamagedKeyError: Nothing does.
        """
        _opened(self, passphrase, self._binding())

    def _binding(self) -> KeyBinding:
        try:
            said = _parse(self.blob)[0]["binding"]
            binding = KeyBinding(said["key_id"], said["role"], TrustDomain(said["trust_domain"]), said["generation"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, MeshcaError):
            raise DamagedKeyError("the sealed key is damaged", field=self.name, remedy=_RESTORE) from None
        return binding


def open_sealed(blob: bytes, passphrase: bytes, binding: KeyBinding, name: str = "") -> SealedSigner:
    """Open a sealed key that has to be the one that ``binding`` says; errors call it ``name``.

    Raises:
        WrongPassphraseError: the passphrase does not fit.
        DamagedKeyError: it was changed, cut, or made for another place.
    """
    return Sealed(blob, name or f"sealed key {binding.key_id}").open(passphrase, binding)


def _opened(sealed: Sealed, passphrase: bytes, binding: KeyBinding) -> ec.EllipticCurvePrivateKey:
    blob, name = sealed.blob, sealed.name
    try:
        header, parts = _parse(blob)
        _require_place(header, binding, name)
        salt, cost = _bytes(header["scrypt"]["salt"]), header["scrypt"]["n"]
        key, check = _derive(passphrase, salt, cost)
        if not hmac.compare_digest(check, parts["check"]):
            raise WrongPassphraseError(
                "the passphrase is not the one that this key was sealed under",
                field=name,
                remedy="give the right one with --passphrase-file or MESHCA_PASSPHRASE_FILE",
            )
        plain = AESGCM(key).decrypt(parts["nonce"], parts["aes-256-gcm"], _canonical(header))
        return _private_key(plain, binding)
    except (ValueError, LookupError, TypeError, AttributeError, InvalidTag, UnsupportedAlgorithm, RecursionError):
        # The cause is dropped on purpose: it could quote what was decrypted.
        raise DamagedKeyError("the sealed key is damaged", field=name, remedy=_RESTORE) from None


def _parse(blob: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what is associated data, and the rest decoded; anything unexpected is a ValueError, KeyError or so."""
    document = json.loads(blob)
    parts = {part: _bytes(document.pop(part)) for part in ("check", "nonce", "aes-256-gcm")}
    scrypt = document["scrypt"]
    limits = (scrypt["n"] in _COSTS, scrypt["r"] == _BLOCK_SIZE, scrypt["p"] == _PARALLEL)
    if document["format"] != FORMAT or not all(limits):
        raise ValueError("not a format that we write")
    return document, parts


def _require_place(header: dict[str, Any], binding: KeyBinding, name: str) -> None:
    if header["binding"] != binding.as_json():
        raise DamagedKeyError(
            f"the sealed key was made for another place than {binding.role} {binding.key_id}"
            f" of {binding.trust_domain}, generation {binding.generation}",
            field=name,
            remedy=_RESTORE,
        )


def _derive(passphrase: bytes, salt: bytes, cost: int) -> tuple[bytes, bytes]:
    """Return the key and the check value, which says nothing about the key."""
    derived = Scrypt(salt=salt, length=_KEY_BYTES + _CHECK_BYTES, n=cost, r=_BLOCK_SIZE, p=_PARALLEL).derive(passphrase)
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:]


def _private_key(plain: bytes, binding: KeyBinding) -> ec.EllipticCurvePrivateKey:
    key = load_der_private_key(plain, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or ca_id(spki_of(key)) != binding.key_id:
        raise ValueError("another key than the one named")
    return key


def _canonical(header: dict[str, Any]) -> bytes:
    """Return the associated data: the header in a spelling that does not depend on how the file is laid out."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
