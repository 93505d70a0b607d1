"""Audit, backup and restore through the command line on real servers."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from harness.world import World, mesh, node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CUT = "DELETE FROM audit WHERE seq >= (SELECT max(seq) FROM audit_checkpoints)"
CUT_CHECKPOINT = "DELETE FROM audit_checkpoints WHERE seq >= (SELECT max(seq) FROM audit_checkpoints)"
TAMPERING = {
    "one byte changed": (
        ["UPDATE audit SET reason = reason || 'x' WHERE seq = 3"],
        "record 3: its fields do not match its hash",
    ),
    "one removed": (["DELETE FROM audit WHERE seq = 3"], "records 3 to 3 are missing"),
    "two swapped": (
        [
            "UPDATE audit SET seq = 99 WHERE seq = 3",
            "UPDATE audit SET seq = 3 WHERE seq = 4",
            "UPDATE audit SET seq = 4 WHERE seq = 99",
        ],
        "record 3: does not follow record 2",
    ),
    "tail cut": ([CUT], "the tail is cut"),
    "tail cut with its checkpoint": ([CUT, CUT_CHECKPOINT], "is in a file, but not in the database"),
}


def tamper(home: Path, *statements: str) -> None:
    with closing(sqlite3.connect(home / "meshca.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_audit_verify_finds_each_way_of_tampering(world: World) -> None:
    world.apply(mesh(), node("front"), node("back"))
    world.register("front", 1)
    for name in ("front", "back"):
        world.run("issue", name, "--out", str(world.folder / name))
    world.stop()
    kept = {name: (world.home / name).read_bytes() for name in ("meshca.db", "audit.checkpoint")}
    (world.folder / "copy").write_bytes(kept["audit.checkpoint"])
    (world.folder / "log").write_bytes((world.folder / "serve.log").read_bytes())
    for name, (statements, finding) in TAMPERING.items():
        for file, content in kept.items():
            (world.home / file).write_bytes(content)
        tamper(world.home, *statements)
        world.start()
        found = world.run("audit", "verify", "-o", "json", code=1).json["findings"]
        assert any(finding in one for one in found), (name, found)
        world.stop()
    # Whoever cuts the home's file as well still has to face a copy kept elsewhere, or the server's log.
    (world.home / "audit.checkpoint").unlink()
    world.start()
    for elsewhere in ("copy", "log"):
        answer = world.run("audit", "verify", "--checkpoint", str(world.folder / elsewhere), "-o", "json", code=1).json
        assert any("is in a file, but not in the database" in one for one in answer["findings"])


def test_an_untouched_log_is_intact_and_exported(world: World) -> None:
    world.apply(mesh(), node("front"))
    world.stop()
    world.start()
    log = world.folder / "serve.log"
    assert world.run("audit", "verify", "--checkpoint", str(log), "-o", "json").json["intact"]
    lines = [json.loads(line) for line in world.run("audit", "export").out.splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["previous"] == lines[-2]["hash"]


def test_two_servers_on_one_home_are_refused(world: World) -> None:
    refused = world.run("serve", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", code=1)
    assert f"a server runs on {world.home} already" in refused.err
    assert f"pid {world.server.pid if world.server else 0}" in refused.err
    assert world.run("status", "-o", "json").json["state"] == "ready"
    assert "a server runs on" in world.run("db", "upgrade", code=1).err


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of an empty schema of PostgreSQL."""
    import secrets

    from sqlalchemy import create_engine, make_url, text

    given = os.environ.get("MESHCA_TEST_POSTGRES")
    if not given:
        pytest.skip("MESHCA_TEST_POSTGRES names no PostgreSQL database")
    name = f"meshca_e2e_{secrets.token_hex(6)}"
    engine = create_engine(make_url(given))
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {name}"))
    yield make_url(given).update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


def test_a_running_server_moves_to_postgresql_and_back(
    world: World, make_world: Callable[..., World], postgres: str
) -> None:
    world.apply(mesh(), node("front"))
    issued = world.run("issue", "front", "--out", str(world.folder / "front"), "-o", "json").json
    secret, before = world.folder / "secret", numbers(world)
    shutil.copyfile(world.home / "passphrase", secret)
    for database in (postgres, "home"):
        world = moved(world, make_world(), secret, database)
        assert all(after > number for after, number in zip(numbers(world), before, strict=True))
        before = numbers(world)
        assert [row["serial"] for row in world.run("certs", "-o", "json").json] == [issued["serial"]]
        assert world.run("verify", issued["files"]["certificate"], "-o", "json").json["valid"]
        assert world.run("audit", "verify", "-o", "json").json["intact"]
        warnings = world.run("status", "-o", "json").json["warnings"]
        assert any(text.startswith("restored at") and "meshca ca taint" in text for text in warnings)
    world.run("revoke", issued["serial"])
    assert numbers(world)[1] > before[1]


def moved(world: World, successor: World, secret: Path, database: str) -> World:
    """Back a running server up, end it, and start it again from the backup in another home."""
    file, given = world.folder / "backup", ("--passphrase-file", str(secret))
    assert "keep it elsewhere" in world.run("backup", str(file)).err
    assert "it is not replaced" in world.run("backup", str(file), code=1).err
    assert file.stat().st_mode & 0o777 == 0o600
    world.stop()
    shutil.rmtree(successor.home)
    restored = successor.run("restore", str(file), "--database", database, *given, "-o", "json").json
    assert restored["trust_domain"] == "m.test"
    return successor.start(*given)


def numbers(world: World) -> tuple[int, int]:
    """Return trust generation and CRL number, neither of which may go down."""
    status = world.run("status", "-o", "json").json
    (issuing,) = world.run("ca", "show", "-o", "json").json["issuing"]
    with urllib.request.urlopen(f"http://{status['http']}/crl/{issuing['id']}.crl") as answer:
        crl = x509.load_der_x509_crl(answer.read())
    return status["trust_generation"], crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
