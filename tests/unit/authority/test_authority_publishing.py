from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from fakes.ca import LIVES, T0, TRUST_DOMAIN, UNREACHABLE, World, node, request

from meshca.authority.audit import FAILED, PUBLISH_CRL, ROTATE
from meshca.authority.certify import CaWish, certify
from meshca.authority.events import TrustAlarm, TrustChanged
from meshca.authority.ports import KeyUnavailableError
from meshca.authority.profiles import profiles_in_force
from meshca.authority.publishing import listed_since
from meshca.authority.records import AuthorityRecord, AuthorityState
from meshca.authority.requests import Issued, Refused
from meshca.authority.trust import NoActiveAuthorityError, Trust, UnsoundTrustError
from meshca.errors import ConflictError, UnavailableError
from meshca.x509.crl import Crl

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def issue(world: World, name: str = "web") -> str:
    (answer,) = world.authority.issue([request(name)])
    assert isinstance(answer, Issued)
    return answer.certificate.serial


def revoke(world: World, name: str = "web") -> str:
    serial = issue(world, name)
    world.authority.revoke(serial, "keyCompromise", "root")
    return serial


def listed(trust: Trust) -> list[str]:
    crl = x509.load_der_x509_crl(trust.crls[trust.active.id].der)
    return sorted(f"{entry.serial_number:x}".zfill(38) for entry in crl)


def changes(world: World) -> list[TrustChanged]:
    return [event for event in world.events if isinstance(event, TrustChanged)]


def test_a_new_realm_has_a_sound_trust_with_an_empty_crl_of_each_ca() -> None:
    world = World()
    trust = world.authority.trust
    trust.require_sound(T0)
    assert trust.generation == 1
    assert {(crl.number, crl.this_update) for crl in trust.crls.values()} == {(1, T0 - 5 * MINUTE)}
    assert trust.crls[trust.active.id].next_update == trust.active.not_after
    assert set(trust.crls) == {world.created.root.id, world.created.issuing.id}
    assert listed(trust) == []


def test_a_revocation_is_on_the_next_crl_of_its_ca_only() -> None:
    world = World()
    serial = revoke(world)
    trust = world.authority.publish_crls()
    assert listed(trust) == [serial]
    assert (trust.generation, trust.crl_number) == (2, 2)
    assert trust.crls[world.created.root.id].number == 1
    assert changes(world) == [TrustChanged(trust, frozenset([serial]))]
    assert world.authority.trust is trust
    assert trust.crl_pem.count(b"BEGIN X509 CRL") == 2


def test_an_entry_says_when_and_why() -> None:
    world = World()
    serial = issue(world)
    world.clock.move(7 * MINUTE)
    world.authority.revoke(serial, "superseded", "root")
    trust = world.authority.publish_crls()
    (entry,) = x509.load_der_x509_crl(trust.crls[trust.active.id].der)
    assert entry.revocation_date_utc == T0 + 7 * MINUTE
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.superseded


def test_revocations_that_came_close_together_share_one_crl() -> None:
    world = World()
    serials = [revoke(world, f"n{number}") for number in range(5)]
    world.authority.publish_crls()
    world.authority.publish_crls()
    assert [(event.trust.crl_number, event.listed) for event in changes(world)] == [(2, frozenset(serials))]


def test_with_nothing_revoked_nothing_is_made() -> None:
    world = World()
    audit = list(world.ledger.audit)
    world.authority.publish_crls()
    assert (world.ledger.audit, world.events, world.ledger.generation()) == (audit, [], 1)


def test_an_entry_that_expired_pushes_nothing_and_stays_on_one_crl_past_its_expiry() -> None:
    world = World()
    first = revoke(world)
    world.authority.publish_crls()
    world.clock.move(HOUR + 6 * MINUTE)
    assert world.authority.publish_crls().crl_number == 2
    second = revoke(world)
    assert listed(world.authority.publish_crls()) == sorted([first, second])
    third = revoke(world)
    assert listed(world.authority.publish_crls()) == sorted([second, third])


