"""Ledger, retention, audit, backup and restore through a whole server."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from fakes.server_world import BACK, FRONT, PASSPHRASE, Envoy, server, shop_with, signing_request, temporary_home
from sqlalchemy import create_engine

from meshca.client.values import AuditRecord, BackupSummary, CertificateQuery, Issued, KeptCheckpoints
from meshca.errors import ConflictError, InvalidInputError, MeshcaError, UnavailableError
from meshca.keys.chest import seal
from meshca.server.backup import Backup
from meshca.server.building import HomeExistsError
from meshca.server.config import Config
from meshca.server.home import Home
from meshca.server.house import open_house
from meshca.server.restore import RestoreOptions, restore
from meshca.server.schedule import Schedule
from meshca.store.engine import open_store
from meshca.store.schema import CERTIFICATES

T = TypeVar("T")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, for the sake of sockets."""
    folder = Path(tempfile.mkdtemp(prefix="mcl", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def tamper(home: Home, *statements: str) -> None:
    engine = create_engine(f"sqlite:///{home.database}")
    with closing(engine.raw_connection()) as connection:
        for statement in statements:
            connection.cursor().execute(statement)
        connection.commit()
    engine.dispose()


async def every(answers: Iterator[T]) -> list[T]:
    """Return all that a stream of the API brings; its client blocks."""
    return await asyncio.to_thread(list, answers)


def backup_of(home: Home, file: Path) -> Path:
    """Back a home up that no server runs on."""
    with open_store(f"sqlite:///{home.database}") as store:
        file.write_bytes(b"".join(Backup(home, store).pieces(PASSPHRASE)))
    return file


# --- lists -----------------------------------------------------------------------------------------------------------


async def test_certificates_come_in_pages_and_by_time_and_issuer() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin)
            for _ in range(3):
                await admin.issue([signing_request(FRONT), signing_request(BACK)])
            found = await admin.certificates()
            issuer = parts.house.authority.trust.active.id
            assert len(found) == 6
            first = await admin.certificate_page(CertificateQuery(), 4)
            assert (list(first.records), first.after) == (found[:4], found[3].serial)
            last = await admin.certificate_page(CertificateQuery(), 4, first.after)
            assert (list(last.records), last.after) == (found[4:], "")
            exact = await admin.certificate_page(CertificateQuery(node=FRONT, issuer=issuer), 3)
            assert (len(exact.records), exact.after) == (3, "")
            for empty in (
                CertificateQuery(issuer="00" * 10),
                CertificateQuery(archived=True),
                CertificateQuery(since=datetime.now(UTC) + timedelta(minutes=1)),
                CertificateQuery(until=datetime.now(UTC) - timedelta(minutes=1)),
            ):
                assert (await admin.certificate_page(empty, 0)).records == ()
            for size, after in ((10_001, ""), (-1, ""), (1, "ff")):
                with pytest.raises(InvalidInputError):
                    await admin.certificate_page(CertificateQuery(), size, after)


async def test_the_retention_moves_what_expired_long_ago() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin)
            old, young = await admin.issue([signing_request(FRONT), signing_request(BACK)])
            assert isinstance(old, Issued)
            assert isinstance(young, Issued)
            aged = CERTIFICATES.update().where(CERTIFICATES.c.serial == old.serial).values(not_after=1, not_before=0)
            parts.house.store.write(lambda transaction: transaction.connection.execute(aged))
            await Schedule(parts)._retention()
            assert [row.serial for row in await admin.certificates()] == [young.serial]
            archived = await every(admin.client.each_certificate(CertificateQuery(archived=True)))
            assert [(row.serial, row.state) for row in archived] == [(old.serial, "expired")]
            assert (await admin.certificates(serial=old.serial))[0].state == "expired"
            with pytest.raises(ConflictError, match="has expired, nothing is left to revoke"):
                await admin.revoke(old.serial)


# --- audit -----------------------------------------------------------------------------------------------------------


async def test_the_audit_log_is_exported_and_checked_against_copies() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin, FRONT)
            records: list[AuditRecord] = await every(admin.client.audit_export())
            assert [record.seq for record in records] == list(range(1, len(records) + 1))
            assert [record.previous for record in records[1:]] == [record.hash for record in records[:-1]]
            assert await every(admin.client.audit_export(datetime.now(UTC) + timedelta(hours=1))) == []
            await asyncio.to_thread(parts.house.audit.checkpoint, parts.house.clock.now())
            copy = KeptCheckpoints("copy", home.checkpoint.read_bytes())
            assert (await admin.audit_verify([copy])).intact
        end = json.loads(copy.content)["seq"]
        tamper(home, "DELETE FROM audit_checkpoints", "DELETE FROM audit WHERE seq >= 3")
        assert end >= 3
        async with server(home) as (_, admin):
            found = await admin.audit_verify()
            assert f"the checkpoint of record {end} is in a file, but not in the database" in " ".join(found.findings)
            home.checkpoint.unlink()
            assert any("copy" in one or "file" in one for one in (await admin.audit_verify([copy])).findings)


