"""API keys: made, shown once, kept as a hash, checked, revoked."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.engine import Row

from cosyforge.errors import InvalidParameter, NotFound, Unauthenticated
from cosyforge.store.database import Database
from cosyforge.store.tables import api_keys


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret."""

    key_id: int
    name: str
    workspace_id: str
    hint: str
    created_at: datetime
    revoked_at: datetime | None

    @property
    def user_id(self) -> str:
        """How jobs and deployments name who made them."""
        return str(self.key_id)


class ApiKeys:
    """All keys of this installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, workspace_id: str, now: datetime, secret: str | None = None) -> tuple[ApiKey, str]:
        """Issue a key; the second value is the secret, which cannot be had again.

        Raises: InvalidParameter when the chosen secret is too short or taken
        """
        secret = secret or f"sk-{secrets.token_hex(20)}"
        if len(secret) < 8:
            raise InvalidParameter("An API key needs at least 8 characters.")
        with self._database.transaction() as connection:
            if _find(connection, secret) is not None:
                raise InvalidParameter("This API key was issued before; choose another one.")
            values = {"key_hash": _hash(secret), "hint": f"{secret[:5]}…{secret[-4:]}", "name": name}
            connection.execute(insert(api_keys).values(**values, workspace_id=workspace_id, created_at=now))
            row = _find(connection, secret)
        assert row is not None
        return _api_key(row), secret

    def authenticate(self, secret: str) -> ApiKey:
        """Raises: Unauthenticated when nobody issued the key or it was revoked"""
        with self._database.read() as connection:
            row = _find(connection, secret)
        if row is None or row.revoked_at is not None:
            raise Unauthenticated()
        return _api_key(row)

    def all(self) -> list[ApiKey]:
        with self._database.read() as connection:
            return [_api_key(row) for row in connection.execute(select(api_keys).order_by(api_keys.c.key_id))]

    def revoke(self, key_id: int, now: datetime) -> ApiKey:
        """Refuse the key from now on; revoking twice keeps the first time.

        Raises: NotFound
        """
        with self._database.transaction() as connection:
            is_live = (api_keys.c.key_id == key_id) & api_keys.c.revoked_at.is_(None)
            connection.execute(update(api_keys).where(is_live).values(revoked_at=now))
            row = connection.execute(select(api_keys).where(api_keys.c.key_id == key_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no API key {key_id}.")
        return _api_key(row)

    def ensure_first(self, bootstrap_key: str | None, workspace_id: str, now: datetime) -> str | None:
        """Make sure somebody can log in: the operator's key if given, otherwise a new one when there is none at all.

        Returns: a newly made secret, to be shown once; None when there is nothing to show
        """
        if bootstrap_key:
            with self._database.read() as connection:
                is_known = _find(connection, bootstrap_key) is not None
            if not is_known:
                self.create("bootstrap", workspace_id, now, bootstrap_key)
            return None
        return None if self.all() else self.create("first", workspace_id, now)[1]


def _find(connection: Connection, secret: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(select(api_keys).where(api_keys.c.key_hash == _hash(secret))).one_or_none()


def _hash(secret: str) -> str:
    # a plain digest is enough: keys are long and random, there is no dictionary to try
    return hashlib.sha256(secret.encode()).hexdigest()


def _api_key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(row.key_id, row.name, row.workspace_id, row.hint, row.created_at, row.revoked_at)