def test_an_entry_is_kept_while_this_update_lies_before_its_expiry() -> None:
    world = World()
    first = revoke(world)
    world.clock.move(HOUR + 4 * MINUTE)
    revoke(world)
    world.authority.publish_crls()
    world.clock.move(2 * MINUTE)
    revoke(world)
    assert first in listed(world.authority.publish_crls())


def test_each_crl_is_audited() -> None:
    world = World()
    revoke(world)
    trust = world.authority.publish_crls()
    entry = world.ledger.audit[-1]
    assert (entry.action, entry.subject, entry.reason) == (PUBLISH_CRL, trust.active.id, "number 2, trust generation 2")


def test_a_crl_that_cannot_be_signed_changes_nothing_and_raises_an_alarm_once() -> None:
    world = World()
    revoke(world)
    before = world.authority.trust
    world.issuing_signer.failing = UNREACHABLE
    for _ in range(2):
        with pytest.raises(KeyUnavailableError):
            world.authority.publish_crls()
    assert world.authority.trust is before
    assert changes(world) == []
    assert [event.problem for event in world.events if isinstance(event, TrustAlarm)] == list(world.authority.problems)
    assert (world.authority.problems[0].since, world.ledger.generation()) == (T0, 1)


def test_the_alarm_is_over_once_a_crl_is_out() -> None:
    world = World()
    serial = revoke(world)
    world.issuing_signer.failing = UNREACHABLE
    with pytest.raises(KeyUnavailableError):
        world.authority.publish_crls()
    world.issuing_signer.failing = None
    assert listed(world.authority.publish_crls()) == [serial]
    assert world.authority.problems == ()


def test_a_crl_signed_by_another_key_is_never_stored() -> None:
    world = World()
    revoke(world)
    world.issuing_signer.key = world.root_signer.key
    with pytest.raises(Exception, match="signature"):
        world.authority.publish_crls()
    assert (world.ledger.generation(), changes(world)) == (1, [])
    assert len(world.authority.problems) == 1


def test_a_start_publishes_what_a_crash_left_unpublished() -> None:
    world = World()
    serial = revoke(world)
    authority = world.restarted()
    assert authority.start() == ()
    assert listed(authority.trust) == [serial]


def test_a_start_whose_publication_fails_goes_on_with_the_stored_trust() -> None:
    world = World()
    revoke(world)
    world.issuing_signer.failing = UNREACHABLE
    authority = world.restarted()
    authority.start()
    assert authority.trust.generation == 1
    assert len(authority.problems) == 1


def test_a_lost_race_goes_on_from_what_the_other_stored() -> None:
    world = World()
    serial = revoke(world)
    other = World.restarted(replace_authority(world))
    store, races = world.ledger.store_crls, iter([True, False])

    def raced(*arguments: object) -> None:
        if next(races):
            world.ledger.store_crls = store  # type: ignore[method-assign]
            other.publish_crls()
            raise ConflictError("not a higher CRL number")
        store(*arguments)  # type: ignore[arg-type]

    mine = World.restarted(world)
    world.ledger.store_crls = raced  # type: ignore[method-assign, assignment]
    trust = mine.publish_crls()
    assert (listed(trust), trust.generation) == ([serial], 2)
    assert world.events[-1] == TrustChanged(trust, frozenset([serial]))


def replace_authority(world: World) -> World:
    """Return a view on the same ledger whose events go nowhere."""
    view = World.__new__(World)
    vars(view).update(vars(world), events=[])
    return view


def test_a_crl_of_another_process_is_taken_up() -> None:
    world = World()
    mine = world.authority
    serial = revoke(world)
    other = replace_authority(world).restarted()
    other.publish_crls()
    trust = mine.publish_crls()
    assert (trust.generation, listed(trust)) == (2, [serial])
    assert changes(world) == [TrustChanged(trust, frozenset([serial]))]


