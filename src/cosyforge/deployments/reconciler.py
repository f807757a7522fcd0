"""Closes the gap between the replicas that are wanted and those that are there, one small step at a time.

What is wanted stands in the database; what is there, the backend knows. `step` is called again and again by one thread.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from cosyforge.billing.ledger import last_mark_at
from cosyforge.deployments import queries
from cosyforge.deployments.backend import Phase, ReplicaBackend, ReplicaState
from cosyforge.deployments.records import SERVING, Deployment, DeploymentStatus
from cosyforge.store.database import Database

_log = structlog.get_logger()
_MAX_BACKOFF_S = 30.0


@dataclass(frozen=True)
class ReconcilerConfig:
    """max_start_failures: so many in a row, and nothing that answers, is FAILED."""

    start_timeout_s: float
    backoff_s: float
    max_start_failures: int
    stable_s: float
    alive_interval_s: float


@dataclass
class _Trouble:
    """What went wrong lately with one deployment."""

    start_failures: int = 0
    num_ends: int = 0
    last_end_at: datetime | None = None
    retry_at: datetime | None = None
    reason: str = ""


class Reconciler:
    """Also meters: units are billed from RUNNING until deletion, failure or the end of the server."""

    def __init__(self, database: Database, backend: ReplicaBackend, config: ReconcilerConfig) -> None:
        self._database = database
        self._backend = backend
        self._config = config
        self._trouble: dict[str, _Trouble] = defaultdict(_Trouble)
        self._alive_noted_at: datetime | None = None

    def recover(self, now: datetime) -> None:
        """At start: nothing runs yet, whatever the rows of an earlier server say."""
        with self._database.transaction() as connection:
            for deployment in queries.all_deployments(connection):
                self._close_bill_of_lost_server(connection, deployment, now)
                queries.set_fields(connection, deployment.deployment_id, ready_capacity=0)
                if deployment.status is DeploymentStatus.RUNNING:
                    message = "The server was restarted."
                    queries.transition(connection, deployment, DeploymentStatus.UPDATING, now, message=message)
                    queries.add_event(connection, deployment.deployment_id, message, now)

    def step(self, now: datetime) -> None:
        """Look once at everything; returns quickly."""
        with self._database.read() as connection:
            deployments = queries.all_deployments(connection)
        replicas_by_deployment: dict[str, list[ReplicaState]] = defaultdict(list)
        for replica in self._backend.observe():
            replicas_by_deployment[replica.deployment_id].append(replica)
        for deployment in deployments:
            self._reconcile(deployment, replicas_by_deployment.pop(deployment.deployment_id, []), now)
        for orphans in replicas_by_deployment.values():  # their deployment is gone
            self._stop(orphans, now)
        self._note_alive(deployments, now)

    def shut_down(self, now: datetime) -> None:
        """End every replica and stop the bills; the deployments come back with the next server."""
        self._backend.shut_down()
        with self._database.transaction() as connection:
            for deployment in queries.all_deployments(connection):
                queries.bill_units(connection, deployment, 0, "server stopped", now)

    def _reconcile(self, deployment: Deployment, replicas: list[ReplicaState], now: datetime) -> None:
        if deployment.status is DeploymentStatus.PENDING:
            self._move(deployment, DeploymentStatus.DEPLOYING, now)
            return  # the next step sees it as it is then
        self._bury(deployment, replicas, now)
        live = [replica for replica in replicas if replica.phase in (Phase.STARTING, Phase.READY)]
        self._kill_late_starters(live, now)
        if len(live) < deployment.num_replicas:
            self._start_missing(deployment, deployment.num_replicas - len(live), now)
        elif len(live) > deployment.num_replicas:
            newest_first = sorted(live, key=lambda replica: (replica.phase is Phase.READY, replica.started_at))
            self._stop(newest_first[: len(live) - deployment.num_replicas], now)
        self._update_status(deployment, replicas, now)

    def _bury(self, deployment: Deployment, replicas: list[ReplicaState], now: datetime) -> None:
        """Take note of ended replicas; the ones we did not end are trouble."""
        for replica in [replica for replica in replicas if replica.phase is Phase.ENDED]:
            replicas.remove(replica)
            self._backend.forget(replica.replica_id)
            if not replica.was_stopped:
                self._note_trouble(deployment, replica, now)

    def _note_trouble(self, deployment: Deployment, replica: ReplicaState, now: datetime) -> None:
        trouble = self._trouble[deployment.deployment_id]
        if trouble.last_end_at and (now - trouble.last_end_at).total_seconds() > self._config.stable_s:
            trouble.num_ends = 0
        trouble.start_failures = 0 if replica.was_ready else trouble.start_failures + 1
        backoff_s = min(self._config.backoff_s * 2**trouble.num_ends, _MAX_BACKOFF_S)
        trouble.num_ends += 1
        trouble.last_end_at = now
        trouble.retry_at = now + timedelta(seconds=backoff_s)
        trouble.reason = f"Replica {replica.replica_id} (pid {replica.pid}) {replica.reason}."
        _log.warning("replica_ended", deployed_model=deployment.deployed_model, reason=trouble.reason)
        with self._database.transaction() as connection:
            queries.add_event(connection, deployment.deployment_id, trouble.reason, now)

    def _kill_late_starters(self, live: Sequence[ReplicaState], now: datetime) -> None:
        limit_s = self._config.start_timeout_s
        for replica in live:
            if replica.phase is Phase.STARTING and (now - replica.started_at).total_seconds() > limit_s:
                self._backend.stop(replica.replica_id, now=now, reason=f"was not ready after {limit_s:g} s")

    def _start_missing(self, deployment: Deployment, num_missing: int, now: datetime) -> None:
        retry_at = self._trouble[deployment.deployment_id].retry_at
        if retry_at is not None and now < retry_at:
            return
        for _ in range(num_missing):
            try:
                replica_id = self._backend.start(deployment, now)
            except OSError as error:  # no process, no disk: the same trouble as one that ends at once
                unborn = ReplicaState("-", deployment.deployment_id, Phase.ENDED, now)
                self._note_trouble(deployment, replace(unborn, reason=f"could not be started: {error}"), now)
                return
            _log.info("replica_starting", deployed_model=deployment.deployed_model, replica_id=replica_id)

    def _stop(self, replicas: Sequence[ReplicaState], now: datetime) -> None:
        for replica in replicas:
            if replica.phase in (Phase.STARTING, Phase.READY):
                self._backend.stop(replica.replica_id, now=now)
            elif replica.phase is Phase.ENDED:
                self._backend.forget(replica.replica_id)

    def _update_status(self, deployment: Deployment, replicas: Sequence[ReplicaState], now: datetime) -> None:
        trouble = self._trouble[deployment.deployment_id]
        num_ready = sum(replica.phase is Phase.READY for replica in replicas)
        self._note_ready(deployment, num_ready, now)
        if deployment.status is DeploymentStatus.DELETING:
            if not replicas:
                self._forget(deployment)
        elif deployment.status not in SERVING:
            return
        elif num_ready == 0 and trouble.start_failures >= self._config.max_start_failures:
            self._fail(deployment, trouble, now)
        elif num_ready == deployment.num_replicas:
            self._settle(deployment, replicas, now)
        elif deployment.status is DeploymentStatus.RUNNING:
            self._move(deployment, DeploymentStatus.UPDATING, now, message=trouble.reason or None)

    def _settle(self, deployment: Deployment, replicas: Sequence[ReplicaState], now: datetime) -> None:
        """As many replicas answer as are wanted."""
        self._trouble[deployment.deployment_id].start_failures = 0
        if deployment.num_replicas == 0:
            if not replicas:
                self._move(deployment, DeploymentStatus.STOPPED, now, message=None)
        elif deployment.status is not DeploymentStatus.RUNNING:
            self._move(deployment, DeploymentStatus.RUNNING, now, message=None)

    def _fail(self, deployment: Deployment, trouble: _Trouble, now: datetime) -> None:
        message = f"No replica could be started in {trouble.start_failures} attempts. {trouble.reason}"
        self._move(deployment, DeploymentStatus.FAILED, now, message=message)
        del self._trouble[deployment.deployment_id]

    def _move(self, deployment: Deployment, status: DeploymentStatus, now: datetime, **values: Any) -> None:
        """Change the status unless the user changed what is wanted meanwhile; then the next step decides anew."""
        with self._database.transaction() as connection:
            current = queries.find_deployment(connection, deployment.deployed_model)
            if current is None or (current.status, current.capacity) != (deployment.status, deployment.capacity):
                return
            if status is DeploymentStatus.RUNNING:
                queries.bill_units(connection, current, current.capacity, "running", now)
            elif status in (DeploymentStatus.FAILED, DeploymentStatus.STOPPED):
                queries.bill_units(connection, current, 0, status.lower(), now)
            queries.transition(connection, current, status, now, **values)
            queries.add_event(connection, current.deployment_id, _sentence(status, values.get("message")), now)
        _log.info("deployment_moved", deployed_model=deployment.deployed_model, status=status, **values)

    def _note_ready(self, deployment: Deployment, num_ready: int, now: datetime) -> None:
        ready_capacity = num_ready * deployment.base_capacity
        if ready_capacity != deployment.ready_capacity:
            with self._database.transaction() as connection:
                queries.set_fields(connection, deployment.deployment_id, ready_capacity=ready_capacity, modified_at=now)

    def _forget(self, deployment: Deployment) -> None:
        with self._database.transaction() as connection:
            queries.delete_deployment(connection, deployment.deployment_id)
        self._trouble.pop(deployment.deployment_id, None)
        _log.info("deployment_gone", deployed_model=deployment.deployed_model)

    def _note_alive(self, deployments: Sequence[Deployment], now: datetime) -> None:
        """Remember until when a bill is certainly right, should this server vanish."""
        last = self._alive_noted_at
        if last is not None and (now - last).total_seconds() < self._config.alive_interval_s:
            return
        self._alive_noted_at = now
        billed = [deployment for deployment in deployments if deployment.billed_units]
        if billed:
            with self._database.transaction() as connection:
                for deployment in billed:
                    queries.set_fields(connection, deployment.deployment_id, alive_at=now)

    def _close_bill_of_lost_server(self, connection: Any, deployment: Deployment, now: datetime) -> None:
        if deployment.billed_units:
            marked_at = last_mark_at(connection, deployment.deployment_id) or now
            seen_at = max(deployment.alive_at or marked_at, marked_at)
            queries.bill_units(connection, deployment, 0, "server lost", min(seen_at, now))


def _sentence(status: DeploymentStatus, message: str | None) -> str:
    return f"{status}: {message}" if message else str(status)
