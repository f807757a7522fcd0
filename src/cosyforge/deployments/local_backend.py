"""Runs replicas in child processes of the server, behind Unix sockets."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cosyforge.deployments.backend import Phase, ReplicaState
from cosyforge.deployments.ping import Ping
from cosyforge.deployments.records import Deployment
from cosyforge.deployments.replica import ReplicaSpec
from cosyforge.deployments.replica_client import ReplicaClient
from cosyforge.deployments.templates import ReplicaResources
from cosyforge.jobs.process import describe_exit, last_lines, start_module


@dataclass(frozen=True)
class LocalBackendConfig:
    """resources: by model unit type."""

    engine: str
    data_directory: Path
    base_directory: Path
    log_directory: Path
    resources: Mapping[str, ReplicaResources]
    drain_s: float
    environment: Mapping[str, str]


@dataclass
class _Replica:
    replica_id: str
    deployment_id: str
    process: subprocess.Popen[bytes]
    spec: ReplicaSpec
    log: Path
    started_at: datetime
    restarts: int
    ping: Ping
    is_ready: bool = False
    kill_at: float | None = None
    """monotonic time from which patience is over, once it was asked to go"""
    reason: str = ""


class LocalBackend:
    """One process per replica."""

    def __init__(self, config: LocalBackendConfig) -> None:
        self._config = config
        self._lock = threading.RLock()
        self._replicas: dict[str, _Replica] = {}
        self._numbers = itertools.count(1)
        config.log_directory.mkdir(parents=True, exist_ok=True)
        self._run_directory = _new_run_directory(config.log_directory)

    def start(self, deployment: Deployment, now: datetime, *, restarts: int = 0) -> str:
        with self._lock:
            replica_id = f"r{next(self._numbers)}"
            spec = self._spec(deployment, replica_id)
            path = self._run_directory / f"{replica_id}.json"
            spec.write(path)
            log = self._config.log_directory / f"{deployment.deployed_model}.{replica_id}.log"
            log.unlink(missing_ok=True)  # of an earlier server
            threads = str(spec.num_threads)
            environment = {**self._config.environment, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            process = start_module("cosyforge.deployments.replica", path, log, environment)
            self._replicas[replica_id] = _Replica(
                replica_id, deployment.deployment_id, process, spec, log, now, restarts, Ping(spec.socket)
            )
            return replica_id

    def observe(self) -> Sequence[ReplicaState]:
        with self._lock:
            for replica in self._replicas.values():
                if replica.is_ready and replica.kill_at is None:
                    replica.ping.look(time.monotonic())
            return [self._observe(replica) for replica in self._replicas.values()]

    def stop(self, replica_id: str, *, now: datetime, reason: str = "") -> None:
        with self._lock:
            replica = self._replicas[replica_id]
            replica.reason = replica.reason or reason
            if reason:
                replica.process.kill()
            elif replica.kill_at is None:
                # a little more than the replica's own patience with the requests it has
                replica.kill_at = time.monotonic() + self._config.drain_s + 2
                replica.process.terminate()

    def forget(self, replica_id: str) -> None:
        with self._lock:
            replica = self._replicas.pop(replica_id)
            replica.ping.close()
            for path in (replica.spec.socket, replica.spec.status, self._run_directory / f"{replica_id}.json"):
                Path(path).unlink(missing_ok=True)

    def ready(self, deployment_id: str) -> Sequence[str]:
        with self._lock:
            mine = [replica for replica in self._replicas.values() if replica.deployment_id == deployment_id]
            return [replica.replica_id for replica in mine if self._observe(replica).phase is Phase.READY]

    def connect(self, replica_id: str) -> ReplicaClient:
        with self._lock:
            return ReplicaClient(self._replicas[replica_id].spec.socket)

    def shut_down(self) -> None:
        with self._lock:
            replicas = list(self._replicas.values())
            for replica in replicas:
                replica.ping.close()
                replica.process.terminate()
            deadline = time.monotonic() + 2
            for replica in replicas:
                try:
                    replica.process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    replica.process.kill()
                    replica.process.wait()
            self._replicas.clear()
        shutil.rmtree(self._run_directory, ignore_errors=True)

    def _spec(self, deployment: Deployment, replica_id: str) -> ReplicaSpec:
        resources = self._config.resources[deployment.model_unit_spec]
        return ReplicaSpec(
            replica_id=replica_id,
            deployed_model=deployment.deployed_model,
            parent_pid=os.getpid(),
            engine=self._config.engine,
            model_directory=str(self._config.data_directory / deployment.directory),
            base_directory=None if deployment.is_base else str(self._config.base_directory),
            num_threads=resources.threads,
            device=resources.device,
            socket=str(self._run_directory / f"{replica_id}.sock"),
            status=str(self._run_directory / f"{replica_id}.status"),
            drain_s=self._config.drain_s,
        )

    def _observe(self, replica: _Replica) -> ReplicaState:
        return_code = replica.process.poll()
        if return_code is None and replica.kill_at is not None and time.monotonic() > replica.kill_at:
            replica.process.kill()
        if not replica.is_ready:
            replica.is_ready = _read_status(Path(replica.spec.status))[0] == "ready"
        return ReplicaState(
            replica.replica_id,
            replica.deployment_id,
            _phase(replica, return_code),
            replica.started_at,
            pid=replica.process.pid,
            was_ready=replica.is_ready,
            was_stopped=replica.kill_at is not None,
            reason="" if return_code is None else _why_it_ended(replica, return_code),
            restarts=replica.restarts,
            silent_s=replica.ping.silent_s(time.monotonic()),
            rss_mb=_resident_mb(replica.process.pid) if return_code is None else None,
        )


def _phase(replica: _Replica, return_code: int | None) -> Phase:
    if return_code is not None:
        return Phase.ENDED
    if replica.kill_at is not None:
        return Phase.STOPPING
    return Phase.READY if replica.is_ready else Phase.STARTING


def _why_it_ended(replica: _Replica, return_code: int) -> str:
    if replica.reason:
        return replica.reason
    state, message = _read_status(Path(replica.spec.status))
    if state == "failed":
        return f"could not load the model: {message}"
    lines = last_lines(replica.log, 3)
    return describe_exit(return_code) + (f"; last log lines: {' | '.join(lines)}" if lines else "")


def _read_status(path: Path) -> tuple[str, str]:
    if not path.exists():
        return "", ""
    status = json.loads(path.read_text())
    return status["state"], status["message"]


def _resident_mb(pid: int) -> float | None:
    """Resident memory in MiB; None where there is no /proc, or the process has just ended."""
    try:
        num_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return num_pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _new_run_directory(log_directory: Path) -> Path:
    """A short path for sockets (108 bytes are the limit), ours alone; that of a server that was killed goes.

    A link in the log directory remembers it.
    """
    link = log_directory / "run"
    if link.is_symlink():
        shutil.rmtree(os.readlink(link), ignore_errors=True)
        link.unlink()
    directory = Path(tempfile.mkdtemp(prefix="cosyforge-"))
    link.symlink_to(directory)
    return directory
