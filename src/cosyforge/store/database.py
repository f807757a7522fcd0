"""The SQLite database: connections, transactions and schema upgrades. Knows no table by name."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text

_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON")
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """One SQLite file. Reads run beside one writer at a time (WAL)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # threads of the API, the scheduler and the reconciler share the pool; each transaction is short
        self._engine = create_engine(f"sqlite:///{path}", pool_size=16, max_overflow=48)
        event.listen(self._engine, "connect", _prepare_connection)
        event.listen(self._engine, "begin", _begin)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent snapshot."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing. Takes the write lock at once, so that what was read first is still true when writing."""
        with self._engine.connect().execution_options(write=True) as connection, connection.begin():
            yield connection

    def upgrade(self) -> None:
        """Bring the schema to the newest revision; servers starting together wait for each other."""
        with open(self._path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._revision() != newest_revision():
                self._migrate()

    def close(self) -> None:
        self._engine.dispose()

    def _revision(self) -> str | None:
        with self.read() as connection:
            known = connection.execute(text("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")).first()
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() if known else None

    def _migrate(self) -> None:
        # imported here: a start without changes to make does not pay for it
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with self.transaction() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def newest_revision() -> str:
    """Revisions are files named by number, so the newest one is the last by name."""
    return max(path.stem.split("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _prepare_connection(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.isolation_level = None  # BEGIN is ours, see _begin
    for pragma in _PRAGMAS:
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    is_write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")
