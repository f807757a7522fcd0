"""What a deployment is, and the moves its status may make."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class DeploymentStatus(StrEnum):
    """
    PENDING --> DEPLOYING --> RUNNING <--> UPDATING         (any) --> DELETING --> gone
                    |            |            |
                    |            '-> STOPPED <-'  scaled to nothing; scaled up again it is UPDATING
                    '------> FAILED <---------'   no replica can start; scaling tries again
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
    _S.STOPPED: frozenset({_S.DEPLOYING, _S.RUNNING, _S.UPDATING}),
    _S.FAILED: frozenset({_S.DEPLOYING, _S.UPDATING}),
    _S.DELETING: frozenset(_S),
}
"""Status -> the ones it may follow. A deployment starts as PENDING."""

SERVING = frozenset({_S.DEPLOYING, _S.RUNNING, _S.UPDATING})
"""The states in which replicas are wanted."""

SYSTEM_WORKSPACE = ""
"""Owner of the built-in deployment of the base model, which no user sees in a list."""


@dataclass(frozen=True)
class Deployment:
    """One row of `deployments`; the table says what the fields mean."""

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
    capacity: int
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

    @property
    def num_replicas(self) -> int:
        """How many are wanted."""
        return self.capacity // self.base_capacity if self.status in SERVING else 0

    @property
    def is_builtin(self) -> bool:
        return self.workspace_id == SYSTEM_WORKSPACE
