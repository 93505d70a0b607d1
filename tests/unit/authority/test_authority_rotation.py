"""Rotation by ticks and commands, with the clock in hand: who is waited for, how long, and what follows what."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cryptography import x509
from fakes.ca import LIVES, T0, UNREACHABLE, World, node, request

from meshca.authority.authority import Settings
from meshca.authority.crls import serials_on
from meshca.authority.events import TrustChanged
from meshca.authority.lifetimes import Lifetimes
from meshca.authority.records import ISSUING, ROOT, AuthorityRecord, AuthorityState, Role
from meshca.authority.requests import Issued, Refused
from meshca.authority.trust import NoActiveAuthorityError
from meshca.errors import ConflictError, NotFoundError
from meshca.x509.chain import ChainError, verify_svid

WEB = node("web")
HOLDER = "stream:42"
SHORT = Lifetimes(root=timedelta(seconds=60), issuing=timedelta(seconds=20), leaf=timedelta(seconds=6))
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)


def cas(world: World, role: Role, state: AuthorityState) -> list[AuthorityRecord]:
    return [record for record in world.ledger.authorities() if (record.role, record.state) == (role, state)]


def one(world: World, role: Role, state: AuthorityState) -> AuthorityRecord:
    (record,) = cas(world, role, state)
    return record


def states(world: World, role: Role) -> list[str]:
    return [record.state for record in world.ledger.authorities() if record.role == role]


def issue(world: World, holder: str = HOLDER) -> Issued:
    (issued,) = world.authority.issue([request(WEB)])
    assert isinstance(issued, Issued)
    return issued


def acknowledge(world: World, holder: str = HOLDER) -> None:
    """Put the newest trust and a leaf of the active CA in force."""
    trust = world.authority.trust
    world.acknowledgements.acknowledge(holder, WEB, trust.generation, trust.active.id)


def advance(world: World, to: datetime | None = None) -> None:
    if to is not None:
        world.clock.at = to
    world.authority.succession.advance()


def test_nothing_moves_before_half_life() -> None:
    world = World()
    advance(world, T0 + 15 * DAY - SECOND)
    assert (states(world, ROOT), states(world, ISSUING)) == (["active"], ["active"])
    assert world.ledger.generation() == 1


def test_at_half_life_a_successor_is_prepared_with_its_crl_and_signs_nothing() -> None:
    world = World()
    before = world.authority.trust.active
    advance(world, T0 + 15 * DAY)
    prepared = one(world, ISSUING, "prepared")
    trust = world.authority.trust
    assert (trust.generation, prepared.generation, trust.active) == (2, 2, before)
    assert prepared.id in trust.crls
    assert prepared.activate_at == T0 + 25 * DAY  # 5/6, which is earlier than one leaf's life before the end
    assert prepared.parent_id == world.created.root.id


def test_activation_is_due_one_child_life_before_the_end_where_that_is_earlier() -> None:
    world = World(lives=Lifetimes(root=30 * DAY, issuing=10 * DAY, leaf=HOUR))
    advance(world, T0 + 15 * DAY)
    assert one(world, ROOT, "prepared").activate_at == T0 + 20 * DAY


def test_activation_waits_for_every_holder_of_an_unexpired_leaf() -> None:
    world = World()
    advance(world, T0 + 15 * DAY)
    world.clock.at = T0 + 25 * DAY - SECOND
    issue(world)
    acknowledge(world)
    advance(world)
    assert cas(world, ISSUING, "prepared")  # acknowledged, but not due
    advance(world, T0 + 25 * DAY)
    assert (states(world, ISSUING)) == ["old", "active"]


def test_one_who_has_not_acknowledged_is_waited_for_and_named() -> None:
    world = World()
    advance(world, T0 + 15 * DAY)
    world.clock.at = T0 + 25 * DAY
    issue(world)
    advance(world)
    prepared = one(world, ISSUING, "prepared")
    progress = world.authority.succession.progress(prepared.id)
    assert [str(found) for found in progress.waiting_for] == [f"{WEB} {HOLDER}"]
    assert progress.deadline == T0 + 27.5 * DAY
    assert progress.holders == 1
    acknowledge(world)
    advance(world)
    assert one(world, ISSUING, "active").id == prepared.id


def test_an_acknowledgement_of_older_trust_does_not_count() -> None:
    world = World()
    acknowledge(world)
    advance(world, T0 + 15 * DAY)
    world.clock.at = T0 + 25 * DAY
    issue(world)
    advance(world)
    assert cas(world, ISSUING, "prepared")


def test_after_the_deadline_it_goes_on_and_names_who_was_left_behind_until_it_has_caught_up() -> None:
    world = World()
    advance(world, T0 + 15 * DAY)
    world.clock.at = T0 + 27.5 * DAY
    issue(world)
    advance(world)
    assert states(world, ISSUING) == ["old", "active"]
    (problem,) = world.authority.problems
    assert f"{WEB} {HOLDER}" in problem.reason
    activated = next(entry.reason for entry in world.ledger.audit if "activated" in entry.reason)
    assert f"without {WEB} {HOLDER}" in activated
    assert "issuing CA old, together with" in world.ledger.audit[-1].reason
    acknowledge(world)
    advance(world)
    assert world.authority.problems == ()


def test_the_deadline_can_be_configured() -> None:
    world = World(settings=Settings(ack_deadline=HOUR))
    advance(world, T0 + 15 * DAY)
    world.clock.at = T0 + 25 * DAY + HOUR - SECOND
    issue(world)
    advance(world)
    assert cas(world, ISSUING, "prepared")
    advance(world, T0 + 25 * DAY + HOUR)
    assert not cas(world, ISSUING, "prepared")


@pytest.mark.parametrize("holder", ["issue", "drop-once:/etc/ssl/web"])
def test_holders_of_one_off_files_are_not_waited_for(holder: str) -> None:
    world = World()
    advance(world, T0 + 15 * DAY)
    world.clock.at = T0 + 25 * DAY
    world.authority.issue([request(WEB, holder=holder)])
    advance(world)
    assert states(world, ISSUING) == ["old", "active"]


def test_new_leaves_come_from_the_new_ca_and_old_ones_stay_valid() -> None:
    world = World()
    world.clock.at = T0 + 25 * DAY - HOUR / 2
    old = issue(world)
    advance(world)
    acknowledge(world)
    advance(world, T0 + 25 * DAY)
    new, trust = issue(world), world.authority.trust
    for issued in (old, new):
        issuing = [issuer.certificate for issuer in trust.issuing]
        roots = [issuer.certificate for issuer in trust.roots]
        crls = [crl.der for crl in trust.crls.values()]
        assert verify_svid(issued.certificate.der, issuing, roots, crls, world.clock.now()) == WEB
    assert old.certificate.issuer_id != new.certificate.issuer_id


def test_the_old_ca_goes_a_minute_after_its_last_leaf_once_its_holders_have_another() -> None:
    world = World()
    world.clock.at = T0 + 25 * DAY - HOUR / 2
    issue(world)
    advance(world)
    acknowledge(world)
    advance(world, T0 + 25 * DAY)
    old = one(world, ISSUING, "old")
    last = T0 + 25 * DAY + HOUR / 2
    issue(world)
    acknowledge(world)
    advance(world, last + 60 * SECOND - SECOND)
    assert cas(world, ISSUING, "old")
    advance(world, last + 60 * SECOND)
    assert not cas(world, ISSUING, "old")
    assert old.id not in world.authority.trust.crls


def test_the_old_ca_stays_while_a_holder_has_only_acknowledged_its_leaf() -> None:
    world = World()
    world.clock.at = T0 + 25 * DAY - HOUR / 2
    issue(world)
    advance(world)
    acknowledge(world)
    advance(world, T0 + 25 * DAY)
    advance(world, T0 + 25 * DAY + 2 * HOUR)  # the old leaf has expired, and nobody holds another
    assert not cas(world, ISSUING, "old")
    world = World()
    world.clock.at = T0 + 25 * DAY - HOUR / 2
    issue(world)
    advance(world)
    acknowledge(world)
    advance(world, T0 + 25 * DAY)
    world.clock.at = T0 + 25 * DAY + 2 * HOUR
    issue(world)  # sent, never acknowledged
    advance(world)
    assert cas(world, ISSUING, "old")


def test_a_new_root_is_followed_by_an_issuing_ca_below_it() -> None:
    world = World()
    root = world.authority.succession.rotate(ROOT, "uid:0")
    assert one(world, ROOT, "active").id == root  # nobody holds a leaf, so nobody is waited for
    assert one(world, ISSUING, "active").parent_id == root
    bundle = [issuer.id for issuer in world.authority.trust.roots]
    assert bundle == [world.created.root.id, root]


def test_the_old_root_goes_with_the_last_ca_below_it() -> None:
    world = World()
    root = world.authority.succession.rotate(ROOT, "uid:0")
    world.clock.move(timedelta(seconds=61))
    world.authority.succession.settle()
    assert [issuer.id for issuer in world.authority.trust.roots] == [root]
    assert (states(world, ROOT), states(world, ISSUING)) == (["removed", "active"], ["removed", "active"])


def test_a_commanded_rotation_waits_for_acknowledgements_too() -> None:
    world = World()
    issue(world)
    prepared = world.authority.succession.rotate(ISSUING, "uid:0")
    assert one(world, ISSUING, "prepared").id == prepared
    acknowledge(world)
    advance(world)
    assert one(world, ISSUING, "active").id == prepared


def test_a_command_hastens_what_is_prepared_already() -> None:
    world = World()
    advance(world, T0 + 15 * DAY)
    prepared = one(world, ISSUING, "prepared").id
    assert world.authority.succession.rotate(ISSUING, "uid:0") == prepared
    assert one(world, ISSUING, "active").id == prepared


def test_a_root_that_was_replaced_takes_what_was_prepared_below_it_along() -> None:
    world = World()
    advance(world, T0 + 15 * DAY)
    prepared = one(world, ISSUING, "prepared").id
    world.authority.succession.rotate(ROOT, "uid:0")
    assert world.ledger.authorities()[-1].parent_id == one(world, ROOT, "active").id
    assert next(record for record in world.ledger.authorities() if record.id == prepared).state == "removed"


def test_a_tainted_ca_is_replaced_and_refused_as_soon_as_its_holders_have_another_leaf() -> None:
    world = World()
    leaf = issue(world)
    acknowledge(world)
    stolen = one(world, ISSUING, "active").id
    assert world.authority.succession.taint(stolen, "uid:0") == (stolen,)
    assert stolen in world.authority.trust.tainted
    acknowledge_trust_only(world)
    advance(world)
    assert one(world, ISSUING, "old").id == stolen  # its leaf still serves
    issue(world)
    acknowledge(world)
    advance(world)
    assert not cas(world, ISSUING, "old")
    trust = world.authority.trust
    ca = next(record for record in world.ledger.authorities() if record.id == stolen)
    with pytest.raises(ChainError):
        verify_svid(
            leaf.certificate.der,
            [ca.certificate],
            [issuer.certificate for issuer in trust.roots],
            [crl.der for crl in trust.crls.values()],
            world.clock.now(),
        )
    assert len(trust.crls[world.created.root.id].der) > len(world.created.root.id)
    assert serials_on_the_roots_crl(world) == {serial_of(ca)}


def test_a_roots_key_that_is_away_after_a_taint_keeps_no_revocation_from_envoys() -> None:
    world = World()
    issue(world)
    acknowledge(world)
    world.authority.succession.taint(one(world, ISSUING, "active").id, "uid:0")
    acknowledge_trust_only(world)
    advance(world)
    assert cas(world, ISSUING, "old")
    issue(world)
    acknowledge(world)
    world.root_signer.failing = UNREACHABLE
    advance(world)
    assert not cas(world, ISSUING, "old")
    serial = issue(world).certificate.serial
    world.authority.revoke(serial, "keyCompromise", "uid:0")
    trust = world.authority.publish_crls()
    assert serials_on(trust.crls[trust.active.id].der) == {int(serial, 16)}
    assert [problem.reason for problem in world.authority.problems] == [str(UNREACHABLE)]
    world.root_signer.failing = None
    world.authority.publish_crls()
    assert len(serials_on_the_roots_crl(world)) == 1
    assert world.authority.problems == ()


def test_a_replica_that_has_not_heard_of_a_taint_yet_issues_nothing_under_the_ca() -> None:
    world = World()
    replica = world.authority
    stolen = one(world, ISSUING, "active").id
    world.restarted().succession.taint(stolen, "uid:0")
    assert replica.trust.active.id == stolen
    (refused,) = replica.issue([request(WEB)])
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, NoActiveAuthorityError)
    replica.publish_crls()
    assert isinstance(replica.issue([request(WEB)])[0], Issued)


def test_a_tainted_ca_goes_after_half_a_leafs_life_whoever_is_missing() -> None:
    world = World()
    issue(world)
    acknowledge(world)
    stolen = one(world, ISSUING, "active").id
    world.authority.succession.taint(stolen, "uid:0")
    world.clock.move(HOUR / 2)
    world.authority.succession.settle()
    assert one(world, ISSUING, "old").id == stolen
    world.clock.move(HOUR / 2 - SECOND)
    issue(world)
    world.clock.move(SECOND)
    world.authority.succession.settle()
    assert not cas(world, ISSUING, "old")


def test_a_tainted_root_takes_its_cas_along() -> None:
    world = World()
    root, issuing = world.created.root.id, world.created.issuing.id
    assert set(world.authority.succession.taint(root, "uid:0")) == {root, issuing}
    assert root not in {issuer.id for issuer in world.authority.trust.roots}
    assert one(world, ISSUING, "active").parent_id == one(world, ROOT, "active").id != root


def test_tainting_twice_or_what_is_not_there_is_refused() -> None:
    world = World()
    issue(world)
    stolen = one(world, ISSUING, "active").id
    world.authority.succession.taint(stolen, "uid:0")
    with pytest.raises(ConflictError):
        world.authority.succession.taint(stolen, "uid:0")
    with pytest.raises(NotFoundError):
        world.authority.succession.taint("ff" * 10, "uid:0")


def test_a_step_that_fails_changes_nothing_and_is_tried_again_later_each_time() -> None:
    world = World()
    world.root_signer.failing = UNREACHABLE
    keys = len(world.keys.signers)
    advance(world, T0 + 15 * DAY)
    advance(world)
    assert len(world.keys.signers) == keys + 1  # one attempt
    assert [problem.what for problem in world.authority.problems] == ["rotation of the issuing CA"]
    world.root_signer.failing = None
    advance(world, T0 + 15 * DAY + SECOND)
    assert cas(world, ISSUING, "prepared")
    assert world.authority.problems == ()


def test_a_step_of_the_clock_moves_each_slot_by_one_step() -> None:
    world = World()
    advance(world, T0 + 29 * DAY)
    assert (states(world, ROOT), states(world, ISSUING)) == (["active"], ["active", "prepared"])


def test_an_expired_issuing_ca_is_replaced_at_start_and_what_was_lost_is_said() -> None:
    world = World()
    issue(world)
    world.clock.at = T0 + 31 * DAY
    assert world.restarted().trust.signing is None
    world.authority.start()
    assert one(world, ISSUING, "active").id == world.authority.trust.active.id
    issue(world)
    lost = [entry.reason for entry in world.ledger.audit if entry.action == "recover"]
    assert lost == [
        f"issuing CA {world.created.issuing.id} expired on 2026-12-25T12:00:00+00:00: another is made now",
        "no valid certificate is left of 1 identities: each gets one as soon as it connects",
    ]


def test_an_expired_root_is_replaced_by_command_only() -> None:
    world = World()
    world.clock.at = T0 + LIVES.root + DAY
    world.restarted().start()
    assert world.authority.trust.signing is None
    (problem,) = [found for found in world.authority.problems if "root" in found.what]
    assert "meshca rotate root" in problem.reason
    root = world.authority.succession.rotate(ROOT, "uid:0")
    assert [issuer.id for issuer in world.authority.trust.roots] == [root]
    issue(world)


def test_five_minutes_of_short_lives() -> None:
    """A mesh in which everything rotates: nobody is ever given a leaf that somebody with a leaf does not trust."""
    world = World(lives=SHORT)
    known: dict[str, frozenset[str]] = {}  # what each holder has acknowledged: the CAs it trusts
    held: dict[str, tuple[str, datetime]] = {}
    for tick in range(600):
        world.clock.at = T0 + tick * SECOND / 2
        world.authority.publish_crls()
        advance(world)
        trust = world.authority.trust
        for name in ("a", "b"):
            holder = f"stream:{name}"
            issuer, renew_at = held.get(name, ("", T0))
            if world.clock.at >= renew_at:
                (issued,) = world.authority.issue([request(WEB, holder=holder)])
                assert isinstance(issued, Issued)
                issuer = issued.certificate.issuer_id
                held[name] = (issuer, world.clock.at + 3 * SECOND)
                others = [known[other] for other in known if other != name]
                assert all(issuer in trusted for trusted in others)
            known[name] = frozenset(trust.crls)
            world.acknowledgements.acknowledge(holder, WEB, trust.generation, issuer)
            assert issuer in known[name]
    roots = sum(record.role == ROOT for record in world.ledger.authorities())
    issuing = sum(record.role == ISSUING for record in world.ledger.authorities())
    assert roots >= 5
    assert issuing >= 13
    generations = [event.trust.generation for event in world.events if isinstance(event, TrustChanged)]
    assert generations == sorted(set(generations))


def acknowledge_trust_only(world: World) -> None:
    world.acknowledgements.acknowledge(HOLDER, WEB, world.authority.trust.generation)


def serial_of(record: AuthorityRecord) -> int:
    return x509.load_der_x509_certificate(record.certificate).serial_number


def serials_on_the_roots_crl(world: World) -> set[int]:
    return set(serials_on(world.authority.trust.crls[world.created.root.id].der))
