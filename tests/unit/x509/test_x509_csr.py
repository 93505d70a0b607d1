from __future__ import annotations

import contextlib
from ipaddress import ip_address
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fakes.x509_material import TD, WEB, new_key, spki
from hypothesis import given
from hypothesis import strategies as st

from meshca.x509.csr import MAX_CSR_BYTES, CsrError, check_csr

URI = x509.UniformResourceIdentifier
UID, CN = x509.NameOID.USER_ID, x509.NameOID.COMMON_NAME
KEY_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def csr(
    key: Any = None,
    *extensions: x509.ExtensionType,
    algorithm: Any = hashes.SHA256(),  # noqa: B008
    subject: tuple[tuple[x509.ObjectIdentifier, str], ...] = (),
) -> bytes:
    key = key or new_key()
    name = x509.Name([x509.NameAttribute(*each) for each in subject])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def names(*asked: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(asked)


def test_a_subject_that_is_the_identity_is_handed_on_and_any_other_name_is_not_looked_at() -> None:
    assert check_csr(csr(subject=((UID, str(WEB)),)), WEB).names_subject
    for other in ((), ((CN, "web"),), ((CN, "web"), (UID, "web"))):
        assert not check_csr(csr(subject=other), WEB).names_subject


@pytest.mark.parametrize(
    "subject",
    [((UID, f"{WEB}2"),), ((CN, str(WEB)),), ((UID, str(WEB)), (CN, "web")), ((UID, str(WEB)), (UID, str(WEB)))],
    ids=["another", "as-a-common-name", "beside-a-name", "twice"],
)
def test_a_subject_that_says_an_identity_in_another_way_is_refused(subject: Any) -> None:
    with pytest.raises(CsrError, match="its subject says another identity"):
        check_csr(csr(subject=subject), WEB)
    with pytest.raises(CsrError, match="leave it empty"):
        check_csr(csr(subject=subject), None)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_the_key_is_all_that_is_taken(curve: ec.EllipticCurve) -> None:
    key = new_key(curve)
    for request in (
        csr(key),
        csr(key, names(URI(str(WEB)))),
        csr(key, x509.BasicConstraints(ca=False, path_length=None)),
    ):
        assert check_csr(request, WEB).spki == spki(key)
    pem = x509.load_der_x509_csr(csr(key)).public_bytes(Encoding.PEM)
    assert check_csr(b"\n" + pem, WEB).spki == spki(key)
    assert check_csr(pem, None).spki == spki(key)


@pytest.mark.parametrize(
    ("make", "found"),
    [
        pytest.param(lambda: rsa.generate_private_key(65537, 1024), "RSA 1024", id="rsa-1024"),  # noqa: S505
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), "RSA 2048", id="rsa-2048"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP192R1()), "EC secp192r1", id="p-192"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP224R1()), "EC secp224r1", id="p-224"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP521R1()), "EC secp521r1", id="p-521"),
    ],
)
def test_other_keys_are_refused_with_a_remedy(make: Any, found: str) -> None:
    with pytest.raises(CsrError, match=found) as caught:
        check_csr(csr(make()), WEB)
    assert "openssl req" in caught.value.remedy


def test_an_ed25519_key_is_refused() -> None:
    with pytest.raises(CsrError, match="neither EC P-256 nor P-384"):
        check_csr(csr(ed25519.Ed25519PrivateKey.generate(), algorithm=None), WEB)


@pytest.mark.parametrize(
    "asked",
    [
        names(URI("spiffe://m.test/mesh/m/virtualNode/other")),
        names(URI(str(WEB)), URI("spiffe://m.test/meshca/admin/x")),
        names(URI(str(WEB)), URI(str(WEB))),
        names(URI(str(WEB)), x509.IPAddress(ip_address("10.0.0.1"))),
        names(x509.DNSName("web.m.test"), x509.RFC822Name("a@m.test")),
        names(x509.DNSName("web.m.test"), URI("spiffe://m.test/mesh/m/virtualNode/other")),
        names(URI("spiffe://M.test/mesh/m/virtualNode/web")),
        names(),
    ],
    ids=str,
)
def test_other_names_than_the_identity_are_refused(asked: x509.SubjectAlternativeName) -> None:
    with pytest.raises(CsrError, match="another name"):
        check_csr(csr(None, asked), WEB)


