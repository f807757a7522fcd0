"""What a run has to do with the outside: events on their way out, the wish to stop on its way in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cosyforge.training.events import TrainingEvent, TrainingStopped
from cosyforge.training.loop import Metrics, StateReport


@dataclass(frozen=True)
class RunReporter:
    """The way out for events and in for the wish to stop; progress is scaled to the part of the run it is within."""

    on_event: Callable[[TrainingEvent], None]
    should_stop: Callable[[], bool]
    start: float = 0.0
    end: float = 1.0

    def within(self, start: float, end: float) -> RunReporter:
        return RunReporter(self.on_event, self.should_stop, start, end)

    def log(self, stage: str, message: str) -> None:
        self.on_event(TrainingEvent("log", stage, message))

    def progress(
        self,
        stage: str,
        part: float,
        *,
        epoch: int = 0,
        max_epoch: int = 0,
        step: int = 0,
        metrics: Metrics | None = None,
    ) -> None:
        progress = self.start + (self.end - self.start) * part
        self.on_event(
            TrainingEvent("progress", stage, "", epoch, max_epoch, step, round(progress, 6), dict(metrics or {}))
        )

    def state(self, stage: str, report: StateReport, max_epoch: int) -> None:
        self.on_event(TrainingEvent("state", stage, "", report.epoch, max_epoch, report.step))

    def resumed(self, stage: str, message: str) -> None:
        self.on_event(TrainingEvent("resume", stage, message))

    def check_stop(self, where: str) -> None:
        if self.should_stop():
            raise TrainingStopped(f"stopped while {where}")