# --- backup and restore ----------------------------------------------------------------------------------------------


async def test_a_running_server_is_restored_elsewhere_and_contradicts_nothing(place: Path) -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin, FRONT)
            before, gone = await admin.issue([signing_request(FRONT), signing_request(BACK)])
            await admin.revoke(gone.serial)
            pieces = await every(admin.client.backup())
            generation = parts.house.authority.trust.generation
            number = parts.house.authority.trust.crl_number
            # The original goes on: none of this is in the backup.
            (lost,) = await admin.issue([signing_request(FRONT)])
            await admin.revoke(before.serial)
        summary = pieces.pop()
        assert isinstance(summary, BackupSummary)
        assert (summary.sealed_keys, summary.keys_elsewhere) == (2, ())
        content = b"".join(piece for piece in pieces if isinstance(piece, bytes))
        assert PASSPHRASE not in content
        (place / "b").write_bytes(content)
        restored = Home.at(place / "home")
        began = int(datetime.now(UTC).timestamp())
        made = restore(restored, RestoreOptions(place / "b", PASSPHRASE))
        assert (made.trust_domain, made.sealed_keys) == ("shop.test", 2)
        assert not restored.passphrase.exists()
        assert restored.config.read_bytes() == home.config.read_bytes()
        assert {path.stat().st_mode & 0o777 for path in restored.keys.iterdir()} <= {0o600}
        async with server(restored) as (parts, admin):
            trust = parts.house.authority.trust
            assert trust.crl_number > max(number, began)
            assert all(crl.number > began for crl in trust.crls.values())
            assert trust.generation > max(generation, began)
            (warning,) = [one for one in (await admin.status()).warnings if one.startswith("restored at")]
            assert f"meshca ca taint {trust.active.id}" in warning
            states = {row.serial: row.state for row in await admin.certificates()}
            assert states == {before.serial: "valid", gone.serial: "revoked"}
            assert lost.serial not in states
            assert (await admin.audit_verify()).intact
            tail = await admin.audit_tail(200)
            assert {record.writer for record in tail} == {"server", parts.house.store.writer}
            assert next(record.action for record in tail if record.writer != "server") == "restore"
            assert [record.action for record in tail if record.writer == "server"][-1] == "backup"
            (again,) = await admin.issue([signing_request(FRONT)])
            assert isinstance(again, Issued)


async def test_the_warning_of_a_restored_server_ends_after_a_leafs_life(place: Path) -> None:
    with temporary_home() as home:
        restored = Home.at(place / "home")
        restore(restored, RestoreOptions(backup_of(home, place / "b"), PASSPHRASE))
        tamper(restored, "UPDATE realm SET restored_at = restored_at - 3601000000")
        async with server(restored) as (_, admin):
            assert not any("restored" in one for one in (await admin.status()).warnings)


@pytest.mark.parametrize("target", ["home", "database"])
def test_what_holds_something_is_refused(place: Path, target: str) -> None:
    with temporary_home() as home:
        file = backup_of(home, place / "b")
        if target == "home":
            with pytest.raises(HomeExistsError, match="is not empty; nothing was changed"):
                restore(home, RestoreOptions(file, PASSPHRASE))
            return
        with pytest.raises(ConflictError, match="holds something already; nothing was changed"):
            restore(Home.at(place / "new"), RestoreOptions(file, PASSPHRASE, f"sqlite:///{home.database}"))
    assert not (place / "new").exists()


def test_a_restore_into_another_database_says_so_in_the_configuration(place: Path) -> None:
    with temporary_home() as home:
        file = backup_of(home, place / "b")
    other = f"sqlite:///{place}/other.db"
    restore(Home.at(place / "one"), RestoreOptions(file, PASSPHRASE, other))
    assert other in (place / "one/meshca.toml").read_text()
    assert not (place / "one/meshca.db").exists()
    with closing(open_house(Home.at(place / "one"), Config(store_url=other), PASSPHRASE)) as house:
        assert str(house.authority.realm.trust_domain) == "shop.test"
    again = backup_from(place / "one", other, place / "b2")
    restore(Home.at(place / "two"), RestoreOptions(again, PASSPHRASE, "home"))
    assert (place / "two/meshca.db").exists()
    assert "url" not in (place / "two/meshca.toml").read_text()
    with pytest.raises(InvalidInputError, match="unknown kind of database"):
        restore(Home.at(place / "three"), RestoreOptions(again, PASSPHRASE, "mysql://x"))


