"""Where replicas run. The reconciler starts, watches and stops them and need not know in which process or machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from cosyforge.deployments.records import Deployment
from cosyforge.deployments.replica_client import ReplicaClient


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True)
class ReplicaState:
    """was_ready: it answered at some time. was_stopped: we asked it to go. reason: why it ended.

    Units: silent_s is how long it has owed an answer to a ping; rss_mb is its resident memory in MiB, None when unknown
    restarts: how many replicas ended by themselves before this one took their place
    """

    replica_id: str
    deployment_id: str
    phase: Phase
    started_at: datetime
    pid: int | None = None
    was_ready: bool = False
    was_stopped: bool = False
    reason: str = ""
    restarts: int = 0
    silent_s: float = 0.0
    rss_mb: float | None = None


class ReplicaBackend(Protocol):
    """Holds replicas by id. Safe to use from several threads."""

    def start(self, deployment: Deployment, now: datetime, *, restarts: int = 0) -> str:
        """Begin to start one replica; returns its id."""
        ...

    def observe(self) -> Sequence[ReplicaState]:
        """Every replica as it is now; ended ones until they are forgotten. Does not wait for any of them."""
        ...

    def stop(self, replica_id: str, *, now: datetime, reason: str = "") -> None:
        """Ask a replica to finish and go; it is killed when that takes too long. With a reason, kill it at once."""
        ...

    def forget(self, replica_id: str) -> None: ...

    def ready(self, deployment_id: str) -> Sequence[str]:
        """The replicas that take requests."""
        ...

    def connect(self, replica_id: str) -> ReplicaClient: ...

    def shut_down(self) -> None:
        """End every replica; returns when they are gone."""
        ...
