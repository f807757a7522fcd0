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

from cosyforge import metrics
from cosyforge.billing.estimate import Estimator
from cosyforge.billing.forecast import Forecaster
from cosyforge.billing.meter import Meter
from cosyforge.billing.tariff import Tariff
from cosyforge.cosyvoice.manifest import builtin_model_directory
from cosyforge.deployments.catalogue import Catalogue
from cosyforge.deployments.local_backend import LocalBackend, LocalBackendConfig
from cosyforge.deployments.reconciler import Reconciler, ReconcilerConfig
from cosyforge.deployments.router import Router, RouterConfig
from cosyforge.deployments.service import Deployments
from cosyforge.deployments.templates import ReplicaResources
from cosyforge.deployments.trouble import BackoffRules
from cosyforge.errors import Conflict
from cosyforge.jobs.local_runner import LocalRunner
from cosyforge.jobs.runner import RunnerConfig
from cosyforge.jobs.scheduler import Scheduler, SchedulerConfig
from cosyforge.jobs.service import JobRules, Jobs
from cosyforge.net.allow_list import AllowList
from cosyforge.net.guarded_fetch import FetchLimits, GuardedFetch
from cosyforge.net.sounds import SoundLimits, Sounds
from cosyforge.registry.api_keys import ApiKeys
from cosyforge.registry.files import FileRules, Files
from cosyforge.registry.models import Models
from cosyforge.registry.workspaces import Workspaces
from cosyforge.settings import Settings
from cosyforge.store.artifacts import LocalArtifacts, SignedLinks, load_secret
from cosyforge.store.database import Database

_log = structlog.get_logger()
_RESULTS = "results"
_STUCK_AFTER_S = 120.0


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
        self._step_began_s: float | None = None
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

    def problem(self) -> str | None:
        """Why it makes no progress; None when it does."""
        began_s = self._step_began_s
        if not self._thread.is_alive():
            return f"the background thread {self._name} does not run"
        if not self._is_healthy:
            return f"the last step of the background thread {self._name} failed; the log says why"
        if began_s is not None and time.monotonic() - began_s > _STUCK_AFTER_S:
            return f"the background thread {self._name} has been at one step for more than {_STUCK_AFTER_S:g} s"
        return None

    def _run(self) -> None:
        structlog.contextvars.bind_contextvars(loop=self._name)
        while not self._stop.is_set():
            self._try(self._step)
            self._stop.wait(self._interval_s if self._is_healthy else max(1.0, self._interval_s))
        self._try(self._last_act)

    def _try(self, action: Callable[[datetime], None]) -> None:
        self._step_began_s = time.monotonic()
        try:
            action(datetime.now(UTC))
            self._is_healthy = True
        except Exception:
            # a full disk or a bug must not silence the thread for good: it is logged, /readyz shows it, the next
            # step tries again
            self._is_healthy = False
            _log.exception("background_step_failed", loop=self._name)
        finally:
            self._step_began_s = None
            metrics.loop_healthy.labels(self._name).set(self._is_healthy)


