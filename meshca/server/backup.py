"""A backup: all that a server is, as the lines of one sealed file.

Rules:
- The database is read in one transaction. The audit checkpoint is read before it begins, so that the database knows at
  least as much; key files after it, so that each CA's is there. Files that a change of passphrase has touched meanwhile
  end the backup without its last frame.
- It holds the database, the key files (sealed as they are), meshca.toml and the checkpoint. It never holds the
  passphrase, nor keys of OpenBao or an HSM: of these only the references.
- It is sealed under the passphrase of the keys, and the keys are known to open under it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, select

from meshca import __version__
from meshca.errors import ConflictError, NotFoundError
from meshca.keys.chest import seal
from meshca.keys.files import KeyFolder
from meshca.keys.sealed import Sealed
from meshca.server.home import Home
from meshca.store import migrate
from meshca.store.dump import Dump, line_of
from meshca.store.engine import Store
from meshca.store.schema import AUTHORITIES, METADATA, REALM

KEY_FILE = re.compile(r"[0-9a-f]{20}\.key(\.new)?")
_SEALED_ROWS = "sealed_keys"
_ELSEWHERE = re.compile(r"(openbao|pkcs11):")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup holds; ``keys_elsewhere`` are references to keys that it does not hold."""

    made_at: datetime
    rows: int
    sealed_keys: int
    keys_elsewhere: tuple[str, ...]


class Backup:
    """One backup of a home and its store."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home = home
        self._store = store
        self._made_at = datetime.now(UTC)
        self._files: dict[str, bytes] = {}
        self._dump: Dump | None = None
        self._elsewhere: tuple[str, ...] = ()

    def pieces(self, passphrase: bytes) -> Generator[bytes]:
        """Yield the sealed file in pieces.

        Raises:
            WrongPassphraseError: A key does not open under this passphrase.
            ConflictError: The keys were changed meanwhile; what was yielded is no backup.
            StoreError: The database does not answer, or is damaged.
        """
        return seal(self._plain(passphrase), passphrase)

    def summary(self) -> Summary:
        """Return what the backup holds, once all of it was yielded."""
        counts = self._dump.counts if self._dump else {}
        files = sum(name.endswith(".key") for name in self._files)
        return Summary(
            made_at=self._made_at,
            rows=sum(counts.values()),
            sealed_keys=files + counts.get(_SEALED_ROWS, 0),
            keys_elsewhere=self._elsewhere,
        )

    def _plain(self, passphrase: bytes) -> Iterator[bytes]:
        checkpoint = self._home.checkpoint.read_bytes() if self._home.checkpoint.exists() else None
        self._made_at = datetime.now(UTC)
        with self._store.read() as connection:
            yield line_of(self._manifest(connection))
            keys = self._key_files()
            _require_passphrase(connection, self._home, passphrase)
            self._files = {"meshca.toml": self._home.config.read_bytes(), **keys}
            self._files |= {"audit.checkpoint": checkpoint} if checkpoint is not None else {}
            for name, content in self._files.items():
                yield line_of({"file": name, "content": base64.b64encode(content).decode()})
            self._dump = Dump(connection)
            yield from self._dump
        if not keys.items() <= self._key_files().items():
            raise ConflictError("the keys were changed during the backup", remedy="make it again")

    def _manifest(self, connection: Connection) -> dict[str, str]:
        trust_domain = connection.execute(select(REALM.c.trust_domain)).scalar()
        if trust_domain is None:
            raise NotFoundError("the store holds no certificate authority: there is nothing to back up")
        references = connection.execute(select(AUTHORITIES.c.key_ref).where(AUTHORITIES.c.state != "removed"))
        self._elsewhere = tuple(sorted(filter(_ELSEWHERE.match, references.scalars())))
        return {
            "meshca": __version__,
            "schema": migrate.revision(connection) or "",
            "made_at": self._made_at.isoformat(),
            "trust_domain": trust_domain,
        }

    def _key_files(self) -> dict[str, bytes]:
        found = (path for path in sorted(self._home.keys.glob("*.key*")) if KEY_FILE.fullmatch(path.name))
        return {f"keys/{path.name}": path.read_bytes() for path in found}


def _require_passphrase(connection: Connection, home: Home, passphrase: bytes) -> None:
    """Check one key of each place: who restores needs one passphrase for the backup and the keys in it."""
    for sealed in list(KeyFolder(home.keys).sealed().values())[:1]:
        sealed.require_passphrase(passphrase)
    table = METADATA.tables[_SEALED_ROWS]
    for row in connection.execute(select(table.c.key_id, table.c.sealed).limit(1)):
        Sealed(bytes(row.sealed), f"sealed key {row.key_id}").require_passphrase(passphrase)
