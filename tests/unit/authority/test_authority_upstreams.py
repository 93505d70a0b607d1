"""Issuing CAs below a root that isn't ours: certified by an upstream, or brought by an operator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from fakes.acknowledgements import InMemoryAcknowledgements
from fakes.ca import LIVES, T0, TRUST_DOMAIN, UNREACHABLE, CountingEntropy, FakeClock, FakeKeys, node, request
from fakes.ledger import InMemoryLedger
from fakes.upstream_pki import AWAY, DAY, ISSUING, FakeUpstream, ForeignCa, Profile, foreign_root, rsa_key

from meshca.authority.authority import Authority, Settings
from meshca.authority.ceremony import Imported
from meshca.authority.create import NewRealm, create, create_below, create_waiting
from meshca.authority.freezing import FrozenError
from meshca.authority.ports import Ports
from meshca.authority.records import ISSUING as ISSUING_ROLE
from meshca.authority.records import ROOT, AuthorityRecord, AuthorityState, Role
from meshca.authority.requests import Issued, Refused
from meshca.authority.trust import NoActiveAuthorityError
from meshca.authority.upstreams import NoUpstream, Upstream, UpstreamError
from meshca.errors import ConflictError, InvalidInputError, UnavailableError
from meshca.spiffe.bundle import pem
from meshca.x509.chain import crls_of, verify_svid
from meshca.x509.foreign import ForeignChainError
from meshca.x509.foreigncrl import ForeignCrlError
from meshca.x509.issuer import foreign_id

WEB, HOLDER = node("web"), "stream:42"
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
REALM = NewRealm(TRUST_DOMAIN, LIVES)


@dataclass
class Below:
    """A whole CA in memory whose root is an upstream's."""

    ledger: InMemoryLedger = field(default_factory=InMemoryLedger)
    clock: FakeClock = field(default_factory=FakeClock)
    keys: FakeKeys = field(default_factory=FakeKeys)

    def __post_init__(self) -> None:
        self.acknowledgements = InMemoryAcknowledgements(self.ledger)

    def authority(self, upstream: Upstream) -> Authority:
        ports = Ports(self.ledger, self.acknowledgements, self.keys, self.clock, CountingEntropy())
        return Authority(ports, Settings(upstream=upstream))

    def cas(self, role: Role, *states: AuthorityState) -> list[AuthorityRecord]:
        return [one for one in self.ledger.authorities() if one.role == role and one.state in (states or (one.state,))]


@dataclass
class Online(Below):
    """With an upstream that answers."""

    root: ForeignCa = field(default_factory=lambda: foreign_root(T0))
    middle: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        issuer = self.root.below(Profile(name="corp mesh CA")) if self.middle else self.root
        self.upstream = FakeUpstream(issuer, (self.root,) if self.middle else ())
        self.ca: Authority
        create_below(REALM, self.upstream, self.clock, self.keys, self.ledger)
        self.ca = self.authority(self.upstream)

    def crls(self, number: int = 1, since: timedelta = -HOUR, until: timedelta = 100 * DAY) -> list[bytes]:
        cas = [self.upstream.issuer, *self.upstream.above]
        return [replace(ca, now=self.clock.at).crl(number, since=since, until=until) for ca in cas]

    def advance(self, to: timedelta) -> None:
        self.clock.at = T0 + to
        self.ca.succession.settle()


def issue(ca: Authority) -> Issued:
    (issued,) = ca.issue([request(WEB)])
    assert isinstance(issued, Issued)
    return issued


def verified(world: Below, ca: Authority, issued: Issued) -> bool:
    """Verify as Envoy does, with what a leaf carries and a context holds."""
    chain = [
        certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(issued.chain_pem)
    ]
    roots, crls = [root.certificate for root in ca.trust.roots], [crl.der for crl in ca.trust.crls.values()]
    usable = crls_of(crls, leaf_crl_only=ca.trust.leaf_crl_only)
    return verify_svid(chain[0], chain[1:], roots, usable, world.clock.now()) == WEB


# --- online