@dataclass
class Platform:
    """Everything the entry points delegate to."""

    settings: Settings
    database: Database
    artifacts: LocalArtifacts
    links: SignedLinks
    api_keys: ApiKeys
    workspaces: Workspaces
    files: Files
    models: Models
    catalogue: Catalogue
    jobs: Jobs
    deployments: Deployments
    router: Router
    meter: Meter
    estimator: Estimator
    scheduler: Scheduler
    reconciler: Reconciler
    sounds: Sounds
    lock_file: IO[str]
    """held while the server lives: a data directory has one server"""

    def __post_init__(self) -> None:
        self.is_stopping = False
        self._loops = [
            BackgroundLoop("scheduler", self.scheduler.step, self.scheduler.shut_down, 0.25),
            BackgroundLoop("reconciler", self.reconciler.step, self.reconciler.shut_down, 0.2),
            BackgroundLoop("sweeper", self._sweep, lambda now: None, 60),
        ]

    def start(self) -> None:
        """Bring the data up to date and start the threads."""
        num_orphans = self.files.sweep()
        if num_orphans:
            _log.info("orphaned_files_deleted", number=num_orphans)
        self.deployments.forget_base_model()
        self.reconciler.recover(datetime.now(UTC))
        if self.settings.serve_base_model == "start":
            self.deployments.ensure_base_model(datetime.now(UTC))
        for loop in self._loops:
            loop.start()

    def ask_to_stop(self) -> None:
        """Take on nothing new: training workers save and end, while replicas finish what they are saying."""
        self.is_stopping = True
        self._loops[0].ask_to_stop()

    def stop(self) -> None:
        """End the threads and every process that they started."""
        self.is_stopping = True
        for loop in self._loops:
            loop.ask_to_stop()
        for loop in self._loops:
            loop.join()
        self.database.close()
        self.lock_file.close()

    @property
    def is_ready(self) -> bool:
        return all(loop.is_healthy for loop in self._loops)

    def loop_problems(self) -> list[str]:
        """What is wrong with the background threads, in words; empty when all make progress."""
        return [problem for loop in self._loops if (problem := loop.problem()) is not None]

    def local_time(self, moment: datetime) -> datetime:
        """A moment in the zone in which answers give times."""
        return moment.astimezone(timezone(timedelta(hours=self.settings.utc_offset_hours)))

    def base_voices(self) -> set[str]:
        """The voices of the base model; none when there is no base model."""
        return _read_voices(self.settings.base_model_dir)

    def base_voice_ids(self) -> dict[str, str]:
        """Every id that a voice of the base model answers to -> its name there: the names, and their `aliases`."""
        return _read_voice_ids(self.settings.base_model_dir)

    def _sweep(self, now: datetime) -> None:
        """Results nobody can fetch any more go, and checkpoints that nobody exported in their time."""
        num_expired = self.jobs.delete_expired_checkpoints(now)
        if num_expired:
            _log.info("checkpoints_deleted", number=num_expired)
        num_deleted = self.artifacts.delete_older_than(_RESULTS, time.time() - self.settings.url_lifetime_s - 3600)
        if num_deleted:
            _log.info("results_deleted", number=num_deleted)


def build_platform(settings: Settings) -> Platform:
    """Wire everything up and bring the database schema up to date; nothing runs before `Platform.start`.

    Raises: Conflict when another server uses the data directory
    """
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock_file = _lock(settings.data_dir / "server.lock")
    database = open_database(settings)
    database.reserve()
    artifacts = LocalArtifacts(settings.data_dir / "artifacts", settings.min_free_disk_bytes)
    backend = LocalBackend(_backend_config(settings))
    tariff = _tariff(settings)
    deployments = Deployments(
        database, settings.base_model, str(settings.base_model_dir.absolute()), tariff.unit_hour_by_spec
    )
    platform_time = timezone(timedelta(hours=settings.utc_offset_hours))
    return Platform(
        settings=settings,
        database=database,
        artifacts=artifacts,
        links=SignedLinks(load_secret(settings.data_dir / "secret")),
        api_keys=ApiKeys(database),
        workspaces=Workspaces(database),
        files=Files(database, artifacts, _file_rules(settings)),
        models=Models(database),
        catalogue=Catalogue(database, settings.base_model),
        jobs=Jobs(
            database,
            artifacts,
            _job_rules(settings, platform_time),
        ),
        deployments=deployments,
        router=Router(database, backend, deployments, _router_config(settings)),
        meter=Meter(database, tariff, settings.base_model, platform_time),
        estimator=Estimator(tariff, Forecaster(database, is_builtin_base=_is_builtin(settings))),
        scheduler=Scheduler(
            database, LocalRunner(_runner_config(settings), artifacts), artifacts, _scheduler_config(settings)
        ),
        reconciler=Reconciler(database, backend, _reconciler_config(settings)),
        sounds=make_sounds(settings, settings.data_dir / "sounds"),
        lock_file=lock_file,
    )


