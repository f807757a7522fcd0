"""The statements about jobs: a connection in, records out. No decisions beyond which moves are allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from cosyforge.errors import NotFound, UnsupportedOperation
from cosyforge.jobs.records import (
    ALLOWED_FROM,
    FINAL,
    WITH_WORKER,
    CheckpointStatus,
    FineTuneJob,
    JobCheckpoint,
    JobStatus,
)
from cosyforge.store.tables import checkpoints, fine_tune_jobs, job_events, job_logs, job_turns


def insert_job(connection: Connection, values: dict[str, Any]) -> None:
    connection.execute(insert(fine_tune_jobs).values(**values))


def is_job_id_taken(connection: Connection, job_id: str) -> bool:
    return (
        connection.execute(select(fine_tune_jobs.c.number).where(fine_tune_jobs.c.job_id == job_id)).first() is not None
    )


def get_job(connection: Connection, job_id: str, workspace_id: str | None = None) -> FineTuneJob:
    """Raises: NotFound, also for a job of another workspace"""
    statement = select(fine_tune_jobs).where(fine_tune_jobs.c.job_id == job_id)
    if workspace_id is not None:
        statement = statement.where(fine_tune_jobs.c.workspace_id == workspace_id)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise NotFound()
    return FineTuneJob(**row._mapping)


def list_jobs(
    connection: Connection,
    workspace_id: str,
    page_no: int,
    page_size: int,
    *,
    model: str | None = None,
    status: JobStatus | None = None,
) -> tuple[int, list[FineTuneJob]]:
    """One page, newest first, and the number of jobs in all."""
    mine = fine_tune_jobs.c.workspace_id == workspace_id
    if model is not None:
        mine &= fine_tune_jobs.c.model == model
    if status is not None:
        mine &= fine_tune_jobs.c.status == str(status)
    total = connection.execute(select(func.count()).where(mine)).scalar_one()
    page = select(fine_tune_jobs).where(mine).order_by(fine_tune_jobs.c.number.desc())
    rows = connection.execute(page.limit(page_size).offset((page_no - 1) * page_size))
    return total, [FineTuneJob(**row._mapping) for row in rows]


def count_jobs(connection: Connection, workspace_id: str, statuses: Iterable[JobStatus]) -> int:
    chosen = fine_tune_jobs.c.status.in_([str(status) for status in statuses])
    statement = select(func.count()).where(fine_tune_jobs.c.workspace_id == workspace_id, chosen)
    return connection.execute(statement).scalar_one()


def jobs_in(connection: Connection, statuses: Iterable[JobStatus]) -> list[FineTuneJob]:
    """The jobs of all workspaces in these states, the oldest first."""
    chosen = fine_tune_jobs.c.status.in_([str(status) for status in statuses])
    rows = connection.execute(select(fine_tune_jobs).where(chosen).order_by(fine_tune_jobs.c.number))
    return [FineTuneJob(**row._mapping) for row in rows]


def count_by_status(connection: Connection) -> dict[JobStatus, int]:
    """Jobs of all workspaces; 0 where there is none."""
    statement = select(fine_tune_jobs.c.status, func.count()).group_by(fine_tune_jobs.c.status)
    counts = dict.fromkeys(JobStatus, 0)
    counts.update({JobStatus(status): count for status, count in connection.execute(statement)})
    return counts


def claim_next(
    connection: Connection, owner: str, lease_until: datetime, now: datetime, max_running: int = 1
) -> FineTuneJob | None:
    """Make the next waiting job RUNNING, unless `max_running` are already. Call it in a write transaction."""
    if len(jobs_in(connection, WITH_WORKER)) >= max_running:
        return None
    job = _next_waiting(connection)
    if job is None:
        return None
    transition(connection, job.job_id, JobStatus.RUNNING, started_at=now, lease_owner=owner, lease_until=lease_until)
    _note_turn(connection, job.workspace_id)
    return get_job(connection, job.job_id)


def _next_waiting(connection: Connection) -> FineTuneJob | None:
    """The workspaces take turns; within one the oldest job is next."""
    turns = {row.workspace_id: row.turn for row in connection.execute(select(job_turns))}
    waiting = jobs_in(connection, (JobStatus.PENDING, JobStatus.QUEUING))
    return min(waiting, key=lambda job: (turns.get(job.workspace_id, 0), job.number), default=None)


def _note_turn(connection: Connection, workspace_id: str) -> None:
    turn = (connection.execute(select(func.max(job_turns.c.turn))).scalar() or 0) + 1
    mine = job_turns.c.workspace_id == workspace_id
    if connection.execute(update(job_turns).where(mine).values(turn=turn)).rowcount == 0:
        connection.execute(insert(job_turns).values(workspace_id=workspace_id, turn=turn))


def transition(connection: Connection, job_id: str, status: JobStatus, **values: Any) -> None:
    """Move a job to another status, with whatever else changes in the same moment.

    Raises: UnsupportedOperation when the present status does not allow the move; NotFound
    """
    allowed = [str(source) for source in ALLOWED_FROM[status]]
    statement = update(fine_tune_jobs).where(fine_tune_jobs.c.job_id == job_id, fine_tune_jobs.c.status.in_(allowed))
    if connection.execute(statement.values(status=str(status), **values)).rowcount == 0:
        job = get_job(connection, job_id)
        raise UnsupportedOperation(f"Job {job_id} is {job.status}; it cannot become {status}.")


def set_fields(connection: Connection, job_id: str, **values: Any) -> None:
    """Change anything but the status."""
    assert "status" not in values
    connection.execute(update(fine_tune_jobs).where(fine_tune_jobs.c.job_id == job_id).values(**values))


def delete_job(connection: Connection, job_id: str) -> None:
    """Remove a job with its logs, events and checkpoints; models stay."""
    for table in (fine_tune_jobs, job_logs, job_events, checkpoints):
        connection.execute(delete(table).where(table.c.job_id == job_id))


def append_logs(connection: Connection, job_id: str, lines: Sequence[str]) -> None:
    if lines:
        start = count_logs(connection, job_id)
        rows = [{"job_id": job_id, "line_no": start + index, "line": line} for index, line in enumerate(lines)]
        connection.execute(insert(job_logs), rows)


def count_logs(connection: Connection, job_id: str) -> int:
    # lines are numbered without gaps, and the last number is found faster than all are counted
    last = connection.execute(select(func.max(job_logs.c.line_no)).where(job_logs.c.job_id == job_id)).scalar()
    return 0 if last is None else last + 1


def read_logs(connection: Connection, job_id: str, offset: int, num_lines: int) -> list[str]:
    statement = select(job_logs.c.line).where(job_logs.c.job_id == job_id, job_logs.c.line_no >= offset)
    return list(connection.execute(statement.order_by(job_logs.c.line_no).limit(num_lines)).scalars())


def append_events(connection: Connection, job_id: str, events: Sequence[tuple[datetime, dict[str, Any]]]) -> None:
    if events:
        connection.execute(insert(job_events), [{"job_id": job_id, "at": at, "event": event} for at, event in events])


def put_checkpoint(connection: Connection, values: dict[str, Any]) -> None:
    """Insert a checkpoint, or bring the one of the same name up to date."""
    same = (checkpoints.c.job_id == values["job_id"]) & (checkpoints.c.checkpoint == values["checkpoint"])
    changes = {key: value for key, value in values.items() if key != "created_at"}
    if connection.execute(update(checkpoints).where(same).values(**changes)).rowcount == 0:
        connection.execute(insert(checkpoints).values(**values))


def set_checkpoint_exported(
    connection: Connection, job_id: str, checkpoint: str, model_name: str, display_name: str
) -> None:
    same = (checkpoints.c.job_id == job_id) & (checkpoints.c.checkpoint == checkpoint)
    values = {"status": "SUCCEEDED", "model_name": model_name, "display_name": display_name}
    connection.execute(update(checkpoints).where(same).values(**values))


def list_checkpoints(connection: Connection, job_id: str) -> list[JobCheckpoint]:
    """In rank order, without the expired ones."""
    statement = select(checkpoints).where(
        checkpoints.c.job_id == job_id, checkpoints.c.status != str(CheckpointStatus.EXPIRED)
    )
    return [JobCheckpoint(**row._mapping) for row in connection.execute(statement.order_by(checkpoints.c.rank))]


def delete_checkpoints(connection: Connection, job_id: str, names: Iterable[str]) -> None:
    chosen = (checkpoints.c.job_id == job_id) & checkpoints.c.checkpoint.in_(list(names))
    connection.execute(delete(checkpoints).where(chosen))


def expire_checkpoints(connection: Connection, created_before: datetime) -> None:
    """Those of finished jobs that were never exported are EXPIRED from now on."""
    finished = select(fine_tune_jobs.c.job_id).where(fine_tune_jobs.c.status.in_([str(status) for status in FINAL]))
    old = (
        (checkpoints.c.status == str(CheckpointStatus.PENDING))
        & (checkpoints.c.created_at < created_before)
        & checkpoints.c.job_id.in_(finished)
    )
    connection.execute(update(checkpoints).where(old).values(status=str(CheckpointStatus.EXPIRED)))


def expired_checkpoints(connection: Connection) -> list[JobCheckpoint]:
    statement = select(checkpoints).where(checkpoints.c.status == str(CheckpointStatus.EXPIRED))
    rows = connection.execute(statement.order_by(checkpoints.c.job_id, checkpoints.c.rank))
    return [JobCheckpoint(**row._mapping) for row in rows]