@pytest.mark.parametrize("middle", [True, False])
@pytest.mark.parametrize("key", ["ec", "rsa"])
def test_a_leaf_below_an_upstream_verifies_with_and_without_its_crls(middle: bool, key: str) -> None:
    world = Online(root=foreign_root(T0, key=rsa_key() if key == "rsa" else None), middle=middle)
    trust = world.ca.trust
    assert (len(trust.chain), len(trust.roots)) == (2 if middle else 1, 1)
    assert trust.leaf_crl_only
    assert len(trust.crls) == 1
    assert verified(world, world.ca, issue(world.ca))
    world.upstream.known_crls = world.crls()
    world.ca.fetch_crls()
    assert not world.ca.trust.leaf_crl_only
    assert len(world.ca.trust.crls) == (3 if middle else 2)
    assert verified(world, world.ca, issue(world.ca))


def test_crls_that_travel_with_the_chain_are_in_the_first_trust() -> None:
    world = Below()
    root = foreign_root(T0)
    create_below(REALM, FakeUpstream(root, known_crls=[root.crl()]), world.clock, world.keys, world.ledger)
    assert not world.authority(NoUpstream()).trust.leaf_crl_only


def test_our_own_revocation_works_either_way() -> None:
    for crls in ([], [1]):
        world = Online()
        world.upstream.known_crls = world.crls() if crls else []
        world.ca.fetch_crls()
        issued = issue(world.ca)
        world.ca.revoke(issued.certificate.serial, "keyCompromise", "uid:0")
        world.ca.publish_crls()
        with pytest.raises(InvalidInputError, match="revoked"):
            verified(world, world.ca, issued)


def test_a_crl_is_used_once_it_is_a_minute_old_and_until_shortly_before_its_end() -> None:
    world = Online(middle=False)
    world.upstream.known_crls = world.crls(since=-10 * SECOND, until=HOUR)
    world.ca.fetch_crls()
    assert world.ca.trust.leaf_crl_only
    generation = world.ca.trust.generation
    world.clock.move(50 * SECOND)
    world.ca.fetch_crls()
    assert not world.ca.trust.leaf_crl_only
    assert world.ca.trust.generation == generation + 1
    world.clock.at = T0 + HOUR - 2 * MINUTE - SECOND
    assert not world.ca.publish_crls().leaf_crl_only
    world.clock.move(SECOND)
    assert world.ca.publish_crls().leaf_crl_only
    assert world.ca.trust.generation == generation + 2
    assert world.ca.publish_crls().generation == generation + 2


def test_numbers_never_go_back() -> None:
    world = Online(middle=False)
    world.upstream.known_crls = world.crls(7)
    world.ca.fetch_crls()
    world.upstream.known_crls = world.crls(6, since=-2 * HOUR)
    world.ca.fetch_crls()
    (problem,) = world.ca.problems
    assert "6 is not above 7" in problem.reason
    assert [crl.number for crl in world.ledger.crls[world.ca.trust.roots[0].id]] == [7]
    world.upstream.known_crls = world.crls(8)
    world.ca.fetch_crls()
    assert world.ca.problems == ()
    world.ca.fetch_crls()
    assert [crl.number for crl in world.ledger.crls[world.ca.trust.roots[0].id]] == [7, 8]


def test_a_crl_that_would_end_every_handshake_is_not_put_in_force() -> None:
    world = Online(middle=False)
    (active,) = world.cas(ISSUING_ROLE, "active")
    serial = x509.load_der_x509_certificate(active.certificate).serial_number
    world.upstream.known_crls = [world.root.crl(2, serial, until=100 * DAY)]
    world.ca.fetch_crls()
    (problem,) = world.ca.problems
    assert f"it revokes {active.id}" in problem.reason
    assert f"meshca ca taint {active.id}" in problem.reason
    assert verified(world, world.ca, issue(world.ca))
    world.clock.move(HOUR + SECOND)  # nobody holds a leaf any more
    world.ca.succession.taint(active.id, "uid:0")
    world.advance(2 * HOUR)
    world.ca.fetch_crls()
    assert not world.ca.trust.leaf_crl_only
    assert world.ca.problems == ()


