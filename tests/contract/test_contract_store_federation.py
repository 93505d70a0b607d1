"""Federations on both databases: no bundle goes back, whatever two replicas do at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from store_examples import REALM, T0, entry

from meshca.errors import ExhaustedError, NotFoundError
from meshca.policy.entitlement import Registration, Selector
from meshca.spiffe.id import SpiffeId, TrustDomain
from meshca.store import federation as federation_module
from meshca.store.engine import Store
from meshca.store.epochs import Epochs
from meshca.store.federation import Endpoint, Federation, Federations
from meshca.store.ledger import SqlLedger
from meshca.store.registrations import Registrations

OTHER = TrustDomain("e.test")
ENDPOINT = Endpoint(OTHER, "https://e.test/", "https_spiffe", SpiffeId.parse("spiffe://e.test/server"))
KNOWN = Federation(ENDPOINT, b"one", 1, T0, None)


def _new(sequence: int | None, bundle: bytes = b"new") -> Federation:
    return replace(KNOWN, bundle=bundle, sequence=sequence, fetched_at=T0)


def test_a_federation_is_kept_as_it_was_put(store: Store) -> None:
    federations = Federations(store)
    federations.put(KNOWN, T0, entry("federate"))
    web = Federation(Endpoint(TrustDomain("a.test"), "https://a.test/", "https_web"), b"", None, T0, T0, "no answer")
    federations.put(web, T0, entry("federate"))
    assert federations.list() == [web, KNOWN]
    assert federations.find(OTHER) == KNOWN
    federations.put(replace(KNOWN, sequence=0), T0, entry("federate"))
    assert federations.find(OTHER) == replace(KNOWN, sequence=0)


def test_a_sequence_never_goes_back(store: Store) -> None:
    federations = Federations(store)
    federations.put(KNOWN, T0, entry("federate"))
    assert federations.fetched(_new(5), None)
    assert not federations.fetched(_new(4), None)
    assert not federations.fetched(_new(None), None)
    assert federations.fetched(_new(5, b"again"), None)
    found = federations.find(OTHER)
    assert found is not None
    assert (found.bundle, found.sequence) == (b"again", 5)


def test_what_another_endpoint_has_given_is_not_taken(store: Store) -> None:
    federations = Federations(store)
    federations.put(replace(KNOWN, endpoint=replace(ENDPOINT, url="https://moved.test/")), T0, entry("federate"))
    assert not federations.fetched(_new(5), None)
    assert not federations.failed(ENDPOINT, "no answer", T0, None)


def test_removing_raises_the_drain_epochs_with_it(store: Store) -> None:
    federations = Federations(store)
    federations.put(KNOWN, T0, entry("federate"))
    federations.remove(OTHER, ["identity:spiffe://e.test/a"], entry("unfederate"))
    assert federations.find(OTHER) is None
    assert Epochs(store).load() == {"identity:spiffe://e.test/a": 1}
    with pytest.raises(NotFoundError):
        federations.remove(OTHER, ["identity:spiffe://e.test/a"], entry("unfederate"))
    assert Epochs(store).load() == {"identity:spiffe://e.test/a": 1}


def test_there_is_a_bounded_number(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(federation_module, "MOST", 1)
    federations = Federations(store)
    federations.put(KNOWN, T0, entry("federate"))
    with pytest.raises(ExhaustedError):
        federations.put(
            replace(KNOWN, endpoint=replace(ENDPOINT, trust_domain=TrustDomain("x"))), T0, entry("federate")
        )
    federations.put(KNOWN, T0, entry("federate"))


def test_one_of_two_claims_and_the_newest_bundle_stays(open_another: Callable[[str], Store]) -> None:
    pair = [Federations(open_another(name)) for name in ("a", "b")]
    pair[0].put(KNOWN, T0, entry("federate"))
    for number in range(1, 11):
        (due,) = pair[0].list()
        until = due.due_at + timedelta(minutes=1)
        with ThreadPoolExecutor(2) as pool:
            claims = [pool.submit(one.claim, due, until) for one in pair]
            assert sorted(claim.result() for claim in claims) == [False, True]
            newest = [_new(2 * number), _new(2 * number + 1)]
            done = [pool.submit(one.fetched, new, None) for one, new in zip(pair, newest, strict=True)]
        assert done[1].result()
        found = pair[0].find(OTHER)
        assert found is not None
        assert found.sequence == 2 * number + 1


def test_registrations_remember_whom_they_federate_with(store: Store) -> None:
    SqlLedger(store).create_realm(REALM, [], [], [])
    registrations = Registrations(store)
    selectors, domains = frozenset({Selector("unix:uid", "1")}), frozenset({OTHER, TrustDomain("b.test")})
    put = Registration("1", SpiffeId.parse("spiffe://m.test/web"), selectors, federates_with=domains)
    registrations.add(put, T0, entry("register"))
    assert registrations.list() == [put]
