from __future__ import annotations

from datetime import timedelta

import pytest
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_spiffe_validator_config_pb2
from envoy_pki import HOUR, T0, Authority, Pki, new_key, pem

from meshca.envoy import secrets
from meshca.envoy.secrets import UnsafeSecretError
from meshca.spiffe.id import IdentityError, TrustDomain

FRONT = "spiffe://m.test/mesh/demo/virtualNode/front"
BACK = "spiffe://m.test/mesh/demo/virtualNode/back"


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


def test_the_bytes_are_those_of_the_real_message(pki: Pki) -> None:
    bundle, crls = pki.bundle, pki.crls
    made = secrets.validation_context("clients", secrets.Anchors(bundle, crls), {FRONT, BACK}, now=T0)
    secret = secret_pb2.Secret.FromString(made)
    assert secret.SerializeToString(deterministic=True) == made
    assert secret.name == "clients"
    context = secret.validation_context
    assert (context.trusted_ca.inline_bytes, context.crl.inline_bytes) == (bundle, crls)
    matchers = [(one.san_type, one.matcher.exact) for one in context.match_typed_subject_alt_names]
    assert matchers == [(common_pb2.SubjectAltNameMatcher.URI, BACK), (common_pb2.SubjectAltNameMatcher.URI, FRONT)]


def test_the_order_of_sans_does_not_change_the_bytes(pki: Pki) -> None:
    crls = pki.crls
    first = secrets.validation_context("c", secrets.Anchors(pki.bundle, crls), [FRONT, BACK], now=T0)
    assert first == secrets.validation_context("c", secrets.Anchors(pki.bundle, crls), [BACK, FRONT, BACK], now=T0)


def test_an_svid_is_chain_and_key(pki: Pki) -> None:
    chain, key = pki.svid(FRONT)
    made = secrets.tls_certificate("default", chain, key, now=T0)
    secret = secret_pb2.Secret.FromString(made)
    assert secret.SerializeToString(deterministic=True) == made
    assert secret.tls_certificate.certificate_chain.inline_bytes == chain
    assert secret.tls_certificate.private_key.inline_bytes == key


def test_roots_have_no_sans_and_all_has_one_bundle_for_each_domain(pki: Pki) -> None:
    roots = secret_pb2.Secret.FromString(secrets.roots_context("ROOTCA", secrets.Anchors(pki.bundle, pki.crls), now=T0))
    assert not roots.validation_context.match_typed_subject_alt_names
    domains = {TrustDomain("m.test"): pki.bundle, TrustDomain("a.test"): pki.bundle}
    made = secrets.validator_context("ALL", domains)
    secret = secret_pb2.Secret.FromString(made)
    assert secret.SerializeToString(deterministic=True) == made
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    assert secret.validation_context.custom_validator_config.typed_config.Unpack(config)
    assert [domain.name for domain in config.trust_domains] == ["a.test", "m.test"]


@pytest.mark.parametrize(
    ("bundle", "crls", "sans", "reason"),
    [
        pytest.param("good", "good", (), "empty SAN list", id="no-san"),
        pytest.param("good", "good", FRONT, "empty SAN list", id="a-text-is-no-list"),
        pytest.param("empty", "good", (FRONT,), "not PEM", id="no-bundle"),
        pytest.param("junk", "good", (FRONT,), "not a certificate", id="junk-in-the-bundle"),
        pytest.param("good", "empty", (FRONT,), "not PEM", id="no-crl"),
        pytest.param("good", "der", (FRONT,), "not PEM", id="der-crl"),
        pytest.param("good", "junk", (FRONT,), "not a CRL", id="junk-crl"),
        pytest.param("good", "cut", (FRONT,), "not PEM", id="cut-crl"),
        pytest.param("good", "bundle", (FRONT,), "not PEM", id="certificates-as-crl"),
        pytest.param("good", "issuing", (FRONT,), "exactly one CRL", id="no-crl-of-the-root"),
        pytest.param("good", "twice", (FRONT,), "two CRLs", id="two-crls-of-one-issuer"),
        pytest.param("good", "expired", (FRONT,), "every handshake", id="expired-crl"),
        pytest.param("good", "future", (FRONT,), "every handshake", id="future-crl"),
    ],
)
def test_what_envoy_would_take_and_must_not_get_is_refused(
    pki: Pki, bundle: str, crls: str, sans: tuple[str, ...], reason: str
) -> None:
    root, issuing = pki.root, pki.issuing
    bundles = {"good": pki.bundle, "empty": b"", "junk": pki.bundle.replace(b"M", b"A", 9)}
    lists = {
        "good": pki.crls,
        "empty": b"",
        "der": b"\x30\x82\x01\x00",
        "junk": root.crl().replace(b"MII", b"AAA") + issuing.crl(),
        "cut": root.crl()[:-30] + issuing.crl(),
        "bundle": pki.bundle,
        "issuing": issuing.crl(),
        "twice": root.crl() + issuing.crl() + issuing.crl(),
        "expired": root.crl() + issuing.crl(next_update=T0),
        "future": root.crl() + issuing.crl(this_update=T0 + timedelta(seconds=1)),
    }
    if bundle == "junk":
        bundles["junk"] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    if crls == "junk":
        lists["junk"] = b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n" + issuing.crl()
    with pytest.raises(UnsafeSecretError, match=reason):
        secrets.validation_context("clients", secrets.Anchors(bundles[bundle], lists[crls]), sans, now=T0)