def test_while_the_upstream_is_away_everything_goes_on_and_the_problem_is_shown() -> None:
    world = Online()
    world.upstream.known_crls = world.crls()
    world.ca.fetch_crls()
    world.upstream.failing = AWAY
    world.ca.fetch_crls()
    world.advance(15 * DAY)
    reasons = {problem.what: problem.reason for problem in world.ca.problems}
    assert set(reasons) == {"taking in the upstream's CRLs", "rotation of the issuing CA"}
    assert all("does not answer" in reason for reason in reasons.values())
    assert len(world.keys.signers) == 1  # no key was made in vain
    assert not world.cas(ISSUING_ROLE, "prepared")
    assert verified(world, world.ca, issue(world.ca))
    world.upstream.failing = None
    world.ca.fetch_crls()
    world.advance(15 * DAY + HOUR)
    assert world.ca.problems == ()
    assert world.cas(ISSUING_ROLE, "prepared")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"other_key": True}, "another key"),
        ({"profile": replace(ISSUING, life=DAY + 2 * HOUR, not_before=-DAY)}, "3:00:00 are needed"),
        ({"profile": replace(ISSUING, ca=False, path_length=None)}, "CA:TRUE"),
        ({"above": ()}, "root is missing"),
    ],
)
def test_what_an_upstream_returns_wrongly_changes_nothing(change: dict[str, object], words: str) -> None:
    world = Online()
    before = (world.ledger.generation(), world.ledger.authorities(), world.ca.trust)
    for name, value in change.items():
        setattr(world.upstream, name, value)
    with pytest.raises(UpstreamError, match=words):
        world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
    assert (world.ledger.generation(), world.ledger.authorities(), world.ca.trust) == before
    assert verified(world, world.ca, issue(world.ca))
    empty = Below()
    with pytest.raises(UpstreamError, match=words):
        create_below(REALM, world.upstream, empty.clock, empty.keys, empty.ledger)
    assert empty.ledger.realm() is None


def test_a_shorter_life_than_asked_for_is_taken_where_it_suffices() -> None:
    world = Online()
    world.upstream.profile = replace(ISSUING, life=DAY + 4 * HOUR)
    world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
    (active,) = world.cas(ISSUING_ROLE, "active")
    assert active.not_after == T0 + 4 * HOUR


def test_rotation_asks_the_upstream_again_and_waits_for_acknowledgements() -> None:
    world = Online()
    issue(world.ca)
    prepared = world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
    assert [one.id for one in world.cas(ISSUING_ROLE, "prepared")] == [prepared]
    assert len(world.upstream.asked) == 2
    trust = world.ca.trust
    world.acknowledgements.acknowledge(HOLDER, WEB, trust.generation, trust.active.id)
    world.ca.succession.advance()
    assert world.ca.trust.active.id == prepared
    assert verified(world, world.ca, issue(world.ca))
    assert len(world.cas("intermediate")) == 1


def test_rotation_is_scheduled_below_an_upstream() -> None:
    world = Online()
    world.advance(15 * DAY)
    assert world.cas(ISSUING_ROLE, "prepared")
    world.advance(25 * DAY)
    assert len(world.cas(ISSUING_ROLE, "active", "old")) == 2
    world.advance(25 * DAY + 2 * HOUR)
    assert len(world.cas(ISSUING_ROLE, "active", "old")) == 1


def test_a_new_upstream_root_travels_prepared_and_is_activated_with_the_issuing_ca() -> None:
    world = Online()
    issue(world.ca)
    (before,) = world.cas(ROOT)
    root = foreign_root(T0, Profile(name="corp root 2"))
    world.upstream.issuer, world.upstream.above = root.below(Profile(name="corp mesh CA 2")), (root,)
    world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
    assert [one.id for one in world.cas(ROOT, "prepared")] == [foreign_id(root.der)]
    assert len(world.ca.trust.roots) == 2
    trust = world.ca.trust
    world.acknowledgements.acknowledge(HOLDER, WEB, trust.generation, trust.active.id)
    world.ca.succession.advance()
    assert [one.id for one in world.cas(ROOT, "active")] == [foreign_id(root.der)]
    assert [one.id for one in world.cas(ROOT, "old")] == [before.id]
    new = issue(world.ca)
    assert verified(world, world.ca, new)
    trust = world.ca.trust
    world.acknowledgements.acknowledge(HOLDER, WEB, trust.generation, trust.active.id)
    world.advance(2 * HOUR)
    assert [one.id for one in world.cas(ROOT, "active", "old", "prepared")] == [foreign_id(root.der)]
    assert [one.state for one in world.cas("intermediate")] == ["removed", "active"]


