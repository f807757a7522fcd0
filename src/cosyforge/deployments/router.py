"""Finds who speaks for a model: deployed model -> the least busy replica that answers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from cosyforge import metrics
from cosyforge.billing.characters import count_characters
from cosyforge.deployments import queries
from cosyforge.deployments.backend import Phase, ReplicaBackend, ReplicaState
from cosyforge.deployments.limits import RateLimits
from cosyforge.deployments.records import Deployment, DeploymentStatus, Wanted
from cosyforge.deployments.replica_client import ReplicaStream
from cosyforge.deployments.service import Deployments
from cosyforge.errors import AccessDenied, ModelNotFound, NotReady, Throttled
from cosyforge.registry.models import find_model
from cosyforge.store.database import Database
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

_POLL_S = 0.02


@dataclass(frozen=True)
class RouterConfig:
    """replica_wait_s: how long a request waits for a replica that is being restarted."""

    base_model: str
    serve_base_model: bool
    max_requests_per_replica: int
    replica_wait_s: float
    start_timeout_s: float


class Router:
    """Hands out Synthesizers, and knows how busy each replica is."""

    def __init__(
        self, database: Database, backend: ReplicaBackend, deployments: Deployments, config: RouterConfig
    ) -> None:
        self._database = database
        self._backend = backend
        self._deployments = deployments
        self._config = config
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._limits = RateLimits()

    def find(self, model: str, workspace_id: str) -> Deployment:
        """The deployment behind the `model` of a request.

        Raises: ModelNotFound; AccessDenied for a model of another workspace; NotReady for one not deployed
        """
        if model == self._config.base_model:
            if not self._config.serve_base_model:
                raise ModelNotFound()
            return self._deployments.ensure_base_model(datetime.now(UTC))
        with self._database.read() as connection:
            deployment = queries.find_deployment(connection, model)
            known = find_model(connection, model)
        owner = deployment.workspace_id if deployment else known.workspace_id if known else None
        if owner is None:
            raise ModelNotFound()
        if owner != workspace_id:
            raise AccessDenied("Model access denied.", code="Model.AccessDenied")
        if deployment is None:
            raise NotReady(f"Model is not ready: {model} is not deployed; create a deployment first.")
        return deployment

    def synthesizer(self, deployment: Deployment) -> RoutedSynthesizer:
        return RoutedSynthesizer(self, deployment)

    def open(self, deployment: Deployment, request: SynthesisRequest, text: Iterable[str]) -> RoutedStream:
        """Start speaking on the least busy replica, waiting a moment for one that is on its way.

        The limits of the deployment are kept here, for every way in.
        Raises: NotReady, Throttled
        """
        if deployment.wanted is not Wanted.RUNNING:
            self._raise_if_hopeless(deployment, is_over=True)
        text = self._limited(deployment, request, text)
        deadline = time.monotonic() + self._patience_s(deployment)
        while True:
            replica_id = self._reserve(deployment)
            if replica_id is not None:
                try:
                    return RoutedStream(self, replica_id, self._backend.connect(replica_id).synthesize(request, text))
                except (ConnectionError, KeyError):
                    self.release(replica_id)  # it ended a moment ago; the reconciler will notice too
            self._raise_if_hopeless(deployment, is_over=time.monotonic() > deadline)
            time.sleep(_POLL_S)

    def release(self, replica_id: str) -> None:
        with self._lock:
            self._in_flight[replica_id] -= 1
            if self._in_flight[replica_id] <= 0:
                del self._in_flight[replica_id]

    def replicas(self, deployment: Deployment) -> list[tuple[ReplicaState, int]]:
        """The replicas of a deployment, the oldest first, and how many requests each has."""
        states = [state for state in self._backend.observe() if state.deployment_id == deployment.deployment_id]
        with self._lock:
            shown = [(state, self._in_flight[state.replica_id]) for state in states if state.phase is not Phase.ENDED]
        return sorted(shown, key=lambda pair: pair[0].started_at)

    def _limited(self, deployment: Deployment, request: SynthesisRequest, text: Iterable[str]) -> Iterable[str]:
        """Admit a request with the text that is known; what comes later is counted as it comes.

        Raises: Throttled
        """
        if deployment.rpm_limit is None and deployment.tpm_limit is None:
            return text
        if isinstance(text, list | tuple):
            characters = count_characters("".join(text), is_ssml=request.enable_ssml)
            self._limits.admit(deployment, characters, time.monotonic())
            return text
        self._limits.admit(deployment, 0, time.monotonic())
        return self._counted(deployment, request, text)

    def _counted(self, deployment: Deployment, request: SynthesisRequest, text: Iterable[str]) -> Iterator[str]:
        for piece in text:
            characters = count_characters(piece, is_ssml=request.enable_ssml)
            self._limits.add(deployment, characters, time.monotonic())
            yield piece

    def _reserve(self, deployment: Deployment) -> str | None:
        ready = self._backend.ready(deployment.deployment_id)
        with self._lock:
            if not ready:
                return None
            replica_id = min(ready, key=lambda candidate: self._in_flight[candidate])
            if self._in_flight[replica_id] >= self._config.max_requests_per_replica:
                metrics.throttled.labels("replica_requests").inc()
                raise Throttled()
            self._in_flight[replica_id] += 1
            return replica_id

    def _patience_s(self, deployment: Deployment) -> float:
        if deployment.is_builtin:
            return self._config.start_timeout_s  # it may be started by this very request
        return self._config.replica_wait_s

    def _raise_if_hopeless(self, deployment: Deployment, *, is_over: bool) -> None:
        with self._database.read() as connection:
            current = queries.find_deployment(connection, deployment.deployed_model)
        if current is None:
            raise ModelNotFound()
        may_come = current.state in (DeploymentStatus.RUNNING, DeploymentStatus.UPDATING) or (
            current.is_builtin and current.state in (DeploymentStatus.PENDING, DeploymentStatus.DEPLOYING)
        )
        if is_over or not may_come or current.wanted is not Wanted.RUNNING:
            why = f" {current.message}" if current.message else ""
            raise NotReady(f"Model is not ready: {current.deployed_model} is {current.state}.{why}")


class RoutedSynthesizer:
    """Implements Synthesizer for one deployment."""

    def __init__(self, router: Router, deployment: Deployment) -> None:
        self._router = router
        self._deployment = deployment

    def synthesize(self, request: SynthesisRequest, text: Iterable[str]) -> RoutedStream:
        return self._router.open(self._deployment, request, text)

    def close(self) -> None:
        """Nothing is held between requests."""


class RoutedStream:
    """The chunks of one request. `close` may be called from any thread, more than once, and cancels."""

    def __init__(self, router: Router, replica_id: str, stream: ReplicaStream) -> None:
        self._router = router
        self._replica_id = replica_id
        self.replica_id = replica_id
        """for the log"""
        self._stream = stream
        self._lock = threading.Lock()
        self._is_released = False

    def __iter__(self) -> Iterator[AudioChunk]:
        return self

    def __next__(self) -> AudioChunk:
        try:
            return next(self._stream)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stream.close()
        with self._lock:
            if not self._is_released:
                self._is_released = True
                self._router.release(self._replica_id)
