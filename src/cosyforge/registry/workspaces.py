"""Workspaces: whatever is kept belongs to one, and its keys see nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Table, delete, func, insert, select
from sqlalchemy.engine import Row

from cosyforge.errors import Conflict, InvalidParameter, NotFound, UnsupportedOperation
from cosyforge.store.database import Database
from cosyforge.store.tables import api_keys, deployments, files, fine_tune_jobs, models, workspaces

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OWNED: dict[str, Table] = {"file": files, "job": fine_tune_jobs, "model": models, "deployment": deployments}


@dataclass(frozen=True)
class Workspace:
    workspace_id: str
    name: str
    created_at: datetime


class Workspaces:
    """All workspaces of this installation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, workspace_id: str, name: str, now: datetime) -> Workspace:
        """Raises: InvalidParameter for a bad id; Conflict when it is taken"""
        if not _ID.fullmatch(workspace_id):
            raise InvalidParameter(
                f"workspace_id must be 1 to 64 letters, digits, dots, _ or - and begin with a letter or digit "
                f"(got {workspace_id})."
            )
        with self._database.transaction() as connection:
            if has_workspace(connection, workspace_id):
                raise Conflict(f"The workspace {workspace_id} already exists; choose another id.")
            return _insert(connection, workspace_id, name, now)

    def ensure(self, workspace_id: str, now: datetime) -> bool:
        """Make the workspace when it is not there yet; returns whether it was made.

        Raises: InvalidParameter for a bad id
        """
        if self.exists(workspace_id):
            return False
        try:
            self.create(workspace_id, workspace_id, now)
        except Conflict:  # somebody else was faster
            return False
        return True

    def exists(self, workspace_id: str) -> bool:
        with self._database.read() as connection:
            return has_workspace(connection, workspace_id)

    def page(self, page_no: int, page_size: int) -> tuple[int, list[Workspace]]:
        """One page, newest first, and the number of workspaces in all."""
        ordered = select(workspaces).order_by(workspaces.c.created_at.desc(), workspaces.c.workspace_id)
        with self._database.read() as connection:
            total = connection.execute(select(func.count()).select_from(workspaces)).scalar_one()
            rows = connection.execute(ordered.limit(page_size).offset((page_no - 1) * page_size))
            return total, [_workspace(row) for row in rows]

    def delete(self, workspace_id: str) -> Workspace:
        """Remove an empty workspace; what it was billed for stays in the books.

        Raises: NotFound; UnsupportedOperation while something or somebody belongs to it
        """
        with self._database.transaction() as connection:
            workspace = get_workspace(connection, workspace_id)
            contents = [f"{number} {name}(s)" for name, number in _contents(connection, workspace_id) if number]
            if contents:
                raise UnsupportedOperation(
                    f"The workspace {workspace_id} still has {', '.join(contents)}; delete or revoke them first."
                )
            connection.execute(delete(workspaces).where(workspaces.c.workspace_id == workspace_id))
            return workspace


def get_workspace(connection: Connection, workspace_id: str) -> Workspace:
    """Raises: NotFound"""
    row = connection.execute(select(workspaces).where(workspaces.c.workspace_id == workspace_id)).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no workspace {workspace_id}; make it first, or leave it out.", code="WorkSpaceNotFound"
        )
    return _workspace(row)


def has_workspace(connection: Connection, workspace_id: str) -> bool:
    statement = select(workspaces.c.workspace_id).where(workspaces.c.workspace_id == workspace_id)
    return connection.execute(statement).first() is not None


def _insert(connection: Connection, workspace_id: str, name: str, now: datetime) -> Workspace:
    connection.execute(insert(workspaces).values(workspace_id=workspace_id, name=name, created_at=now))
    return get_workspace(connection, workspace_id)


def _contents(connection: Connection, workspace_id: str) -> list[tuple[str, int]]:
    counts = []
    for name, table in _OWNED.items():
        statement = select(func.count()).where(table.c.workspace_id == workspace_id)
        counts.append((name, connection.execute(statement).scalar_one()))
    keys = select(func.count()).where(api_keys.c.workspace_id == workspace_id, api_keys.c.revoked_at.is_(None))
    return [*counts, ("API key", connection.execute(keys).scalar_one())]


def _workspace(row: Row[tuple[object, ...]]) -> Workspace:
    return Workspace(**row._mapping)
