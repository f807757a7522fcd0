"""What a training worker says and how it ended, into the database: each line once, each end in one transaction."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection

from cosyforge import metrics
from cosyforge.billing.ledger import add_usage
from cosyforge.jobs import queries
from cosyforge.jobs.event_file import Record, place_of, read_records
from cosyforge.jobs.records import CheckpointStatus, FineTuneJob, JobStatus
from cosyforge.jobs.runner import JobRunner
from cosyforge.jobs.service import default_display_name, export_checkpoint
from cosyforge.store.artifacts import ArtifactStore
from cosyforge.store.database import Database
from cosyforge.training.checkpoints import plan_checkpoints
from cosyforge.training.hyper_parameters import HyperParameters

_log = structlog.get_logger()
COMPLETE_LINE = "##FT_COMPLETE##"
"""The last line of the log of a job that succeeded, which clients look for."""


@dataclass(frozen=True)
class RecorderConfig:
    """export_all: every checkpoint becomes a deployable model, not the top-ranked one alone."""

    data_directory: Path
    models_directory: Path
    export_all: bool
    local_time: Callable[[datetime], datetime]


class Recorder:
    """The only writer of what runs report."""

    def __init__(self, database: Database, runner: JobRunner, artifacts: ArtifactStore, config: RecorderConfig) -> None:
        self._database = database
        self._runner = runner
        self._artifacts = artifacts
        self._config = config

    def take_in(self, job_id: str) -> FineTuneJob:
        """Store the new lines of the event file, all together with how far it was read."""
        with self._database.read() as connection:
            job = queries.get_job(connection, job_id)
        records, offset = read_records(self._runner.events_path(job_id), job.events_offset)
        if not records:
            return job
        with self._database.transaction() as connection:
            changes = self._store(connection, job, records)
            queries.set_fields(connection, job_id, events_offset=offset, **changes)
            return queries.get_job(connection, job_id)

    def log(self, connection: Connection, job_id: str, at: datetime, level: str, message: str) -> None:
        queries.append_logs(connection, job_id, [self._line(at, level, message)])

    # ---- how a job ends

    def record_success(self, job: FineTuneJob, now: datetime) -> None:
        assert job.outcome is not None
        found, tokens = job.outcome["checkpoints"], job.outcome["tokens"]
        with self._database.transaction() as connection:
            self._put_checkpoints(connection, job, found, now)
            took = "" if job.started_at is None else f" after {(now - job.started_at).total_seconds():.0f} s"
            self.log(connection, job.job_id, now, "INFO", f"The job succeeded{took}: {len(found)} checkpoints.")
            self.log(connection, job.job_id, now, "INFO", COMPLETE_LINE)
            self._end(connection, job, JobStatus.SUCCEEDED, now, usage=tokens, output_cnt=len(found), progress=1.0)
            self._bill(connection, job, tokens, now)
            for checkpoint in queries.list_checkpoints(connection, job.job_id):
                if checkpoint.rank == 0 or self._config.export_all:
                    export_checkpoint(connection, job, checkpoint, default_display_name(job, checkpoint), now)
        self._ended(job, JobStatus.SUCCEEDED)

    def record_cancel(self, job: FineTuneJob, now: datetime) -> None:
        """The finished epochs are paid for; checkpoints of two finished networks stay and can be exported."""
        found = (job.outcome or {}).get("checkpoints", [])
        tokens = job.tokens_so_far
        with self._database.transaction() as connection:
            self._put_checkpoints(connection, job, found, now)
            line = f"The job was canceled: {job.lm_epochs} LM and {job.fm_epochs} FM epochs were finished"
            self.log(connection, job.job_id, now, "INFO", f"{line}, {tokens} tokens, {len(found)} checkpoints.")
            self._end(connection, job, JobStatus.CANCELED, now, usage=tokens, output_cnt=len(found))
            self._bill(connection, job, tokens, now)
        self._ended(job, JobStatus.CANCELED)

    def record_failure(
        self, job: FineTuneJob, code: str, message: str, now: datetime, *, is_logged: bool = False
    ) -> None:
        """is_logged: the message becomes a line of the log too"""
        message = _plain(message)
        with self._database.transaction() as connection:
            self._put_checkpoints(connection, job, [], now)
            if is_logged:
                self.log(connection, job.job_id, now, "ERROR", message)
            self._end(connection, job, JobStatus.FAILED, now, code=code, message=message, output_cnt=0)
        self._ended(job, JobStatus.FAILED, code=code, message=message)

    def clean_up(self, job: FineTuneJob) -> None:
        """Remove from the disk what an ended job does not need; doing it again is fine."""
        with self._database.read() as connection:
            kept = {item.checkpoint for item in queries.list_checkpoints(connection, job.job_id) if item.directory}
        if job.status is not JobStatus.SUCCEEDED and not kept:
            shutil.rmtree(self._config.models_directory / job.job_id, ignore_errors=True)
        for package in (job.package, job.validation_package):
            if package is not None:
                self._artifacts.delete(package)
        self._runner.clean_up(job.job_id)

    def _end(self, connection: Connection, job: FineTuneJob, status: JobStatus, now: datetime, **values: Any) -> None:
        nothing = {"lease_owner": None, "lease_until": None, "worker_pid": None, "retry_at": None, "outcome": None}
        queries.transition(connection, job.job_id, status, ended_at=now, **nothing, **values)

    def _ended(self, job: FineTuneJob, status: JobStatus, **details: str) -> None:
        metrics.jobs_ended.labels(status).inc()
        _log.info("job_finished", job_id=job.job_id, status=status, **details)
        with self._database.read() as connection:
            self.clean_up(queries.get_job(connection, job.job_id))

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

    def _put_checkpoints(
        self, connection: Connection, job: FineTuneJob, found: list[dict[str, Any]], now: datetime
    ) -> None:
        """These are the job's checkpoints, in rank order, and no others."""
        names = {item["name"] for item in found}
        shown = {item.checkpoint for item in queries.list_checkpoints(connection, job.job_id)}
        queries.delete_checkpoints(connection, job.job_id, shown - names)
        for rank, item in enumerate(found):
            directory = os.path.relpath(item["directory"], self._config.data_directory)
            _put_checkpoint(
                connection, job.job_id, rank, item["name"], item["lm_epoch"], item["fm_epoch"], directory, now
            )

    # ---- what it says meanwhile

    def _store(self, connection: Connection, job: FineTuneJob, records: list[Record]) -> dict[str, Any]:
        """Lines and progress into their tables; what changes on the job."""
        lines: list[str] = []
        progress: list[tuple[datetime, Record]] = []
        changes: dict[str, Any] = {"lm_epochs": job.lm_epochs, "fm_epochs": job.fm_epochs}
        for record in records:
            at = datetime.fromisoformat(record["at"])
            if record["type"] == "log":
                lines.append(self._line(at, record["level"], record["message"]))
            elif record["type"] != "event":
                changes["outcome"] = record
            else:
                event = record["event"]
                if event["kind"] in ("log", "resume"):
                    lines.append(self._line(at, "INFO", event["message"]))
                elif event["kind"] == "checkpoint":
                    lines.append(self._line(at, "INFO", f"{event['message']} saved"))
                    self._note_checkpoint(connection, job, event["message"], at)
                elif event["kind"] == "state":
                    changes["saved_place"] = place_of(event)
                elif event["kind"] == "progress":
                    progress.append((at, event))
                    changes |= _progress_of(event, changes)
        queries.append_logs(connection, job.job_id, lines)
        queries.append_events(connection, job.job_id, progress)
        return changes

    def _note_checkpoint(self, connection: Connection, job: FineTuneJob, name: str, at: datetime) -> None:
        """Show a checkpoint while the job still runs; the worker's last record has the final list."""
        plan = plan_checkpoints(HyperParameters.parse(job.hyper_parameters))
        for rank, candidate in enumerate(plan):
            if candidate.name == name:
                _put_checkpoint(connection, job.job_id, rank, name, candidate.lm_epoch, candidate.fm_epoch, None, at)
        queries.set_fields(connection, job.job_id, output_cnt=len(queries.list_checkpoints(connection, job.job_id)))

    def _line(self, at: datetime, level: str, message: str) -> str:
        local = self._config.local_time(at)
        return f"{local:%Y-%m-%d %H:%M:%S},{local.microsecond // 1000:03d} - {level} - {_plain(message)}"


def _plain(text: str) -> str:
    """What every database can keep: texts of users may hold anything."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def _progress_of(event: Record, earlier: dict[str, Any]) -> dict[str, Any]:
    """The end of an epoch is progress without a step; the seconds of audio come with the first progress."""
    changes: dict[str, Any] = {"stage": event["stage"], "place": place_of(event)}
    if event["progress"] is not None:
        changes["progress"] = event["progress"]
    if "audio_s" in event["metrics"]:
        changes["audio_s"] = event["metrics"]["audio_s"]
    epochs = {"lm": "lm_epochs", "flow": "fm_epochs"}.get(event["stage"])
    if epochs is not None and event["epoch"] and not event["step"]:
        changes[epochs] = max(earlier[epochs], event["epoch"])
    return changes


def _put_checkpoint(
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
