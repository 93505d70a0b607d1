from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.x509_material import (
    LEAF_PROFILE,
    NOW,
    TD,
    WEB,
    ca_plan,
    issuing,
    leaf_plan,
    make_ca,
    make_leaf,
    new_key,
    root,
    sign,
)

from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.x509.checked import (
    CheckedPlan,
    LintError,
    MisissueError,
    SpentPlanError,
    check_ca,
    check_leaf,
    finish,
    serial_hex,
)
from meshca.x509.issuer import Issuer, IssuerError, ca_id
from meshca.x509.profiles import ROOT


def test_a_leaf_is_what_the_profile_says() -> None:
    plan = leaf_plan(dns_names=("web.m.test",))
    checked = check_leaf(plan, LEAF_PROFILE, NOW)
    certificate = finish(checked, sign(issuing().key, checked.spend()))
    read = x509.load_pem_x509_certificate(certificate.pem)
    assert read.public_bytes(Encoding.DER) == certificate.der
    assert serial_hex(read.serial_number) == certificate.serial == serial_hex(plan.serial)
    assert (read.not_valid_before_utc, read.not_valid_after_utc) == (certificate.not_before, certificate.not_after)
    assert list(read.subject) == []
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert names.value.get_values_for_type(x509.DNSName) == ["web.m.test"]
    assert (certificate.spiffe_id, certificate.issuer_id) == (WEB, issuing().issuer.id)
    constraints = read.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)  # said, for py-spiffe wants it said
    read.verify_directly_issued_by(x509.load_der_x509_certificate(issuing().issuer.certificate))


def test_a_subject_says_the_identity_where_that_is_planned() -> None:
    read = x509.load_pem_x509_certificate(make_leaf(names_subject=True).pem)
    assert [(each.oid, each.value) for each in read.subject] == [(x509.NameOID.USER_ID, str(WEB))]
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not names.critical  # RFC 5280 §4.2.1.6: beside a subject it should not be
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]


def test_cas_are_what_the_profile_says() -> None:
    for authority, path_length, kind in ((root(), 1, "root"), (issuing(), 0, "issuing")):
        issuer = authority.issuer
        assert (issuer.path_length, issuer.trust_domain) == (path_length, TD)
        read = x509.load_der_x509_certificate(issuer.certificate)
        assert read.subject.rfc4514_string() == f"CN=meshca {kind} {issuer.id},O=m.test"
        assert read.extensions.get_extension_for_class(x509.BasicConstraints).critical
        assert not any(isinstance(each.value, x509.NameConstraints) for each in read.extensions)


def test_a_name_constraint_is_critical_and_names_the_host() -> None:
    read = x509.load_der_x509_certificate(make_ca(name_constraint=True).issuer.certificate)
    constraint = read.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraint.critical
    assert constraint.value.permitted_subtrees == [x509.UniformResourceIdentifier("m.test")]


def test_a_trust_domain_too_long_for_an_organization_is_left_out_of_the_subject() -> None:
    long = TrustDomain("a" * 65)
    read = x509.load_der_x509_certificate(make_ca(trust_domain=long).issuer.certificate)
    assert [attribute.oid for attribute in read.subject] == [x509.NameOID.COMMON_NAME]


def test_p384_signs_with_sha384() -> None:
    authority = make_ca(root(), curve=ec.SECP384R1())
    leaf = make_leaf(authority, key=new_key(ec.SECP384R1()))
    read = x509.load_der_x509_certificate(leaf.der)
    assert read.signature_hash_algorithm is not None
    assert read.signature_hash_algorithm.name == "sha384"


def test_a_plan_is_signed_once() -> None:
    checked = check_leaf(leaf_plan(), LEAF_PROFILE, NOW)
    assert checked.spend() == checked.tbs
    with pytest.raises(SpentPlanError):
        checked.spend()


def test_of_many_threads_one_may_sign() -> None:
    checked = check_leaf(leaf_plan(), LEAF_PROFILE, NOW)

    def spend(_: int) -> int:
        try:
            return len(checked.spend())
        except SpentPlanError:
            return 0

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(spend, range(64)))[-2:] == [0, len(checked.tbs)]


def test_nobody_else_makes_a_checked_plan_or_changes_one() -> None:
    checked = check_leaf(leaf_plan(), LEAF_PROFILE, NOW)
    with pytest.raises(TypeError, match="check_leaf"):
        CheckedPlan(object(), checked.plan, b"anything", checked.curve)
    with pytest.raises(AttributeError):
        checked.tbs = b"anything"  # type: ignore[misc]


@pytest.mark.parametrize("signature", [b"", b"\x30\x00", b"\x00" * 70, b"\x30\x06\x02\x01\x01\x02\x01\x01"])
def test_junk_is_no_signature(signature: bytes) -> None:
    with pytest.raises(MisissueError, match="signature"):
        finish(check_leaf(leaf_plan(), LEAF_PROFILE, NOW), signature)


def test_a_signature_by_another_key_is_refused() -> None:
    checked = check_leaf(leaf_plan(), LEAF_PROFILE, NOW)
    with pytest.raises(MisissueError, match="not the issuer's"):
        finish(checked, sign(root().key, checked.spend()))


def test_a_signature_over_other_bytes_is_refused() -> None:
    checked = check_leaf(leaf_plan(), LEAF_PROFILE, NOW)
    other = check_leaf(leaf_plan(spiffe_id=SpiffeId(TD, "/other")), LEAF_PROFILE, NOW)
    with pytest.raises(MisissueError, match="not the issuer's"):
        finish(checked, sign(issuing().key, other.spend()))


def test_a_root_is_verified_with_its_own_key() -> None:
    key = new_key()
    checked = check_ca(ca_plan(key), ROOT, NOW)
    with pytest.raises(MisissueError, match="not the issuer's"):
        finish(checked, sign(new_key(), checked.tbs))
    assert finish(checked, sign(key, checked.spend())).spiffe_id == TD.id


def test_an_issuer_is_a_ca_of_that_id() -> None:
    good = issuing().issuer
    assert Issuer.from_der(good.id, good.certificate) == good
    with pytest.raises(IssuerError, match=good.id):
        Issuer.from_der(root().issuer.id, good.certificate)
    leaf_key = new_key()
    with pytest.raises(IssuerError):
        Issuer.from_der(ca_id(good.spki), make_leaf(key=leaf_key).der)
    with pytest.raises(IssuerError):
        Issuer.from_der(good.id, good.certificate[:-1])


def test_a_lint_error_is_no_misissue() -> None:
    with pytest.raises(LintError, match="L01"):
        check_leaf(leaf_plan(spiffe_id=TD.id), LEAF_PROFILE, NOW)
