"""Closes the gap between the replicas that are wanted and those that are there, one small step at a time.

What is wanted stands in the database; what is there, the backend knows. `step` is called again and again by one thread,
decides from what it finds and from nothing it remembers but the recent trouble, and may be repeated or missed freely.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from cosyforge import metrics
from cosyforge.deployments import metering, queries
from cosyforge.deployments.backend import Phase, ReplicaBackend, ReplicaState
from cosyforge.deployments.records import ON_ITS_WAY, Deployment, DeploymentStatus, Wanted
from cosyforge.deployments.trouble import BackoffRules, Trouble
from cosyforge.store.database import Database

_log = structlog.get_logger()
_LIVE = (Phase.STARTING, Phase.READY)


@dataclass(frozen=True)
class ReconcilerConfig:
    """max_start_failures: so many in a row, and nothing that answers, is FAILED.

    Units: memory_mb_by_spec in MiB per replica, 0 is no limit
    """

    start_timeout_s: float
    backoff: BackoffRules
    max_start_failures: int
    max_parallel_starts: int
    ping_timeout_s: float
    alive_interval_s: float
    memory_mb_by_spec: Mapping[str, int]


class Reconciler:
    """Also meters: see `metering`."""

    def __init__(self, database: Database, backend: ReplicaBackend, config: ReconcilerConfig) -> None:
        self._database = database
        self._backend = backend
        self._config = config
        self._trouble: dict[str, Trouble] = defaultdict(Trouble)
        self._vacancies: dict[str, list[int]] = defaultdict(list)
        """per deployment the places of replicas that ended by themselves: how often each was taken again"""
        self._heartbeat = metering.Heartbeat(database, config.alive_interval_s)

    def recover(self, now: datetime) -> None:
        """At start: nothing runs yet, whatever the rows of an earlier server say."""
        with self._database.transaction() as connection:
            for deployment in queries.all_deployments(connection):
                metering.close_bill_of_lost_server(connection, deployment, now)
                queries.set_fields(connection, deployment.deployment_id, ready_capacity=0)
                if deployment.status is DeploymentStatus.RUNNING:
                    message, status = "The server was restarted.", DeploymentStatus.UPDATING
                    queries.transition(connection, deployment, status, now, message=message)
                    queries.add_event(connection, deployment.deployment_id, message, now, status=status)

    def step(self, now: datetime) -> None:
        """Look once at everything; returns quickly."""
        with self._database.read() as connection:
            deployments = queries.all_deployments(connection)
        replicas_by_deployment: dict[str, list[ReplicaState]] = defaultdict(list)
        for replica in self._backend.observe():
            replicas_by_deployment[replica.deployment_id].append(replica)
        num_starting = sum(_count(replicas, Phase.STARTING) for replicas in replicas_by_deployment.values())
        num_free = max(0, self._config.max_parallel_starts - num_starting)
        # one each, and who has fewest comes first: better one replica for everybody than all for one
        for deployment in sorted(deployments, key=lambda deployment: _num_live(replicas_by_deployment, deployment)):
            replicas = replicas_by_deployment.pop(deployment.deployment_id, [])
            num_free -= self._reconcile(deployment, replicas, now, may_start=num_free > 0)
        for orphans in replicas_by_deployment.values():  # their deployment is gone
            self._stop(orphans, now)
        if any(deployment.billed_units for deployment in deployments):
            self._heartbeat.beat(now)
        _show(deployments)

    def shut_down(self, now: datetime) -> None:
        """End every replica and stop the bills; the deployments come back with the next server."""
        self._backend.shut_down()
        with self._database.transaction() as connection:
            for deployment in queries.all_deployments(connection):
                metering.close_bill_of_stopping_server(connection, deployment, now)
                queries.set_fields(connection, deployment.deployment_id, ready_capacity=0)

    def _reconcile(
        self, deployment: Deployment, replicas: list[ReplicaState], now: datetime, *, may_start: bool
    ) -> bool:
        """Returns whether a replica was started, or is about to be."""
        self._bury(deployment, replicas, now)
        if deployment.wanted is Wanted.DELETED:
            self._stop(replicas, now)
            if not replicas:
                self._forget(deployment, now)
            return False
        if deployment.has_news:
            self._take_up(deployment, now)
            return False  # the next step sees it as it is then
        if deployment.status is DeploymentStatus.PENDING and deployment.num_replicas:
            if may_start:
                self._move(deployment, DeploymentStatus.DEPLOYING, now, message=None)
            return may_start
        live = [replica for replica in replicas if replica.phase in _LIVE]
        self._kill_unwell(deployment, live, now)
        num_missing = deployment.num_replicas - len(live)
        if num_missing < 0:
            newest_first = sorted(live, key=lambda replica: (replica.phase is Phase.READY, replica.started_at))
            self._stop(newest_first[:-num_missing], now)
        has_started = num_missing > 0 and may_start and self._start(deployment, now)
        self._update_status(deployment, replicas, now)
        return has_started

    # ---- replicas

    def _bury(self, deployment: Deployment, replicas: list[ReplicaState], now: datetime) -> None:
        """Take note of ended replicas; the ones we did not end are trouble."""
        for replica in [replica for replica in replicas if replica.phase is Phase.ENDED]:
            replicas.remove(replica)
            self._backend.forget(replica.replica_id)
            if not replica.was_stopped:
                reason = f"Replica {replica.replica_id} (pid {replica.pid}) {replica.reason}."
                self._note_trouble(deployment, reason, now, was_ready=replica.was_ready)
                self._vacancies[deployment.deployment_id].append(replica.restarts + 1)

    def _note_trouble(self, deployment: Deployment, reason: str, now: datetime, *, was_ready: bool) -> None:
        trouble = self._trouble[deployment.deployment_id]
        trouble.note(reason, was_ready=was_ready, rules=self._config.backoff, now=now)
        _log.warning("replica_ended", deployed_model=deployment.deployed_model, reason=reason)
        with self._database.transaction() as connection:
            queries.add_event(connection, deployment.deployment_id, reason, now)
            if deployment.status in ON_ITS_WAY:
                queries.set_fields(connection, deployment.deployment_id, message=reason)

    def _kill_unwell(self, deployment: Deployment, live: Sequence[ReplicaState], now: datetime) -> None:
        """The next step finds them ended and replaces them."""
        for replica in live:
            reason = self._why_unwell(deployment, replica, now)
            if reason:
                self._backend.stop(replica.replica_id, now=now, reason=reason)

    def _why_unwell(self, deployment: Deployment, replica: ReplicaState, now: datetime) -> str:
        age_s = (now - replica.started_at).total_seconds()
        if replica.phase is Phase.STARTING and age_s > self._config.start_timeout_s:
            return f"was not ready after {self._config.start_timeout_s:g} s"
        if replica.phase is Phase.READY and replica.silent_s > self._config.ping_timeout_s:
            return f"hangs: it did not answer for {self._config.ping_timeout_s:g} s"
        limit_mb = self._config.memory_mb_by_spec.get(deployment.model_unit_spec, 0)
        if limit_mb and replica.rss_mb is not None and replica.rss_mb > limit_mb:
            return (
                f"used {replica.rss_mb:.0f} MiB of memory, more than the {limit_mb} MiB of "
                f"template_{deployment.model_unit_spec.lower()}_memory_mb"
            )
        return ""

    def _start(self, deployment: Deployment, now: datetime) -> bool:
        if self._trouble[deployment.deployment_id].must_wait(now):
            return False
        vacancies = self._vacancies[deployment.deployment_id]
        try:
            replica_id = self._backend.start(deployment, now, restarts=vacancies.pop() if vacancies else 0)
        except OSError as error:  # no process, no disk: the same trouble as one that ends at once
            self._note_trouble(deployment, f"A replica could not be started: {error}.", now, was_ready=False)
            return False
        metrics.replica_starts.labels(deployment.deployed_model).inc()
        _log.info("replica_starting", deployed_model=deployment.deployed_model, replica_id=replica_id)
        return True

    def _stop(self, replicas: Sequence[ReplicaState], now: datetime) -> None:
        for replica in replicas:
            if replica.phase in _LIVE:
                self._backend.stop(replica.replica_id, now=now)
            elif replica.phase is Phase.ENDED:
                self._backend.forget(replica.replica_id)

    # ---- what is seen

    def _take_up(self, deployment: Deployment, now: datetime) -> None:
        """Begin with a new wish; whatever went wrong before does not hold it up."""
        self._trouble.pop(deployment.deployment_id, None)
        seen = {"seen_generation": deployment.generation, "message": None}
        with self._database.transaction() as connection:
            if deployment.status in ON_ITS_WAY:
                queries.set_fields(connection, deployment.deployment_id, **seen)
            else:
                queries.transition(connection, deployment, DeploymentStatus.UPDATING, now, **seen)

    def _update_status(self, deployment: Deployment, replicas: Sequence[ReplicaState], now: datetime) -> None:
        num_ready = _count(replicas, Phase.READY)
        metrics.replicas_ready.labels(deployment.deployed_model).set(num_ready)
        ready_capacity = num_ready * deployment.base_capacity
        status, message = self._next_status(deployment, replicas, num_ready)
        if status is not deployment.status:
            self._move(deployment, status, now, message=message, ready_capacity=ready_capacity)
        elif ready_capacity != deployment.ready_capacity:
            with self._database.transaction() as connection:
                queries.set_fields(connection, deployment.deployment_id, ready_capacity=ready_capacity, modified_at=now)

    def _next_status(
        self, deployment: Deployment, replicas: Sequence[ReplicaState], num_ready: int
    ) -> tuple[DeploymentStatus, str | None]:
        """What it is now, and why it is not RUNNING."""
        trouble = self._trouble[deployment.deployment_id]
        if deployment.status is DeploymentStatus.FAILED:
            return deployment.status, deployment.message
        if num_ready == 0 and trouble.start_failures >= self._config.max_start_failures:
            message = f"No replica could be started in {trouble.start_failures} attempts. {trouble.reason}"
            return DeploymentStatus.FAILED, message
        if num_ready == deployment.num_replicas:  # nothing is missing
            trouble.start_failures = 0
            self._vacancies.pop(deployment.deployment_id, None)
            if num_ready:
                return DeploymentStatus.RUNNING, None
            return (deployment.status if replicas else DeploymentStatus.STOPPED), None
        if deployment.status is DeploymentStatus.RUNNING:
            return DeploymentStatus.UPDATING, trouble.reason or None
        return deployment.status, deployment.message

    def _move(
        self, deployment: Deployment, status: DeploymentStatus, now: datetime, *, message: str | None, **values: Any
    ) -> None:
        """Change the status unless the user changed what is wanted meanwhile; then the next step decides anew."""
        with self._database.transaction() as connection:
            current = queries.find_deployment(connection, deployment.deployed_model)
            if current is None or (current.status, current.generation) != (deployment.status, deployment.generation):
                return
            if status is DeploymentStatus.RUNNING:
                queries.bill_units(connection, current, current.capacity, "running", now)
            elif status in (DeploymentStatus.FAILED, DeploymentStatus.STOPPED):
                queries.bill_units(connection, current, 0, status.lower(), now)
            queries.transition(connection, current, status, now, message=message, **values)
            sentence = f"{status}: {message}" if message else str(status)
            queries.add_event(
                connection, current.deployment_id, sentence, now, status=status, capacity=current.capacity
            )
        _log.info("deployment_moved", deployed_model=deployment.deployed_model, status=status, message=message)

    def _forget(self, deployment: Deployment, now: datetime) -> None:
        with self._database.transaction() as connection:
            queries.add_event(connection, deployment.deployment_id, "Deleted.", now)
            queries.delete_deployment(connection, deployment.deployment_id)
        self._trouble.pop(deployment.deployment_id, None)
        self._vacancies.pop(deployment.deployment_id, None)
        for metric in (metrics.replicas_ready, metrics.replica_starts):
            with contextlib.suppress(KeyError):  # it never got so far
                metric.remove(deployment.deployed_model)
        _log.info("deployment_gone", deployed_model=deployment.deployed_model)


def _count(replicas: Sequence[ReplicaState], phase: Phase) -> int:
    return sum(replica.phase is phase for replica in replicas)


def _num_live(replicas_by_deployment: Mapping[str, Sequence[ReplicaState]], deployment: Deployment) -> int:
    return sum(replica.phase in _LIVE for replica in replicas_by_deployment.get(deployment.deployment_id, ()))


def _show(deployments: Sequence[Deployment]) -> None:
    states = [deployment.state for deployment in deployments]
    for status in DeploymentStatus:
        metrics.deployments.labels(str(status)).set(states.count(status))