def test_an_upstream_that_goes_back_to_its_former_root_is_followed() -> None:
    world = Online(middle=False)
    first, second = world.upstream.issuer, foreign_root(T0, Profile(name="corp root 2"))
    for issuer in (second, first):
        world.upstream.issuer = issuer
        world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
        assert [one.id for one in world.cas(ROOT, "active")] == [foreign_id(issuer.der)]
        assert verified(world, world.ca, issue(world.ca))
        world.clock.move(2 * HOUR)  # the leaf ends, and nobody is waited for


def test_a_renewed_certificate_of_the_same_upstream_key_is_another_ca_with_the_same_crl() -> None:
    world = Online(middle=False)
    world.upstream.known_crls = world.crls()
    world.ca.fetch_crls()
    renewed = foreign_root(T0, Profile(life=900 * DAY), key=world.root.key)
    world.upstream.issuer = renewed
    world.upstream.known_crls = [renewed.crl(2, since=-HOUR, until=100 * DAY)]
    world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
    assert len(world.ca.trust.roots) == 2
    assert not world.ca.trust.leaf_crl_only
    assert {world.ca.trust.crls[root.id].number for root in world.ca.trust.roots} == {2}
    assert world.ca.trust.crl_pem.count(b"BEGIN X509 CRL") == 3  # two issuing CAs, one upstream key
    assert verified(world, world.ca, issue(world.ca))


@pytest.mark.parametrize("renewed_since", [True, False])
def test_a_crl_that_would_end_every_handshake_stays_out_whichever_certificate_of_its_key_stands_above(
    renewed_since: bool,
) -> None:
    world = Online(middle=False)
    issue(world.ca)
    if renewed_since:
        world.upstream.issuer = foreign_root(T0, Profile(life=900 * DAY), key=world.root.key)
    world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
    trust = world.ca.trust
    world.acknowledgements.acknowledge(HOLDER, WEB, trust.generation, trust.active.id)
    world.advance(MINUTE)
    (active,) = world.cas(ISSUING_ROLE, "active")
    assert len(world.ca.trust.roots) == 1 + renewed_since
    serial = x509.load_der_x509_certificate(active.certificate).serial_number
    world.upstream.known_crls = [world.root.crl(2, serial, until=100 * DAY)]
    world.ca.fetch_crls()
    assert f"it revokes {active.id}" in world.ca.problems[0].reason
    assert verified(world, world.ca, issue(world.ca))


def test_a_chain_below_a_renewed_root_is_judged_by_the_crl_of_the_former_certificate() -> None:
    world = Online()
    middle = x509.load_der_x509_certificate(world.cas("intermediate")[0].certificate).serial_number
    other = world.root.below(Profile(name="corp mesh CA 2"))
    world.upstream.known_crls = [world.root.crl(2, other.certificate.serial_number, middle + 1, until=100 * DAY)]
    world.ca.fetch_crls()
    assert world.ca.problems == ()
    world.upstream.known_crls = []
    world.upstream.issuer = other
    world.upstream.above = (foreign_root(T0, Profile(life=900 * DAY), key=world.root.key),)
    with pytest.raises(UpstreamError, match="its own CA"):
        world.ca.succession.rotate(ISSUING_ROLE, "uid:0")


def test_a_renewed_root_above_an_intermediate_that_stays_takes_office_with_the_issuing_ca() -> None:
    world = Online(root=foreign_root(T0, Profile(life=40 * DAY)))
    (root,) = world.cas(ROOT)
    renewed = foreign_root(T0, Profile(life=900 * DAY), key=world.root.key)
    world.upstream.above = (renewed,)
    world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
    assert [one.id for one in world.cas(ROOT, "active")] == [foreign_id(renewed.der)]
    assert verified(world, world.ca, issue(world.ca))
    world.advance(2 * HOUR)
    assert [one.id for one in world.cas(ROOT, "removed")] == [root.id]
    world.advance(45 * DAY)
    made = len(world.ledger.authorities())
    world.advance(45 * DAY + MINUTE)
    assert len(world.ledger.authorities()) == made
    assert world.ca.problems == ()


def test_a_leaf_never_outlives_the_chain_above_its_issuing_ca() -> None:
    world = Online(root=foreign_root(T0, Profile(life=10 * DAY)), middle=False)
    (active,) = world.cas(ISSUING_ROLE)
    assert active.not_after < world.ca.trust.active.not_after
    world.clock.at = active.not_after - MINUTE
    assert issue(world.ca).certificate.not_after == active.not_after
    world.clock.at = active.not_after
    (refused,) = world.ca.issue([request(WEB)])
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, NoActiveAuthorityError)