def with_a_second_issuing_ca(world: World) -> AuthorityRecord:
    """Let another issuing CA take over, as a rotation would."""
    signer = world.keys.create("issuing", TRUST_DOMAIN, 2)
    wish = CaWish("issuing", profiles_in_force(LIVES)["issuing"], TRUST_DOMAIN, 2, world.clock.now())
    made = certify(wish, signer, world.created.root, world.root_signer, world.entropy)
    world.ledger.put_authority(replace(world.created.issuing, state="old"))
    world.ledger.put_authority(replace(made, state="active"))
    return made


def test_a_new_ca_comes_with_an_empty_crl_and_the_old_one_keeps_its_own() -> None:
    world = World()
    serial = revoke(world)
    made = with_a_second_issuing_ca(world)
    trust = world.authority.publish_crls()
    trust.require_sound(T0)
    assert [issuer.id for issuer in trust.issuing] == [world.created.issuing.id, made.id]
    assert (trust.active.id, trust.active_record.key_ref, listed(trust)) == (made.id, made.key_ref, [])
    assert {ca_id: crl.number for ca_id, crl in trust.crls.items()} == {
        world.created.root.id: 1,
        world.created.issuing.id: 2,
        made.id: 1,
    }
    assert changes(world) == [TrustChanged(trust, frozenset([serial]))]
    (answer,) = world.authority.issue([request()])
    assert isinstance(answer, Issued)
    assert answer.certificate.issuer_id == made.id


def test_a_revocation_under_an_old_ca_is_on_that_cas_crl() -> None:
    world = World()
    serial = issue(world)
    with_a_second_issuing_ca(world)
    world.authority.publish_crls()
    world.authority.revoke(serial, "keyCompromise", "root")
    trust = world.authority.publish_crls()
    old = x509.load_der_x509_crl(trust.crls[world.created.issuing.id].der)
    assert [entry.serial_number for entry in old] == [int(serial, 16)]
    assert listed(trust) == []


def test_an_old_ca_that_expired_leaves_under_a_new_generation_without_a_new_crl() -> None:
    world = World()
    world.clock.move(LIVES.issuing / 2)
    made = with_a_second_issuing_ca(world)
    world.authority.publish_crls()
    world.clock.at = world.created.issuing.not_after
    trust = world.authority.publish_crls()
    assert ([issuer.id for issuer in trust.issuing], trust.generation, trust.crl_number) == ([made.id], 3, 1)
    assert (world.ledger.audit[-1].action, world.ledger.audit[-1].subject) == (ROTATE, "trust")
    assert world.authority.publish_crls().generation == 3


@pytest.mark.parametrize("state", ["old", "prepared", "removed"])
def test_without_an_active_issuing_ca_trust_goes_on_and_nothing_is_issued(state: AuthorityState) -> None:
    world = World()
    world.ledger.put_authority(replace(world.created.issuing, state=state))
    trust = world.restarted().publish_crls()
    trust.require_sound(T0)
    assert (trust.signing, trust.crl_number) == (None, 0)
    (answer,) = world.authority.issue([request()])
    assert isinstance(answer, Refused)
    assert isinstance(answer.error, NoActiveAuthorityError)


def test_a_failure_is_audited_where_the_ledger_can() -> None:
    world = World()
    revoke(world)
    world.issuing_signer.failing = UNREACHABLE
    with pytest.raises(KeyUnavailableError):
        world.authority.publish_crls()
    entry = world.ledger.audit[-1]
    assert (entry.action, entry.outcome, entry.reason) == (PUBLISH_CRL, FAILED, str(UNREACHABLE))


def test_a_ledger_that_cannot_audit_a_failure_does_not_hide_it() -> None:
    world = World()

    def broken(*_: object) -> None:
        raise UnavailableError("the disk is full")

    revoke(world)
    world.ledger.store_crls = world.ledger.record_audit = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError, match="disk is full"):
        world.authority.publish_crls()
    assert isinstance(world.events[-1], TrustAlarm)


