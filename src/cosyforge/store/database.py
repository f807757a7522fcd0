"""The database: connections, transactions and schema upgrades, the same on SQLite and PostgreSQL. Knows no table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DataError, OperationalError

from cosyforge.errors import Internal, InvalidParameter, PlatformError
from cosyforge.store.postgres import PostgresServer
from cosyforge.store.sqlite import SqliteFile

_MIGRATIONS = Path(__file__).parent / "migrations"
_log = structlog.get_logger()


class DatabaseKind(Protocol):
    """What differs between SQLite and PostgreSQL."""

    def create_engine(self) -> Engine:
        """Connections whose transactions, with the option `write`, run one after the other."""
        ...

    def read_options(self) -> dict[str, Any]:
        """What makes a transaction one snapshot that cannot write."""
        ...

    def upgrade_lock(self) -> AbstractContextManager[None]: ...

    def reserve(self) -> None: ...

    def release(self) -> None: ...

    def explain(self, error: Exception) -> PlatformError: ...


class Database:
    """location: the path of a SQLite file, or the URL of a PostgreSQL database

    Raises: InvalidParameter when the URL is wrong or the driver of PostgreSQL is missing
    """

    def __init__(self, location: Path | str, *, pool_size: int = 16) -> None:
        self._kind: DatabaseKind = (
            SqliteFile(location) if isinstance(location, Path) else PostgresServer(location, pool_size)
        )
        self._engine = self._kind.create_engine()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent snapshot."""
        with self._connect(**self._kind.read_options()) as connection, _refused_values():
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing. Takes the write lock at once, so that what was read first is still true when writing."""
        with self._connect(write=True) as connection, _refused_values(), connection.begin():
            yield connection

    def check(self) -> None:
        """Raises: InvalidParameter, NotReady that say why the database cannot be reached, and what to do"""
        try:
            self._engine.connect().close()
        except OperationalError as error:
            raise self._kind.explain(error) from None

    def upgrade(self) -> None:
        """Bring the schema to the newest revision; servers starting together wait for each other.

        Raises: InvalidParameter, NotReady when the database cannot be reached; InvalidParameter when it is newer than
            this program
        """
        with self._kind.upgrade_lock():
            self.check()  # the first connection of all makes the file, which must not happen twice at once
            with self.transaction() as connection:
                revision = _revision(connection)
                if revision is not None and revision > newest_revision():
                    raise InvalidParameter(
                        f"The database has revision {revision} and this program knows none after {newest_revision()}: "
                        "install the version that it was last used with, or a newer one."
                    )
                if revision != newest_revision():
                    _migrate(connection)

    def reserve(self) -> None:
        """Be the only server on this database until `close`.

        Raises: Conflict when another one is there
        """
        self._kind.reserve()

    def close(self) -> None:
        self._kind.release()
        self._engine.dispose()

    def _connect(self, **options: Any) -> Connection:
        try:
            return self._engine.connect().execution_options(**options)
        except OperationalError as error:
            _log.error("database_unreachable", reason=self._kind.explain(error).message)
            raise Internal("The database cannot be reached.", is_temporary=True) from None


def newest_revision() -> str:
    """Revisions are files named by number, so the newest one is the last by name."""
    return max(path.stem.split("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(connection: Connection) -> None:
    # imported here: a start without changes to make does not pay for it
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _refused_values() -> Iterator[None]:
    """PostgreSQL keeps no NUL in a text, no text longer than its column, no number wider than it."""
    try:
        yield
    except DataError as error:
        reason = " ".join(str(error.orig).split("\n")[0].split())
        raise InvalidParameter(
            f"A value is too long, too large or has a character that cannot be kept ({reason})."
        ) from error