def test_what_was_prepared_below_a_new_root_takes_it_along_when_it_is_given_up() -> None:
    world = Online(middle=False)
    issue(world.ca)
    world.upstream.issuer = foreign_root(T0, Profile(name="corp root 2"))
    prepared = world.ca.succession.rotate(ISSUING_ROLE, "uid:0")
    assert world.cas(ROOT, "prepared")
    world.upstream.failing = AWAY
    world.ca.succession.taint(prepared, "uid:0")
    assert not world.cas(ROOT, "prepared")
    assert len(world.ca.trust.roots) == 1


def test_after_the_upstreams_root_has_expired_another_is_asked_for() -> None:
    world = Online(root=foreign_root(T0, Profile(life=40 * DAY)), middle=False)
    world.clock.at = T0 + 60 * DAY
    assert world.authority(NoUpstream()).trust.signing is None
    root = foreign_root(T0, Profile(name="corp root 2"))
    world.upstream.issuer = root
    world.ca = world.authority(world.upstream)
    world.ca.start()
    assert [one.id for one in world.cas(ROOT, "active")] == [foreign_id(root.der)]
    assert verified(world, world.ca, issue(world.ca))


def test_an_upstream_whose_own_ca_ends_early_bounds_the_issuing_ca() -> None:
    world = Online(root=foreign_root(T0, Profile(life=11 * DAY)), middle=False)
    (active,) = world.cas(ISSUING_ROLE)
    assert active.not_after == T0 + 10 * DAY
    world.upstream.issuer = foreign_root(T0, Profile(name="corp root 2"))
    world.advance(5 * DAY)
    assert world.cas(ISSUING_ROLE, "prepared")


def test_the_upstreams_root_is_not_ours_to_rotate() -> None:
    with pytest.raises(InvalidInputError, match="replace it at the upstream"):
        Online().ca.succession.rotate(ROOT, "uid:0")


# --- offline


@dataclass
class Offline(Below):
    """With a root in a safe."""

    root: ForeignCa = field(default_factory=lambda: foreign_root(T0))

    def __post_init__(self) -> None:
        super().__post_init__()
        self.first = create_waiting(REALM, self.clock, self.keys, self.ledger)
        self.ca = self.authority(NoUpstream())

    def signed(self, csr: bytes, root: ForeignCa | None = None, **changes: object) -> bytes:
        read, root = x509.load_der_x509_csr(csr), root or self.root
        name = read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        profile = replace(ISSUING, **{"name": name, **changes})  # type: ignore[arg-type]
        return pem([root.sign(read.public_key(), profile).public_bytes(Encoding.DER), root.der])

    def bring(self, *crls: bytes) -> Imported:
        asked, _ = self.ca.ceremony.request("uid:0")
        return self.ca.ceremony.bring(self.signed(asked.csr), crls, "uid:0")


def test_before_the_first_chain_nothing_is_trusted_and_nothing_issued() -> None:
    world = Offline()
    world.ca.start()
    assert (world.ca.trust.authorities, world.ca.trust.signing) == ((), None)
    assert world.ca.problems == ()
    (refused,) = world.ca.issue([request(WEB)])
    assert not isinstance(refused, Issued)


def test_a_request_asks_for_an_issuing_ca_of_this_trust_domain_and_stays_the_same() -> None:
    world = Offline()
    asked, is_new = world.ca.ceremony.request("uid:0")
    assert (asked, is_new) == (world.first, False)
    csr = x509.load_der_x509_csr(asked.csr)
    assert csr.is_signature_valid
    names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://m.test"]
    assert csr.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert load_der_public_key(asked.spki) == csr.public_key()


def test_a_chain_is_activated_at_once_where_nobody_holds_a_leaf() -> None:
    world = Offline()
    imported = world.bring()
    assert imported.issuing is not None
    assert imported.issuing.id == world.first.key_id
    assert "no usable CRL" in imported.warnings[0]
    assert verified(world, world.ca, issue(world.ca))
    assert world.ca.ceremony.pending() is None
    assert [entry.action for entry in world.ledger.audit if entry.outcome == "ok"][:4] == [
        "init", "request-ca", "import-ca", "rotate",
    ]  # fmt: skip


