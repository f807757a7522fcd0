"""API keys: made, shown once, kept as a hash, checked, revoked; and the short-lived tokens that stand for one.

Every check asks the database: a key that is revoked or over is refused from the next request on.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.engine import Row
from sqlalchemy.exc import DBAPIError

from cosyforge.errors import AccessDenied, InvalidParameter, NotFound, Unauthenticated
from cosyforge.registry.workspaces import Workspaces, get_workspace
from cosyforge.store.database import Database
from cosyforge.store.tables import api_keys, temporary_tokens

_log = structlog.get_logger()
_TOKEN_PREFIX = "st-"
_USE_IS_NOTED_EVERY = timedelta(minutes=1)
MAX_TOKEN_LIFETIME_S = 1800


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret. is_temporary: the caller holds a token that stands for the key."""

    key_id: int
    name: str
    workspace_id: str
    hint: str
    created_at: datetime
    revoked_at: datetime | None = None
    is_admin: bool = False
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    is_temporary: bool = False

    @property
    def user_id(self) -> str:
        """How jobs and deployments name who made them."""
        return str(self.key_id)

    def status(self, now: datetime) -> str:
        """active, expired or revoked"""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.expires_at is None or now < self.expires_at else "expired"


class ApiKeys:
    """All keys of this installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        workspace_id: str,
        now: datetime,
        secret: str | None = None,
        *,
        is_admin: bool = False,
        expires_in_s: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Issue a key; the second value is the secret, which cannot be had again.

        Raises: InvalidParameter when the chosen secret is too short or taken; NotFound for an unknown workspace
        """
        secret = secret or f"sk-{secrets.token_hex(20)}"
        if len(secret) < 8:
            raise InvalidParameter("An API key needs at least 8 characters.")
        if secret.startswith(_TOKEN_PREFIX):
            raise InvalidParameter(f"An API key may not begin with {_TOKEN_PREFIX}, as temporary tokens do.")
        with self._database.transaction() as connection:
            get_workspace(connection, workspace_id)
            if _find(connection, secret) is not None:
                raise InvalidParameter("This API key was issued before; choose another one.")
            connection.execute(
                insert(api_keys).values(
                    key_hash=_hash(secret),
                    hint=f"{secret[:5]}…{secret[-4:]}",
                    name=name,
                    workspace_id=workspace_id,
                    created_at=now,
                    is_admin=is_admin,
                    expires_at=None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
                )
            )
            row = _find(connection, secret)
        assert row is not None
        return _api_key(row), secret

    def authenticate(self, secret: str, now: datetime | None = None) -> ApiKey:
        """The key behind a secret or a temporary token.

        Raises: Unauthenticated when nobody issued it, it was revoked or it is over; the field `reason` says which
        """
        now = now or datetime.now(UTC)
        with self._database.read() as connection:
            key = _find_by_token(connection, secret, now) if secret.startswith(_TOKEN_PREFIX) else None
            if key is None and (row := _find(connection, secret)) is not None:
                key = _api_key(row)
        if key is None:
            raise Unauthenticated(reason="unknown")
        if key.status(now) != "active":
            raise Unauthenticated(reason=key.status(now))
        self._note_use(key, now)
        return key

    def issue_token(self, key: ApiKey, lifetime_s: int, now: datetime) -> tuple[str, datetime]:
        """A token that stands for the key, and when it ends; it ends with its key too.

        Raises: InvalidParameter for a lifetime out of range; AccessDenied when a token asks
        """
        if not 1 <= lifetime_s <= MAX_TOKEN_LIFETIME_S:
            raise InvalidParameter(
                f"expire_in_seconds must be an integer in [1, {MAX_TOKEN_LIFETIME_S}] (got {lifetime_s})."
            )
        if key.is_temporary:
            raise AccessDenied("A temporary token cannot make another one; use the API key.")
        token, expires_at = f"{_TOKEN_PREFIX}{secrets.token_hex(24)}", now + timedelta(seconds=lifetime_s)
        with self._database.transaction() as connection:
            connection.execute(delete(temporary_tokens).where(temporary_tokens.c.expires_at <= now))
            values = {"token_hash": _hash(token), "key_id": key.key_id, "expires_at": expires_at}
            connection.execute(insert(temporary_tokens).values(**values))
        return token, expires_at

    def all(self) -> list[ApiKey]:
        with self._database.read() as connection:
            return [_api_key(row) for row in connection.execute(select(api_keys).order_by(api_keys.c.key_id))]

    def page(self, page_no: int, page_size: int) -> tuple[int, list[ApiKey]]:
        """One page, newest first, and the number of keys in all."""
        ordered = select(api_keys).order_by(api_keys.c.key_id.desc())
        with self._database.read() as connection:
            total = connection.execute(select(func.count()).select_from(api_keys)).scalar_one()
            rows = connection.execute(ordered.limit(page_size).offset((page_no - 1) * page_size))
            return total, [_api_key(row) for row in rows]

    def revoke(self, key_id: int, now: datetime) -> ApiKey:
        """Refuse the key and its tokens from now on; revoking twice keeps the first time.

        Raises: NotFound
        """
        with self._database.transaction() as connection:
            is_live = (api_keys.c.key_id == key_id) & api_keys.c.revoked_at.is_(None)
            connection.execute(update(api_keys).where(is_live).values(revoked_at=now))
            connection.execute(delete(temporary_tokens).where(temporary_tokens.c.key_id == key_id))
            row = connection.execute(select(api_keys).where(api_keys.c.key_id == key_id)).one_or_none()
        if row is None:
            raise NotFound(f"There is no API key {key_id}.")
        return _api_key(row)

    def ensure_first(self, bootstrap_key: str | None, workspace_id: str, now: datetime) -> str | None:
        """Make sure somebody can log in: the operator's key if given, otherwise a new one when there is none at all.

        Both may manage keys and workspaces.

        Returns: a newly made secret, to be shown once; None when there is nothing to show
        """
        Workspaces(self._database).ensure(workspace_id, now)
        if bootstrap_key:
            with self._database.transaction() as connection:
                is_same = api_keys.c.key_hash == _hash(bootstrap_key)
                is_known = connection.execute(update(api_keys).where(is_same).values(is_admin=True)).rowcount > 0
            if not is_known:
                self.create("bootstrap", workspace_id, now, bootstrap_key, is_admin=True)
            return None
        return None if self.all() else self.create("first", workspace_id, now, is_admin=True)[1]

    def _note_use(self, key: ApiKey, now: datetime) -> None:
        if key.last_used_at is not None and now - key.last_used_at < _USE_IS_NOTED_EVERY:
            return
        try:
            with self._database.transaction() as connection:
                mine = api_keys.c.key_id == key.key_id
                connection.execute(update(api_keys).where(mine).values(last_used_at=now))
        except DBAPIError as error:
            # a full disk or a busy database must not lock everybody out for the sake of a date
            _log.warning("key_use_not_noted", api_key_id=key.key_id, error=str(error.orig))


