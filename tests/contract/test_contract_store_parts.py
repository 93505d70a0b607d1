"""Schema, meshes, registrations, acknowledgements and epochs on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from store_examples import API, HOUR, ISSUER, LEAK, REALM, SECOND, T0, WEB, entry, intent, no_audit, serial

from meshca.authority.ports import Result, Straggler
from meshca.errors import ConflictError, NotFoundError
from meshca.mesh.model import ObjectKey
from meshca.policy.entitlement import Registration, Selector
from meshca.store.acknowledgements import Acknowledgement, Acknowledgements, Rejection
from meshca.store.engine import Store, open_store, upgrade
from meshca.store.epochs import Epochs
from meshca.store.errors import SchemaError, StoreError
from meshca.store.ledger import SqlLedger
from meshca.store.meshes import MeshChange, Meshes, StoredObject
from meshca.store.registrations import Registrations
from meshca.store.schema import METADATA

# --- schema ----------------------------------------------------------------------------------------------------------


def test_migrations_make_the_schema_that_the_code_expects(store: Store) -> None:
    store.require_current()
    with store.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_an_upgrade_of_a_current_schema_changes_nothing(database: str, store: Store) -> None:
    SqlLedger(store).create_realm(REALM, [], [], [])
    upgrade(database)
    store.require_current()
    assert SqlLedger(store).realm() == REALM


def test_a_database_without_a_schema_is_refused(empty_database: str) -> None:
    with open_store(empty_database) as store, pytest.raises(SchemaError, match=r"no meshca schema; run `meshca init`"):
        store.require_current()


def test_a_newer_schema_is_refused_by_use_and_by_upgrade(empty_database: str) -> None:
    upgrade(empty_database)
    with open_store(empty_database) as store:
        newer = text("UPDATE alembic_version SET version_num = '9'")
        store.write(lambda transaction: transaction.connection.execute(newer))
        with pytest.raises(SchemaError, match="newer than this meshca: it is 9"):
            store.require_current()
    with pytest.raises(SchemaError, match="newer than this meshca"):
        upgrade(empty_database)


def test_a_reader_cannot_write(store: Store) -> None:
    with pytest.raises(StoreError, match="the database is read-only; nothing was changed"), store.read() as connection:
        connection.exec_driver_sql("DELETE FROM audit")


def test_a_reader_sees_one_state(store: Store) -> None:
    epochs = Epochs(store)
    epochs.bump(["before"])
    with store.read() as connection:
        scopes = connection.execute(text("SELECT scope FROM drain_epochs")).scalars().all()
        epochs.bump(["after"])
        assert connection.execute(text("SELECT scope FROM drain_epochs")).scalars().all() == scopes == ["before"]


# --- meshes ----------------------------------------------------------------------------------------------------------

NODE = ObjectKey("shop", "virtualNode", "", "web")
ROUTE = ObjectKey("shop", "route", "router", "web")


def change(expected: int, *changed: StoredObject, removed: tuple[ObjectKey, ...] = ()) -> MeshChange:
    return MeshChange(
        expected=expected,
        changed=changed,
        removed=removed,
        at=T0,
        actor="uid:0",
        summary=f"{len(changed)} changed",
        audit=[entry("apply")],
        bumps=["identity:x"],
    )


def test_an_apply_is_one_revision(store: Store) -> None:
    SqlLedger(store).create_realm(REALM, [], [], [])
    meshes = Meshes(store)
    assert meshes.revision() == 0
    assert meshes.apply(change(0, StoredObject(NODE, '{"a":1}'), StoredObject(ROUTE, "{}"))) == 1
    assert meshes.apply(change(1, StoredObject(NODE, '{"a":2}'))) == 2
    assert meshes.load().objects == (StoredObject(ROUTE, "{}", 1), StoredObject(NODE, '{"a":2}', 2))
    assert meshes.apply(change(2, removed=(ROUTE, ROUTE))) == 3
    assert [stored.key for stored in meshes.load().objects] == [NODE]
    assert [(done.number, done.summary) for done in meshes.revisions(2)] == [(3, "0 changed"), (2, "1 changed")]
    assert Epochs(store).load() == {"identity:x": 3}


def test_an_apply_from_an_old_revision_changes_nothing(store: Store) -> None:
    SqlLedger(store).create_realm(REALM, [], [], [])
    meshes = Meshes(store)
    meshes.apply(change(0, StoredObject(NODE, "1")))
    for expected in (0, 2):
        with pytest.raises(ConflictError, match="somebody else has applied"):
            meshes.apply(change(expected, StoredObject(NODE, "2"), removed=(ROUTE,)))
    assert meshes.load().objects == (StoredObject(NODE, "1", 1),)
    assert Epochs(store).load() == {"identity:x": 1}


# --- registrations ---------------------------------------------------------------------------------------------------

SELECTORS = frozenset({Selector("unix:uid", "1000"), Selector("unix:gid", "7")})


def test_registrations_are_added_once_and_removed_by_id(store: Store) -> None:
    registrations = Registrations(store)
    first, second = Registration("1", WEB, SELECTORS), Registration("2", API, SELECTORS, "spiffe://m.test/agent")
    registrations.add(first, T0, entry("register"))
    registrations.add(second, T0 + SECOND, entry("register"))
    for known in (Registration("1", API, SELECTORS), Registration("3", WEB, SELECTORS)):
        with pytest.raises(ConflictError, match="registered for this identity already"):
            registrations.add(known, T0, entry("register"))
    assert registrations.list() == [first, second]
    assert registrations.remove("1", lambda gone: entry("unregister", str(gone.spiffe_id))) == first
    with pytest.raises(NotFoundError, match="no such registration"):
        registrations.remove("1", lambda _: entry("unregister"))
    assert registrations.list() == [second]


# --- acknowledgements ------------------------------------------------------------------------------------------------


def acknowledgement(holder: str, generation: int) -> Acknowledgement:
    return Acknowledgement(holder=holder, kind="stream", spiffe_id=WEB, generation=generation, at=T0)


def test_an_acknowledgement_never_goes_back(store: Store) -> None:
    acknowledgements = Acknowledgements(store)
    acknowledgements.record([acknowledgement("a", 3), acknowledgement("a", 2), acknowledgement("b", 1)]).result(10)
    acknowledgements.record([acknowledgement("a", 1), acknowledgement("b", 2)]).result(10)
    acknowledgements.record([]).result(10)
    assert [acknowledgements.generation_of(holder, WEB) for holder in "abc"] == [3, 2, 0]


def test_holders_of_unexpired_leaves_must_acknowledge(store: Store) -> None:
    """1 acknowledged, 2 only an older generation, 3 nothing, 4 expired, 5 revoked, 6 never issued."""
    ledger, acknowledgements = SqlLedger(store), Acknowledgements(store)
    ledger.record_intents([intent(number, life=SECOND if number == 4 else HOUR) for number in range(1, 7)])
    ledger.record_results([Result(serial(number), b"der") for number in range(1, 6)], no_audit)
    ledger.revoke([serial(5)], LEAK, no_audit)
    acknowledgements.record([acknowledgement("stream:1", 2), acknowledgement("stream:2", 1)]).result(10)
    stragglers = acknowledgements.stragglers(2, T0 + 2 * SECOND)
    assert stragglers == [Straggler("stream:2", "stream", WEB, 1), Straggler("stream:3", "stream", WEB, 0)]
    assert acknowledgements.stragglers(2, T0 + HOUR) == []


def test_one_off_holders_are_not_waited_for(store: Store) -> None:
    ledger, acknowledgements = SqlLedger(store), Acknowledgements(store)
    holders = ("issue", "drop-once:/x", "drop:/x", "issued")
    ledger.record_intents([replace(intent(number), holder=holder) for number, holder in enumerate(holders)])
    ledger.record_results([Result(serial(number), b"der") for number in range(len(holders))], no_audit)
    assert [found.holder for found in acknowledgements.stragglers(1, T0)] == ["drop:/x", "issued"]
    assert (acknowledgements.holders(T0), acknowledgements.holders(T0 + HOUR)) == (2, 0)


def test_who_may_still_serve_a_leaf_of_a_ca(store: Store) -> None:
    """1 acknowledged a leaf of this CA, 2 one of another, 3 none; a later acknowledgement of trust takes none back."""
    ledger, acknowledgements = SqlLedger(store), Acknowledgements(store)
    ledger.record_intents([intent(number) for number in (1, 2, 3)])
    ledger.record_results([Result(serial(number), b"der") for number in (1, 2, 3)], no_audit)
    for number, issuer in ((1, ISSUER), (2, ISSUER), (2, "cd" * 10)):
        leaf = replace(acknowledgement(f"stream:{number}", 0), issuer_id=issuer)
        acknowledgements.record([leaf]).result(10)
    together = [replace(acknowledgement("stream:2", 1), issuer_id=issuer) for issuer in ("cd" * 10, "")]
    acknowledgements.record(together).result(10)
    assert [found.holder for found in acknowledgements.still_on(ISSUER, T0)] == ["stream:1", "stream:3"]
    assert [found.holder for found in acknowledgements.still_on("cd" * 10, T0)] == ["stream:2"]
    assert acknowledgements.still_on(ISSUER, T0 + HOUR) == []
    assert acknowledgements.generation_of("stream:2", WEB) == 1


def test_what_a_node_refused_is_remembered_until_it_is_forgotten(store: Store) -> None:
    acknowledgements = Acknowledgements(store)
    first = Rejection("web", "hash", "type", "bad", T0)
    again = Rejection("web", "hash", "type", "still bad", T0 + SECOND)
    other = Rejection("api", "hash", "type", "bad", T0)
    strange = Rejection("w\0b", "hash", "type", "b\0d", T0)
    for rejection in (first, again, other, strange):
        acknowledgements.reject(rejection).result(10)
    assert [found.message for found in acknowledgements.rejections("w\\x00b")] == ["b\\x00d"]
    assert acknowledgements.rejections("web") == [again]
    assert acknowledgements.rejections("api") == [other]
    acknowledgements.forget(T0 + SECOND, T0 + HOUR)
    assert (acknowledgements.rejections("web"), acknowledgements.rejections("api")) == ([again], [])
    acknowledgements.forget(T0 + 2 * SECOND, T0 + HOUR)
    assert acknowledgements.rejections("web") == []


def test_an_acknowledgement_is_forgotten_once_it_is_old_and_its_holder_has_no_leaf(store: Store) -> None:
    ledger, acknowledgements = SqlLedger(store), Acknowledgements(store)
    ledger.record_intents([intent(1)])
    holder, end = intent(1).holder, intent(1).not_after
    acknowledgements.record([Acknowledgement(holder, "stream", WEB, 5, T0)]).result(10)
    acknowledgements.forget(T0, end)
    acknowledgements.forget(T0 + SECOND, end - SECOND)
    assert acknowledgements.generation_of(holder, WEB) == 5
    acknowledgements.forget(T0 + SECOND, end)
    assert acknowledgements.generation_of(holder, WEB) == 0
