from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Use
from fakes.x509_material import (
    DAY,
    HOUR,
    NOW,
    SECOND,
    TD,
    WEB,
    Authority,
    issuing,
    make_ca,
    make_crl,
    make_leaf,
    new_key,
    root,
)

from meshca.x509.chain import MAX_INTERMEDIATES, ChainError, verify_svid
from meshca.x509.crl import RevokedEntry
from meshca.x509.serial import parse_serial

ALL_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def usage(*wanted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in wanted for name in ALL_USAGES})


def der_of(*authorities: Authority) -> list[bytes]:
    return [authority.issuer.certificate for authority in authorities]


def verify(leaf: bytes, at: datetime = NOW, **changes: Any) -> Any:
    arguments = {"intermediates": der_of(issuing()), "roots": der_of(root()), "crls": [], **changes}
    return verify_svid(leaf, arguments["intermediates"], arguments["roots"], arguments["crls"], at)


def reasons(leaf: bytes, at: datetime = NOW, **changes: Any) -> str:
    with pytest.raises(ChainError) as caught:
        verify(leaf, at, **changes)
    assert caught.value.reasons
    return "; ".join(caught.value.reasons)


def foreign_leaf(
    *, uris: tuple[str, ...] = (str(WEB),), by: Authority | None = None, **extensions: x509.ExtensionType | None
) -> bytes:
    """Make a leaf that our own profile would never let through."""
    by = by or issuing()
    carried: dict[str, x509.ExtensionType | None] = {
        "key_usage": usage("digital_signature"),
        "names": x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]) if uris else None,
        **extensions,
    }
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).serial_number(77).public_key(new_key().public_key())
    builder = builder.issuer_name(x509.load_der_x509_certificate(by.issuer.certificate).subject)
    builder = builder.not_valid_before(NOW - HOUR).not_valid_after(NOW + HOUR)
    for value in carried.values():
        if value is not None:
            builder = builder.add_extension(value, critical=isinstance(value, x509.UnrecognizedExtension))
    return builder.sign(by.key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_good_chain_proves_the_identity() -> None:
    assert verify(make_leaf().der) == WEB
    crls = [make_crl(root()).der, make_crl(issuing()).der]
    assert verify(make_leaf().der, crls=crls) == WEB
    assert verify(foreign_leaf()) == WEB


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        ({"uris": ()}, "0 URI names"),
        ({"uris": (str(WEB), "spiffe://m.test/b")}, "2 URI names"),
        ({"uris": ("https://m.test/a",)}, "starts with spiffe://"),
        ({"uris": ("spiffe://M.test/a",)}, "trust domain holds only"),
        ({"uris": ("spiffe://m.test",)}, "has no path"),
        ({"basic": x509.BasicConstraints(ca=True, path_length=None)}, "it is a CA certificate"),
        ({"key_usage": None}, "lacks digitalSignature"),
        ({"key_usage": usage("key_agreement")}, "lacks digitalSignature"),
        ({"key_usage": usage("digital_signature", "key_cert_sign")}, "that of a CA"),
        ({"key_usage": usage("digital_signature", "crl_sign")}, "that of a CA"),
        ({"extended": x509.ExtendedKeyUsage([Use.SERVER_AUTH])}, "lacks server or client"),
        (
            {"unknown": x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")},
            "unknown critical extension 1.3.6.1.4.1.99999.1",
        ),
    ],
    ids=str,
)
def test_each_rule_of_x509_svid_5_2(leaf: dict[str, Any], reason: str) -> None:
    assert reason in reasons(foreign_leaf(**leaf))


def test_a_stranger_has_no_path() -> None:
    stranger = make_ca(make_ca())
    leaf = make_leaf(stranger).der
    assert "no path" in reasons(leaf)
    assert "no path" in reasons(leaf, intermediates=der_of(stranger))
    assert "no path" in reasons(make_leaf().der, intermediates=[])
    assert "no path" in reasons(make_leaf().der, roots=[])


def test_times_are_checked_along_the_path() -> None:
    leaf = make_leaf()
    assert "it is not valid before" in reasons(leaf.der, leaf.not_before - SECOND)
    assert "it has expired" in reasons(leaf.der, leaf.not_after + SECOND)
    assert "meshca issuing" in reasons(leaf.der, issuing().issuer.not_after + SECOND)
    assert verify(leaf.der, leaf.not_after) == WEB