def backup_from(home: Path, url: str, file: Path) -> Path:
    with open_store(url) as store:
        file.write_bytes(b"".join(Backup(Home.at(home), store).pieces(PASSPHRASE)))
    return file


def flipped(content: bytes) -> bytes:
    return content[:-40] + bytes([content[-40] ^ 1]) + content[-39:]


def of_another_schema(content: bytes) -> bytes:
    manifest = {"meshca": "9.9", "schema": "9999", "made_at": "2026-01-01T00:00:00+00:00", "trust_domain": "x"}
    return b"".join(seal([json.dumps(manifest).encode() + b"\n"], PASSPHRASE))


def of_nothing(content: bytes) -> bytes:
    return b"".join(seal([b"{}\n"], PASSPHRASE))


def of_other_files(content: bytes) -> bytes:
    from meshca.store.migrate import newest

    lines = [{"meshca": "0", "schema": newest(), "made_at": "", "trust_domain": ""}, {"file": "../x", "content": ""}]
    return b"".join(seal([json.dumps(line).encode() + b"\n" for line in lines], PASSPHRASE))


@pytest.mark.parametrize(
    ("change", "passphrase", "finding"),
    [
        (bytes, b"wrong", "the passphrase is not the one"),
        (lambda content: content[:-1], PASSPHRASE, "the backup is cut"),
        (lambda content: content[: len(content) // 2], PASSPHRASE, "the backup is cut"),
        (flipped, PASSPHRASE, "was changed or moved"),
        (of_another_schema, PASSPHRASE, "made by meshca 9.9, whose database has schema 9999"),
        (of_nothing, PASSPHRASE, "does not begin with what it is"),
        (of_other_files, PASSPHRASE, "ends before its database does"),
        (lambda _: b"junk", PASSPHRASE, "this is no meshca backup"),
    ],
    ids=["wrong-passphrase", "cut", "halved", "changed", "schema", "empty", "files", "junk"],
)
def test_a_file_that_does_not_fit_changes_nothing(place: Path, change, passphrase: bytes, finding: str) -> None:  # type: ignore[no-untyped-def]
    with temporary_home() as home:
        file = backup_of(home, place / "b")
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(MeshcaError, match=finding):
        restore(Home.at(place / "new"), RestoreOptions(file, passphrase))
    assert [path.name for path in place.iterdir()] == ["b"]


async def test_a_passphrase_that_is_not_the_keys_seals_nothing() -> None:
    with temporary_home() as home:
        with (
            open_store(f"sqlite:///{home.database}") as store,
            pytest.raises(MeshcaError, match="the passphrase is not"),
        ):
            list(Backup(home, store).pieces(b"another"))
        async with server(home) as (_, admin):
            with pytest.raises(InvalidInputError, match="not the passphrase of this server's keys"):
                await every(admin.client.backup(b"another"))
            assert isinstance((await every(admin.client.backup(PASSPHRASE)))[-1], BackupSummary)


# --- damage ----------------------------------------------------------------------------------------------------------


async def test_a_damaged_database_is_named_and_streams_go_on() -> None:
    with temporary_home() as home:
        async with server(home) as (parts, admin):
            await shop_with(admin, FRONT)
            async with Envoy(home.mesh_socket, FRONT) as envoy:
                await envoy.ask("default")
                assert "default" in await envoy.secrets()
                await asyncio.to_thread(damage, parts.house.home)
                with pytest.raises(UnavailableError, match=f"{home.database}: the database is damaged.*meshca restore"):
                    await admin.certificates()
                assert (await admin.status()).state == "ready"
                await envoy.ask("default", "ROOTCA")
                assert "ROOTCA" in await envoy.secrets()


def test_a_server_does_not_start_on_a_damaged_database() -> None:
    with temporary_home() as home:
        damage(home)
        with pytest.raises(UnavailableError, match=f"{home.database}: the database is damaged.*meshca restore"):
            open_house(home, Config(), PASSPHRASE)


def damage(home: Home) -> None:
    """Overwrite every page of the file but the first, and what waits beside it."""
    tamper(home, "PRAGMA wal_checkpoint(TRUNCATE)")
    size = home.database.stat().st_size
    with home.database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