def test_a_full_disk_leaves_the_old_trust() -> None:
    world = World()
    revoke(world)

    def full_disk(*_: object) -> None:
        raise UnavailableError("the disk is full")

    world.ledger.store_crls = full_disk  # type: ignore[method-assign, assignment]
    with pytest.raises(UnavailableError):
        world.authority.publish_crls()
    assert (world.authority.trust.generation, changes(world)) == (1, [])


def crls_with(world: World, **change: object) -> Mapping[str, Crl]:
    trust = world.authority.trust
    crl = trust.crls[trust.active.id]
    return {**trust.crls, crl.issuer_id: replace(crl, **change)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param({"this_update": T0 + MINUTE}, "is in the future", id="future"),
        pytest.param({"next_update": T0}, "has passed", id="expired"),
        pytest.param({"number": 2}, "says number 1, not 2", id="number"),
        pytest.param({"der": b"junk"}, "cannot be read", id="junk"),
        pytest.param({"this_update": T0 - HOUR}, "says other times", id="times"),
    ],
)
def test_each_unsound_crl_is_named(change: dict[str, object], fault: str) -> None:
    world = World()
    with pytest.raises(UnsoundTrustError, match=fault):
        replace(world.authority.trust, crls=crls_with(world, **change)).require_sound(T0)


def test_a_missing_crl_is_unsound() -> None:
    world = World()
    trust = world.authority.trust
    crls = {trust.active.id: trust.crls[trust.active.id]}
    with pytest.raises(UnsoundTrustError, match=f"no CRL of CA {world.created.root.id}"):
        replace(trust, crls=crls).require_sound(T0)


def test_a_crl_of_another_ca_is_unsound() -> None:
    world, other = World(), World()
    trust, foreign = world.authority.trust, other.authority.trust
    crls = {**trust.crls, trust.active.id: foreign.crls[foreign.active.id]}
    with pytest.raises(UnsoundTrustError, match=r"issued by another name.*signature is not the CA's"):
        replace(trust, crls=crls).require_sound(T0)


def test_a_stray_crl_is_unsound() -> None:
    world, other = World(), World()
    with pytest.raises(UnsoundTrustError, match="belongs to no CA in use"):
        replace(world.authority.trust, crls={**world.authority.trust.crls, **other.authority.trust.crls}).require_sound(
            T0
        )


def test_a_number_that_does_not_grow_is_unsound() -> None:
    world = World()
    older = world.authority.trust
    revoke(world)
    newer = world.authority.publish_crls()
    newer.require_sound(T0, after=older.crls)
    with pytest.raises(UnsoundTrustError, match="number 1 is not above 2"):
        older.require_sound(T0, after=newer.crls)


@pytest.mark.parametrize("at", [T0 - 6 * MINUTE, T0 + timedelta(days=31)])
def test_soundness_is_a_matter_of_time(at: datetime) -> None:
    with pytest.raises(UnsoundTrustError):
        World().authority.trust.require_sound(at)


def test_a_damaged_crl_in_the_ledger_is_replaced_by_a_higher_one() -> None:
    world = World()
    crls = world.ledger.crls[world.created.issuing.id]
    crls[-1] = replace(crls[-1], der=b"junk")
    trust = world.authority.publish_crls()
    assert (trust.crl_number, listed(trust)) == (2, [])
    trust.require_sound(T0)


def test_the_first_trust_lists_nothing_new() -> None:
    world = World()
    revoke(world)
    assert listed_since(None, world.authority.publish_crls()) == frozenset()


def test_nobody_is_listed_twice() -> None:
    world = World()
    first = revoke(world)
    world.authority.publish_crls()
    world.authority.suspend(node("web"), "keyCompromise", "root")
    assert listed(world.authority.publish_crls()) == [first]
