from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from fakes.ca import LIVES, T0, TRUST_DOMAIN, UNREACHABLE, CountingEntropy, FakeClock, FakeKeys, FakeSigner, World
from fakes.ledger import InMemoryLedger

from meshca.authority.audit import INIT
from meshca.authority.create import NewRealm, RealmExistsError, create
from meshca.authority.ports import KeyUnavailableError
from meshca.authority.records import Realm, Role
from meshca.spiffe.id import TrustDomain


def test_root_and_issuing_ca_are_what_the_design_says() -> None:
    world = World()
    root = x509.load_der_x509_certificate(world.created.root.certificate)
    issuing = x509.load_der_x509_certificate(world.created.issuing.certificate)
    issuing.verify_directly_issued_by(root)
    constraints = [c.extensions.get_extension_for_class(x509.BasicConstraints).value for c in (root, issuing)]
    assert [(value.ca, value.path_length) for value in constraints] == [(True, 1), (True, 0)]
    assert root.not_valid_after_utc == T0 + LIVES.root
    assert issuing.not_valid_after_utc == T0 + LIVES.issuing


def test_the_realm_is_written_with_its_cas() -> None:
    world = World()
    assert world.ledger.realm() == Realm(TRUST_DOMAIN, LIVES, T0)
    assert {(record.role, record.state, record.generation) for record in world.ledger.authorities()} == {
        ("root", "active", 1),
        ("issuing", "active", 1),
    }
    assert world.created.issuing.parent_id == world.created.root.id == world.created.root.parent_id
    assert [entry.action for entry in world.ledger.audit] == [INIT]


def test_a_second_init_refuses_before_it_makes_a_key() -> None:
    world = World()
    signers, records = dict(world.keys.signers), world.ledger.authorities()
    with pytest.raises(RealmExistsError, match=r"m\.test"):
        create(NewRealm(TrustDomain("other.test")), world.clock, world.entropy, world.keys, world.ledger)
    assert (world.keys.signers, world.ledger.authorities()) == (signers, records)


def test_a_key_that_cannot_be_kept_leaves_the_ledger_empty() -> None:
    ledger = InMemoryLedger()

    class Broken(FakeKeys):
        def create(self, role: Role, trust_domain: TrustDomain, generation: int) -> FakeSigner:
            raise UNREACHABLE

    with pytest.raises(KeyUnavailableError):
        create(NewRealm(TRUST_DOMAIN), FakeClock(), CountingEntropy(), Broken(), ledger)
    assert (ledger.realm(), ledger.authorities(), ledger.generation()) == (None, [], 0)


def test_a_name_constraint_only_where_asked_for() -> None:
    ledger = InMemoryLedger()
    new = NewRealm(TRUST_DOMAIN, name_constraint=True)
    made = create(new, FakeClock(), CountingEntropy(), FakeKeys(), ledger)
    constrained = x509.load_der_x509_certificate(made.root.certificate)
    plain = x509.load_der_x509_certificate(World().created.root.certificate)
    assert constrained.extensions.get_extension_for_class(x509.NameConstraints)
    with pytest.raises(x509.ExtensionNotFound):
        plain.extensions.get_extension_for_class(x509.NameConstraints)


def test_times_with_a_fraction_of_a_second_are_fine() -> None:
    clock = FakeClock(T0 + timedelta(microseconds=123_456))
    made = create(NewRealm(TRUST_DOMAIN), clock, CountingEntropy(), FakeKeys(), InMemoryLedger())
    assert made.realm.created_at == clock.at
