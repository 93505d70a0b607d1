"""PostgreSQL on dropped files: its certificate, and logins by client certificate, the SPIFFE ID mapped to a role."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from harness.dropped import LIVES, Dropping, Load, dropping_world, ended, generation, ports, rotate_issuing, running
from harness.world import eventually, spiffe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.world import World

pytestmark = pytest.mark.usefixtures("other_users")

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"), key=lambda path: int(path.parent.name))
# An identity whose name is longer than the 64 characters that a common name may have.
APP = "app-with-a-name-that-no-common-name-could-hold-as-a-spiffe-id"


class Postgres:
    """A PostgreSQL of the test's own, run as `postgres`, that lets nobody in but by certificate."""

    def __init__(self, folder: Path, files: Path, port: int) -> None:
        self.folder, self.port, self._files = folder / "pg", port, files
        self.folder.mkdir(0o711)
        user = pwd.getpwnam("postgres")
        os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._as_postgres = ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "--")
        self.data = self.folder / "data"
        made = [
            *self._as_postgres,
            str(BIN / "initdb"),
            "-D",
            str(self.data),
            "-A",
            "reject",
            "-U",
            "owner",
            "--no-sync",
        ]
        subprocess.run(made, check=True, capture_output=True)
        (self.data / "pg_hba.conf").write_text(
            "local   all owner trust\nhostssl all all 127.0.0.1/32 cert map=mesh clientname=DN\n"
        )
        every = r"/^UID=spiffe://m\.test/mesh/m/virtualNode/(.*)$"
        (self.data / "pg_ident.conf").write_text(f'mesh "UID={spiffe(APP)}" app\nmesh "{every}" \\1\n')
        settings = {
            "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder, "ssl": "on",
            "ssl_cert_file": files / "svid.pem", "ssl_key_file": files / "svid_key.pem",
            "ssl_ca_file": files / "bundle.pem", "ssl_crl_file": files / "crl.pem", "fsync": "off",
            "log_connections": "off", "shared_buffers": "16MB",
        }  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self) -> subprocess.Popen[bytes]:
        return running([*self._as_postgres, BIN / "postgres", "-D", self.data], self.folder / "log")

    def prepare(self) -> bool:
        """Make the role once it answers; it listens before it does."""
        with contextlib.suppress(psycopg.OperationalError):
            with psycopg.connect(host=str(self.folder), port=self.port, user="owner", dbname="postgres") as owner:
                owner.execute("CREATE ROLE app LOGIN")
                owner.execute("CREATE ROLE other LOGIN")
            return True
        return False

    def login(self, client: Path, role: str = "app", node: str = APP) -> str:
        """Log in once with a client's files and return who was let in; server name, chain and CRL are checked."""
        files = generation(client)
        with psycopg.connect(
            host="db.m.test", hostaddr="127.0.0.1", port=self.port, user=role, dbname="postgres", connect_timeout=5,
            sslmode="verify-full", sslrootcert=str(files / "bundle.pem"), sslcrl=str(files / "crl.pem"),
            sslcert=str(files / "svid.pem"), sslkey=str(files / "svid_key.pem"),
        ) as connection:  # fmt: skip
            row = connection.execute("SELECT current_user, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            user, name = row.fetchone() or ("", "")
            assert name == f"/UID={spiffe(node)}"[:63]  # as long as a name is in that view
            return str(user)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        ended(process)


@pytest.mark.skipif(not BIN.exists(), reason="needs PostgreSQL")
def test_its_certificate_and_its_clients_change_and_no_login_fails(
    make_world: Callable[..., World], processes: list[subprocess.Popen[bytes]]
) -> None:
    world = dropping_world(make_world("--lifetimes", LIVES), "db", APP, "other")
    folder = world.folder
    (port,) = ports(1)
    postgres = Postgres(folder, folder / "db/current", port)
    server = {
        "node": "db", "dir": f"{folder}/db", "group": "postgres", "dns": ["db.m.test"],
        "reload": {"signal": "HUP", "pid_file": f"{postgres.data}/postmaster.pid", "program": f"{BIN}/postgres"},
        "verify": {"address": f"127.0.0.1:{port}", "protocol": "postgres"},
    }  # fmt: skip
    targets: list[dict[str, Any]] = [
        server,
        {"node": APP, "dir": f"{folder}/app", "subject": True},
        {"node": "other", "dir": f"{folder}/other", "subject": True},
        {"node": APP, "dir": f"{folder}/nameless"},
    ]
    with Dropping(world, targets) as dropping:
        eventually((folder / "db/current").exists, 20, "files for PostgreSQL")
        processes.append(postgres.start())
        eventually(postgres.prepare, 15, "PostgreSQL")
        dropping.wait_in_use("db", "app", "other", "nameless")
        started = len(dropping.failures())

        def login() -> None:
            assert postgres.login(folder / "app") == "app"

        with Load([login, login]) as load:
            dropping.wait_rotated(1, "db", "app")
            rotate_issuing(world)
            dropping.wait_rotated(1, "db", "app")
        assert load.failed == [], dropping.log() + (postgres.folder / "log").read_text()
        assert load.done["login"] > 20
        assert dropping.failures()[started:] == []
        assert postgres.login(folder / "other", "other", "other") == "other"
        with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
            postgres.login(folder / "other")
        with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
            postgres.login(folder / "nameless")
        with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
            postgres.login(folder / "app", role="owner")
