"""Settings -> a wired Platform. The only place that picks implementations, and the owner of the background threads."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import structlog

from cosyforge.billing.meter import Meter
from cosyforge.billing.tariff import Tariff
from cosyforge.deployments.local_backend import LocalBackend, LocalBackendConfig
from cosyforge.deployments.reconciler import Reconciler, ReconcilerConfig
from cosyforge.deployments.router import Router, RouterConfig
from cosyforge.deployments.service import Deployments
from cosyforge.errors import Conflict
from cosyforge.jobs.local_runner import LocalRunner
from cosyforge.jobs.runner import RunnerConfig
from cosyforge.jobs.scheduler import Scheduler, SchedulerConfig
from cosyforge.jobs.service import JobRules, Jobs
from cosyforge.registry.api_keys import ApiKeys
from cosyforge.registry.files import Files
from cosyforge.registry.models import Models
from cosyforge.settings import Settings
from cosyforge.store.artifacts import LocalArtifacts, SignedLinks, load_secret
from cosyforge.store.database import Database

_log = structlog.get_logger()
_RESULTS = "results"


class BackgroundLoop:
    """Calls a step again and again in a thread of its own.

    The thread that starts child processes must outlive them (they die with it), so the last act is its own too.
    """

    def __init__(
        self, name: str, step: Callable[[datetime], None], last_act: Callable[[datetime], None], interval_s: float
    ) -> None:
        self._name = name
        self._step = step
        self._last_act = last_act
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._is_healthy = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        self._thread.join()

    @property
    def is_healthy(self) -> bool:
        """The last step worked."""
        return self._is_healthy and self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._try(self._step)
            self._stop.wait(self._interval_s if self._is_healthy else max(1.0, self._interval_s))
        self._try(self._last_act)

    def _try(self, action: Callable[[datetime], None]) -> None:
        try:
            action(datetime.now(UTC))
            self._is_healthy = True
        except Exception:
            # a full disk or a bug must not silence the thread for good: it is logged, /readyz shows it, the next
            # step tries again
            self._is_healthy = False
            _log.exception("background_step_failed", loop=self._name)


@dataclass
class Platform:
    """Everything the entry points delegate to."""

    settings: Settings
    database: Database
    artifacts: LocalArtifacts
    links: SignedLinks
    api_keys: ApiKeys
    files: Files
    models: Models
    jobs: Jobs
    deployments: Deployments
    router: Router
    meter: Meter
    scheduler: Scheduler
    reconciler: Reconciler
    lock_file: IO[str]
    """held while the server lives: a data directory has one server"""

    def __post_init__(self) -> None:
        self._loops = [
            BackgroundLoop("scheduler", self.scheduler.step, self.scheduler.shut_down, 0.25),
            BackgroundLoop("reconciler", self.reconciler.step, self.reconciler.shut_down, 0.2),
            BackgroundLoop("sweeper", self._sweep, lambda now: None, 60),
        ]

    def start(self) -> None:
        """Bring the data up to date and start the threads."""
        self.deployments.forget_base_model()
        self.reconciler.recover(datetime.now(UTC))
        if self.settings.serve_base_model == "start":
            self.deployments.ensure_base_model(datetime.now(UTC))
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """End the threads and every process that they started."""
        for loop in self._loops:
            loop.ask_to_stop()
        for loop in self._loops:
            loop.join()
        self.database.close()
        self.lock_file.close()

    @property
    def is_ready(self) -> bool:
        return all(loop.is_healthy for loop in self._loops)

    def local_time(self, moment: datetime) -> datetime:
        """A moment in the zone in which answers give times."""
        return moment.astimezone(timezone(timedelta(hours=self.settings.utc_offset_hours)))

    def base_voices(self) -> set[str]:
        """The voices of the base model; none when there is no base model."""
        return _read_voices(self.settings.base_model_dir)

    def _sweep(self, now: datetime) -> None:
        """Results nobody can fetch any more go."""
        num_deleted = self.artifacts.delete_older_than(_RESULTS, time.time() - self.settings.url_lifetime_s - 3600)
        if num_deleted:
            _log.info("results_deleted", number=num_deleted)


def build_platform(settings: Settings) -> Platform:
    """Wire everything up and bring the database schema up to date; nothing runs before `Platform.start`.

    Raises: Conflict when another server uses the data directory
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    lock_file = _lock(settings.data_dir / "server.lock")
    database = open_database(settings)
    artifacts = LocalArtifacts(settings.data_dir / "artifacts")
    backend = LocalBackend(_backend_config(settings))
    deployments = Deployments(database, settings.base_model, str(settings.base_model_dir.absolute()))
    platform_time = timezone(timedelta(hours=settings.utc_offset_hours))
    return Platform(
        settings=settings,
        database=database,
        artifacts=artifacts,
        links=SignedLinks(load_secret(settings.data_dir / "secret")),
        api_keys=ApiKeys(database),
        files=Files(database, artifacts),
        models=Models(database),
        jobs=Jobs(
            database,
            artifacts,
            JobRules(settings.base_model, settings.max_jobs, lambda moment: moment.astimezone(platform_time)),
        ),
        deployments=deployments,
        router=Router(database, backend, deployments, _router_config(settings)),
        meter=Meter(database, _tariff(settings), settings.base_model),
        scheduler=Scheduler(
            database, LocalRunner(_runner_config(settings), artifacts), artifacts, _scheduler_config(settings)
        ),
        reconciler=Reconciler(database, backend, _reconciler_config(settings)),
        lock_file=lock_file,
    )


