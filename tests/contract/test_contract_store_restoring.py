"""Dump and restore between both databases: the same rows, and nothing of the original is contradicted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text
from store_examples import HOUR, ISSUER, LEAK, REALM, SECOND, T0, WEB, authority, entry, intent, no_audit, serial

from meshca.authority.ports import Result
from meshca.authority.records import CertificateFilter
from meshca.errors import ConflictError
from meshca.mesh.model import ObjectKey
from meshca.store.acknowledgements import Acknowledgement, Acknowledgements
from meshca.store.chain import ChainCheck, ChainRecord
from meshca.store.dump import Dump, DumpError, Loader
from meshca.store.engine import Store, open_store, upgrade
from meshca.store.ledger import SqlLedger
from meshca.store.meshes import MeshChange, Meshes, StoredObject
from meshca.store.restoring import Restoration, fill, load, require_empty, restoration_of
from meshca.store.schema import AUDIT, METADATA
from meshca.x509.crl import Crl

RESTORED = T0 + 5 * HOUR
FLOOR = int(RESTORED.timestamp())
RESTORATION = Restoration(RESTORED, T0)
UPSTREAM = "ee" * 10


@pytest.fixture
def lines(store: Store) -> list[bytes]:
    """A dump of a database with a row of each kind that a restore looks at."""
    ledger = SqlLedger(store)
    upstream = Crl(der=b"up", number=7, this_update=T0, next_update=T0, issuer_id=UPSTREAM)
    foreign = authority(UPSTREAM)
    object.__setattr__(foreign, "key_ref", "")
    own = [Crl(der=b"own", number=n, this_update=T0, next_update=T0, issuer_id=ISSUER) for n in (1, 2)]
    ledger.create_realm(REALM, [foreign, authority(ISSUER, "issuing")], [*own, upstream], [entry("init")])
    ledger.record_intents([intent(number) for number in (1, 2, 3)])
    ledger.record_results([Result(serial(1), bytes(range(256))), Result(serial(2), b"der")], no_audit)
    ledger.revoke([serial(2)], LEAK, lambda _: [entry("revoke", reason='"é\n')])
    Acknowledgements(store).record([Acknowledgement("stream:1", "stream", WEB, 1, T0)]).result(10)
    stored = StoredObject(ObjectKey("shop", "virtualNode", "", "web"), '{"a":"é"}')
    Meshes(store).apply(MeshChange(0, [stored], [], T0, "uid:0", "x"))
    with store.read() as connection:
        return list(Dump(connection))


@pytest.fixture(params=["sqlite", "postgresql"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Another empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/restored.db"
    else:
        with request.getfixturevalue("postgres_schema")() as url:
            yield url


def documents(lines: list[bytes]) -> Iterator[object]:
    return iter([json.loads(line) for block in lines for line in block.splitlines()])


def test_all_of_it_is_there_again(store: Store, lines: list[bytes], target: str) -> None:
    fill(target, documents(lines), RESTORATION, "uid:0")
    with open_store(target) as restored:
        restored.require_current()
        ledger = SqlLedger(restored)
        assert ledger.realm() == REALM
        assert ledger.authorities() == SqlLedger(store).authorities()
        every = CertificateFilter(T0)
        assert ledger.certificates(every) == SqlLedger(store).certificates(every)
        assert Meshes(restored).load().objects == Meshes(store).load().objects


def test_no_number_goes_down_and_nobody_has_acknowledged(lines: list[bytes], target: str) -> None:
    fill(target, documents(lines), RESTORATION, "uid:0")
    with open_store(target) as restored:
        ledger = SqlLedger(restored)
        assert ledger.generation() == FLOOR
        latest = ledger.latest_crls()
        assert (latest[ISSUER].number, latest[ISSUER].der) == (FLOOR, b"own")
        assert (latest[UPSTREAM].number, latest[UPSTREAM].der) == (7, b"up")  # its CRLs come from elsewhere
        assert Acknowledgements(restored).generation_of("stream:1", WEB) == 0
        with pytest.raises(ConflictError, match="not higher"):
            ledger.store_crls([Crl(b"x", FLOOR, T0, T0, ISSUER)], FLOOR + 1, [])
        ledger.store_crls([Crl(b"x", FLOOR + 1, T0, T0, ISSUER)], FLOOR + 1, [])


def test_a_clock_far_behind_lowers_nothing(lines: list[bytes], target: str) -> None:
    fill(target, documents(lines), Restoration(T0.replace(year=1970), T0), "uid:0")
    with open_store(target) as restored:
        early = int(T0.replace(year=1970).timestamp())
        assert SqlLedger(restored).latest_crls()[ISSUER].number == max(3, early)
        assert SqlLedger(restored).generation() == max(2, early)


def test_the_audit_chain_goes_on_under_another_name(lines: list[bytes], target: str) -> None:
    fill(target, documents(lines), RESTORATION, "uid:7")
    with open_store(target) as restored:
        found = restoration_of(restored)
        assert found == RESTORATION
        assert found.writer == f"server-restored-{FLOOR}"
        restored.write_as(found.writer)
        SqlLedger(restored).record_audit([entry("issue")])
        with restored.read() as connection:
            everything = select(AUDIT).order_by(AUDIT.c.writer, AUDIT.c.seq)
            records = [ChainRecord(*row) for row in connection.execute(everything)]
    own = [record for record in records if record.writer == found.writer]
    assert [(record.action, record.actor) for record in own] == [("restore", "uid:7"), ("issue", "uid:0")]
    assert f"CRL numbers from {FLOOR} on" in own[0].reason
    for writer in ("server", found.writer):
        check = ChainCheck(writer)
        for record in records:
            if record.writer == writer:
                check.read(record)
        assert check.finish() == []


def test_a_database_that_was_never_restored_says_so(store: Store, lines: list[bytes]) -> None:
    assert restoration_of(store) is None


@pytest.mark.parametrize("how", ["realm", "one-row", "no-schema"])
def test_a_database_that_holds_something_is_refused(lines: list[bytes], target: str, how: str) -> None:
    if how != "no-schema":
        upgrade(target)
    with open_store(target) as other:
        if how == "realm":
            SqlLedger(other).create_realm(REALM, [], [], [entry("init")])
        elif how == "one-row":
            SqlLedger(other).record_audit([entry()])
        else:
            table = text("CREATE TABLE nacks (node TEXT)")
            other.write(lambda transaction: transaction.connection.execute(table))
    with pytest.raises(ConflictError, match="holds something already; nothing was changed"):
        require_empty(target)
    if how != "no-schema":
        with pytest.raises(ConflictError, match="holds something already"):
            fill(target, documents(lines), RESTORATION, "uid:0")


def test_an_empty_schema_is_filled_and_only_once(lines: list[bytes], target: str) -> None:
    upgrade(target)
    require_empty(target)
    fill(target, documents(lines), RESTORATION, "uid:0")
    with pytest.raises(ConflictError):
        fill(target, documents(lines), RESTORATION, "uid:0")


def cut(found: list[object]) -> list[object]:
    return found[:-5]


def short(found: list[object]) -> list[object]:
    return [line for line in found if not (isinstance(line, list) and line[0] == serial(1))]


def other_columns(found: list[object]) -> list[object]:
    return [{**line, "columns": ["id"]} if isinstance(line, dict) and "columns" in line else line for line in found]


def other_type(found: list[object]) -> list[object]:
    return [[7, *line[1:]] if isinstance(line, list) and line[0] == serial(1) else line for line in found]


def no_base64(found: list[object]) -> list[object]:
    return [[*line[:5], "?", *line[6:]] if isinstance(line, list) and line[0] == serial(1) else line for line in found]


def homeless(found: list[object]) -> list[object]:
    return [["x"], *found]


@pytest.mark.parametrize("change", [cut, short, other_columns, other_type, no_base64, homeless])
def test_a_dump_that_is_not_whole_changes_nothing(
    lines: list[bytes], target: str, change: Callable[[list[object]], list[object]]
) -> None:
    changed = change(list(documents(lines)))
    with pytest.raises(DumpError):
        load(Loader(), iter(changed))
    with pytest.raises(DumpError):
        fill(target, iter(changed), RESTORATION, "uid:0")
    require_empty(target)


def test_every_table_is_in_a_dump(lines: list[bytes]) -> None:
    named = {line["table"] for line in documents(lines) if isinstance(line, dict) and "table" in line}
    assert named == set(METADATA.tables)


def test_each_restore_has_a_chain_of_its_own() -> None:
    assert Restoration(T0 + SECOND, T0).writer != Restoration(T0 + timedelta(days=1), T0).writer
