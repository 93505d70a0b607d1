"""Which schema a database has, and how it gets the one this code was written for.

Rules: a schema only moves forward; a database that a newer meshca has touched is refused, never guessed at; an upgrade
is one transaction.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from meshca.store.errors import SchemaError

_FOLDER = Path(__file__).parent / "migrations"
# Any number will do, as long as two upgrades use the same.
_UPGRADE_LOCK = 0x6D657368_6361_0001


def upgrade(connection: Connection) -> None:
    """Run the migrations that are missing, inside the caller's transaction.

    Raises:
        SchemaError: the schema is newer than this code.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
    _require_known(revision(connection))
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def require_current(connection: Connection) -> None:
    """Check the schema.

    Raises:
        SchemaError: it is absent, older or newer.
    """
    found = revision(connection)
    if found is None:
        raise SchemaError("the database holds no meshca schema", remedy="run `meshca init`, or `meshca db upgrade`")
    _require_known(found)
    needed = newest()
    if found != needed:
        raise SchemaError(
            f"the database's schema is older than this meshca: it is {found}, needed is {needed}",
            remedy="make a backup and run `meshca db upgrade`",
        )


def _require_known(found: str | None) -> None:
    if found is not None and found not in {script.revision for script in _scripts().walk_revisions()}:
        raise SchemaError(
            f"the database's schema is newer than this meshca: it is {found}, which this version does not know",
            remedy="run the newer meshca again, or restore a backup from before its upgrade",
        )


def newest() -> str:
    """Return the schema that this code was written for."""
    return str(_scripts().get_current_head())


def revision(connection: Connection) -> str | None:
    """Return the schema that the database has; None for none."""
    return MigrationContext.configure(connection).get_current_revision()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
