"""Join tokens, agents and administrators, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from store_examples import API, ISSUER, REALM, T0, authority, entry, intent, no_audit, serial

from meshca.authority.ports import Abandoned, Claim, Revocation
from meshca.authority.records import CertificateFilter
from meshca.store.admins import Admins
from meshca.store.agents import AgentRow, Agents
from meshca.store.engine import Store
from meshca.store.ledger import SqlLedger

SECRET = bytes(range(32))
SECOND = timedelta(seconds=1)
ROUNDS = 5


@pytest.fixture
def ledger(store: Store) -> SqlLedger:
    made = SqlLedger(store)
    made.create_realm(REALM, [authority(ISSUER, "issuing")], [], [])
    return made


def let_in(store: Store, secret: bytes = SECRET) -> None:
    Agents(store).add_token(secret, "host1", T0 + 600 * SECOND, T0, entry("create-join-token"))


def claim(key: str, secret: bytes = SECRET) -> Claim:
    return Claim(secret.hex(), key)


def ask(ledger: SqlLedger, number: int, key: str, *, after: int = 1, secret: bytes = SECRET) -> bool:
    wanted = replace(intent(number), claim=claim(key, secret), created_at=T0 + after * SECOND)
    (recorded,) = ledger.record_intents([wanted])
    return recorded


def test_a_token_lets_one_key_in_and_for_a_minute_again(store: Store, ledger: SqlLedger) -> None:
    let_in(store)

    assert Agents(store).token_agent(SECRET) == "host1"
    assert Agents(store).token_agent(bytes(32)) is None
    assert ask(ledger, 1, "k1", after=1)
    assert ask(ledger, 2, "k1", after=60)
    assert not ask(ledger, 3, "k2", after=2)
    assert not ask(ledger, 4, "k1", after=62)
    assert [record.serial for record in ledger.certificates(_all())] == [serial(1), serial(2)]


def test_a_token_that_is_over_or_unknown_lets_nobody_in(store: Store, ledger: SqlLedger) -> None:
    let_in(store)

    assert not ask(ledger, 1, "k1", after=600)
    assert not ask(ledger, 2, "k1", secret=bytes(32))
    assert ledger.certificates(_all()) == []


def test_it_is_used_up_with_an_intent_or_not_at_all(store: Store, ledger: SqlLedger) -> None:
    let_in(store)
    ledger.suspend(intent(1).spiffe_id, Revocation(T0, "unspecified", "uid:0"), no_audit)

    assert not ask(ledger, 1, "k1")  # the identity is suspended
    ledger.resume(intent(1).spiffe_id, entry("resume"))
    assert ask(ledger, 2, "k2")  # which has cost the token nothing


def test_what_fails_later_has_used_it_up_and_the_same_key_may_ask_again(store: Store, ledger: SqlLedger) -> None:
    let_in(store)

    assert ask(ledger, 1, "k1", after=1)
    ledger.record_results([Abandoned(serial(1), "the key store does not answer")], lambda _: [])
    assert not ask(ledger, 2, "k2", after=2)
    assert ask(ledger, 3, "k1", after=3)


def test_in_one_batch_a_claim_fails_alone(store: Store, ledger: SqlLedger) -> None:
    let_in(store)
    plain = replace(intent(1), spiffe_id=API)
    good = replace(intent(2), claim=claim("k1"), created_at=T0 + SECOND)
    bad = replace(intent(3), claim=claim("k2"), created_at=T0 + SECOND)

    assert ledger.record_intents([plain, good, bad, replace(plain, serial=serial(4))]) == [True, True, False, True]


def test_of_two_at_once_with_one_token_one_gets_in(open_another: Callable[[str], Store]) -> None:
    one, two = open_another("one"), open_another("two")
    SqlLedger(one).create_realm(REALM, [authority(ISSUER, "issuing")], [], [])
    for number in range(ROUNDS):
        secret = bytes([number + 1]) * 32
        let_in(one, secret)
        start = threading.Barrier(2)

        with ThreadPoolExecutor(2) as pool:
            done = [
                pool.submit(_at_once, start, store, f"k{i}", 10 * number + i, secret)
                for i, store in enumerate((one, two), start=1)
            ]
            assert sorted(future.result() for future in done) == [False, True]


def _at_once(start: threading.Barrier, store: Store, key: str, number: int, secret: bytes) -> bool:
    start.wait(10)
    return ask(SqlLedger(store), number, key, secret=secret)


def test_agents_are_listed_renewed_and_forgotten(store: Store, ledger: SqlLedger) -> None:
    agents = Agents(store)
    agents.put(AgentRow("host1", "join_token", T0, "0a", T0 + SECOND))
    agents.put(AgentRow("host1", "", T0 + SECOND, "0b", T0 + 2 * SECOND))  # a renewal

    assert agents.list() == [AgentRow("host1", "join_token", T0, "0b", T0 + 2 * SECOND)]
    let_in(store)
    agents.forget("host1", entry("evict-agent"))
    assert agents.list() == []
    assert not ask(ledger, 1, "k1")


def test_an_administrator_has_one_role(store: Store) -> None:
    admins = Admins(store)

    assert admins.role("ann") is None
    admins.put("ann", "viewer", T0, entry("add-admin"))
    admins.put("ann", "admin", T0 + SECOND, entry("add-admin"))
    assert admins.role("ann") == "admin"


def _all() -> CertificateFilter:
    return CertificateFilter(at=T0)