@pytest.mark.parametrize("uris", [(), (URI(str(WEB)),)], ids=["alone", "beside-the-identity"])
def test_dns_names_are_read_and_left_to_policy(uris: tuple[URI, ...]) -> None:
    asked = names(x509.DNSName("web.m.test"), *uris, x509.DNSName("*.M.test"))
    assert check_csr(csr(None, asked), WEB).dns_names == ("web.m.test", "*.M.test")
    assert check_csr(csr(), WEB).dns_names == ()


def test_without_an_expected_identity_no_name_is_taken() -> None:
    with pytest.raises(CsrError, match="no subjectAltName"):
        check_csr(csr(None, names(URI(str(WEB)))), None)


def test_ca_rights_are_refused() -> None:
    with pytest.raises(CsrError, match="CA:TRUE"):
        check_csr(csr(None, x509.BasicConstraints(ca=True, path_length=0)), WEB)
    for right in ("key_cert_sign", "crl_sign"):
        with pytest.raises(CsrError, match="key usage of a CA"):
            check_csr(csr(None, x509.KeyUsage(**{**KEY_USAGE, right: True})), WEB)
    assert check_csr(csr(None, x509.KeyUsage(**{**KEY_USAGE, "digital_signature": True})), WEB)


def test_a_bad_signature_is_refused() -> None:
    request = csr()
    with pytest.raises(CsrError, match="signature"):
        check_csr(request[:-1] + bytes((request[-1] ^ 1,)), WEB)


def test_a_key_that_was_swapped_is_refused() -> None:
    mine, theirs = new_key(), new_key()
    with pytest.raises(CsrError, match="not that of its own key"):
        check_csr(csr(mine).replace(spki(mine), spki(theirs)), WEB)


def test_a_weak_hash_is_refused() -> None:
    with pytest.raises(CsrError, match="hash"):
        check_csr(csr(algorithm=hashes.SHA224()), WEB)


def test_a_private_key_is_not_accepted_silently() -> None:
    key = new_key()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(CsrError, match="private key") as caught:
        check_csr(secret + x509.load_der_x509_csr(csr(key)).public_bytes(Encoding.PEM), WEB)
    assert "BEGIN" not in str(caught.value)


def test_size_is_limited() -> None:
    with pytest.raises(CsrError, match="more than"):
        check_csr(b"\x30" * (MAX_CSR_BYTES + 1), WEB)
    assert check_csr(csr(None), TD.id)


@pytest.mark.parametrize("length", [0, 1, 10, 100, -1])
def test_a_truncated_request_is_refused(length: int) -> None:
    with pytest.raises(CsrError, match="not a certificate signing request that can be read"):
        check_csr(csr()[:length], WEB)


@given(
    st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(lambda b: b"-----BEGIN CERTIFICATE REQUEST-----" + b))
)
def test_junk_is_a_named_error(request: bytes) -> None:
    with pytest.raises(CsrError):
        check_csr(request, WEB)


GOOD = csr()


@given(st.integers(min_value=0, max_value=len(GOOD) - 1), st.integers(min_value=1, max_value=255))
def test_no_changed_byte_gets_another_certificate(place: int, change: int) -> None:
    """One may pass without a difference: the count of unused bits, where the signature ends in a zero bit."""
    changed = bytearray(GOOD)
    changed[place] ^= change
    with contextlib.suppress(CsrError):
        assert check_csr(bytes(changed), WEB) == check_csr(GOOD, WEB)
