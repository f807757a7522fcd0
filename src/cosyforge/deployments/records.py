"""What a deployment is: what is wanted of it, what is seen of it, and the moves that the latter may make."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Wanted(StrEnum):
    """What the owner wants; with it goes the capacity."""

    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


class DeploymentStatus(StrEnum):
    """
    PENDING --> DEPLOYING --> RUNNING <--> UPDATING         (any) --> DELETING --> gone
       |            |            |            |
       '------------|-> STOPPED <+------------'  no units are wanted, and no replica is left; started it is UPDATING
                    '-> FAILED <--------------'  no replica can start; any new wish tries again

    PENDING waits until a replica may start. DELETING is only shown (see `Deployment.state`), never stored.
    """

    PENDING = "PENDING"
    DEPLOYING = "DEPLOYING"
    RUNNING = "RUNNING"
    UPDATING = "UPDATING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    DELETING = "DELETING"


_S = DeploymentStatus
ALLOWED_FROM: dict[DeploymentStatus, frozenset[DeploymentStatus]] = {
    _S.DEPLOYING: frozenset({_S.PENDING}),
    _S.RUNNING: frozenset({_S.DEPLOYING, _S.UPDATING}),
    _S.UPDATING: frozenset({_S.RUNNING, _S.STOPPED, _S.FAILED}),
    _S.STOPPED: frozenset({_S.PENDING, _S.DEPLOYING, _S.RUNNING, _S.UPDATING}),
    _S.FAILED: frozenset({_S.DEPLOYING, _S.UPDATING}),
}
"""Status -> the ones it may follow. A deployment starts as PENDING."""

ON_ITS_WAY = frozenset({_S.PENDING, _S.DEPLOYING, _S.UPDATING})
"""The states that end by themselves."""

SYSTEM_WORKSPACE = ""
"""Owner of the built-in deployment of the base model, which no user sees in a list."""


@dataclass(frozen=True)
class Deployment:
    """One row of `deployments`; the table says what the fields mean.

    `wanted`, `capacity` and `generation` are the owner's; `status`, `seen_generation`, `ready_capacity` and `message`
    are what the reconciler saw last. Show `state`, which knows both.
    """

    number: int
    deployment_id: str
    deployed_model: str
    workspace_id: str
    creator: str
    name: str
    model_name: str
    base_model: str
    directory: str
    template_id: str
    model_unit_spec: str
    base_capacity: int
    wanted: Wanted
    capacity: int
    generation: int
    seen_generation: int
    ready_capacity: int
    status: DeploymentStatus
    message: str | None
    rpm_limit: int | None
    tpm_limit: int | None
    billed_units: int
    alive_at: datetime | None
    created_at: datetime
    modified_at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", DeploymentStatus(self.status))
        object.__setattr__(self, "wanted", Wanted(self.wanted))

    @property
    def state(self) -> DeploymentStatus:
        """How it is, wishes included that nobody has taken up yet."""
        if self.wanted is Wanted.DELETED:
            return DeploymentStatus.DELETING
        if self.has_news and self.status not in ON_ITS_WAY:
            return DeploymentStatus.UPDATING
        return self.status

    @property
    def has_news(self) -> bool:
        """The reconciler has not taken up the newest wish."""
        return self.generation > self.seen_generation

    @property
    def num_replicas(self) -> int:
        """How many there should be."""
        is_idle = self.wanted is not Wanted.RUNNING or self.status is DeploymentStatus.FAILED
        return 0 if is_idle else self.capacity // self.base_capacity

    @property
    def is_builtin(self) -> bool:
        return self.workspace_id == SYSTEM_WORKSPACE

    @property
    def is_base(self) -> bool:
        """It speaks with the base model itself, built in or deployed by somebody for themselves."""
        return self.model_name == self.base_model


@dataclass(frozen=True)
class DeploymentEvent:
    """Something that happened. status: the state that began with it; capacity: units wanted from then on"""

    event_id: int
    deployment_id: str
    at: datetime
    message: str
    status: str | None
    capacity: int | None