def test_a_crl_may_come_with_the_chain_or_later() -> None:
    world = Offline()
    assert world.bring(world.root.crl(1, until=100 * DAY)).warnings == ()
    assert not world.ca.trust.leaf_crl_only
    newer = replace(world.root, now=T0 + 5 * DAY).crl(2, since=-HOUR)
    world.clock.at = T0 + 5 * DAY
    assert world.ca.ceremony.bring(b"", [newer], "uid:0") == Imported(None, ())
    assert "known already" in world.ca.ceremony.bring(b"", [newer], "uid:0").warnings[0]
    assert world.ca.trust.crls[foreign_id(world.root.der)].number == 2
    assert verified(world, world.ca, issue(world.ca))


def test_a_crl_that_was_just_made_counts_a_minute_later() -> None:
    world = Offline()
    assert "once it is a minute old" in world.bring(world.root.crl(1, since=-SECOND)).warnings[0]
    assert world.ca.trust.leaf_crl_only
    world.clock.move(MINUTE)
    assert not world.ca.publish_crls().leaf_crl_only


@pytest.mark.parametrize(
    ("crl", "words"),
    [
        (lambda root: foreign_root(T0).crl(), "no CA of the upstream"),
        (lambda root: root.crl(until=timedelta(0)), "ended at"),
        (lambda root: root.crl(since=HOUR, until=DAY), "valid from"),
        (lambda root: root.crl(None), "no CRL number"),
    ],
)
def test_a_crl_that_cannot_be_used_is_refused_with_its_chain(crl: object, words: str) -> None:
    world = Offline()
    before = world.ledger.generation()
    with pytest.raises(ForeignCrlError, match=words):
        world.bring(crl(world.root))  # type: ignore[operator]
    assert (world.ledger.generation(), world.ledger.authorities()) == (before, [])
    world.bring()


def test_a_chain_whose_issuing_ca_stands_on_its_crl_is_refused() -> None:
    world = Offline()
    chain = world.signed(world.first.csr)
    serial = x509.load_pem_x509_certificates(chain)[0].serial_number
    with pytest.raises(ForeignChainError, match="certificate 1 stands on the CRL"):
        world.ca.ceremony.bring(chain, [world.root.crl(1, serial)], "uid:0")
    assert world.ledger.authorities() == []


def test_a_chain_in_the_wrong_order_changes_nothing() -> None:
    world = Offline()
    first, last = world.signed(world.first.csr).split(b"-----END CERTIFICATE-----\n")[:2]
    end = b"-----END CERTIFICATE-----\n"
    with pytest.raises(ForeignChainError, match="wrong order"):
        world.ca.ceremony.bring(last + end + first + end, (), "uid:0")
    assert (world.ledger.generation(), world.ledger.authorities()) == (1, [])


def test_the_next_chain_waits_for_acknowledgements_and_takes_the_old_ones_place() -> None:
    world = Offline()
    world.bring()
    issue(world.ca)
    asked, is_new = world.ca.ceremony.request("uid:0")
    assert is_new
    imported = world.ca.ceremony.bring(world.signed(asked.csr), (), "uid:0")
    assert imported.issuing is not None
    assert [one.id for one in world.cas(ISSUING_ROLE, "prepared")] == [imported.issuing.id]
    with pytest.raises(ConflictError, match="waits for acknowledgements"):
        world.ca.ceremony.bring(world.signed(asked.csr), (), "uid:0")
    trust = world.ca.trust
    world.acknowledgements.acknowledge(HOLDER, WEB, trust.generation, trust.active.id)
    world.ca.succession.advance()
    assert world.ca.trust.active.id == imported.issuing.id
    with pytest.raises(ConflictError, match="no request waits"):
        world.ca.ceremony.bring(world.signed(asked.csr), (), "uid:0")


def test_at_half_life_the_operator_is_told_what_to_do_and_no_key_is_made() -> None:
    world = Offline()
    world.bring()
    world.clock.at = T0 + 60 * DAY
    world.ca.succession.settle()
    (problem,) = world.ca.problems
    assert "meshca ca csr" in problem.reason
    assert len(world.keys.signers) == 1


