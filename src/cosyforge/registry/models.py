"""Models that can be deployed: one per exported checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select
from sqlalchemy.engine import Row

from cosyforge.store.database import Database
from cosyforge.store.tables import models


@dataclass(frozen=True)
class Model:
    """directory is relative to the data directory and holds model.json."""

    number: int
    model_name: str
    workspace_id: str
    display_name: str
    base_model: str
    job_id: str
    checkpoint: str
    directory: str
    created_at: datetime


class Models:
    """The models of all workspaces."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, workspace_id: str, page_no: int, page_size: int) -> tuple[int, list[Model]]:
        """One page, newest first, and the number of models in all."""
        mine = models.c.workspace_id == workspace_id
        ordered = select(models).where(mine).order_by(models.c.number.desc())
        with self._database.read() as connection:
            total = connection.execute(select(func.count()).where(mine)).scalar_one()
            rows = connection.execute(ordered.limit(page_size).offset((page_no - 1) * page_size))
            return total, [_model(row) for row in rows]


def find_model(connection: Connection, model_name: str) -> Model | None:
    """A model of any workspace."""
    row = connection.execute(select(models).where(models.c.model_name == model_name)).one_or_none()
    return None if row is None else _model(row)


def is_display_name_taken(connection: Connection, workspace_id: str, display_name: str, *, except_for: str) -> bool:
    """except_for: the model that may keep its own name"""
    statement = select(models.c.model_name).where(
        models.c.workspace_id == workspace_id,
        models.c.display_name == display_name,
        models.c.model_name != except_for,
    )
    return connection.execute(statement).first() is not None


def register_model(
    connection: Connection,
    *,
    model_name: str,
    workspace_id: str,
    display_name: str,
    base_model: str,
    job_id: str,
    checkpoint: str,
    directory: str,
    now: datetime,
) -> None:
    connection.execute(
        insert(models).values(
            model_name=model_name,
            workspace_id=workspace_id,
            display_name=display_name,
            base_model=base_model,
            job_id=job_id,
            checkpoint=checkpoint,
            directory=directory,
            created_at=now,
        )
    )


def _model(row: Row[tuple[object, ...]]) -> Model:
    return Model(**row._mapping)
