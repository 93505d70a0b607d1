from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fakes.x509_material import new_key, spki

from meshca.x509.publickey import ca_id, curve_of, key_identifier

OTHERS: dict[str, Callable[[], Any]] = {
    "p224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "k256": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize(("curve", "name"), [(ec.SECP256R1(), "P-256"), (ec.SECP384R1(), "P-384")])
def test_our_curves_are_recognised(curve: ec.EllipticCurve, name: str) -> None:
    for _ in range(20):
        found = curve_of(spki(new_key(curve)))
        assert found is not None
        assert found.name == name


@pytest.mark.parametrize("kind", OTHERS)
def test_no_other_key_is_ours(kind: str) -> None:
    key = OTHERS[kind]().public_key()
    assert curve_of(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)) is None


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_a_point_off_the_curve_is_no_key(curve: ec.EllipticCurve) -> None:
    good = spki(new_key(curve))
    assert curve_of(good[:-1] + bytes((good[-1] ^ 1,))) is None
    assert curve_of(good[:-1]) is None
    assert curve_of(good + b"\x00") is None
    size = curve.key_size // 8
    assert curve_of(good[: -2 * size] + b"\xff" * 2 * size) is None


def test_a_coordinate_has_one_spelling() -> None:
    """A coordinate that is not reduced is the same point to the equation, but another encoding of the key."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    # x = 5 lies on P-256; p + 5 still fits into 32 bytes.
    x = 5
    y = pow((x**3 - 3 * x + b) % prime, (prime + 1) // 4, prime)
    assert y * y % prime == (x**3 - 3 * x + b) % prime
    prefix = spki(new_key())[:-64]
    assert curve_of(prefix + x.to_bytes(32, "big") + y.to_bytes(32, "big")) is not None
    assert curve_of(prefix + (x + prime).to_bytes(32, "big") + y.to_bytes(32, "big")) is None


def test_names_of_keys_are_short_and_stable() -> None:
    first, second = spki(new_key()), spki(new_key(ec.SECP384R1()))
    assert len(ca_id(first)) == 20
    assert ca_id(first) != ca_id(second)
    assert {len(key_identifier(first)), len(key_identifier(second))} == {20}
