"""Signing keys of JWT-SVIDs, admitted tokens and who follows the bundle, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select
from store_examples import API, LEAK, REALM, SECOND, T0, WEB, entry, no_audit

from meshca.authority.ports import Move, TrustChange
from meshca.authority.records import AuthorityRecord, AuthorityState, Freeze
from meshca.errors import ConflictError
from meshca.store import jwt
from meshca.store.engine import Store, Transaction
from meshca.store.jwt import Following, JwtHolders
from meshca.store.ledger import SqlLedger
from meshca.store.schema import AUDIT

FIRST, SECOND_KEY = "aa" * 10, "bb" * 10
FREEZE = Freeze(T0, "uid:0", "")


def key(name: str = FIRST, state: AuthorityState = "active", generation: int = 1) -> AuthorityRecord:
    return AuthorityRecord(
        id=name,
        role="jwt",
        state=state,
        generation=generation,
        certificate=b"",
        parent_id=name,
        key_ref=f"store:{name}",
        not_before=T0,
        not_after=T0 + timedelta(days=30),
        prepared_at=T0,
        activate_at=T0,
        spki=b"spki",
    )


@pytest.fixture
def ledger(store: Store) -> SqlLedger:
    """A ledger with a realm and a key that signs."""
    return _with_key(store)


def _with_key(store: Store) -> SqlLedger:
    made = SqlLedger(store)
    made.create_realm(REALM, [], [], [])
    made.change_jwt_keys(TrustChange(1, added=(key(),)), [entry("rotate", FIRST)])
    return made


def test_keys_come_back_as_they_were_written(ledger: SqlLedger) -> None:
    assert ledger.jwt_keys() == [key()]
    assert (ledger.jwt_generation(), ledger.generation()) == (1, 1)  # each counts its own changes
    assert not ledger.authorities()


def test_moves_are_stamped_and_counted(ledger: SqlLedger) -> None:
    ledger.change_jwt_keys(TrustChange(2, added=(key(SECOND_KEY, "prepared", 2),)), [])
    moves = (Move(FIRST, "active", "old", T0 + SECOND), Move(SECOND_KEY, "prepared", "active", T0 + SECOND))
    ledger.change_jwt_keys(TrustChange(3, moves), [])
    old, new = ledger.jwt_keys()
    assert (old.state, old.retired_at) == ("old", T0 + SECOND)
    assert (new.state, new.activated_at) == ("active", T0 + SECOND)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(TrustChange(3), id="not-the-next"),
        pytest.param(TrustChange(1), id="again"),
        pytest.param(TrustChange(2, added=(key(),)), id="known"),
        pytest.param(TrustChange(2, added=(key(SECOND_KEY),)), id="two-that-sign"),
        pytest.param(TrustChange(2, (Move(FIRST, "prepared", "active", T0),)), id="in-another-state"),
    ],
)
def test_what_does_not_fit_changes_nothing(ledger: SqlLedger, change: TrustChange) -> None:
    with pytest.raises(ConflictError):
        ledger.change_jwt_keys(change, [entry()])
    assert (ledger.jwt_keys(), ledger.jwt_generation()) == ([key()], 1)


def test_none_is_added_while_frozen(ledger: SqlLedger) -> None:
    ledger.freeze(FREEZE, entry())
    with pytest.raises(ConflictError):
        ledger.change_jwt_keys(TrustChange(2, added=(key(SECOND_KEY, "prepared", 2),)), [])


def test_a_key_is_hastened_and_tainted_like_a_ca(ledger: SqlLedger) -> None:
    later = replace(key(SECOND_KEY, "prepared", 2), activate_at=T0 + 5 * SECOND)
    ledger.change_jwt_keys(TrustChange(2, added=(later,)), [])
    assert ledger.hasten(SECOND_KEY, T0 + SECOND, entry())
    assert not ledger.hasten(SECOND_KEY, T0 + SECOND, entry())
    assert ledger.taint([SECOND_KEY, "unknown"], T0, [entry(subject=SECOND_KEY)]) == [SECOND_KEY]
    assert ledger.taint([SECOND_KEY], T0, []) == []
    found = ledger.jwt_keys()[1]
    assert (found.activate_at, found.tainted_at) == (T0 + SECOND, T0)


def test_a_token_is_admitted_only_of_a_key_in_office_and_for_whom_it_may_be(ledger: SqlLedger) -> None:
    assert ledger.admit_token(WEB, FIRST, entry("issue-jwt"))
    assert not ledger.admit_token(WEB, SECOND_KEY, entry())
    ledger.suspend(WEB, LEAK, no_audit)
    assert not ledger.admit_token(WEB, FIRST, entry())
    assert ledger.admit_token(API, FIRST, entry())
    ledger.resume(WEB, entry())
    ledger.freeze(FREEZE, entry())
    assert not ledger.admit_token(WEB, FIRST, entry())
    ledger.unfreeze(entry())
    assert ledger.admit_token(WEB, FIRST, entry())
    ledger.taint([FIRST], T0, [])
    assert not ledger.admit_token(WEB, FIRST, entry())


def test_what_is_not_admitted_is_not_audited(store: Store, ledger: SqlLedger) -> None:
    ledger.admit_token(WEB, FIRST, entry("issue-jwt", "admitted"))
    ledger.admit_token(WEB, SECOND_KEY, entry("issue-jwt", "not admitted"))
    with store.read() as connection:
        subjects = connection.execute(select(AUDIT.c.subject).where(AUDIT.c.action == "issue-jwt")).scalars().all()
    assert subjects == ["admitted"]


@pytest.mark.parametrize("ends_by", ["suspend", "freeze", "retire"])
def test_no_token_is_admitted_after_the_end_of_its_reason_was_answered(
    open_another: Callable[[str], Store], ends_by: str
) -> None:
    """While a token is being admitted, a suspension, a freeze and its key's retirement wait for the commit."""
    issuing, ending = open_another("one"), _with_key(open_another("two"))
    done, go = threading.Event(), threading.Event()

    def admit(transaction: Transaction) -> bool:
        admitted = jwt.is_admitted(transaction.connection, WEB, FIRST)
        done.set()
        assert go.wait(10)
        return admitted

    ends: dict[str, Callable[[], Any]] = {
        "suspend": partial(ending.suspend, WEB, LEAK, no_audit),
        "freeze": partial(ending.freeze, FREEZE, entry()),
        "retire": partial(ending.change_jwt_keys, TrustChange(2, (Move(FIRST, "active", "old", T0),)), []),
    }
    admitted = issuing.submit(admit)
    assert done.wait(10)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(ends[ends_by])
        wait([ended], timeout=0.2)
        assert not ended.done()
        go.set()
        assert admitted.result(10)
        ended.result(10)
    assert not SqlLedger(issuing).admit_token(WEB, FIRST, entry())


