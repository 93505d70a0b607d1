"""Where an upstream's CA has no usable CRL: contexts, versions, files and verification look up leaves alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from fakes.acknowledgements import InMemoryAcknowledgements
from fakes.ca import LEAF_KEY, LIVES, T0, TRUST_DOMAIN, CountingEntropy, FakeClock, FakeKeys, node, request
from fakes.ledger import InMemoryLedger
from fakes.upstream_pki import DAY, FakeUpstream, foreign_root

from meshca.authority.authority import Authority, Settings
from meshca.authority.create import NewRealm, create_below
from meshca.authority.ports import Ports
from meshca.authority.requests import Issued
from meshca.client.values import Trust
from meshca.delivery.contexts import Contexts, Wanted
from meshca.drop.material import Material, MismatchError
from meshca.envoy import secrets
from meshca.envoy.secrets import Anchors, UnsafeSecretError
from meshca.x509.chain import ChainError, crls_of, verify_svid

HOUR = timedelta(hours=1)
WANTED = (Wanted("ROOTCA", None), Wanted("clients", frozenset({node("web")})))


@dataclass
class World:
    """A CA below an upstream."""

    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.root = foreign_root(T0)
        ledger, keys, self.upstream = InMemoryLedger(), FakeKeys(), FakeUpstream(self.root)
        create_below(NewRealm(TRUST_DOMAIN, LIVES), self.upstream, self.clock, keys, ledger)
        ports = Ports(ledger, InMemoryAcknowledgements(ledger), keys, self.clock, CountingEntropy())
        self.ca = Authority(ports, Settings(upstream=self.upstream))

    def with_crl(self) -> None:
        self.upstream.known_crls = [self.root.crl(1, since=-HOUR, until=100 * DAY)]
        self.ca.fetch_crls()

    def issue(self) -> Issued:
        (issued,) = self.ca.issue([request("web")])
        assert isinstance(issued, Issued)
        return issued

    def material(self, issued: Issued) -> Material:
        key, trust = LEAF_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), self.ca.trust
        return Material(issued.chain_pem, key, trust.bundle_pem, trust.crl_pem, "1", trust.leaf_crl_only)


def flag(body: bytes) -> bool:
    secret = secret_pb2.Secret.FromString(body)
    assert secret.SerializeToString(deterministic=True) == body
    return bool(secret.validation_context.only_verify_leaf_cert_crl)


def test_contexts_say_it_and_their_versions_differ() -> None:
    world = World()
    contexts = Contexts(world.clock, TRUST_DOMAIN)
    before = [contexts.get(wanted, world.ca.trust) for wanted in WANTED]
    assert all(flag(resource.body) for resource in before)
    world.with_crl()
    after = [contexts.get(wanted, world.ca.trust) for wanted in WANTED]
    assert not any(flag(resource.body) for resource in after)
    assert not {one.version for one in before} & {one.version for one in after}


def test_the_flag_alone_makes_another_context() -> None:
    world = World()
    world.with_crl()
    trust = world.ca.trust
    one, two = (Anchors(trust.bundle_pem, trust.crl_pem, leaf) for leaf in (False, True))
    assert secrets.roots_context("ROOTCA", one, now=T0) != secrets.roots_context("ROOTCA", two, now=T0)


def test_without_the_flag_a_root_without_crl_is_never_sent() -> None:
    trust = World().ca.trust
    with pytest.raises(UnsafeSecretError, match="exactly one CRL"):
        secrets.roots_context("ROOTCA", Anchors(trust.bundle_pem, trust.crl_pem), now=T0)
    for crls, words in ((b"", "not PEM"), (trust.crl_pem * 2, "two CRLs")):
        with pytest.raises(UnsafeSecretError, match=words):
            secrets.roots_context("ROOTCA", Anchors(trust.bundle_pem, crls, leaf_crl_only=True), now=T0)


def test_files_and_verification_agree_with_envoy() -> None:
    world = World()
    issued = world.issue()
    material = world.material(issued)
    assert material.require_matching(T0) == str(node("web"))
    world.ca.revoke(issued.certificate.serial, "keyCompromise", "uid:0")
    world.ca.publish_crls()
    with pytest.raises(MismatchError, match="revoked"):
        world.material(issued).require_matching(T0)
    world.with_crl()
    with pytest.raises(MismatchError, match="revoked"):
        world.material(issued).require_matching(T0)
    assert world.material(world.issue()).require_matching(T0) == str(node("web"))


def test_a_whole_check_refuses_what_a_check_of_leaves_admits() -> None:
    world = World()
    issued, trust = world.issue(), world.ca.trust
    chain = [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(issued.chain_pem)]
    roots, crls = [root.certificate for root in trust.roots], [crl.der for crl in trust.crls.values()]
    usable = crls_of(crls, leaf_crl_only=True)
    assert verify_svid(chain[0], chain[1:], roots, usable, T0) == node("web")
    with pytest.raises(ChainError, match="no CRL of CN=corp root"):
        verify_svid(chain[0], chain[1:], roots, crls, T0)
    assert not Trust(1, b"", b"").leaf_crl_only
