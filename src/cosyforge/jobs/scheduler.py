"""Runs the jobs one after the other: claims the next, takes in what its worker says, records how it ended.

`step` is called again and again by one thread. All state that must survive is in the database; a job whose server is
gone is found by its lease and finished by whoever looks next.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection

from cosyforge.billing.ledger import add_usage
from cosyforge.errors import PlatformError
from cosyforge.jobs import queries
from cosyforge.jobs.process import describe_exit, is_alive
from cosyforge.jobs.records import WITH_WORKER, CheckpointStatus, FineTuneJob, JobStatus
from cosyforge.jobs.runner import JobRun, JobRunner, RunState
from cosyforge.jobs.service import default_display_name, export_checkpoint
from cosyforge.store.artifacts import ArtifactStore
from cosyforge.store.database import Database
from cosyforge.training.checkpoints import plan_checkpoints
from cosyforge.training.hyper_parameters import HyperParameters

_log = structlog.get_logger()


@dataclass(frozen=True)
class SchedulerConfig:
    """export_all: every checkpoint becomes a deployable model, not the top-ranked one alone."""

    data_directory: Path
    models_directory: Path
    export_all: bool
    lease_s: float
    cancel_grace_s: float
    local_time: Callable[[datetime], datetime]


@dataclass
class _Running:
    job_id: str
    run: JobRun
    lease_renewed_at: datetime
    stop_asked_at: datetime | None = None


class Scheduler:
    """At most one job has a worker."""

    def __init__(
        self, database: Database, runner: JobRunner, artifacts: ArtifactStore, config: SchedulerConfig
    ) -> None:
        self._database = database
        self._runner = runner
        self._artifacts = artifacts
        self._config = config
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._running: _Running | None = None

    def step(self, now: datetime) -> None:
        """Look once at everything; returns quickly."""
        self._recover(now)
        if self._running is not None:
            self._follow(self._running, now)
        if self._running is None:
            self._start_next(now)
        self._queue_the_rest()

    def shut_down(self, now: datetime) -> None:
        """End the worker with the server; its job fails and says so."""
        if self._running is not None:
            running, self._running = self._running, None
            running.run.end(self._config.cancel_grace_s)
            self._finish(running.job_id, RunState(False), now)

    def _start_next(self, now: datetime) -> None:
        with self._database.read() as connection:
            if not queries.jobs_in(connection, (JobStatus.PENDING, JobStatus.QUEUING)):
                return
        with self._database.transaction() as connection:
            job = queries.claim_next(connection, self._owner, self._lease_end(now), now)
        if job is None:
            return
        try:
            run = self._runner.start(job)
        except (OSError, PlatformError) as error:
            self._finish(job.job_id, RunState(False, problem=f"could not be started: {error}"), now)
            return
        self._running = _Running(job.job_id, run, now)
        with self._database.transaction() as connection:
            queries.set_fields(connection, job.job_id, worker_pid=run.pid)
        _log.info("job_started", job_id=job.job_id, worker_pid=run.pid)

    def _follow(self, running: _Running, now: datetime) -> None:
        state = running.run.poll()  # before reading its events: once it has ended there are no more to come
        job = self._take_in_events(running.job_id)
        if not state.is_running:
            self._running = None
            self._finish(running.job_id, state, now)
            return
        if job.status is JobStatus.CANCELING:
            self._stop(running, now)
        if (now - running.lease_renewed_at).total_seconds() > self._config.lease_s / 3:
            running.lease_renewed_at = now
            with self._database.transaction() as connection:
                queries.set_fields(connection, running.job_id, lease_until=self._lease_end(now))

    def _stop(self, running: _Running, now: datetime) -> None:
        if running.stop_asked_at is None:
            running.stop_asked_at = now
            running.run.ask_to_stop()
        elif (now - running.stop_asked_at).total_seconds() > self._config.cancel_grace_s:
            running.run.end(0)

    def _queue_the_rest(self) -> None:
        """Jobs that wait behind a running one are QUEUING."""
        with self._database.read() as connection:
            pending = queries.jobs_in(connection, (JobStatus.PENDING,))
            if not pending or not queries.jobs_in(connection, WITH_WORKER):
                return
        with self._database.transaction() as connection:
            for job in queries.jobs_in(connection, (JobStatus.PENDING,)):
                queries.transition(connection, job.job_id, JobStatus.QUEUING)

    def _recover(self, now: datetime) -> None:
        """Finish the jobs of servers that are gone."""
        with self._database.read() as connection:
            held = queries.jobs_in(connection, WITH_WORKER)
        for job in held:
            is_mine = self._running is not None and self._running.job_id == job.job_id
            if not is_mine and self._is_abandoned(job, now):
                _log.warning("job_recovered", job_id=job.job_id, lease_owner=job.lease_owner)
                self._finish(job.job_id, RunState(False), now)

    def _is_abandoned(self, job: FineTuneJob, now: datetime) -> bool:
        if job.lease_owner == self._owner or job.lease_until is None or job.lease_until < now:
            return True
        host, _, pid = (job.lease_owner or "").rpartition(":")
        return host == socket.gethostname() and not is_alive(int(pid))

    def _lease_end(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._config.lease_s)

    # ---- what the worker says

    def _take_in_events(self, job_id: str) -> FineTuneJob:
        """Store the new lines of the event file, all together with how far it was read."""
        with self._database.read() as connection:
            job = queries.get_job(connection, job_id)
        records, offset = read_records(self._runner.events_path(job_id), job.events_offset)
        if not records:
            return job
        with self._database.transaction() as connection:
            self._store_records(connection, job, records)
            queries.set_fields(connection, job_id, events_offset=offset)
            return queries.get_job(connection, job_id)

    def _store_records(self, connection: Connection, job: FineTuneJob, records: list[dict[str, Any]]) -> None:
        lines: list[str] = []
        progress: list[tuple[datetime, dict[str, Any]]] = []
        for record in records:
            at = datetime.fromisoformat(record["at"])
            event = record.get("event", {"kind": record["type"], "message": record.get("message", "")})
            if event["kind"] == "log":
                lines.append(self._log_line(at, record.get("level", "INFO"), event["message"]))
            elif event["kind"] == "progress":
                progress.append((at, event))
            elif event["kind"] == "checkpoint":
                lines.append(self._log_line(at, "INFO", f"{event['message']} saved"))
                self._note_checkpoint(connection, job, event["message"], at)
        queries.append_logs(connection, job.job_id, lines)
        queries.append_events(connection, job.job_id, progress)
        if progress:
            last = progress[-1][1]
            queries.set_fields(connection, job.job_id, stage=last["stage"], progress=last["progress"])

    def _note_checkpoint(self, connection: Connection, job: FineTuneJob, name: str, at: datetime) -> None:
        """Show a checkpoint while the job still runs; the worker's last record has the final list."""
        plan = plan_checkpoints(HyperParameters.parse(job.hyper_parameters))
        for rank, candidate in enumerate(plan):
            if candidate.name == name:
                put_checkpoint(connection, job.job_id, rank, name, candidate.lm_epoch, candidate.fm_epoch, None, at)
        queries.set_fields(connection, job.job_id, output_cnt=len(queries.list_checkpoints(connection, job.job_id)))

    def _log_line(self, at: datetime, level: str, message: str) -> str:
        local = self._config.local_time(at)
        return f"{local:%Y-%m-%d %H:%M:%S},{local.microsecond // 1000:03d} - {level} - {message}"

    # ---- how it ended

    def _finish(self, job_id: str, state: RunState, now: datetime) -> None:
        """Record the end of a run, whatever it was, in one transaction."""
        job = self._take_in_events(job_id)
        outcome = last_record(self._runner.events_path(job_id))
        with self._database.transaction() as connection:
            if job.status is JobStatus.CANCELING:
                self._record_cancel(connection, job, outcome, now)
            elif outcome.get("type") == "succeeded":
                self._record_success(connection, job, outcome, now)
            else:
                self._record_failure(connection, job, outcome, state, now)
            job = queries.get_job(connection, job_id)
        if job.status is not JobStatus.SUCCEEDED:
            shutil.rmtree(self._config.models_directory / job_id, ignore_errors=True)
        self._runner.clean_up(job_id)
        self._artifacts.delete(job.package)
        _log.info("job_finished", job_id=job_id, status=job.status, code=job.code, message=job.message)

    def _record_success(self, connection: Connection, job: FineTuneJob, outcome: dict[str, Any], now: datetime) -> None:
        for rank, found in enumerate(outcome["checkpoints"]):
            directory = os.path.relpath(found["directory"], self._config.data_directory)
            put_checkpoint(
                connection, job.job_id, rank, found["name"], found["lm_epoch"], found["fm_epoch"], directory, now
            )
        tokens = outcome["tokens"]
        queries.transition(
            connection,
            job.job_id,
            JobStatus.SUCCEEDED,
            ended_at=now,
            usage=tokens,
            output_cnt=len(outcome["checkpoints"]),
            progress=1.0,
            lease_until=None,
        )
        self._bill(connection, job, tokens, now)
        for checkpoint in queries.list_checkpoints(connection, job.job_id):
            if checkpoint.rank == 0 or self._config.export_all:
                export_checkpoint(connection, job, checkpoint, default_display_name(job, checkpoint), now)

    def _record_cancel(self, connection: Connection, job: FineTuneJob, outcome: dict[str, Any], now: datetime) -> None:
        tokens = outcome.get("tokens", 0)
        queries.transition(connection, job.job_id, JobStatus.CANCELED, ended_at=now, usage=tokens, lease_until=None)
        self._bill(connection, job, tokens, now)

    def _record_failure(
        self, connection: Connection, job: FineTuneJob, outcome: dict[str, Any], state: RunState, now: datetime
    ) -> None:
        code, message = outcome.get("code"), outcome.get("message")
        if outcome.get("type") != "failed":
            code = "InternalError"
            end = state.problem or f"{describe_exit(state.return_code)} before the job was done"
            message = f"The training worker {end}."
            last_lines = state.last_lines or tuple(queries.read_logs(connection, job.job_id, *_last(connection, job)))
            if last_lines:
                message += " Last log lines: " + " | ".join(last_lines)
            queries.append_logs(connection, job.job_id, [self._log_line(now, "ERROR", message)])
        queries.transition(
            connection, job.job_id, JobStatus.FAILED, ended_at=now, code=code, message=message, lease_until=None
        )

    def _bill(self, connection: Connection, job: FineTuneJob, tokens: int, now: datetime) -> None:
        if tokens:
            add_usage(
                connection,
                workspace_id=job.workspace_id,
                kind="tokens",
                subject=job.job_id,
                model=job.model,
                quantity=tokens,
                now=now,
            )


