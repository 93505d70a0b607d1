"""Chains that others have signed: each rule refuses one fault, and the good chain passes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from fakes.upstream_pki import DAY, ISSUING, ForeignCa, Profile, foreign_root, new_key, rsa_key
from hypothesis import given
from hypothesis import strategies as st

from meshca.spiffe.bundle import pem
from meshca.spiffe.id import TrustDomain
from meshca.x509.foreign import (
    CHAIN_LINTS,
    LARGEST_TEXT,
    MAX_CHAIN,
    Expected,
    ForeignChainError,
    check_chain,
    check_root,
    read_chain,
)
from meshca.x509.foreigncrl import ForeignCrlError, foreign_crl, read_crls
from meshca.x509.issuer import CaCertificate, foreign_id
from meshca.x509.publickey import ca_id

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TD = TrustDomain("m.test")
HOUR = timedelta(hours=1)
KEY = new_key()
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
EXPECTED = Expected(SPKI, TD, NOW, 3 * HOUR)
ROOT = foreign_root(NOW)
MIDDLE = ROOT.below(Profile(name="corp mesh CA"))


def spki(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def chain(middle: ForeignCa = MIDDLE, root: ForeignCa = ROOT, **changes: Any) -> list[bytes]:
    return [der(middle.sign(KEY.public_key(), replace(ISSUING, **changes))), middle.der, root.der]


GOOD = chain()


def test_a_good_chain_is_taken_apart() -> None:
    found = check_chain(GOOD, EXPECTED)
    assert (found.issuing.id, found.issuing.trust_domain, found.issuing.path_length) == (ca_id(SPKI), TD, 0)
    assert [ca.id for ca in found.above] == [foreign_id(MIDDLE.der), foreign_id(ROOT.der)]
    assert found.not_after == found.issuing.not_after


def test_a_chain_right_below_the_root_is_good_and_so_is_an_rsa_upstream() -> None:
    root = foreign_root(NOW, key=rsa_key())
    ders = [der(root.sign(KEY.public_key(), ISSUING)), root.der]
    assert check_chain(ders, EXPECTED).above[0].spki == spki(root.key)


def test_a_p384_upstream_is_good() -> None:
    root = foreign_root(NOW, Profile(algorithm=hashes.SHA384()), ec.generate_private_key(ec.SECP384R1()))
    check_chain([der(root.sign(KEY.public_key(), ISSUING)), root.der], EXPECTED)


def test_a_chain_is_good_until_its_first_certificate_ends() -> None:
    middle = ROOT.below(Profile(name="short", life=10 * DAY))
    assert check_chain(chain(middle), EXPECTED).not_after == NOW + 9 * DAY


def permitted(*hosts: str, kind: Any = x509.UniformResourceIdentifier) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    return ((x509.NameConstraints([kind(host) for host in hosts], None), True),)


def excluded(host: str) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    return ((x509.NameConstraints(None, [x509.UniformResourceIdentifier(host)]), True),)


POISON = ((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)
CLIENTS = ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),)
BOTH = ((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), False),)


@pytest.mark.parametrize(
    ("issuing", "middle", "lint", "words"),
    [
        pytest.param({"ca": False, "path_length": None}, {}, "F04", "certificate 1", id="issuing-is-no-ca"),
        pytest.param({}, {"ca": False}, "F04", "certificate 2", id="middle-is-no-ca"),
        pytest.param({"cert_sign": False}, {}, "F05", "certificate 1", id="issuing-may-not-sign"),
        pytest.param({"crl_sign": False}, {}, "F05", "cRLSign", id="issuing-may-not-sign-crls"),
        pytest.param({}, {"crl_sign": False}, "F05", "certificate 2", id="middle-may-not-sign-crls"),
        pytest.param({}, {"path_length": 0}, "F06", "0 CAs below it, not 1", id="path-length"),
        pytest.param({}, {"extensions": permitted("other.test")}, "F07", "do not admit", id="constraint"),
        pytest.param({}, {"extensions": excluded("m.test")}, "F07", "do not admit", id="excluded"),
        pytest.param(
            {}, {"extensions": permitted("m.test", kind=x509.DNSName)}, "F07", "URIs alone", id="other-constraint"
        ),
        pytest.param({"uri": "spiffe://other.test"}, {}, "F08", "other.test", id="other-trust-domain"),
        pytest.param({"uri": "SPIFFE://m.test"}, {}, "F08", "names", id="trust-domain-in-capitals"),
        pytest.param({}, {"uri": "spiffe://other.test"}, "F08", "certificate 2", id="middle-of-other-trust-domain"),
        pytest.param({"not_before": HOUR}, {}, "F09", "not valid before", id="future"),
        pytest.param({"life": DAY}, {}, "F09", "has expired", id="expired"),
        pytest.param({"life": DAY + 2 * HOUR}, {}, "F10", "2:00:00", id="too-short"),
        pytest.param({}, {"life": DAY + 2 * HOUR}, "F10", "certificate 2", id="middle-too-short"),
        pytest.param({}, {"extensions": POISON}, "F14", "1.2.3.4", id="unknown-critical"),
        pytest.param({}, {"extensions": CLIENTS}, "F15", "certificate 2", id="clients-only"),
        pytest.param({"key_identifier": False}, {}, "F16", "subjectKeyIdentifier", id="no-key-identifier"),
        pytest.param({"name": ""}, {}, "F16", "subject", id="no-name"),
        pytest.param({"name": "corp mesh CA"}, {}, "F16", "subject", id="name-of-the-ca-above"),
    ],
)
def test_each_fault_is_found_by_its_own_rule(
    issuing: dict[str, Any], middle: dict[str, Any], lint: str, words: str
) -> None:
    above = ROOT.below(replace(Profile(name="corp mesh CA"), **middle))
    with pytest.raises(ForeignChainError) as caught:
        check_chain(chain(above, **issuing), EXPECTED)
    numbers = [reason[:3] for reason in caught.value.reasons]
    assert lint in numbers
    assert words in next(reason for reason in caught.value.reasons if reason.startswith(lint))
    # An expired certificate also lives too short.
    assert set(numbers) <= {lint, "F10"}


def test_constraints_that_admit_the_trust_domain_pass() -> None:
    for extensions in (permitted("m.test"), BOTH):
        check_chain(chain(ROOT.below(Profile(name="corp mesh CA", extensions=extensions))), EXPECTED)


def test_under_constraints_a_trust_domain_with_an_underscore_is_refused() -> None:
    expected = replace(EXPECTED, trust_domain=TrustDomain("m_1.test"))
    above = ROOT.below(Profile(name="corp mesh CA", extensions=permitted("m_1.test")))
    with pytest.raises(ForeignChainError, match="Envoy refuses"):
        check_chain(chain(above, uri="spiffe://m_1.test"), expected)


def test_another_key_is_refused() -> None:
    other = [der(MIDDLE.sign(new_key().public_key(), ISSUING)), *GOOD[1:]]
    with pytest.raises(ForeignChainError, match=r"F02 .*another key"):
        check_chain(other, EXPECTED)


@pytest.mark.parametrize(
    ("ders", "words"),
    [
        (GOOD[:1], "the root is missing"),
        (GOOD[:2], "certificate 2 .*not signed by itself: the root is missing at the end"),
        ([GOOD[0], GOOD[2]], "certificate 1 .* is not signed by certificate 2, nor by any other"),
        ([GOOD[0], GOOD[2], GOOD[1]], "certificate 1 .* is signed by certificate 3, .*wrong order"),
        ([GOOD[2], GOOD[1], GOOD[0]], "our key stands at position 3"),
        ([*GOOD, GOOD[1]], "has the key of certificate 2"),
        ([*GOOD, GOOD[1], GOOD[2]], "5 certificates, more than 4"),
        ([], "no certificate"),
        ([b"junk", *GOOD[1:]], "cannot be read"),
    ],
)
def test_order_and_completeness(ders: list[bytes], words: str) -> None:
    with pytest.raises(ForeignChainError, match=words):
        check_chain(ders, EXPECTED)


@given(st.permutations(range(3)))
def test_of_all_orders_only_the_right_one_passes(order: list[int]) -> None:
    ders = [GOOD[place] for place in order]
    if order == [0, 1, 2]:
        check_chain(ders, EXPECTED)
        return
    with pytest.raises(ForeignChainError, match=r"F0[23]"):
        check_chain(ders, EXPECTED)


# A serial number below one is read with a warning; the signature is wrong all the same.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.integers(0, 2), st.data())
def test_no_changed_byte_of_a_chain_passes(place: int, data: st.DataObject) -> None:
    """Every byte of a certificate is under a signature, or is one; the root's is its own."""
    at = data.draw(st.integers(0, len(GOOD[place]) - 1))
    changed = bytearray(GOOD[place])
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ForeignChainError):
        check_chain([bytes(changed) if n == place else one for n, one in enumerate(GOOD)], EXPECTED)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(rsa_key(1024), id="rsa-1024"),
        pytest.param(ec.generate_private_key(ec.SECP521R1()), id="p-521"),
    ],
)
def test_weak_and_unknown_keys_are_refused(key: Any) -> None:
    root = foreign_root(NOW, key=key)
    with pytest.raises(ForeignChainError, match=r"F11 .*certificate 2"):
        check_chain([der(root.sign(KEY.public_key(), ISSUING)), root.der], EXPECTED)


