"""The append-only record of what was used, and its sums.

Training and synthesis write an amount once. Deployments write marks: from this moment on, so many model units. What was
used is the area under those steps, so a scale splits the bill by itself and nothing is ever corrected in place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby

from sqlalchemy import Connection, insert, select
from sqlalchemy.engine import Row

from cosyforge.store.tables import unit_marks, usage_entries


@dataclass(frozen=True)
class UsageEntry:
    """kind is "tokens" (subject: job id) or "characters" (subject: request id)."""

    entry_id: int
    workspace_id: str
    kind: str
    subject: str
    model: str
    quantity: int
    at: datetime


@dataclass(frozen=True)
class DeploymentUsage:
    """Model units times seconds of one deployment, from RUNNING to its deletion or now."""

    deployment_id: str
    deployed_model: str
    model_unit_spec: str
    unit_seconds: Decimal
    started_at: datetime
    units_now: int


def add_usage(
    connection: Connection, *, workspace_id: str, kind: str, subject: str, model: str, quantity: int, now: datetime
) -> None:
    connection.execute(
        insert(usage_entries).values(
            workspace_id=workspace_id, kind=kind, subject=subject, model=model, quantity=quantity, at=now
        )
    )


def add_unit_mark(
    connection: Connection,
    *,
    workspace_id: str,
    deployment_id: str,
    deployed_model: str,
    model_unit_spec: str,
    units: int,
    reason: str,
    now: datetime,
) -> None:
    """From now on this deployment uses so many model units."""
    connection.execute(
        insert(unit_marks).values(
            workspace_id=workspace_id,
            deployment_id=deployment_id,
            deployed_model=deployed_model,
            model_unit_spec=model_unit_spec,
            units=units,
            reason=reason,
            at=now,
        )
    )


def last_mark_at(connection: Connection, deployment_id: str) -> datetime | None:
    statement = select(unit_marks.c.at).where(unit_marks.c.deployment_id == deployment_id)
    return connection.execute(statement.order_by(unit_marks.c.mark_id.desc()).limit(1)).scalar()


def usage_entries_of(connection: Connection, workspace_id: str) -> list[UsageEntry]:
    statement = select(usage_entries).where(usage_entries.c.workspace_id == workspace_id)
    rows = connection.execute(statement.order_by(usage_entries.c.entry_id))
    return [UsageEntry(**row._mapping) for row in rows]


def deployment_usage_of(connection: Connection, workspace_id: str, now: datetime) -> list[DeploymentUsage]:
    """Every deployment that was ever billed, the oldest first."""
    statement = select(unit_marks).where(unit_marks.c.workspace_id == workspace_id).order_by(unit_marks.c.mark_id)
    rows = sorted(connection.execute(statement), key=lambda row: str(row.deployment_id))
    usages = [_deployment_usage(list(marks), now) for _, marks in groupby(rows, key=lambda row: row.deployment_id)]
    return sorted(usages, key=lambda usage: usage.started_at)


def _deployment_usage(marks: list[Row[tuple[object, ...]]], now: datetime) -> DeploymentUsage:
    first, last = marks[0], marks[-1]
    seconds = unit_seconds(((mark.at, mark.units) for mark in marks), now)
    return DeploymentUsage(
        first.deployment_id, last.deployed_model, last.model_unit_spec, seconds, first.at, last.units
    )


def unit_seconds(steps: Iterable[tuple[datetime, int]], now: datetime) -> Decimal:
    """The area under a step function of model units.

    steps: (moment, units from then on) in order
    """
    total = Decimal(0)
    units, since = 0, None
    for at, next_units in [*steps, (now, 0)]:
        if since is not None:
            total += units * seconds_between(since, at)
        units, since = next_units, at
    return total


def seconds_between(start: datetime, end: datetime) -> Decimal:
    """Exact to the microsecond."""
    delta = end - start
    return Decimal(delta.days * 86400 + delta.seconds) + Decimal(delta.microseconds) / 1_000_000