def test_every_root_of_the_bundle_needs_its_crl(pki: Pki) -> None:
    other = Authority("other root")
    both = pki.bundle + pem(other.certificate)
    with pytest.raises(UnsafeSecretError, match="exactly one CRL"):
        secrets.roots_context("ROOTCA", secrets.Anchors(both, pki.crls), now=T0)
    assert secrets.roots_context("ROOTCA", secrets.Anchors(both, pki.crls + other.crl()), now=T0)


def test_a_crl_of_the_same_name_and_another_key_is_not_the_roots(pki: Pki) -> None:
    impostor = Authority("root")
    with pytest.raises(UnsafeSecretError, match="exactly one CRL"):
        secrets.roots_context("ROOTCA", secrets.Anchors(pki.bundle, impostor.crl() + pki.issuing.crl()), now=T0)


def test_text_between_blocks_is_kept_because_a_repaired_secret_changes_it(pki: Pki) -> None:
    made = secrets.roots_context("ROOTCA", secrets.Anchors(pki.bundle + b"# again\n", pki.crls), now=T0)
    assert b"# again" in made


@pytest.mark.parametrize("san", ["front", "spiffe://m.test", "SPIFFE://m.test/a", "*"])
def test_a_san_is_the_id_of_a_workload(pki: Pki, san: str) -> None:
    with pytest.raises((UnsafeSecretError, IdentityError)):
        secrets.validation_context("clients", secrets.Anchors(pki.bundle, pki.crls), [san], now=T0)


@pytest.mark.parametrize(
    ("uris", "span", "reason"),
    [
        pytest.param((), (-HOUR, HOUR), "0 URI SANs", id="no-uri-san"),
        pytest.param((FRONT, BACK), (-HOUR, HOUR), "2 URI SANs", id="two-uri-sans"),
        pytest.param((FRONT,), (-2 * HOUR, -HOUR), "is valid from", id="expired"),
        pytest.param((FRONT,), (HOUR, 2 * HOUR), "is valid from", id="not-yet-valid"),
    ],
)
def test_a_leaf_that_envoy_would_take_and_peers_would_not_is_refused(
    pki: Pki, uris: tuple[str, ...], span: tuple[timedelta, timedelta], reason: str
) -> None:
    chain = pki.issuing.leaf(new_key(), *uris, not_before=T0 + span[0], not_after=T0 + span[1])
    with pytest.raises(UnsafeSecretError, match=reason):
        secrets.tls_certificate("default", chain, pki.svid(FRONT)[1], now=T0)


def test_neither_chain_nor_key_may_be_something_else(pki: Pki) -> None:
    chain, key = pki.svid(FRONT)
    for wrong_chain, wrong_key in ((b"", key), (key, key), (chain, b""), (chain, chain), (chain + key, key)):
        with pytest.raises(UnsafeSecretError, match="not PEM"):
            secrets.tls_certificate("default", wrong_chain, wrong_key, now=T0)


def test_no_error_shows_a_key(pki: Pki) -> None:
    _, key = pki.svid(FRONT)
    with pytest.raises(UnsafeSecretError) as caught:
        secrets.tls_certificate("default", key, key, now=T0)
    assert key.decode().splitlines()[1] not in str(caught.value)


def test_an_empty_federation_is_refused() -> None:
    with pytest.raises(UnsafeSecretError, match="admits anybody"):
        secrets.validator_context("ALL", {})