def test_a_self_signed_root_can_be_replaced_by_an_upstreams() -> None:
    world = Below()
    create(REALM, world.clock, CountingEntropy(), world.keys, world.ledger)
    ca = world.authority(NoUpstream())
    issue(ca)
    asked, _ = ca.ceremony.request("uid:0")
    root = foreign_root(T0)
    signed = Offline(root=root).signed(asked.csr)
    ca.ceremony.bring(signed, [root.crl(until=100 * DAY)], "uid:0")
    assert len(ca.trust.roots) == 2
    trust = ca.trust
    world.acknowledgements.acknowledge(HOLDER, WEB, trust.generation, trust.active.id)
    ca.succession.advance()
    assert [one.id for one in world.cas(ROOT, "active")] == [foreign_id(root.der)]
    assert verified(world, ca, issue(ca))


def test_a_chain_of_our_own_root_is_refused() -> None:
    world = Below()
    create(REALM, world.clock, CountingEntropy(), world.keys, world.ledger)
    ca = world.authority(NoUpstream())
    asked, _ = ca.ceremony.request("uid:0")
    (own,) = world.cas(ROOT)
    key = world.keys.signers[own.key_ref].key
    issuer = ForeignCa(key, x509.load_der_x509_certificate(own.certificate), T0)
    with pytest.raises(ForeignChainError, match="F13"):
        ca.ceremony.bring(Offline().signed(asked.csr, issuer), (), "uid:0")


def test_frozen_nothing_is_requested_or_brought() -> None:
    world = Offline()
    chain = world.signed(world.first.csr)
    world.ca.freezing.freeze("drill", "uid:0")
    with pytest.raises(FrozenError):
        world.ca.ceremony.bring(chain, (), "uid:0")
    world.ca.freezing.unfreeze("uid:0")
    world.ca.ceremony.bring(chain, (), "uid:0")
    world.ca.freezing.freeze("drill", "uid:0")
    with pytest.raises(FrozenError):
        world.ca.ceremony.request("uid:0")


def test_nothing_at_all_is_no_import() -> None:
    with pytest.raises(InvalidInputError, match="neither"):
        Offline().ca.ceremony.bring(b"", (), "uid:0")


def test_a_key_store_that_is_away_leaves_the_chain_for_later() -> None:
    world = Offline()
    chain = world.signed(world.first.csr)
    world.keys.signers[world.first.key_ref].failing = UNREACHABLE
    with pytest.raises(UnavailableError):
        world.ca.ceremony.bring(chain, (), "uid:0")
    assert world.ledger.authorities() == []
    world.keys.signers[world.first.key_ref].failing = None
    world.ca.ceremony.bring(chain, (), "uid:0")


# --- a root from files


def brought(life: timedelta = 365 * DAY) -> tuple[Below, Authority]:
    world = Below()
    root = foreign_root(T0, Profile(life=life))
    realm, keys = replace(REALM, root_certificate=root.der), _Bringing(world.keys, root.key)
    create(realm, world.clock, CountingEntropy(), keys, world.ledger)
    return world, world.authority(NoUpstream())


class _Bringing(FakeKeys):
    """Gives the brought key to the first root."""

    def __init__(self, keys: FakeKeys, key: object) -> None:
        super().__init__(keys.signers)
        self._key = key

    def create(self, role: Role, trust_domain: object, generation: int):  # type: ignore[no-untyped-def]
        signer = super().create(role, TRUST_DOMAIN, generation)
        if role == ROOT:
            del self.signers[signer.key_id]
            signer.key = self._key  # type: ignore[assignment]
            self.signers[signer.key_id] = signer
        return signer


def test_a_brought_root_signs_and_is_rotated_by_command_only() -> None:
    world, ca = brought()
    assert verified(world, ca, issue(ca))
    assert not ca.trust.leaf_crl_only
    world.clock.at = T0 + 200 * DAY
    ca.succession.settle()
    ca.succession.settle()
    assert len(world.cas(ROOT)) == 1
    successor = ca.succession.rotate(ROOT, "uid:0")
    assert [one.id for one in world.cas(ROOT, "active")] == [successor]
    assert verified(world, ca, issue(ca))


def test_a_brought_root_that_is_not_to_be_used_makes_no_realm() -> None:
    with pytest.raises(ForeignChainError, match="F10"):
        brought(life=60 * DAY)
