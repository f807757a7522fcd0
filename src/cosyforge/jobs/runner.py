"""Where training runs. The scheduler starts, watches and stops a run and need not know in which process or machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cosyforge.jobs.records import FineTuneJob


@dataclass(frozen=True)
class RunState:
    """return_code: as subprocess has it, negative is a signal; None when nobody saw the end.
    last_lines: of what it wrote outside its events. problem: why it never ran.
    """

    is_running: bool
    return_code: int | None = None
    last_lines: tuple[str, ...] = ()
    problem: str = ""


class JobRun(Protocol):
    """One run."""

    @property
    def pid(self) -> int | None: ...

    def poll(self) -> RunState: ...

    def ask_to_stop(self, *, is_cancel: bool) -> None:
        """Save and end; or end for good, with checkpoints of what is finished."""
        ...

    def end(self, grace_s: float) -> None: ...


class JobRunner(Protocol):
    """Starts runs; their events appear as JSON lines in `events_path`, those of all runs of a job in one file."""

    def start(self, job: FineTuneJob) -> JobRun:
        """Train, or go on; of a job that is CANCELING only make checkpoints of what is finished."""
        ...

    def events_path(self, job_id: str) -> Path: ...

    def clean_up(self, job_id: str) -> None:
        """Drop what only runs need; doing it again is fine."""
        ...

    def not_cleaned_up(self) -> list[str]:
        """The jobs that were started here and not cleaned up yet, running ones too."""
        ...


@dataclass(frozen=True)
class RunnerConfig:
    """What every run needs beside its job. trainer: module:function."""

    trainer: str
    base_directory: Path
    jobs_directory: Path
    models_directory: Path
    seed: int
    checkpoint_interval_s: float
    environment: Mapping[str, str]
