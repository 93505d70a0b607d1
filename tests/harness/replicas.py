"""Several servers on one PostgreSQL database, and callers that write at each of them."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from harness.world import World
from sqlalchemy import create_engine, make_url, text

from meshca.client.admin import AdminClient
from meshca.client.values import Issued, SigningRequest
from meshca.errors import MeshcaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POSTGRES = os.environ.get("MESHCA_TEST_POSTGRES", "")
_PAUSE = 0.05
_REVOKED = 5  # of what is issued, one in so many


@dataclass
class Database:
    """A schema of this test's own."""

    url: str

    def rows(self, query: str) -> list[Any]:
        """Read what it holds."""
        engine = create_engine(make_url(self.url))
        try:
            with engine.connect() as connection:
                return list(connection.execute(text(query)))
        finally:
            engine.dispose()

    def leader(self) -> tuple[str, int]:
        """Return who holds the lease of scheduled work, and its epoch."""
        ((holder, epoch),) = self.rows("SELECT holder, epoch FROM leases WHERE name = 'schedule'")
        return holder, epoch


@contextlib.contextmanager
def database() -> Iterator[Database]:
    """Lend a schema of PostgreSQL."""
    schema = f"meshca_e2e_{secrets.token_hex(6)}"
    outer = Database(POSTGRES)
    _run(outer, f"CREATE SCHEMA {schema}")
    url = make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    try:
        yield Database(url.render_as_string(hide_password=False))
    finally:
        _run(outer, f"DROP SCHEMA {schema} CASCADE")


def _run(where: Database, statement: str) -> None:
    engine = create_engine(make_url(where.url))
    try:
        with engine.begin() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()


@contextlib.contextmanager
def replicas(count: int, where: Database) -> Iterator[dict[str, World]]:
    """Run so many servers, by the names of their replicas."""
    made: dict[str, World] = {}
    try:
        first = World.make("--database", where.url, "--root-key", "store")
        made["server"] = first
        passphrase = str(first.home / "passphrase")
        joining = ("--join", "--database", where.url, "--root-key", "store", "--passphrase-file", passphrase)
        for number in range(2, count + 1):
            made[f"r{number}"] = World.make(*joining, "--replica", f"r{number}")
        for world in made.values():
            world.start("--passphrase-file", passphrase)
        yield made
    finally:
        for world in made.values():
            world.close()


@dataclass
class Writing:
    """Issues and revokes at one replica until it is stopped, and remembers what was acknowledged."""

    world: World
    node: str
    issued: set[str] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    refused: int = 0  # by a replica that is down, say
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Writing:
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        assert self._thread is not None
        self._thread.join(30)

    def _work(self) -> None:
        csr = _csr()
        client = AdminClient(self.world.home / "run/admin.sock", deadline=3.0)
        while not self._ended.wait(_PAUSE):
            try:
                (answer,) = client.issue([SigningRequest(self.node, csr)])
                if isinstance(answer, Issued):
                    self.issued.add(answer.serial)
                    if len(self.issued) % _REVOKED == 0:
                        client.revoke(answer.serial)
                        self.revoked.add(answer.serial)
            except MeshcaError:
                self.refused += 1
        client.close()


def _csr() -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def seconds_until(holds: Any, most: float) -> float:
    """Return how long it takes until something holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < most, f"not within {most:g} s"
        time.sleep(0.02)
    return time.monotonic() - began


def missing(acknowledged: Sequence[Writing], rows: Sequence[Any]) -> tuple[set[str], set[str]]:
    """Return which serials were answered, and which revocations, that the ledger does not have."""
    there = {row.serial: row for row in rows}
    issued = {serial for one in acknowledged for serial in one.issued}
    revoked = {serial for one in acknowledged for serial in one.revoked}
    unknown = {serial for serial in issued if serial not in there or there[serial].state != "issued"}
    return unknown, {serial for serial in revoked if serial not in there or there[serial].revoked_at is None}
