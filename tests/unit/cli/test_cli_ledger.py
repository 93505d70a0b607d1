"""`certs` in pages, `audit export` and `verify --checkpoint`, `db`, `backup` and `restore`."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from fakes.admin import T0

from meshca.client.values import AuditRecord, BackupSummary, CertificateQuery, CertificateRecord, KeptCheckpoints

if TYPE_CHECKING:
    from pathlib import Path

    from fakes.shell import Shell


@pytest.fixture
def five(shell: Shell) -> Shell:
    shell.admin.records = [
        CertificateRecord(f"0{n}", "spiffe://m.test/x", "valid", T0, T0 + timedelta(hours=1), "ca") for n in range(1, 6)
    ]
    return shell


def test_certs_without_pages_is_complete(five: Shell) -> None:
    result = five.run("certs", "-o", "json")
    assert [row["serial"] for row in json.loads(result.stdout)] == ["01", "02", "03", "04", "05"]
    assert result.stderr == ""


def test_certs_pages_say_where_to_go_on(five: Shell) -> None:
    first = five.run("certs", "--limit", "2", "-o", "json")
    assert [row["serial"] for row in json.loads(first.stdout)] == ["01", "02"]
    assert first.stderr == "there are more: go on with --after 02\n"
    last = five.run("certs", "--limit", "3", "--after", "02", "-o", "json")
    assert [row["serial"] for row in json.loads(last.stdout)] == ["03", "04", "05"]
    assert last.stderr == ""


def test_certs_of_nothing_is_an_empty_list(shell: Shell) -> None:
    assert shell.json("certs") == []
    assert shell.run("certs", "-o", "yaml").stdout == "[]\n"
    assert shell.run("certs").stderr == "none\n"


def test_certs_in_yaml_and_as_a_table(five: Shell) -> None:
    assert five.run("certs", "-o", "yaml").stdout.count("- serial: ") == 5
    assert five.run("certs").stdout.count("spiffe://m.test/x") == 5


def test_certs_filters_reach_the_server(shell: Shell) -> None:
    shell.run(
        "certs", "--node", "n", "--state", "expired", "--issuer", "ab", "--archived",
        "--since", "2026-11-25", "--until", "2026-11-25T12:00:00+01:00",
    )  # fmt: skip
    since, until = datetime(2026, 11, 25, tzinfo=UTC), datetime(2026, 11, 25, 11, tzinfo=UTC)
    assert shell.admin.calls == [
        ("certificate_page", CertificateQuery("n", "expired", "", "ab", since, until, True), 10_000, "")
    ]


def test_a_time_may_be_how_long_ago(shell: Shell) -> None:
    shell.run("certs", "--since", "36h")
    since = shell.admin.calls[0][1].since
    assert timedelta(hours=35) < datetime.now(UTC) - since < timedelta(hours=37)


@pytest.mark.parametrize("text", ["yesterday", "2026-11-25T12:00:00", "2026-13-01", ""])
def test_what_is_no_time_is_a_usage_error(shell: Shell, text: str) -> None:
    assert "--since" in shell.run("certs", "--since", text, code=2).stderr


def test_audit_export_is_one_line_a_record(shell: Shell) -> None:
    shell.admin.audit = [AuditRecord("w", n, T0, "a", "issue", "s", "ok", "", "h", "p") for n in (1, 2)]
    lines = shell.run("audit", "export", "--since", "2026-11-25").stdout.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2]
    assert json.loads(lines[0]) == {
        "writer": "w", "seq": 1, "time": "2026-11-25T12:00:00Z", "actor": "a", "action": "issue", "subject": "s",
        "outcome": "ok", "reason": "", "hash": "h", "previous": "p",
    }  # fmt: skip
    assert shell.admin.calls == [("audit_export", datetime(2026, 11, 25, tzinfo=UTC))]


def test_audit_verify_sends_the_checkpoints_of_a_file(shell: Shell, tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text('{"event": "ready"}\n{"event": "audit_checkpoint", "signature": "00"}\n')
    shell.run("audit", "verify", "--checkpoint", str(log))
    kept = KeptCheckpoints("serve.log", b'{"event": "audit_checkpoint", "signature": "00"}\n')
    assert shell.admin.calls == [("audit_verify", kept)]
    log.write_text("nothing")
    assert "holds no checkpoint" in shell.run("audit", "verify", "--checkpoint", str(log), code=1).stderr
    assert shell.run("audit", "verify", "--checkpoint", str(tmp_path / "absent"), code=1).stderr


def test_backup_writes_a_private_file_and_says_what_is_not_in_it(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "b.meshca"
    document = shell.json("backup", str(file))
    assert file.read_bytes() == b"onetwo"
    assert file.stat().st_mode & 0o777 == 0o600
    assert (document["bytes"], document["rows"], document["sealed_keys"]) == (6, 7, 2)
    assert document["keys_elsewhere"] == ["openbao:transit/root@1"]
    passphrase, references = document["warnings"]
    assert "without the passphrase nobody can restore this" in passphrase
    assert "openbao:transit/root@1" in references
    assert shell.admin.calls == [("backup", b"")]
    assert "it is not replaced" in shell.run("backup", str(file), code=1).stderr
    assert os.listdir(tmp_path) == ["b.meshca"] or "b.meshca" in os.listdir(tmp_path)


def test_a_backup_that_ends_early_leaves_nothing(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shell.admin.backup_pieces = [b"one"]
    assert "the server ended before the backup did" in shell.run("backup", str(out / "b"), code=1).stderr
    assert list(out.iterdir()) == []
    assert "cannot be written" in shell.run("backup", str(tmp_path / "absent/b"), code=1).stderr


def test_a_given_passphrase_goes_with_the_wish(shell: Shell, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    shell.admin.backup_pieces = [b"x", BackupSummary(T0, 0, 0)]
    shell.run("backup", str(tmp_path / "b"), "--passphrase-file", str(secret))
    assert shell.admin.calls == [("backup", b"correct horse")]


def test_a_home_without_a_server_is_backed_up_restored_checked_and_upgraded(alone: Shell, tmp_path: Path) -> None:
    secret, file = tmp_path / "secret", tmp_path / "b"
    secret.write_text("correct horse\n")
    given = ("--passphrase-file", str(secret))
    home, other = tmp_path / "one", tmp_path / "two"
    alone.home = home
    alone.run("init", "--trust-domain", "m.test", *given)
    assert alone.json("db", "check")["current"] is True
    upgraded = alone.json("db", "upgrade")
    assert upgraded["before"] == upgraded["after"]
    assert alone.json("backup", str(file), *given)["sealed_keys"] == 2
    assert "is not empty" in alone.run("restore", str(file), *given, code=1).stderr
    alone.home = other
    document = alone.json("restore", str(file), *given)
    assert (document["trust_domain"], document["sealed_keys"]) == ("m.test", 2)
    assert any("must not run any more" in text for text in document["warnings"])
    assert alone.json("db", "check")["current"] is True
    with (other / "meshca.db").open("r+b") as database:
        database.seek(4096)
        database.write(b"\xa5" * 40_000)
    damaged = alone.run("db", "check", code=1).stderr
    assert f"{other / 'meshca.db'}: the database is damaged" in damaged
    assert "meshca restore" in damaged


def test_a_database_of_an_older_meshca_is_upgraded_with_a_warning(alone: Shell, tmp_path: Path) -> None:
    from alembic import command
    from sqlalchemy import create_engine

    from meshca.server.config import Config, write_config
    from meshca.store import migrate

    alone.home = tmp_path / "old"
    alone.home.mkdir()
    (alone.home / "meshca.toml").write_text(write_config(Config()))
    engine = create_engine(f"sqlite:///{alone.home}/meshca.db")
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    assert "older than this meshca: it is 0001" in alone.run("db", "check", code=1).stderr
    result = alone.run("db", "upgrade", "-o", "json")
    assert json.loads(result.stdout) == {"before": "0001", "after": migrate.newest()}
    assert "make a new one" in result.stderr
    alone.run("db", "check")


@pytest.mark.parametrize("command", ["check", "upgrade"])
def test_db_needs_a_home(alone: Shell, command: str) -> None:
    assert "is no meshca home" in alone.run("db", command, code=1).stderr