def _find(connection: Connection, secret: str) -> Row[tuple[object, ...]] | None:
    wanted = _hash(secret)
    row = connection.execute(select(api_keys).where(api_keys.c.key_hash == wanted)).one_or_none()
    # what the database compares is a digest, of which timing tells nothing useful; the last word is constant-time
    return row if row is not None and hmac.compare_digest(row.key_hash, wanted) else None


def _find_by_token(connection: Connection, token: str, now: datetime) -> ApiKey | None:
    statement = (
        select(api_keys)
        .join(temporary_tokens, temporary_tokens.c.key_id == api_keys.c.key_id)
        .where(temporary_tokens.c.token_hash == _hash(token), temporary_tokens.c.expires_at > now)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else _api_key(row, is_temporary=True)


def _hash(secret: str) -> str:
    # a plain digest is enough: keys are long and random, there is no dictionary to try
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _api_key(row: Row[tuple[object, ...]], *, is_temporary: bool = False) -> ApiKey:
    return ApiKey(
        row.key_id,
        row.name,
        row.workspace_id,
        row.hint,
        row.created_at,
        row.revoked_at,
        # a token is handed to machines one trusts less: it never manages anything
        bool(row.is_admin) and not is_temporary,
        row.expires_at,
        row.last_used_at,
        is_temporary,
    )
