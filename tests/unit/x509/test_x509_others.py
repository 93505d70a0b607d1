"""What others say about our certificates and CRLs: pkilint's PKIX linters, and OpenSSL's chain validation."""

from __future__ import annotations

import re
import subprocess
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fakes.x509_material import (
    NOW,
    TD,
    Authority,
    issuing,
    leaf_plan,
    make_ca,
    make_crl,
    make_leaf,
    new_key,
    root,
    sign,
)

from meshca.spiffe.bundle import pem
from meshca.spiffe.id import SpiffeId
from meshca.spiffe.reserved import admin, agent, server
from meshca.x509 import der, encode
from meshca.x509.checked import check_leaf, finish
from meshca.x509.crl import REASONS, RevokedEntry
from meshca.x509.profiles import ADMIN, AGENT, PROFILES, SERVER
from meshca.x509.serial import parse_serial

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pkilint import loader, pkix, validation
    from pkilint.pkix import certificate as pkix_certificate
    from pkilint.pkix import crl as pkix_crl
    from pkilint.pkix import extension, name


# docs/lints.md says why we keep these.
UNKNOWN_SCHEME = "pkix.invalid_uri_syntax"
KEPT = {UNKNOWN_SCHEME, "pkix.subject_key_identifier_rfc7093_method_1_identified"}


def is_kept(code: str, message: str | None) -> bool:
    """Say whether the finding is one that we keep; the URI check's only where it complains of a SPIFFE ID."""
    prefix, _, uri = (message or "").partition('"')
    if code == UNKNOWN_SCHEME:
        return prefix == "Invalid URI syntax: " and bool(SpiffeId.parse(uri[:-1]))
    return code in KEPT


def unexpected(results: Iterable[validation.ValidationResult]) -> list[str]:
    """Return the findings of whatever severity that we do not keep on purpose."""
    return [
        f"{each.finding.severity} {each.finding.code} {each.message}"
        for result in results
        for each in result.finding_descriptions
        if not is_kept(each.finding.code, each.message)
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
    return unexpected(validator.validate(loader.load_certificate(der, "ours").root))


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
    return unexpected(validator.validate(loader.load_crl(der, "ours").root))


def certificates() -> Iterator[tuple[str, bytes]]:
    """Yield what each profile makes, with either key type."""
    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        top = make_ca(curve=curve)
        below = make_ca(top, curve=curve)
        yield f"root {curve.name}", top.issuer.certificate
        yield f"issuing {curve.name}", below.issuer.certificate
        yield f"constrained {curve.name}", make_ca(curve=curve, name_constraint=True).issuer.certificate
        for names in ((), ("web.m.test", "api.web.m.test")):
            yield f"svid {curve.name} {names}", make_leaf(below, key=new_key(curve), dns_names=names).der
        yield f"svid {curve.name} subject", make_leaf(below, key=new_key(curve), names_subject=True).der
        for profile, spiffe_id in ((SERVER, server(TD, "a")), (AGENT, agent(TD, "a")), (ADMIN, admin(TD, "a"))):
            plan = leaf_plan(issuer=below.issuer, key=new_key(curve), spiffe_id=spiffe_id)
            checked = check_leaf(plan, profile, NOW)
            yield f"{profile.name} {curve.name}", finish(checked, sign(below.key, checked.spend())).der


def test_pkilint_finds_nothing_that_we_do_not_keep_in_what_each_profile_makes() -> None:
    found = {name: lint_certificate(encoded) for name, encoded in certificates()}
    assert found == {name: [] for name in found}
    assert {name.split()[0] for name in found} == {p.name for p in PROFILES.values() if not p.read_only} | {
        "constrained"
    }


def test_what_we_keep_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs/lints.md").read_text()
    assert set(re.findall(r"^\| `(pkix\.[a-z0-9_.]+)` ", page, re.MULTILINE)) == KEPT


def test_pkilint_finds_nothing_in_a_crl() -> None:
    entries = [RevokedEntry(number, NOW, reason) for number, reason in enumerate(REASONS, start=1)]
    assert lint_crl(make_crl(root()).der) == []
    assert lint_crl(make_crl(issuing(), *entries).der) == []
    assert lint_crl(make_crl(make_ca(curve=ec.SECP384R1()), *entries).der) == []


def test_pkilint_would_say_so() -> None:
    """The harness is not deaf: without its extensions, a leaf with an empty subject has errors."""
    fields = der.children(encode.leaf_tbs(leaf_plan()))
    assert lint_certificate(encode.assemble(der.sequence(*fields[:-1]), issuing().issuer.curve, b"0"))


@pytest.fixture(params=["plain", "p384", "constrained"])
def chain(request: pytest.FixtureRequest) -> tuple[Authority, Authority]:
    constrained = request.param == "constrained"
    curve = ec.SECP384R1() if request.param == "p384" else None
    top = make_ca(curve=curve, name_constraint=constrained)
    return top, make_ca(top, curve=curve, name_constraint=constrained)


def openssl_verify(folder: Path, *options: str) -> str:
    command = ["openssl", "verify", "-x509_strict", "-check_ss_sig", "-crl_check_all", "-attime"]
    command += [str(int(NOW.timestamp())), "-CAfile", "roots.pem", "-untrusted", "issuing.pem", "-CRLfile", "crl.pem"]
    result = subprocess.run([*command, *options, "leaf.pem"], cwd=folder, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


def openssl_text(pem_block: bytes) -> str:
    command = ["openssl", "x509", "-noout", "-text"]
    return subprocess.run(command, input=pem_block, capture_output=True, check=True).stdout.decode()


def test_openssl_reads_what_each_profile_makes() -> None:
    for _, encoded in certificates():
        assert "Version: 3 (0x2)" in openssl_text(pem([encoded]))


@pytest.mark.parametrize("purpose", ["sslclient", "sslserver"])
def test_openssl_accepts_the_chain_until_it_is_revoked(
    chain: tuple[Authority, Authority], purpose: str, tmp_path: Path
) -> None:
    top, below = chain
    leaf = make_leaf(below, dns_names=("web.m.test",))
    (tmp_path / "roots.pem").write_bytes(pem([top.issuer.certificate]))
    (tmp_path / "issuing.pem").write_bytes(pem([below.issuer.certificate]))
    (tmp_path / "leaf.pem").write_bytes(leaf.pem)
    (tmp_path / "crl.pem").write_bytes(make_crl(top).pem + make_crl(below).pem)
    assert openssl_verify(tmp_path, "-purpose", purpose) == "leaf.pem: OK\n"
    assert openssl_verify(tmp_path, "-verify_hostname", "web.m.test") == "leaf.pem: OK\n"
    assert "hostname mismatch" in openssl_verify(tmp_path, "-verify_hostname", "api.m.test")
    assert openssl_text(leaf.pem).count("DNS:web.m.test") == 1
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