def test_followers_are_waited_for_until_their_time_is_over(store: Store) -> None:
    holders = JwtHolders(store)
    holders.record([Following("jwt:1:1", WEB, 1, T0 + SECOND), Following("jwt:2:1", API, 2, T0 + SECOND)]).result(10)
    assert [str(one) for one in holders.behind(2, T0)] == [f"{WEB} jwt:1:1"]
    assert (holders.holders(T0), holders.holders(T0 + SECOND)) == (2, 0)
    assert holders.behind(2, T0 + SECOND) == []
    holders.record([Following("jwt:1:1", WEB, 2, T0 + 2 * SECOND)]).result(10)
    assert holders.behind(2, T0) == []
    holders.record([Following("jwt:1:1", WEB, 1, T0)]).result(10)  # came late: it still has the newer one
    holders.record([Following("jwt:1:1", WEB, 1, T0 + SECOND)]).result(10)
    assert holders.behind(2, T0) == []
    holders.record([Following("jwt:1:1", API, 2, T0 + SECOND)]).result(10)  # another identity, the same process
    assert holders.holders(T0) == 2
    assert [str(one) for one in holders.behind(3, T0)] == [f"{API} jwt:1:1", f"{API} jwt:2:1"]
    holders.forget(T0 + SECOND)
    assert holders.holders(T0) == 0


def test_many_followers_are_recorded_at_once(store: Store) -> None:
    holders = JwtHolders(store)
    holders.record([Following(f"jwt:{number}:1", WEB, 1, T0 + SECOND) for number in range(2_500)]).result(30)
    assert holders.holders(T0) == 2_500
