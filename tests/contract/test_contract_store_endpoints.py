"""Endpoints, and what revisions have replaced, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from store_examples import REALM, T0, entry

from meshca.errors import ExhaustedError, NotFoundError
from meshca.mesh.model import ObjectKey
from meshca.store import endpoints as endpoints_module
from meshca.store.endpoints import Endpoints
from meshca.store.engine import Store
from meshca.store.ledger import SqlLedger
from meshca.store.meshes import MeshChange, Meshes, StoredObject

WEB, API = ObjectKey("shop", "virtualNode", "", "web"), ObjectKey("shop", "virtualNode", "", "api")
ROUTE = ObjectKey("shop", "route", "router", "web")


def test_endpoints_are_added_once_and_removed_all_or_none(store: Store) -> None:
    endpoints = Endpoints(store)
    endpoints.add(WEB, [("10.0.0.2", None), ("10.0.0.1", 80)], T0, entry("add-endpoints"))
    endpoints.add(WEB, [("10.0.0.1", 80), ("10.0.0.1", 81)], T0, entry("add-endpoints"))
    endpoints.add(API, [("::1", 80)], T0, entry("add-endpoints"))
    web = (("10.0.0.1", 80), ("10.0.0.1", 81), ("10.0.0.2", None))
    assert endpoints.load() == {WEB: web, API: (("::1", 80),)}
    with pytest.raises(NotFoundError, match=r"no such endpoint.*10\.0\.0\.2:80"):
        endpoints.remove(WEB, [("10.0.0.1", 80), ("10.0.0.2", 80)], entry("remove-endpoints"))
    assert endpoints.load()[WEB] == web
    endpoints.remove(WEB, [("10.0.0.1", 80), ("10.0.0.2", None)], entry("remove-endpoints"))
    assert endpoints.load() == {WEB: (("10.0.0.1", 81),), API: (("::1", 80),)}


def test_a_node_has_a_bounded_number_of_endpoints(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints_module, "MOST", 3)
    endpoints = Endpoints(store)
    endpoints.add(WEB, [("10.0.0.1", 1), ("10.0.0.1", 2)], T0, entry("add-endpoints"))
    with pytest.raises(ExhaustedError, match="at most 3 endpoints, and this would have 4"):
        endpoints.add(WEB, [("10.0.0.1", 3), ("10.0.0.1", 4)], T0, entry("add-endpoints"))
    endpoints.add(WEB, [("10.0.0.1", 3), ("10.0.0.1", 1)], T0, entry("add-endpoints"))
    assert len(endpoints.load()[WEB]) == 3


def test_two_who_remove_the_same_endpoint_do_it_once(open_another: Callable[[str], Store]) -> None:
    stores = [Endpoints(open_another(name)) for name in ("a", "b")]
    for _ in range(10):
        stores[0].add(WEB, [("10.0.0.1", 80)], T0, entry("add-endpoints"))
        with ThreadPoolExecutor(2) as pool:
            done = [pool.submit(one.remove, WEB, [("10.0.0.1", 80)], entry("remove-endpoints")) for one in stores]
        failures = [future.exception() for future in done]
        assert [type(failure) for failure in failures if failure] == [NotFoundError]


def change(expected: int, *changed: StoredObject, removed: tuple[ObjectKey, ...] = ()) -> MeshChange:
    return MeshChange(expected, changed, removed, T0, "uid:0", "a change")


def test_what_a_revision_replaced_is_kept_for_a_while(store: Store) -> None:
    SqlLedger(store).create_realm(REALM, [], [], [])
    meshes = Meshes(store)
    meshes.apply(change(0, StoredObject(WEB, "1"), StoredObject(ROUTE, "r")))
    meshes.apply(change(1, StoredObject(WEB, "2"), StoredObject(API, "a"), removed=(ROUTE,)))
    assert meshes.replaced(1) == {WEB: None, ROUTE: None}
    assert meshes.replaced(2) == {WEB: "1", API: None, ROUTE: "r"}
    for number in range(2, 52):
        meshes.apply(change(number, StoredObject(WEB, str(number + 1))))
    with pytest.raises(NotFoundError, match="what came before this revision is not known"):
        meshes.replaced(2)
    assert meshes.replaced(52) == {WEB: "51"}


def test_what_a_large_revision_replaced_is_read_at_once(store: Store) -> None:
    SqlLedger(store).create_realm(REALM, [], [], [])
    meshes = Meshes(store)
    many = [StoredObject(ObjectKey("shop", "virtualNode", "", f"n{number}"), "1") for number in range(150)]
    meshes.apply(change(0, *many))
    meshes.apply(change(1, *(StoredObject(one.key, "2") for one in many[:120]), removed=(many[130].key,)))
    assert meshes.replaced(2) == {one.key: "1" for one in (*many[:120], many[130])}