def make_sounds(settings: Settings, directory: Path) -> Sounds:
    """The fetcher of sounds that SSML names, with a directory that nobody else uses.

    Raises: InvalidParameter when fetch_allow is not valid
    """
    limits = FetchLimits(settings.fetch_timeout_s, settings.fetch_connect_timeout_s)
    fetch = GuardedFetch(AllowList(settings.fetch_allow), limits)
    return Sounds(fetch, directory, SoundLimits(settings.background_max_bytes))


def open_database(settings: Settings) -> Database:
    """The database with its newest schema."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = settings.database_url.get_secret_value()
    database = Database(url or settings.database_path, pool_size=settings.database_pool_size)
    database.upgrade()
    return database


def _backend_config(settings: Settings) -> LocalBackendConfig:
    return LocalBackendConfig(
        engine=settings.engine,
        data_directory=settings.data_dir,
        base_directory=settings.base_model_dir.absolute(),
        log_directory=settings.data_dir / "replicas",
        resources=_replica_resources(settings),
        drain_s=settings.replica_drain_s,
        environment={},
    )


def _replica_resources(settings: Settings) -> dict[str, ReplicaResources]:
    return {
        "MU5": ReplicaResources(
            settings.template_mu5_threads, settings.template_mu5_memory_mb, settings.template_mu5_device
        ),
        "MU2": ReplicaResources(
            settings.template_mu2_threads, settings.template_mu2_memory_mb, settings.template_mu2_device
        ),
    }


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
        backoff=BackoffRules(settings.replica_backoff_s, settings.replica_stable_s),
        max_start_failures=settings.replica_max_start_failures,
        max_parallel_starts=settings.max_parallel_starts,
        ping_timeout_s=settings.replica_ping_timeout_s,
        alive_interval_s=5.0,
        memory_mb_by_spec={spec: resources.memory_mb for spec, resources in _replica_resources(settings).items()},
    )


def _runner_config(settings: Settings) -> RunnerConfig:
    threads = str(settings.training_threads)
    return RunnerConfig(
        trainer=settings.trainer,
        base_directory=settings.base_model_dir.absolute(),
        jobs_directory=settings.data_dir / "jobs",
        models_directory=settings.data_dir / "models",
        seed=settings.training_seed,
        checkpoint_interval_s=settings.checkpoint_interval_s,
        environment={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )


def _job_rules(settings: Settings, platform_time: timezone) -> JobRules:
    days = settings.checkpoint_lifetime_days
    return JobRules(
        base_model=settings.base_model,
        max_jobs=settings.max_jobs,
        local_time=lambda moment: moment.astimezone(platform_time),
        models_directory=settings.data_dir / "models",
        checkpoint_lifetime=timedelta(days=days) if days else None,
    )


def _scheduler_config(settings: Settings) -> SchedulerConfig:
    platform_time = timezone(timedelta(hours=settings.utc_offset_hours))
    return SchedulerConfig(
        data_directory=settings.data_dir,
        models_directory=settings.data_dir / "models",
        export_all=settings.export_checkpoints == "all",
        lease_s=settings.job_lease_s,
        cancel_grace_s=settings.cancel_grace_s,
        backoff_s=settings.job_backoff_s,
        max_running=settings.max_running_jobs,
        local_time=lambda moment: moment.astimezone(platform_time),
    )


def _file_rules(settings: Settings) -> FileRules:
    return FileRules(settings.max_upload_bytes, settings.max_files, settings.max_workspace_bytes)


def _is_builtin(settings: Settings) -> bool:
    return settings.base_model_dir.resolve() == builtin_model_directory().resolve()


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


def _read_voice_ids(model_directory: Path) -> dict[str, str]:
    manifest = model_directory / "model.json"
    if not manifest.is_file():
        return {}
    voices: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["voices"]
    aliases = {str(alias): name for name, voice in voices.items() for alias in voice.get("aliases", ())}
    return aliases | {name: name for name in voices}
