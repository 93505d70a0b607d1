from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from meshca.authority.ports import KeyUnavailableError, Signer
from meshca.keys.sealed import (
    DamagedKeyError,
    KeyBinding,
    SealedSigner,
    WrongPassphraseError,
    open_sealed,
    seal,
    spki_of,
)
from meshca.spiffe.id import TrustDomain
from meshca.x509.publickey import ca_id

PASSPHRASE = b"correct horse"
KEY = ec.generate_private_key(ec.SECP256R1())
BINDING = KeyBinding(ca_id(spki_of(KEY)), "root", TrustDomain("m.test"), 1)


@cache
def sealed() -> bytes:
    return seal(KEY, PASSPHRASE, BINDING)


def edited(change: Callable[[Any], object]) -> bytes:
    document = json.loads(sealed())
    change(document)
    return json.dumps(document).encode()


def test_what_was_sealed_signs() -> None:
    signer: Signer = open_sealed(sealed(), PASSPHRASE, BINDING)
    assert signer.key_id == BINDING.key_id
    assert signer.spki == spki_of(KEY)
    KEY.public_key().verify(signer.sign(b"data"), b"data", ec.ECDSA(hashes.SHA256()))


def test_p384_signs_with_sha384() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    signer = SealedSigner(key)
    key.public_key().verify(signer.sign(b"data"), b"data", ec.ECDSA(hashes.SHA384()))


def test_a_key_of_another_curve_is_none_of_ours() -> None:
    with pytest.raises(DamagedKeyError, match="P-256"):
        SealedSigner(ec.generate_private_key(ec.SECP224R1()))


def test_a_wrong_passphrase_is_told_from_damage() -> None:
    with pytest.raises(WrongPassphraseError, match=r"root\.key.*passphrase") as caught:
        open_sealed(sealed(), b"wrong", BINDING, "/home/keys/root.key")
    assert isinstance(caught.value, KeyUnavailableError)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(BINDING, key_id="00" * 10),
        replace(BINDING, role="issuing"),
        replace(BINDING, trust_domain=TrustDomain("other.test")),
        replace(BINDING, generation=2),
    ],
    ids=["key_id", "role", "trust_domain", "generation"],
)
def test_a_sealed_key_opens_in_its_own_place_only(elsewhere: KeyBinding) -> None:
    with pytest.raises(DamagedKeyError, match="another place"):
        open_sealed(sealed(), PASSPHRASE, elsewhere)
    relabelled = edited(lambda document: document.update(binding=elsewhere.as_json()))
    with pytest.raises(DamagedKeyError, match="damaged"):
        open_sealed(relabelled, PASSPHRASE, elsewhere)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(format="meshca-sealed-key/2"),
        lambda document: document["scrypt"].update(n=2),
        lambda document: document["scrypt"].update(n=2**40),
        lambda document: document["scrypt"].update(n="32768"),
        lambda document: document["scrypt"].update(r=1),
        lambda document: document["scrypt"].update(p=16),
        lambda document: document["scrypt"].update(salt="!"),
        lambda document: document["scrypt"].update(salt=None),
        lambda document: document.pop("check"),
        lambda document: document.pop("nonce"),
        lambda document: document.update(nonce="AAAA"),
        lambda document: document.update({"aes-256-gcm": "AAAA"}),
        lambda document: document.update(scrypt=[]),
        lambda document: document.update(extra=1),
    ],
)
def test_a_changed_file_is_damaged(change: Callable[[Any], object]) -> None:
    with pytest.raises(DamagedKeyError, match="damaged"):
        open_sealed(edited(change), PASSPHRASE, BINDING)


@pytest.mark.parametrize("blob", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, sealed()[:-20]])
def test_a_cut_file_is_damaged(blob: bytes) -> None:
    with pytest.raises(DamagedKeyError, match="damaged"):
        open_sealed(blob, PASSPHRASE, BINDING)


def test_another_key_is_not_sealed_under_this_name() -> None:
    with pytest.raises(DamagedKeyError, match="not the one"):
        seal(ec.generate_private_key(ec.SECP256R1()), PASSPHRASE, BINDING)


def test_secrets_are_in_no_text() -> None:
    secret = KEY.private_numbers().private_value
    assert PASSPHRASE not in sealed()
    assert KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) not in sealed()
    signer = open_sealed(sealed(), PASSPHRASE, BINDING)
    assert repr(signer) == f"SealedSigner({BINDING.key_id})"
    with pytest.raises(DamagedKeyError) as caught:
        open_sealed(edited(lambda document: document.pop("nonce")), PASSPHRASE, BINDING)
    assert caught.value.__cause__ is None
    assert f"{secret:x}" not in str(caught.value)


def test_every_seal_is_fresh() -> None:
    assert seal(KEY, PASSPHRASE, BINDING) != sealed()
