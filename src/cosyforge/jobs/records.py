"""What a fine-tuning job is, and the moves its status may make."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from cosyforge.billing.tariff import training_tokens


class JobStatus(StrEnum):
    """
    PENDING --> QUEUING --> RUNNING --> SUCCEEDED
       |           |           |------> FAILED
       |           |           '-> CANCELING --> CANCELED
       '-----------'-------------- cancel ----------^
    """

    PENDING = "PENDING"
    QUEUING = "QUEUING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELING = "CANCELING"
    CANCELED = "CANCELED"


FINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED})
WITH_WORKER = frozenset({JobStatus.RUNNING, JobStatus.CANCELING})

ALLOWED_FROM: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUING: frozenset({JobStatus.PENDING}),
    JobStatus.RUNNING: frozenset({JobStatus.PENDING, JobStatus.QUEUING}),
    JobStatus.SUCCEEDED: frozenset({JobStatus.RUNNING}),
    JobStatus.FAILED: frozenset({JobStatus.RUNNING}),
    JobStatus.CANCELING: frozenset({JobStatus.RUNNING}),
    JobStatus.CANCELED: frozenset({JobStatus.PENDING, JobStatus.QUEUING, JobStatus.CANCELING}),
}
"""Status -> the ones it may follow. A job starts as PENDING."""


class CheckpointStatus(StrEnum):
    """SUCCEEDED: exported, so it is a deployable model. PENDING: kept, not exported.

    EXPIRED: about to be deleted from the disk; nobody is shown it any more.
    """

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True)
class FineTuneJob:
    """One row of `fine_tune_jobs`; the table says what the fields mean."""

    number: int
    job_id: str
    workspace_id: str
    creator: str
    job_name: str
    model_name: str
    model: str
    training_type: str
    training_datasets: list[dict[str, Any]]
    validation_datasets: list[dict[str, Any]]
    hyper_parameters: dict[str, int]
    finetuned_output: str
    package: str
    status: JobStatus
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    usage: int | None
    code: str | None
    message: str | None
    output_cnt: int
    stage: str | None
    progress: float | None
    events_offset: int
    worker_pid: int | None
    lease_owner: str | None
    lease_until: datetime | None
    validation_package: str | None
    attempts: int
    outcome: dict[str, Any] | None
    place: str | None
    saved_place: str | None
    crash_place: str | None
    crash_count: int
    retry_at: datetime | None
    audio_s: float | None
    lm_epochs: int
    fm_epochs: int

    @property
    def tokens_so_far(self) -> int:
        """What the finished epochs cost: the bill of a job that is cancelled."""
        return training_tokens(self.lm_epochs, self.fm_epochs, self.audio_s or 0.0)

    @property
    def whereabouts(self) -> str:
        """The farthest that was reported and the state to resume from; the same again after a crash is no progress."""
        return f"{self.place or 'its start'} (saved: {self.saved_place or 'nothing'})"

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", JobStatus(self.status))


@dataclass(frozen=True)
class JobCheckpoint:
    """One row of `checkpoints`."""

    job_id: str
    checkpoint: str
    rank: int
    lm_epoch: int
    fm_epoch: int
    directory: str | None
    status: CheckpointStatus
    model_name: str | None
    display_name: str | None
    created_at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", CheckpointStatus(self.status))
