"""What others say about our certificates and CRLs: pkilint's PKIX linters, and OpenSSL's chain validation."""

from __future__ import annotations

import subprocess
import warnings
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.x509_material import NOW, TD, Authority, issuing, leaf_plan, make_ca, make_crl, make_leaf, root

from meshca.spiffe.bundle import pem
from meshca.spiffe.id import SpiffeId
from meshca.x509 import der, encode
from meshca.x509.crl import REASONS, RevokedEntry
from meshca.x509.serial import parse_serial

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pkilint import loader, pkix, validation
    from pkilint.pkix import certificate as pkix_certificate
    from pkilint.pkix import crl as pkix_crl
    from pkilint.pkix import extension, name


def unknown_scheme(code: str, message: str | None) -> bool:
    """Say whether the linter complains of a SPIFFE ID: its URI check knows a list of schemes, without spiffe."""
    prefix, _, uri = (message or "").partition('"')
    return code == "pkix.invalid_uri_syntax" and prefix == "Invalid URI syntax: " and bool(SpiffeId.parse(uri[:-1]))


def serious(results: Iterable[validation.ValidationResult]) -> list[str]:
    """Return the findings that break a MUST."""
    worst = (validation.ValidationFindingSeverity.ERROR, validation.ValidationFindingSeverity.FATAL)
    return [
        f"{each.finding.code} {each.message}"
        for result in results
        for each in result.finding_descriptions
        if each.finding.severity in worst and not unknown_scheme(each.finding.code, each.message)
    ]


def lint_certificate(der: bytes) -> list[str]:
    validator = pkix_certificate.create_pkix_certificate_validator_container(
        pkix_certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            pkix_certificate.create_issuer_validator_container([]),
            pkix_certificate.create_validity_validator_container(),
            pkix_certificate.create_subject_validator_container([]),
            pkix_certificate.create_extensions_validator_container([]),
            pkix_certificate.create_spki_validator_container([]),
        ],
    )
    return serious(validator.validate(loader.load_certificate(der, "ours").root))


def lint_crl(der: bytes) -> list[str]:
    validator = pkix_crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            pkix_crl.create_issuer_validator_container([]),
            pkix_crl.create_validity_validator_container([]),
            pkix_crl.create_extensions_validator_container([]),
        ],
    )
    return serious(validator.validate(loader.load_crl(der, "ours").root))


def test_pkilint_finds_no_error_in_a_certificate() -> None:
    constrained = make_ca(name_constraint=True)
    for authority in (root(), issuing(), constrained, make_ca(root(), curve=ec.SECP384R1())):
        assert lint_certificate(authority.issuer.certificate) == []
    assert lint_certificate(make_leaf().der) == []
    assert lint_certificate(make_leaf(dns_names=("web.m.test", "api.web.m.test")).der) == []


def test_pkilint_finds_no_error_in_a_crl() -> None:
    entries = [RevokedEntry(number, NOW, reason) for number, reason in enumerate(REASONS, start=1)]
    assert lint_crl(make_crl(root()).der) == []
    assert lint_crl(make_crl(issuing(), *entries).der) == []


def test_pkilint_would_say_so() -> None:
    """The harness is not deaf: without its extensions, a leaf with an empty subject has errors."""
    fields = der.children(encode.leaf_tbs(leaf_plan()))
    assert lint_certificate(encode.assemble(der.sequence(*fields[:-1]), issuing().issuer.curve, b"0"))


@pytest.fixture(params=["plain", "p384", "constrained"])
def chain(request: pytest.FixtureRequest) -> tuple[Authority, Authority]:
    constrained = request.param == "constrained"
    top = make_ca(name_constraint=constrained)
    curve = ec.SECP384R1() if request.param == "p384" else None
    return top, make_ca(top, curve=curve, name_constraint=constrained)


def openssl_verify(folder: Path, *options: str) -> str:
    command = ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-crl_check_all", "-attime"]
    command += [str(int(NOW.timestamp())), "-CAfile", "roots.pem", "-untrusted", "issuing.pem", "-CRLfile", "crl.pem"]
    result = subprocess.run([*command, *options, "leaf.pem"], cwd=folder, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
def test_openssl_accepts_the_chain_until_it_is_revoked(
    chain: tuple[Authority, Authority], purpose: str, tmp_path: Path
) -> None:
    top, below = chain
    leaf = make_leaf(below)
    (tmp_path / "roots.pem").write_bytes(pem([top.issuer.certificate]))
    (tmp_path / "issuing.pem").write_bytes(pem([below.issuer.certificate]))
    (tmp_path / "leaf.pem").write_bytes(leaf.pem)
    (tmp_path / "crl.pem").write_bytes(make_crl(top).pem + make_crl(below).pem)
    assert openssl_verify(tmp_path, "-purpose", purpose) == "leaf.pem: OK\n"
    revoked = make_crl(below, RevokedEntry(parse_serial(leaf.serial), NOW, "keyCompromise"), number=2)
    (tmp_path / "crl.pem").write_bytes(make_crl(top).pem + revoked.pem)
    assert "certificate revoked" in openssl_verify(tmp_path, "-purpose", purpose)


def test_openssl_enforces_the_name_constraint(tmp_path: Path) -> None:
    """A CA for m.test that is constrained to x.test would be useless: that is what the constraint does."""
    top = make_ca()
    (tmp_path / "roots.pem").write_bytes(pem([top.issuer.certificate]))
    assert TD.name == "m.test"
    below = make_ca(top, name_constraint=True)
    (tmp_path / "issuing.pem").write_bytes(pem([below.issuer.certificate]))
    (tmp_path / "crl.pem").write_bytes(make_crl(top).pem + make_crl(below).pem)
    (tmp_path / "leaf.pem").write_bytes(make_leaf(below).pem)
    assert openssl_verify(tmp_path) == "leaf.pem: OK\n"
