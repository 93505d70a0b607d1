"""The ledger on both databases: what is written can be read, and every rule of the port holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from store_examples import (
    API,
    HOUR,
    ISSUER,
    LEAK,
    REALM,
    SECOND,
    T0,
    WEB,
    authority,
    entry,
    intent,
    no_audit,
    serial,
)

from meshca.authority.ports import Abandoned, Move, Reparent, Result, Revocation, TrustChange
from meshca.authority.records import CertificateFilter, CertificateStatus, Freeze
from meshca.errors import ConflictError, InvalidInputError
from meshca.spiffe.id import SpiffeId
from meshca.store.engine import Store
from meshca.store.epochs import Epochs
from meshca.store.ledger import SqlLedger
from meshca.x509.crl import Crl, RevokedEntry


@pytest.fixture
def ledger(store: Store) -> SqlLedger:
    return SqlLedger(store)


def crl(number: int, issuer: str = ISSUER, this_update: timedelta = timedelta(0)) -> Crl:
    return Crl(
        der=b"crl %d" % number, number=number, this_update=T0 + this_update, next_update=T0 + 9 * HOUR, issuer_id=issuer
    )


def issue(ledger: SqlLedger, *numbers: int, spiffe_id: SpiffeId = WEB) -> None:
    assert all(ledger.record_intents([intent(number, spiffe_id, T0 + number * SECOND) for number in numbers]))
    assert all(ledger.record_results([Result(serial(number), b"der") for number in numbers], no_audit))


def audited(store: Store) -> list[tuple[str, str]]:
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT action, outcome FROM audit ORDER BY seq")
        return [(row[0], row[1]) for row in rows]


# --- realm and trust -------------------------------------------------------------------------------------------------


def test_a_realm_is_written_once_with_its_trust(store: Store, ledger: SqlLedger) -> None:
    assert ledger.realm() is None
    assert ledger.generation() == 0
    root, issuing = authority("00" * 10), authority(ISSUER, "issuing")
    ledger.create_realm(REALM, [issuing, root], [crl(1), crl(1, root.id)], [entry("init")])
    assert ledger.realm() == REALM
    assert ledger.generation() == 1
    assert ledger.authorities() == [root, issuing]
    assert ledger.latest_crls() == {ISSUER: crl(1), root.id: crl(1, root.id)}
    with pytest.raises(ConflictError, match="holds a trust domain already"):
        ledger.create_realm(REALM, [authority("11" * 10)], [], [entry("init")])
    assert ledger.authorities() == [root, issuing]
    assert audited(store) == [("init", "ok")]


def test_a_realm_that_fails_half_way_leaves_nothing(ledger: SqlLedger) -> None:
    with pytest.raises(ConflictError):
        ledger.create_realm(REALM, [authority("00" * 10), authority("00" * 10)], [], [])
    assert ledger.realm() is None
    assert ledger.authorities() == []


def test_a_change_of_trust_moves_adds_and_counts(store: Store, ledger: SqlLedger) -> None:
    ledger.create_realm(REALM, [authority("00" * 10), authority(ISSUER, "issuing")], [crl(1)], [])
    new = replace(authority("cd" * 10, "issuing"), state="prepared", generation=2, prepared_at=T0, activate_at=T0)
    ledger.change_trust(TrustChange(2, added=(new,), crls=(crl(1, new.id),)), [entry("rotate")])
    moves = (Move(ISSUER, "active", "old", T0 + SECOND), Move(new.id, "prepared", "active", T0 + SECOND))
    ledger.change_trust(TrustChange(3, moved=moves), [entry("rotate")])
    old, active = (record for record in ledger.authorities() if record.role == "issuing")
    assert (old.id, old.state, old.retired_at) == (ISSUER, "old", T0 + SECOND)
    assert active == replace(new, state="active", activated_at=T0 + SECOND)
    assert (ledger.generation(), set(ledger.latest_crls())) == (3, {ISSUER, new.id})
    assert audited(store) == [("rotate", "ok")] * 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(TrustChange(2, added=(authority("00" * 10),)), id="known-already"),
        pytest.param(TrustChange(2, added=(authority("11" * 10),)), id="second-active-root"),
        pytest.param(TrustChange(3), id="not-the-next-generation"),
        pytest.param(TrustChange(2, moved=(Move(ISSUER, "prepared", "active", T0),)), id="not-in-that-state"),
        pytest.param(TrustChange(2, moved=(Move("99" * 10, "active", "old", T0),)), id="unknown"),
        pytest.param(
            TrustChange(2, moved=(Move(ISSUER, "active", "old", T0),), crls=(crl(1),)), id="number-not-higher"
        ),
    ],
)
def test_a_change_of_trust_that_conflicts_changes_nothing(store: Store, ledger: SqlLedger, change: TrustChange) -> None:
    ledger.create_realm(REALM, [authority("00" * 10), authority(ISSUER, "issuing")], [crl(1)], [])
    before = ledger.authorities()
    with pytest.raises(ConflictError):
        ledger.change_trust(change, [entry("never")])
    assert (ledger.authorities(), ledger.generation(), audited(store)) == (before, 1, [])


def test_only_one_ca_of_a_role_is_prepared(ledger: SqlLedger) -> None:
    ledger.create_realm(REALM, [authority("00" * 10)], [], [])
    first, second = (replace(authority(name * 10, "issuing"), state="prepared") for name in ("11", "22"))
    ledger.change_trust(TrustChange(2, added=(first,)), [])
    with pytest.raises(ConflictError):
        ledger.change_trust(TrustChange(3, added=(second,)), [])


def test_a_ca_is_put_below_another_with_a_change_of_trust_or_not_at_all(ledger: SqlLedger) -> None:
    below = replace(authority(ISSUER, "issuing"), parent_id="11" * 10)
    ledger.create_realm(REALM, [below], [], [])
    ledger.change_trust(TrustChange(2, reparented=(Reparent(ISSUER, "11" * 10, "22" * 10),)), [])
    assert [record.parent_id for record in ledger.authorities()] == ["22" * 10]
    with pytest.raises(ConflictError, match="not stand below"):
        ledger.change_trust(TrustChange(3, reparented=(Reparent(ISSUER, "11" * 10, "33" * 10),)), [])
    assert ledger.generation() == 2


def test_no_ca_is_added_once_a_freeze_has_been_answered(ledger: SqlLedger) -> None:
    ledger.create_realm(REALM, [authority("00" * 10)], [], [])
    added = replace(authority(ISSUER, "issuing"), state="prepared")
    assert ledger.freeze(Freeze(T0, "uid:0", ""), entry("freeze"))
    with pytest.raises(ConflictError, match="frozen"):
        ledger.change_trust(TrustChange(2, added=(added,)), [])
    ledger.change_trust(TrustChange(2, moved=(Move("00" * 10, "active", "old", T0),)), [])
    ledger.unfreeze(entry("unfreeze"))
    ledger.change_trust(TrustChange(3, added=(added,)), [])


def test_an_activation_is_hastened_once(store: Store, ledger: SqlLedger) -> None:
    prepared = replace(authority(ISSUER, "issuing"), state="prepared", activate_at=T0 + HOUR)
    ledger.create_realm(REALM, [prepared], [], [])
    assert ledger.hasten(ISSUER, T0, entry("rotate"))
    assert not ledger.hasten(ISSUER, T0, entry("never"))
    assert not ledger.hasten("99" * 10, T0, entry("never"))
    assert [record.activate_at for record in ledger.authorities()] == [T0]
    assert audited(store) == [("rotate", "ok")]


def test_a_ca_is_tainted_once(store: Store, ledger: SqlLedger) -> None:
    gone = replace(authority("11" * 10, "issuing"), state="removed")
    ledger.create_realm(REALM, [authority("00" * 10), gone], [], [])
    entries = [entry("taint", "00" * 10), entry("never", gone.id)]
    assert ledger.taint(["00" * 10, gone.id], T0, entries) == ["00" * 10]
    assert ledger.taint(["00" * 10], T0 + HOUR, [entry("never", "00" * 10)]) == []
    assert {record.tainted_at for record in ledger.authorities()} == {T0, None}
    assert audited(store) == [("taint", "ok")]


def test_identities_lapse_together_when_none_has_a_valid_certificate(ledger: SqlLedger) -> None:
    assert ledger.lapsed(T0) == 0
    ledger.record_intents([intent(1), intent(2), intent(3, API, life=2 * HOUR), intent(4, life=3 * HOUR)])
    ledger.record_results([Result(serial(number), b"der") for number in (1, 2, 3)], no_audit)
    assert ledger.lapsed(T0 + HOUR) == 0
    assert ledger.lapsed(T0 + 2 * HOUR) == 2
    ledger.revoke([serial(3)], LEAK, no_audit)
    assert ledger.lapsed(T0 + HOUR) == 1


def test_the_last_leaf_of_a_ca_counts_pending_ones_and_not_abandoned_ones(ledger: SqlLedger) -> None:
    assert ledger.last_expiry(ISSUER, T0) is None
    ledger.record_intents([intent(1), intent(2, life=2 * HOUR), intent(3, life=3 * HOUR)])
    ledger.record_results([Abandoned(intent(3).serial, "x")], no_audit)
    assert ledger.last_expiry(ISSUER, T0) == T0 + 2 * HOUR
    assert ledger.last_expiry(ISSUER, T0 + SECOND) is None


def test_crl_numbers_and_generations_only_grow(store: Store, ledger: SqlLedger) -> None:
    ledger.create_realm(REALM, [], [crl(1)], [])
    ledger.store_crls([crl(2)], 2, [entry("publish-crl")])
    for number, generation in ((2, 3), (1, 3), (3, 2), (3, 4)):
        with pytest.raises(ConflictError):
            ledger.store_crls([crl(number)], generation, [entry("never")])
    assert (ledger.generation(), ledger.latest_crls()) == (2, {ISSUER: crl(2)})
    assert audited(store) == [("publish-crl", "ok")]


def test_a_few_crls_of_each_issuer_are_kept(store: Store, ledger: SqlLedger) -> None:
    ledger.create_realm(REALM, [], [crl(1), crl(1, "cd" * 10)], [])
    for number in range(2, 9):
        ledger.store_crls([crl(number)], number, [])
    with store.read() as connection:
        rows = connection.exec_driver_sql("SELECT issuer_id, number FROM crls ORDER BY issuer_id, number").all()
    assert [tuple(row) for row in rows] == [*((ISSUER, number) for number in (5, 6, 7, 8)), ("cd" * 10, 1)]


# --- certificates ----------------------------------------------------------------------------------------------------


def test_an_intent_becomes_a_certificate(store: Store, ledger: SqlLedger) -> None:
    assert ledger.record_intents([intent(1), intent(2)]) == [True, True]
    pending = ledger.certificate(serial(1))
    assert pending is not None
    assert (pending.state, pending.certificate, pending.spiffe_id) == ("pending", b"", WEB)
    assert (pending.created_at, pending.not_after) == (T0, T0 + HOUR)
    results: list[Result | Abandoned] = [Result(serial(1), b"der"), Abandoned(serial(2), "signer failed")]
    assert ledger.record_results(results, lambda released: [entry(reason=str(released))]) == [True, True]
    issued, abandoned = ledger.certificate(serial(1)), ledger.certificate(serial(2))
    assert issued is not None
    assert abandoned is not None
    assert (issued.state, issued.certificate) == ("issued", b"der")
    assert (abandoned.state, abandoned.certificate) == ("abandoned", b"")
    assert audited(store) == [("issue", "ok")]
    assert ledger.certificate("ff") is None


def test_a_result_counts_once_and_only_for_an_intent(ledger: SqlLedger) -> None:
    ledger.record_intents([intent(1), intent(2)])
    results: list[Result | Abandoned] = [
        Result(serial(9), b"x"),
        Result(serial(1), b"der"),
        Abandoned(serial(1), ""),
        Abandoned(serial(2), ""),
    ]
    assert ledger.record_results(results, no_audit) == [False, True, False, True]
    assert ledger.record_results(results, no_audit) == [False, False, False, False]


def test_no_results_still_write_the_audit(store: Store, ledger: SqlLedger) -> None:
    assert ledger.record_results([], lambda released: [entry(outcome="refused", reason=str(len(released)))]) == []
    assert audited(store) == [("issue", "refused")]


def test_a_serial_is_used_once(ledger: SqlLedger) -> None:
    ledger.record_intents([intent(1)])
    with pytest.raises(ConflictError, match="used before"):
        ledger.record_intents([intent(2), intent(1, API)])
    assert ledger.certificate(serial(2)) is None


def test_an_intent_of_a_suspended_identity_is_refused_beside_others(ledger: SqlLedger) -> None:
    ledger.suspend(WEB, LEAK, no_audit)
    assert ledger.record_intents([intent(1), intent(2, API), intent(3)]) == [False, True, False]
    assert ledger.certificate(serial(1)) is None
    assert ledger.resume(WEB, entry("resume"))
    assert not ledger.resume(WEB, entry("resume"))
    assert ledger.record_intents([intent(1)]) == [True]


@pytest.mark.parametrize("after", ["removed", "old"])
def test_nothing_is_issued_by_a_ca_that_was_removed_or_tainted_and_replaced(ledger: SqlLedger, after: str) -> None:
    active = authority(ISSUER, "issuing")
    ledger.create_realm(REALM, [active], [], [entry("init")])
    assert ledger.record_intents([intent(1), intent(2)]) == [True, True]
    ledger.taint([ISSUER], T0, [entry("taint")])
    assert ledger.record_results([Result(serial(1), b"1")], no_audit) == [True]
    ledger.change_trust(TrustChange(2, moved=(Move(ISSUER, active.state, after, T0),)), [])  # type: ignore[arg-type]
    assert ledger.record_intents([intent(3)]) == [False]
    assert ledger.record_results([Result(serial(2), b"2")], no_audit) == [False]


def test_a_ca_that_retired_finishes_what_it_has_begun(ledger: SqlLedger) -> None:
    active = authority(ISSUER, "issuing")
    ledger.create_realm(REALM, [active], [], [entry("init")])
    ledger.record_intents([intent(1)])
    ledger.change_trust(TrustChange(2, moved=(Move(ISSUER, active.state, "old", T0),)), [])
    assert ledger.record_results([Result(serial(1), b"1")], no_audit) == [True]


# --- revocation ------------------------------------------------------------------------------------------------------


def test_a_revoked_intent_is_not_released(ledger: SqlLedger) -> None:
    ledger.record_intents([intent(1), intent(2)])
    assert [record.serial for record in ledger.revoke([serial(1)], LEAK, no_audit)] == [serial(1)]
    assert ledger.record_results([Result(serial(1), b"1"), Result(serial(2), b"2")], no_audit) == [False, True]
    revoked = ledger.certificate(serial(1))
    assert revoked is not None
    assert (revoked.certificate, revoked.revoked_at, revoked.revocation_reason) == (b"", LEAK.at, LEAK.reason)


def test_a_certificate_is_revoked_once_and_only_while_it_is_unexpired(store: Store, ledger: SqlLedger) -> None:
    issue(ledger, 1, 2)
    ledger.record_intents([intent(3, life=SECOND)])
    wanted = [serial(number) for number in (1, 3, 1, 99)]
    revoked = ledger.revoke(wanted, LEAK, lambda records: [entry("revoke", record.serial) for record in records])
    assert [record.serial for record in revoked] == [serial(1)]
    assert ledger.revoke(wanted, LEAK, no_audit) == []
    assert audited(store) == [("revoke", "ok")]
    assert Epochs(store).load() == {f"identity:{WEB}": 1}


def test_a_suspension_revokes_all_of_the_identity_and_bumps_its_epoch(store: Store, ledger: SqlLedger) -> None:
    issue(ledger, 1, 2)
    issue(ledger, 3, spiffe_id=API)
    ledger.record_intents([intent(4)])
    later = Revocation(at=T0 + 5 * SECOND, reason="keyCompromise", actor="uid:0")
    revoked = ledger.suspend(WEB, later, lambda records: [entry("suspend", reason=str(len(records)))])
    assert [record.serial for record in revoked] == [serial(1), serial(2), serial(4)]
    assert {record.revoked_at for record in revoked} == {later.at}
    assert ledger.suspended() == frozenset({WEB})
    assert ledger.suspend(WEB, LEAK, no_audit) == []
    assert Epochs(store).load() == {f"identity:{WEB}": 2}
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT reason FROM suspensions").scalars().all() == ["keyCompromise"]


def test_many_serials_are_revoked_in_one_call(ledger: SqlLedger) -> None:
    numbers = list(range(2_500))
    ledger.record_intents([intent(number) for number in numbers])
    assert len(ledger.revoke([serial(number) for number in numbers], LEAK, no_audit)) == 2_500


def test_a_crl_lists_what_is_revoked_until_it_stood_on_one_past_its_expiry(ledger: SqlLedger) -> None:
    ledger.create_realm(REALM, [], [crl(1)], [])
    issue(ledger, 2, 1, 3)
    ledger.revoke([serial(2), serial(1)], LEAK, no_audit)
    listed = [RevokedEntry(number, LEAK.at, LEAK.reason) for number in (1, 2)]
    assert ledger.revoked(ISSUER, T0) == listed
    assert ledger.revoked("cd" * 10, T0) == []
    # 1 expires first; at its very end of life nothing changes yet.
    end_of_first = HOUR + SECOND
    ledger.store_crls([crl(2, this_update=end_of_first)], 2, [])
    assert ledger.revoked(ISSUER, T0 + end_of_first) == listed
    ledger.store_crls([crl(3, this_update=end_of_first + SECOND / 2)], 3, [])
    assert ledger.revoked(ISSUER, T0 + end_of_first + SECOND) == listed[1:]
    # A clock that was set back lists it again.
    assert ledger.revoked(ISSUER, T0) == listed


# --- lists and pages -------------------------------------------------------------------------------------------------


def serials(ledger: SqlLedger, **wanted: object) -> list[int]:
    narrowed = CertificateFilter(**{"at": T0 + 3 * SECOND, **wanted})  # type: ignore[arg-type]
    found = ledger.certificates(narrowed)
    assert all(narrowed.admits(record) for record in found)
    return [int(record.serial, 16) for record in found]


@pytest.fixture
def mixed(ledger: SqlLedger) -> SqlLedger:
    """1 valid, 2 revoked, 3 pending, 4 abandoned, 5 expired, 6 pending and revoked; 1 and 5 are API's."""
    ledger.record_intents([intent(1, API), intent(2), intent(3), intent(4), intent(5, API, life=SECOND), intent(6)])
    ledger.record_results([Result(serial(1), b"1"), Result(serial(2), b"2"), Result(serial(5), b"5")], no_audit)
    ledger.record_results([Abandoned(serial(4), "")], no_audit)
    ledger.revoke([serial(2), serial(6)], LEAK, no_audit)
    return ledger


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, [1, 2, 3, 4, 5, 6]),
        ("valid", [1]),
        ("revoked", [2, 6]),
        ("pending", [3]),
        ("abandoned", [4]),
        ("expired", [5]),
    ],
)
def test_each_status_selects_its_own(mixed: SqlLedger, status: CertificateStatus | None, expected: list[int]) -> None:
    assert serials(mixed, status=status) == expected