def test_an_ed25519_root_is_refused() -> None:
    root = foreign_root(NOW, Profile(algorithm=None), ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(ForeignChainError, match="F11"):
        check_chain([der(root.sign(KEY.public_key(), replace(ISSUING, algorithm=None))), root.der], EXPECTED)


def test_weak_hashes_are_refused() -> None:
    root = foreign_root(NOW, Profile(algorithm=hashes.SHA224()))
    with pytest.raises(ForeignChainError, match=r"F12 .*sha224"):
        check_chain([der(root.sign(KEY.public_key(), ISSUING)), root.der], EXPECTED)


def test_a_ca_of_ours_above_is_refused() -> None:
    expected = replace(EXPECTED, ours=frozenset({spki(MIDDLE.key)}))
    with pytest.raises(ForeignChainError, match=r"F13 .*certificate 2 .*meshca's own"):
        check_chain(GOOD, expected)


def test_every_rule_has_a_number_of_its_own() -> None:
    numbers = [each.number for each in CHAIN_LINTS]
    assert numbers == sorted(set(numbers))


# --- the text


def test_text_between_the_blocks_is_allowed() -> None:
    text = b"Certificate:\n    Data:\n" + pem(GOOD[:1]) + b"subject=CN = corp\n" + pem(GOOD[1:])
    assert list(read_chain(text)) == GOOD


KEY_PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not PEM"),
        (b"\x00\xff" * 100, "not PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 cannot be read"),
        (pem(GOOD) + b"-----BEGIN CERTIFICATE-----\nMII", "not PEM"),
        (pem(GOOD) + KEY_PEM, "private key"),
        (KEY_PEM.replace(b"PRIVATE KEY", b"EC PRIVATE KEY"), "private key"),
        (KEY_PEM.replace(b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"), "private key"),
        (pem(GOOD) + b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n", "nothing else"),
        (pem(GOOD[:1]) * 100, f"100 CERTIFICATE blocks, more than {MAX_CHAIN}"),
        (b"x" * (LARGEST_TEXT + 1), "bytes, more than"),
    ],
)
def test_hostile_text_is_refused(text: bytes, words: str) -> None:
    with pytest.raises(ForeignChainError, match=words) as caught:
        read_chain(text)
    assert "MIG" not in str(caught.value)


@given(st.binary(max_size=300))
def test_junk_is_refused_and_nothing_else_happens(junk: bytes) -> None:
    with pytest.raises(ForeignChainError):
        read_chain(junk)
    with pytest.raises(ForeignCrlError):
        read_crls(junk)
    with pytest.raises(ForeignChainError):
        check_chain([junk, *GOOD[1:]], EXPECTED)


# --- a root that is brought


def test_a_brought_root_is_good_and_needs_room_below() -> None:
    root = foreign_root(NOW)
    expected = Expected(spki(root.key), TD, NOW, 90 * DAY)
    assert check_root(root.der, expected).id == ca_id(spki(root.key))
    for profile, words in ((Profile(path_length=0), "F06 .*the root may have 0"), (Profile(life=80 * DAY), "F10")):
        other = foreign_root(NOW, profile)
        with pytest.raises(ForeignChainError, match=words):
            check_root(other.der, replace(expected, spki=spki(other.key)))
    with pytest.raises(ForeignChainError, match="F02"):
        check_root(root.der, EXPECTED)
    with pytest.raises(ForeignChainError, match="F03"):
        check_root(MIDDLE.der, replace(expected, spki=spki(MIDDLE.key)))


# --- CRLs

FOREIGN = CaCertificate.foreign(ROOT.der)


def test_a_foreign_crl_is_taken_apart() -> None:
    crl = foreign_crl(ROOT.crl(7, 4711), FOREIGN)
    assert (crl.number, crl.issuer_id, crl.next_update) == (7, FOREIGN.id, NOW + 3 * DAY)
    root = foreign_root(NOW, key=rsa_key())
    assert foreign_crl(root.crl(), CaCertificate.foreign(root.der)).number == 1


DELTA = ((x509.DeltaCRLIndicator(1), True),)
PARTIAL = x509.IssuingDistributionPoint(None, None, True, False, None, False, False)
OTHER_ISSUER = x509.CertificateIssuer([x509.DNSName("other.test")])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (MIDDLE.crl(), "not signed by this CA"),
        (foreign_root(NOW).crl(), "not signed by this CA"),
        (ROOT.crl(None), "no CRL number"),
        (ROOT.crl(1 << 64), "63 bits"),
        (ROOT.crl(extensions=DELTA), "no whole CRL"),
        (ROOT.crl(extensions=((x509.DeltaCRLIndicator(1), False),)), "no whole CRL"),
        (ROOT.crl(extensions=((PARTIAL, False),)), "no whole CRL"),
        (ROOT.crl(1, 4711, of_entries=((OTHER_ISSUER, True),)), "critical extension"),
        (ROOT.crl(algorithm=hashes.SHA224()), "weak"),
        (ROOT.crl()[:-1], "not signed"),
        (b"x" * (1 << 21), "more than"),
    ],
)
def test_a_crl_that_is_not_whole_or_not_the_cas_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ForeignCrlError, match=words):
        foreign_crl(content, FOREIGN)


def test_crls_are_read_as_pem_or_der() -> None:
    one, two = ROOT.crl(1), ROOT.crl(2)
    text = b"".join(x509.load_der_x509_crl(each).public_bytes(Encoding.PEM) for each in (one, two))
    assert read_crls(text) == (one, two)
    assert read_crls(one) == (one,)
    for content in (text + KEY_PEM, pem(GOOD), b"x" * (3 << 20)):
        with pytest.raises(ForeignCrlError):
            read_crls(content)
