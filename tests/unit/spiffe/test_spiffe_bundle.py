from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from meshca.errors import InvalidInputError
from meshca.spiffe import bundle

START = datetime(2026, 1, 1, tzinfo=UTC)


def certificate(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(1)
    builder = builder.not_valid_before(START).not_valid_after(START + timedelta(days=1)).public_key(key.public_key())
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def test_a_spiffe_bundle_follows_x509_svid_6_1() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    der = certificate(key)
    document = json.loads(bundle.spiffe_jwks([der], sequence=7, refresh_hint=300))
    assert document["spiffe_sequence"] == 7
    assert document["spiffe_refresh_hint"] == 300
    (jwk,) = document["keys"]
    assert jwk.keys() == {"use", "kty", "crv", "x", "y", "x5c"}
    assert (jwk["use"], jwk["kty"], jwk["crv"]) == ("x509-svid", "EC", "P-256")
    assert [base64.b64decode(text) for text in jwk["x5c"]] == [der]
    x = int.from_bytes(base64.urlsafe_b64decode(jwk["x"] + "="), "big")
    assert x == key.public_key().public_numbers().x


def test_a_plain_jwks_says_nothing_of_spiffe() -> None:
    assert json.loads(bundle.jwks([])) == {"keys": []}


def test_an_rsa_root_of_others_can_stand_in_a_bundle() -> None:
    key = rsa.generate_private_key(65537, 2048)
    (jwk,) = json.loads(bundle.jwks([certificate(key)]))["keys"]
    assert jwk["kty"] == "RSA"
    assert jwk["e"] == "AQAB"
    assert len(jwk["n"]) == 342


def test_a_key_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="EC"):
        bundle.jwks([certificate(ed25519.Ed25519PrivateKey.generate())])


def test_pem_is_what_others_read() -> None:
    ders = [certificate(ec.generate_private_key(ec.SECP384R1())) for _ in range(2)]
    read = x509.load_pem_x509_certificates(bundle.pem(ders))
    assert [each.public_bytes(Encoding.DER) for each in read] == ders
    assert bundle.pem(ders[:1]) == read[0].public_bytes(Encoding.PEM)
