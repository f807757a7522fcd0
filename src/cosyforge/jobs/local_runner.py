"""Runs training in a child process of the server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cosyforge.jobs.process import end_process, last_lines, start_module
from cosyforge.jobs.records import FineTuneJob, JobStatus
from cosyforge.jobs.runner import JobRun, RunnerConfig, RunState
from cosyforge.jobs.stop_request import CANCEL, STOP
from cosyforge.jobs.worker import WorkerSpec
from cosyforge.store.artifacts import ArtifactStore


class LocalRunner:
    """One directory per job below `jobs_directory`; its results go to one of the same name below `models_directory`."""

    def __init__(self, config: RunnerConfig, artifacts: ArtifactStore) -> None:
        self._config = config
        self._artifacts = artifacts

    def start(self, job: FineTuneJob) -> JobRun:
        directory = self._directory(job.job_id)
        directory.mkdir(parents=True, exist_ok=True)
        validation = None if job.validation_package is None else self._artifacts.local_path(job.validation_package)
        spec = WorkerSpec(
            job_id=job.job_id,
            parent_pid=os.getpid(),
            trainer=self._config.trainer,
            package=str(self._artifacts.local_path(job.package)),
            validation_package=None if validation is None else str(validation),
            base_directory=str(self._config.base_directory),
            out_directory=str(self._config.models_directory / job.job_id),
            work_directory=str(directory / "work"),
            events=str(self.events_path(job.job_id)),
            lock=str(directory / "worker.lock"),
            hyper_parameters=job.hyper_parameters,
            seed=self._config.seed,
            checkpoint_interval_s=self._config.checkpoint_interval_s,
            is_canceled=job.status is JobStatus.CANCELING,
        )
        path = self._spec_path(job.job_id)
        spec.write(path)
        log = directory / "worker.log"
        log_start = log.stat().st_size if log.exists() else 0
        return LocalRun(start_module("cosyforge.jobs.worker", path, log, self._config.environment), log, log_start)

    def events_path(self, job_id: str) -> Path:
        return self._directory(job_id) / "events.jsonl"

    def clean_up(self, job_id: str) -> None:
        """Drop what only the runs needed; results and the worker's own log stay."""
        directory = self._directory(job_id)
        shutil.rmtree(directory / "work", ignore_errors=True)
        for path in (self.events_path(job_id), directory / "worker.lock", self._spec_path(job_id)):
            path.unlink(missing_ok=True)

    def not_cleaned_up(self) -> list[str]:
        # the spec is the first thing written and the last one deleted
        return [path.parent.name for path in sorted(self._config.jobs_directory.glob("*/spec.json"))]

    def _spec_path(self, job_id: str) -> Path:
        return self._directory(job_id) / "spec.json"

    def _directory(self, job_id: str) -> Path:
        return self._config.jobs_directory / job_id


class LocalRun:
    """A worker process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, log_start: int) -> None:
        self._process = process
        self._log = log
        self._log_start = log_start

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> RunState:
        return_code = self._process.poll()
        if return_code is None:
            return RunState(True)
        return RunState(False, return_code, tuple(last_lines(self._log, 5, start=self._log_start)))

    def ask_to_stop(self, *, is_cancel: bool) -> None:
        if self._process.poll() is None:
            self._process.send_signal(CANCEL if is_cancel else STOP)

    def end(self, grace_s: float) -> None:
        end_process(self._process, grace_s)