def test_filters_add_up(mixed: SqlLedger) -> None:
    assert serials(mixed, spiffe_id=API) == [1, 5]
    assert serials(mixed, spiffe_id=API, status="valid") == [1]
    assert serials(mixed, holder="stream:3") == [3]
    assert serials(mixed, issuer_id="cd" * 10) == []


def test_pages_follow_each_other_whatever_is_issued_in_between(ledger: SqlLedger) -> None:
    # Three certificates of one microsecond, created after the fourth.
    ledger.record_intents([intent(number) for number in (7, 5, 6)])
    ledger.record_intents([intent(9, created_at=T0 - SECOND)])
    assert serials(ledger, limit=2) == [9, 5]
    ledger.record_intents([intent(1, created_at=T0 - SECOND), intent(8)])
    assert serials(ledger, limit=2, after=serial(5)) == [6, 7]
    assert serials(ledger, limit=2, after=serial(7)) == [8]
    assert serials(ledger, limit=2, after=serial(8)) == []
    with pytest.raises(InvalidInputError, match="no page begins here"):
        serials(ledger, after="nonsense")


def test_refusals_are_audited_without_a_change(store: Store, ledger: SqlLedger) -> None:
    ledger.record_audit([entry("attest", outcome="refused"), entry("deliver", outcome="failed")])
    assert audited(store) == [("attest", "refused"), ("deliver", "failed")]