def open_database(settings: Settings) -> Database:
    """The database with its newest schema."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_path)
    database.upgrade()
    return database


def _backend_config(settings: Settings) -> LocalBackendConfig:
    threads_by_spec = {"MU5": settings.replica_threads, "MU2": max(settings.replica_threads, os.cpu_count() or 1)}
    return LocalBackendConfig(
        engine=settings.engine,
        data_directory=settings.data_dir,
        base_directory=settings.base_model_dir.absolute(),
        log_directory=settings.data_dir / "replicas",
        num_threads=threads_by_spec.__getitem__,
        drain_s=settings.replica_drain_s,
        environment={},
    )


def _router_config(settings: Settings) -> RouterConfig:
    return RouterConfig(
        base_model=settings.base_model,
        serve_base_model=settings.serve_base_model != "off",
        max_requests_per_replica=settings.replica_max_requests,
        replica_wait_s=settings.replica_wait_s,
        start_timeout_s=settings.replica_start_timeout_s,
    )


def _reconciler_config(settings: Settings) -> ReconcilerConfig:
    return ReconcilerConfig(
        start_timeout_s=settings.replica_start_timeout_s,
        backoff_s=settings.replica_backoff_s,
        max_start_failures=settings.replica_max_start_failures,
        stable_s=settings.replica_stable_s,
        alive_interval_s=5.0,
    )


def _runner_config(settings: Settings) -> RunnerConfig:
    threads = str(settings.training_threads)
    return RunnerConfig(
        trainer=settings.trainer,
        base_directory=settings.base_model_dir.absolute(),
        jobs_directory=settings.data_dir / "jobs",
        models_directory=settings.data_dir / "models",
        seed=settings.training_seed,
        environment={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )


def _scheduler_config(settings: Settings) -> SchedulerConfig:
    platform_time = timezone(timedelta(hours=settings.utc_offset_hours))
    return SchedulerConfig(
        data_directory=settings.data_dir,
        models_directory=settings.data_dir / "models",
        export_all=settings.export_checkpoints == "all",
        lease_s=settings.job_lease_s,
        cancel_grace_s=settings.cancel_grace_s,
        local_time=lambda moment: moment.astimezone(platform_time),
    )


def _tariff(settings: Settings) -> Tariff:
    return Tariff(
        training_per_1000_tokens=settings.price_training,
        synthesis_per_10000_characters=settings.price_synthesis,
        unit_hour_by_spec={"MU5": settings.price_mu5, "MU2": settings.price_mu2},
    )


def _lock(path: Path) -> IO[str]:
    file = open(path, "a+")  # noqa: SIM115 - held until the server ends
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise Conflict(
            f"Another server (pid {file.read().strip() or 'unknown'}) uses {path.parent}; "
            "stop it or set COSYFORGE_DATA_DIR to another directory."
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _read_voices(model_directory: Path) -> set[str]:
    manifest = model_directory / "model.json"
    if not manifest.is_file():
        return set()
    contents: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return set(contents["voices"])
