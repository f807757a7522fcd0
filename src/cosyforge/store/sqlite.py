"""The database as one SQLite file: the default, without a server. Reads run beside one writer at a time (WAL)."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

from cosyforge.errors import InvalidParameter, PlatformError

# FULL: what was committed stays so when the power goes, and jobs and bills count on it
_PRAGMAS = ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")


class SqliteFile:
    """One file and, beside it, the lock under which its schema changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def create_engine(self) -> Engine:
        # threads of the API, the scheduler and the reconciler share the pool; each transaction is short
        engine = create_engine(f"sqlite:///{self._path}", pool_size=16, max_overflow=48, hide_parameters=True)
        event.listen(engine, "connect", _prepare_connection)
        event.listen(engine, "begin", _begin)
        return engine

    def read_options(self) -> dict[str, Any]:
        return {}

    @contextmanager
    def upgrade_lock(self) -> Iterator[None]:
        try:
            lock = open(self._path.with_suffix(".lock"), "w")  # noqa: SIM115 - closed below, after what happens inside
        except OSError as error:
            raise self.explain(error) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def reserve(self) -> None:
        """Nothing to do: the lock of the data directory, where the file lies, keeps a second server away."""

    def release(self) -> None:
        """See `reserve`."""

    def explain(self, error: Exception) -> PlatformError:
        """Why the file cannot be opened."""
        reason = getattr(error, "orig", error)
        return InvalidParameter(
            f"{self._path}: the database cannot be opened ({reason}); "
            "check that the file and its directory may be written and that the disk is not full."
        )


def _prepare_connection(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.isolation_level = None  # BEGIN is ours, see _begin
    for pragma in _PRAGMAS:
        dbapi_connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    is_write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")
