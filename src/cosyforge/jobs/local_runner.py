"""Runs training in a child process of the server."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from cosyforge.jobs.process import end_process, last_lines, start_module
from cosyforge.jobs.records import FineTuneJob
from cosyforge.jobs.runner import JobRun, RunnerConfig, RunState
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
        spec = WorkerSpec(
            job_id=job.job_id,
            parent_pid=os.getpid(),
            trainer=self._config.trainer,
            package=str(self._artifacts.local_path(job.package)),
            base_directory=str(self._config.base_directory),
            out_directory=str(self._config.models_directory / job.job_id),
            work_directory=str(directory / "work"),
            events=str(self.events_path(job.job_id)),
            hyper_parameters=job.hyper_parameters,
            seed=self._config.seed,
        )
        path = directory / "spec.json"
        spec.write(path)
        log = directory / "worker.log"
        return LocalRun(start_module("cosyforge.jobs.worker", path, log, self._config.environment), log)

    def events_path(self, job_id: str) -> Path:
        return self._directory(job_id) / "events.jsonl"

    def clean_up(self, job_id: str) -> None:
        """Drop what only the run needed; its results and the worker's own log stay."""
        directory = self._directory(job_id)
        shutil.rmtree(directory / "work", ignore_errors=True)
        for path in (self.events_path(job_id), directory / "spec.json"):
            path.unlink(missing_ok=True)

    def _directory(self, job_id: str) -> Path:
        return self._config.jobs_directory / job_id


class LocalRun:
    """A worker process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> RunState:
        return_code = self._process.poll()
        if return_code is None:
            return RunState(True)
        return RunState(False, return_code, tuple(last_lines(self._log, 5)))

    def ask_to_stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def end(self, grace_s: float) -> None:
        end_process(self._process, grace_s)
