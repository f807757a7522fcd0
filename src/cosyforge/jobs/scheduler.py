"""Gives waiting jobs their turn and keeps every running one with a worker until it has ended.

`step` is called again and again by one thread. All state that must survive is in the database and in the files of the
jobs: a worker, the server or the machine may end at any moment, and whoever looks next starts the job's next worker,
which goes on from the last state.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from cosyforge import metrics
from cosyforge.errors import NotFound, PlatformError, UnsupportedOperation
from cosyforge.jobs import queries
from cosyforge.jobs.process import describe_exit, is_alive
from cosyforge.jobs.recorder import Recorder, RecorderConfig
from cosyforge.jobs.records import FINAL, WITH_WORKER, FineTuneJob, JobStatus
from cosyforge.jobs.runner import JobRun, JobRunner, RunState
from cosyforge.store.artifacts import ArtifactStore
from cosyforge.store.database import Database

_log = structlog.get_logger()
MAX_CRASHES = 3
"""So many crashes in a row at the same place fail a job."""
_MAX_CANCEL_STARTS = 2
_MAX_BACKOFF_S = 60.0
_COUNT_INTERVAL_S = 2.0
_CRASHED = "The training worker "
"""How the lines about crashes begin, which say nothing about the last thing that the training did."""


@dataclass(frozen=True)
class SchedulerConfig(RecorderConfig):
    lease_s: float
    cancel_grace_s: float
    backoff_s: float
    max_running: int


@dataclass
class _Running:
    job_id: str
    run: JobRun
    lease_renewed_at: datetime
    stop_asked_at: datetime | None = None


@dataclass
class _Memory:
    """What one server remembers of its steps."""

    running: dict[str, _Running] = field(default_factory=dict)
    cancel_starts: Counter[str] = field(default_factory=Counter)
    has_tidied_up: bool = False
    counted_at: datetime | None = None


class Scheduler:
    """At most `max_running` jobs are RUNNING or CANCELING."""

    def __init__(
        self, database: Database, runner: JobRunner, artifacts: ArtifactStore, config: SchedulerConfig
    ) -> None:
        self._database = database
        self._runner = runner
        self._recorder = Recorder(database, runner, artifacts, config)
        self._config = config
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._memory = _Memory()

    def step(self, now: datetime) -> None:
        """Look once at everything; returns quickly."""
        self._tidy_up()
        for running in list(self._memory.running.values()):
            self._follow(running, now)
        self._go_on(now)
        self._start_waiting(now)
        self._queue_the_rest()
        self._count(now)

    def shut_down(self, now: datetime) -> None:
        """End the workers with the server; after its next start their jobs go on."""
        for running in self._memory.running.values():
            running.run.ask_to_stop(is_cancel=False)
        deadline_s = time.monotonic() + self._config.cancel_grace_s
        for running in list(self._memory.running.values()):
            running.run.end(max(0.0, deadline_s - time.monotonic()))
            self._follow(running, now, is_last_look=True)
        for job in self._held_jobs():
            if job.lease_owner == self._owner:
                self._release(job, now)

    # ---- turns

    def _start_waiting(self, now: datetime) -> None:
        while True:
            with self._database.read() as connection:
                if not queries.jobs_in(connection, (JobStatus.PENDING, JobStatus.QUEUING)):
                    return
            with self._database.transaction() as connection:
                job = queries.claim_next(connection, self._owner, self._lease_end(now), now, self._config.max_running)
            if job is None:
                return
            self._start(job, now)

    def _queue_the_rest(self) -> None:
        """Jobs that wait behind running ones are QUEUING."""
        with self._database.read() as connection:
            if not queries.jobs_in(connection, (JobStatus.PENDING,)) or not queries.jobs_in(connection, WITH_WORKER):
                return
        with self._database.transaction() as connection:
            for job in queries.jobs_in(connection, (JobStatus.PENDING,)):
                queries.transition(connection, job.job_id, JobStatus.QUEUING)

    def _count(self, now: datetime) -> None:
        counted_at = self._memory.counted_at
        if counted_at is not None and 0 <= (now - counted_at).total_seconds() < _COUNT_INTERVAL_S:
            return
        self._memory.counted_at = now
        with self._database.read() as connection:
            for status, number in queries.count_by_status(connection).items():
                metrics.jobs.labels(status).set(number)

    def _tidy_up(self) -> None:
        """Once: finish the cleaning that a server which is gone had begun or was about to begin."""
        if self._memory.has_tidied_up:
            return
        self._memory.has_tidied_up = True
        for job_id in self._runner.not_cleaned_up():
            try:
                with self._database.read() as connection:
                    job = queries.get_job(connection, job_id)
            except NotFound:
                self._runner.clean_up(job_id)
                continue
            if job.status in FINAL:
                self._recorder.clean_up(job)

    # ---- workers

    def _go_on(self, now: datetime) -> None:
        """Start the next worker of every job that should have one: after a crash, or a restart of the server."""
        for job in self._held_jobs():
            is_waiting = job.retry_at is not None and job.retry_at > now and job.status is JobStatus.RUNNING
            if job.job_id in self._memory.running or is_waiting or not self._may_take(job, now):
                continue
            job = self._recorder.take_in(job.job_id)
            with _unless_canceled_meanwhile(job):
                if not self._has_ended(job, now):
                    is_orphan = job.lease_owner not in (None, self._owner)
                    self._start(job, now, why="the server ended without stopping the training" if is_orphan else "")

    def _start(self, job: FineTuneJob, now: datetime, why: str = "") -> None:
        """why: what is not in the log yet about the end of the worker before"""
        with self._database.transaction() as connection:
            if job.attempts and job.status is JobStatus.RUNNING:
                line = f"Start {job.attempts + 1} of the training worker" + (f": {why}" if why else "")
                self._recorder.log(connection, job.job_id, now, "INFO", f"{line}; {_from_where(job)}.")
            queries.set_fields(
                connection,
                job.job_id,
                attempts=job.attempts + 1,
                lease_owner=self._owner,
                lease_until=self._lease_end(now),
                outcome=None,
                retry_at=None,
                events_offset=self._offset_within_file(job),
            )
            job = queries.get_job(connection, job.job_id)
        if job.status is JobStatus.CANCELING:
            self._memory.cancel_starts[job.job_id] += 1
        try:
            run = self._runner.start(job)
        except (OSError, PlatformError) as error:
            self._after_end(job, RunState(False, problem=f"could not be started: {error}"), now)
            return
        self._memory.running[job.job_id] = _Running(job.job_id, run, now)
        metrics.job_starts.inc()
        with self._database.transaction() as connection:
            queries.set_fields(connection, job.job_id, worker_pid=run.pid)
        _log.info("job_started", job_id=job.job_id, worker_pid=run.pid, attempt=job.attempts)

    def _follow(self, running: _Running, now: datetime, *, is_last_look: bool = False) -> None:
        state = running.run.poll()  # before reading its events: once it has ended there are no more to come
        job = self._recorder.take_in(running.job_id)
        if not state.is_running:
            del self._memory.running[running.job_id]
            is_stopped = is_last_look and (job.outcome or {}).get("type") not in _ENDS
            if not is_stopped:
                self._after_end(job, state, now)
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
            running.run.ask_to_stop(is_cancel=True)
        elif (now - running.stop_asked_at).total_seconds() > self._config.cancel_grace_s:
            running.run.end(0)

    def _release(self, job: FineTuneJob, now: datetime) -> None:
        """Nobody's job until a server starts."""
        with self._database.transaction() as connection:
            if job.status is JobStatus.RUNNING:
                line = "The server is stopped; the training goes on when it starts again"
                self._recorder.log(connection, job.job_id, now, "INFO", f"{line}, {_from_where(job)}.")
            queries.set_fields(connection, job.job_id, lease_owner=None, lease_until=None, worker_pid=None)

    # ---- how a worker ended

    def _after_end(self, job: FineTuneJob, state: RunState, now: datetime) -> None:
        with _unless_canceled_meanwhile(job):
            if self._has_ended(job, now) or job.status is JobStatus.CANCELING:
                return
            if (job.outcome or {}).get("type") == "stopped" or state.return_code == -signal.SIGTERM:
                self._retry(job, now, f"{_CRASHED}was stopped by somebody else (SIGTERM)", self._config.backoff_s)
                return
            reason = _reason(job, state)
            num_crashes = job.crash_count + 1 if job.crash_place == job.whereabouts else 1
            if num_crashes >= MAX_CRASHES:
                self._give_up(job, reason, state, now)
                return
            line = f"{_CRASHED}{reason}: crash {num_crashes} of {MAX_CRASHES} at this place, {job.whereabouts}"
            wait_s = min(_MAX_BACKOFF_S, self._config.backoff_s * 2 ** (num_crashes - 1))
            self._retry(job, now, line, wait_s, crash_place=job.whereabouts, crash_count=num_crashes)

    def _has_ended(self, job: FineTuneJob, now: datetime) -> bool:
        """Record the end of a job that its worker has told, or that needs no worker to come about."""
        kind = (job.outcome or {}).get("type")
        if job.status is JobStatus.CANCELING:
            has_nothing = job.fm_epochs == 0 or self._memory.cancel_starts[job.job_id] >= _MAX_CANCEL_STARTS
            if kind in ("canceled", "succeeded") or has_nothing:
                self._recorder.record_cancel(job, now)
                return True
        elif kind == "succeeded":
            self._recorder.record_success(job, now)
            return True
        elif kind == "failed":
            assert job.outcome is not None
            self._recorder.record_failure(job, job.outcome["code"], job.outcome["message"], now)
            return True
        return False

    def _retry(self, job: FineTuneJob, now: datetime, line: str, wait_s: float, **values: Any) -> None:
        with self._database.transaction() as connection:
            self._recorder.log(connection, job.job_id, now, "WARNING", f"{line}. It is started again in {wait_s:g} s.")
            retry_at = now + timedelta(seconds=wait_s)
            queries.set_fields(connection, job.job_id, retry_at=retry_at, worker_pid=None, outcome=None, **values)
        _log.warning("job_crashed", job_id=job.job_id, reason=line)

    def _give_up(self, job: FineTuneJob, reason: str, state: RunState, now: datetime) -> None:
        with self._database.read() as connection:
            total = queries.count_logs(connection, job.job_id)
            lines = queries.read_logs(connection, job.job_id, max(0, total - 50), 50)
        told = [line for line in lines if " - INFO - Start " not in line and f" - {_CRASHED}" not in line]
        message = f"{_CRASHED}{reason}, {MAX_CRASHES} times in a row at {job.whereabouts}."
        message += " Last log lines: " + " | ".join([*told[-5:], *state.last_lines])
        self._recorder.record_failure(job, "InternalError", message, now, is_logged=True)

    # ---- leases

    def _held_jobs(self) -> list[FineTuneJob]:
        with self._database.read() as connection:
            return queries.jobs_in(connection, WITH_WORKER)

    def _may_take(self, job: FineTuneJob, now: datetime) -> bool:
        """No living server runs this job, or it is ours and has no worker."""
        if job.lease_owner in (None, self._owner) or job.lease_until is None or job.lease_until < now:
            return True
        host, _, pid = str(job.lease_owner).rpartition(":")
        return host == socket.gethostname() and not is_alive(int(pid))

    def _lease_end(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._config.lease_s)

    def _offset_within_file(self, job: FineTuneJob) -> int:
        """Where to read on: behind what was taken in, which is there unless somebody has put back an older file."""
        path = self._runner.events_path(job.job_id)
        size = path.stat().st_size if path.exists() else 0
        if size < job.events_offset:
            _log.warning("events_lost", job_id=job.job_id, taken_in=job.events_offset, size=size)
        return min(size, job.events_offset)


_ENDS = ("succeeded", "failed", "canceled")


@contextmanager
def _unless_canceled_meanwhile(job: FineTuneJob) -> Iterator[None]:
    """A user may cancel a job between our look at it and what we do then: the next step sees it as it is."""
    try:
        yield
    except UnsupportedOperation as error:
        _log.info("job_changed_meanwhile", job_id=job.job_id, reason=error.message)


def _reason(job: FineTuneJob, state: RunState) -> str:
    if state.problem:
        return state.problem
    if (job.outcome or {}).get("type") == "crashed":
        assert job.outcome is not None
        return f"failed ({job.outcome['message']})"
    reason = describe_exit(state.return_code)
    if "SIGKILL" in reason:
        reason += "; smaller lm_batch_size and fm_batch_size need less"
    return reason


def _from_where(job: FineTuneJob) -> str:
    return f"going on from {job.saved_place}" if job.saved_place else "no state of the training was saved yet"
