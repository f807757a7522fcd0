"""What a training run reports while it runs: plain data, no torch; the worker forwards it, the CLI draws it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


class TrainingStopped(Exception):
    """The run was asked to stop; its state is saved and a later run with the same work directory goes on from there."""


@dataclass(frozen=True)
class TrainingEvent:
    """One thing that happened.

    kind: "log" (message), "progress" (stage, epoch, step, metrics), "checkpoint" (message = its name), "resume" (message:
        from where a run that was begun before goes on), "state" (a state to resume from is on disk: so many steps of
        the epoch are in it)
    stage: "data", "features", "lm", "flow", "combine", "score"
    progress: 0..1 over the whole run, when known
    """

    kind: str
    stage: str
    message: str = ""
    epoch: int = 0
    max_epoch: int = 0
    step: int = 0
    progress: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
