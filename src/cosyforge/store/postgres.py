"""The database on a PostgreSQL server: for those who have one already, or who outgrow a file.

Write transactions run one after the other, as on SQLite: each takes one advisory lock as its first act, so what it read
is still true when it writes, and no code above needs to know which database it is on. They are short; the lock is
never the limit before the work around it is. Reads take no lock and see one snapshot.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import NullPool

from cosyforge.errors import Conflict, InvalidParameter, NotReady, PlatformError

_FORM = "postgresql://user:password@host:5432/database"
_SCHEMES = ("postgres", "postgresql", "postgresql+psycopg")
_CONNECT_TIMEOUT_S = 10
_LOCK_TIMEOUT_MS = 30_000
"""A write transaction that waits longer fails: something holds the lock that should not."""
_RESERVE_S = 10.0
"""How long a server that was killed may be missed by PostgreSQL before its place is free again."""

# advisory locks are numbers known to all who use a database: ours are a pair of a name and the schema in use
_WRITE_LOCK, _SERVER_LOCK = 0x436F7379, 0x436F7380
_SCHEMA = "current_schema()::regnamespace::oid::int"
_TAKE_WRITE_LOCK = f"SELECT pg_advisory_xact_lock({_WRITE_LOCK}, {_SCHEMA})"
_TRY_SERVER_LOCK = f"SELECT pg_try_advisory_lock({_SERVER_LOCK}, {_SCHEMA})"


class PostgresServer:
    """One database of a PostgreSQL server; its password appears in no message.

    pool_size: connections kept open; as many again are opened when all are busy
    Raises: InvalidParameter when the URL is wrong or the driver is missing
    """

    def __init__(self, url: str, pool_size: int) -> None:
        self._url = _parse(url)
        self._pool_size = pool_size
        self._reserved: Connection | None = None

    def create_engine(self) -> Engine:
        engine = self._engine(pool_size=self._pool_size, max_overflow=self._pool_size, pool_pre_ping=True)
        event.listen(engine, "begin", _begin)
        return engine

    def read_options(self) -> dict[str, Any]:
        return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

    @contextlib.contextmanager
    def upgrade_lock(self) -> Iterator[None]:
        """The write lock, which the upgrading transaction takes by itself, is lock enough."""
        yield

    def reserve(self) -> None:
        """Keep a second server away from this database as long as this one lives.

        Raises: Conflict when another one is there
        """
        connection = self._engine(poolclass=NullPool).connect().execution_options(isolation_level="AUTOCOMMIT")
        deadline = time.monotonic() + _RESERVE_S
        while not connection.execute(text(_TRY_SERVER_LOCK)).scalar():
            if time.monotonic() > deadline:
                connection.close()
                raise Conflict(
                    f"Another server uses {self._where}; stop it, or give this one a database of its own "
                    "(COSYFORGE_DATABASE_URL)."
                )
            time.sleep(0.2)
        # a server that was killed may have left a transaction that PostgreSQL has not noticed yet: after this line it
        # has ended, and what is read from now on is what it left
        connection.exec_driver_sql(_TAKE_WRITE_LOCK)
        self._reserved = connection

    def release(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def explain(self, error: Exception) -> PlatformError:
        """Why no connection can be made, in words that say what to do."""
        reason = " ".join(str(getattr(error, "orig", error)).split())
        if self._url.password:
            reason = reason.replace(str(self._url.password), "***")
        lowered = reason.lower()
        if "password" in lowered or "authentication" in lowered or "pg_hba" in lowered:
            advice = "check the user and the password in COSYFORGE_DATABASE_URL"
        elif "does not exist" in lowered:
            advice = "create the user and the database first (createuser, createdb)"
        elif "too many" in lowered or "remaining connection slots" in lowered:
            advice = "raise max_connections of the server or lower COSYFORGE_DATABASE_POOL_SIZE"
        else:
            advice = "check that the server runs and that host and port in COSYFORGE_DATABASE_URL are right"
            return NotReady(f"{self._where} cannot be reached: {advice}. ({reason})")
        return InvalidParameter(f"{self._where} refused the connection: {advice}. ({reason})")

    @property
    def _where(self) -> str:
        host = self._url.query.get("host") or self._url.host or "localhost"
        return f"PostgreSQL database {self._url.database or '(none)'} at {host}:{self._url.port or 5432}"

    def _engine(self, **options: Any) -> Engine:
        connect_args = {"connect_timeout": _CONNECT_TIMEOUT_S, "application_name": "cosyforge"}
        given = {name: value for name, value in connect_args.items() if name not in self._url.query}
        try:
            engine = create_engine(self._url, connect_args=given, hide_parameters=True, **options)
        except ImportError as error:
            raise InvalidParameter(
                f"COSYFORGE_DATABASE_URL names PostgreSQL, whose driver is missing ({error}): "
                "pip install 'cosyforge[postgres]'"
            ) from error
        event.listen(engine, "connect", _prepare_connection)
        return engine


def _parse(text_url: str) -> URL:
    problem = f"COSYFORGE_DATABASE_URL must look like {_FORM}; empty is a SQLite file in the data directory."
    try:
        url = make_url(text_url)
    except (ArgumentError, ValueError):
        raise InvalidParameter(problem) from None  # what it was made from may hold a password
    if url.drivername not in _SCHEMES:
        raise InvalidParameter(f"{problem} ({url.drivername}: is not known)")
    return url.set(drivername="postgresql+psycopg")


def _prepare_connection(dbapi_connection: Any, _record: Any) -> None:
    with dbapi_connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {_LOCK_TIMEOUT_MS}")
        cursor.execute("SELECT current_schema()")
        (schema,) = cursor.fetchone()
    dbapi_connection.commit()
    if schema is None:  # the locks are named after it, and tables would have nowhere to go
        raise InvalidParameter(
            "The search_path in COSYFORGE_DATABASE_URL names no schema that exists: create it first."
        )


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get("write", False):
        connection.exec_driver_sql(_TAKE_WRITE_LOCK)