def _last(connection: Connection, job: FineTuneJob, num_lines: int = 5) -> tuple[int, int]:
    return max(0, queries.count_logs(connection, job.job_id) - num_lines), num_lines


def put_checkpoint(
    connection: Connection,
    job_id: str,
    rank: int,
    name: str,
    lm_epoch: int,
    fm_epoch: int,
    directory: str | None,
    now: datetime,
) -> None:
    queries.put_checkpoint(
        connection,
        {
            "job_id": job_id,
            "checkpoint": name,
            "rank": rank,
            "lm_epoch": lm_epoch,
            "fm_epoch": fm_epoch,
            "directory": directory,
            "status": str(CheckpointStatus.PENDING),
            "created_at": now,
        },
    )


def read_records(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines after an offset, and the offset behind them; a line still being written is left for later."""
    if not path.exists():
        return [], offset
    with open(path, "rb") as file:
        file.seek(offset)
        block = file.read()
    whole = block[: block.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines() if line.strip()], offset + len(whole)


def last_record(path: Path, max_bytes: int = 1 << 20) -> dict[str, Any]:
    """A worker's last words: how the run ended, if it came to say so."""
    if not path.exists():
        return {}
    records, _ = read_records(path, _line_start(path, max(0, path.stat().st_size - max_bytes)))
    return records[-1] if records else {}


def _line_start(path: Path, offset: int) -> int:
    """The first start of a line at or after an offset."""
    if offset == 0:
        return 0
    with open(path, "rb") as file:
        file.seek(offset - 1)
        file.readline()
        return file.tell()
