"""The append-only record of what was used: the statements that add to it and read it.

Training and synthesis write an amount once. Deployments write marks: from this moment on, so many model units. What was
used is the area under those steps, so a scale splits the bill by itself and nothing is ever corrected in place; the
database refuses to change or delete a row (migration 0004). The sums are in `usage.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby

import structlog
from sqlalchemy import ColumnElement, Connection, Table, func, insert, select, true

from cosyforge.billing.usage import UnitSegment, segments_of, sum_unit_seconds
from cosyforge.store.tables import unit_marks, usage_entries

_log = structlog.get_logger()


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
class CharacterSum:
    """What one model has spoken."""

    model: str
    characters: int
    num_requests: int


@dataclass(frozen=True)
class DeploymentUsage:
    """Model units times seconds of one deployment, from RUNNING to its deletion or now."""

    deployment_id: str
    deployed_model: str
    model_unit_spec: str
    unit_seconds: Decimal
    started_at: datetime
    units_now: int


@dataclass(frozen=True)
class Period:
    """From `start` (None: ever) up to, not including, `end` (None: no end). What still runs has run until `now`."""

    now: datetime
    start: datetime | None = None
    end: datetime | None = None

    @property
    def until(self) -> datetime:
        """Where that which runs is cut."""
        return self.now if self.end is None else min(self.end, self.now)

    def of(self, table: Table) -> ColumnElement[bool]:
        """The rows of this period."""
        condition: ColumnElement[bool] = true()
        if self.start is not None:
            condition &= table.c.at >= self.start
        return condition if self.end is None else condition & (table.c.at < self.end)


# ---- adding


def add_usage(
    connection: Connection, *, workspace_id: str, kind: str, subject: str, model: str, quantity: int, now: datetime
) -> bool:
    """Write down an amount; False when this subject was billed before, which then stands. Call it in a transaction.

    subject: unique among all that this workspace is ever billed for: an id that we made, never one that a client chose
    """
    assert quantity >= 0
    same = (usage_entries.c.workspace_id == workspace_id) & (usage_entries.c.kind == kind)
    earlier = connection.execute(
        select(usage_entries.c.quantity).where(same, usage_entries.c.subject == subject)
    ).scalar()
    if earlier is not None:
        _log.warning("billed_already", kind=kind, subject=subject, quantity=earlier, refused_quantity=quantity)
        return False
    connection.execute(
        insert(usage_entries).values(
            workspace_id=workspace_id, kind=kind, subject=subject, model=model, quantity=quantity, at=now
        )
    )
    return True


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
    """From now on this deployment uses so many model units. Call it in a transaction.

    A mark is never before the last one of its deployment, whatever the clock says: no second is counted twice.
    """
    assert units >= 0
    last_at = last_mark_at(connection, deployment_id)
    connection.execute(
        insert(unit_marks).values(
            workspace_id=workspace_id,
            deployment_id=deployment_id,
            deployed_model=deployed_model,
            model_unit_spec=model_unit_spec,
            units=units,
            reason=reason,
            at=now if last_at is None else max(now, last_at),
        )
    )


# ---- reading


def last_mark_at(connection: Connection, deployment_id: str) -> datetime | None:
    statement = select(unit_marks.c.at).where(unit_marks.c.deployment_id == deployment_id)
    return connection.execute(statement.order_by(unit_marks.c.mark_id.desc()).limit(1)).scalar()


def token_entries_of(connection: Connection, workspace_id: str, period: Period) -> list[UsageEntry]:
    """The bills of training, the oldest first."""
    mine = (usage_entries.c.workspace_id == workspace_id) & (usage_entries.c.kind == "tokens")
    statement = select(usage_entries).where(mine, period.of(usage_entries)).order_by(usage_entries.c.entry_id)
    return [UsageEntry(**row._mapping) for row in connection.execute(statement)]


def character_sums_of(connection: Connection, workspace_id: str, period: Period) -> list[CharacterSum]:
    """What was spoken, by model; the database adds up, as there may be millions of requests."""
    mine = (usage_entries.c.workspace_id == workspace_id) & (usage_entries.c.kind == "characters")
    statement = (
        select(usage_entries.c.model, func.sum(usage_entries.c.quantity), func.count())
        .where(mine, period.of(usage_entries))
        .group_by(usage_entries.c.model)
    )
    rows = sorted(tuple(row) for row in connection.execute(statement))
    # the sum of 64-bit numbers is a Decimal on PostgreSQL
    return [CharacterSum(model, int(quantity), number) for model, quantity, number in rows]


def next_spoken_at(connection: Connection, workspace_id: str, period: Period) -> datetime | None:
    """The first moment of a period at which something was spoken."""
    mine = (usage_entries.c.workspace_id == workspace_id) & (usage_entries.c.kind == "characters")
    statement = select(usage_entries.c.at).where(mine, period.of(usage_entries)).order_by(usage_entries.c.at).limit(1)
    return connection.execute(statement).scalar()


def unit_segments_of(connection: Connection, workspace_id: str, period: Period) -> list[UnitSegment]:
    """The steps of every deployment within a period, also those to nothing; the last one of each ends with it."""
    # <=: what began just now is shown, with no seconds yet
    statement = select(unit_marks).where(unit_marks.c.workspace_id == workspace_id, unit_marks.c.at <= period.until)
    rows = connection.execute(statement.order_by(unit_marks.c.deployment_id, unit_marks.c.mark_id))
    segments: list[UnitSegment] = []
    for _, marks in groupby(rows, key=lambda row: str(row.deployment_id)):
        segments += segments_of(marks, period.until)
    if period.start is None:
        return segments
    return [clipped for segment in segments if (clipped := segment.since(period.start)) is not None]


def deployment_usage_of(
    connection: Connection, workspace_id: str, now: datetime, period: Period | None = None
) -> list[DeploymentUsage]:
    """Every deployment that was billed in a period (None: until now), the oldest first."""
    segments = unit_segments_of(connection, workspace_id, period or Period(now))
    usages = []
    for _, group in groupby(segments, key=lambda segment: segment.deployment_id):
        own = list(group)
        if used := [segment for segment in own if segment.units]:
            usages.append(_deployment_usage(used, own[-1].units))
    return sorted(usages, key=lambda usage: usage.started_at)


def _deployment_usage(used: list[UnitSegment], units_now: int) -> DeploymentUsage:
    first = used[0]
    return DeploymentUsage(
        first.deployment_id,
        first.deployed_model,
        first.model_unit_spec,
        sum_unit_seconds(used),
        first.start,
        units_now,
    )