def test_a_leaf_signs_nothing() -> None:
    """A leaf's key signs another leaf: the signature is right, the signer is no CA."""
    key = new_key()
    middle = make_leaf(key=key)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(5)
    builder = builder.public_key(new_key().public_key()).not_valid_before(NOW - HOUR).not_valid_after(NOW + HOUR)
    builder = builder.add_extension(usage("digital_signature"), critical=True)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://m.test/forged")])
    forged = builder.add_extension(names, critical=True).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    text = reasons(forged, intermediates=[middle.der, *der_of(issuing())])
    assert "is not a CA" in text
    assert "may not sign certificates" in text
    assert "CAs below it" in text


def test_name_constraints_on_uris_are_enforced() -> None:
    constrained = make_ca(name_constraint=True)
    inner = make_ca(constrained, name_constraint=True)
    ours: dict[str, Any] = {"intermediates": der_of(inner), "roots": der_of(constrained)}
    assert verify(make_leaf(inner).der, **ours) == WEB
    text = reasons(foreign_leaf(by=inner, uris=("spiffe://other.test/a",)), **ours)
    assert "do not permit spiffe://other.test/a" in text
    assert "do not permit" in reasons(foreign_leaf(by=inner, uris=("spiffe://sub.m.test/a",)), **ours)


def test_revocation() -> None:
    leaf = make_leaf()
    entry = RevokedEntry(parse_serial(leaf.serial), NOW, "keyCompromise")
    crls = [make_crl(root()).der, make_crl(issuing(), entry).der]
    text = reasons(leaf.der, crls=crls)
    assert "revoked by" in text
    assert "keyCompromise" in text
    assert verify(make_leaf().der, crls=crls) == WEB
    certificate = x509.load_der_x509_certificate(issuing().issuer.certificate)
    revoked_ca = make_crl(root(), RevokedEntry(certificate.serial_number, NOW)).der
    assert "revoked by" in reasons(make_leaf().der, crls=[revoked_ca, make_crl(issuing()).der])


def test_with_any_crl_every_ca_needs_its_own() -> None:
    leaf = make_leaf().der
    assert "no CRL of" in reasons(leaf, crls=[make_crl(issuing()).der])
    assert "no CRL of" in reasons(leaf, crls=[make_crl(root()).der])
    stale = make_crl(
        issuing(), this_update=NOW.replace(microsecond=0) - 2 * DAY, next_update=NOW.replace(microsecond=0) - DAY
    )
    assert "no current CRL of" in reasons(leaf, crls=[make_crl(root()).der, stale.der])
    early = make_crl(issuing(), this_update=NOW.replace(microsecond=0) + HOUR)
    assert "no current CRL of" in reasons(leaf, crls=[make_crl(root()).der, early.der])


def test_a_crl_by_another_key_of_the_same_name_counts_for_nothing() -> None:
    forged = make_crl(issuing()).der
    changed = forged[:-1] + bytes((forged[-1] ^ 1,))
    assert "no CRL of" in reasons(make_leaf().der, crls=[make_crl(root()).der, changed])


def test_many_intermediates_are_refused() -> None:
    many = der_of(issuing()) * (MAX_INTERMEDIATES + 1)
    assert "more than" in reasons(make_leaf().der, intermediates=many)


def test_junk_is_a_named_error() -> None:
    assert "cannot be read" in reasons(b"junk")
    assert "cannot be read" in reasons(make_leaf().der, intermediates=[b""])
    assert "cannot be read" in reasons(make_leaf().der, crls=[b"\x30\x00"])


def test_an_rsa_root_of_others_is_understood() -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "corporate root")])
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(key.public_key())
    )
    builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + timedelta(days=90))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    top = builder.add_extension(usage("key_cert_sign", "crl_sign"), critical=True).sign(key, hashes.SHA256())
    below = new_key()
    mine = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(name).serial_number(2)
    mine = mine.public_key(below.public_key()).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    mine = mine.add_extension(usage("digital_signature"), critical=True)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{TD.id}/a")])
    leaf = mine.add_extension(names, critical=True).sign(key, hashes.SHA256())
    roots = [top.public_bytes(Encoding.DER)]
    assert str(verify(leaf.public_bytes(Encoding.DER), intermediates=[], roots=roots)) == f"{TD.id}/a"
