"""One training job in its own process: `python -m cosyforge.jobs.worker SPEC.json`.

The bridge between the platform and training: it reads what is to be done, calls one training function and writes what
happens as JSON lines, which the server takes in. It knows no database and no HTTP.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cosyforge.billing.tariff import training_tokens
from cosyforge.errors import InvalidParameter, PlatformError
from cosyforge.jobs.process import die_with_parent
from cosyforge.training.events import TrainingEvent
from cosyforge.training.hyper_parameters import HyperParameters


@dataclass(frozen=True)
class WorkerSpec:
    """Everything a worker needs to know; written by the runner, read once."""

    job_id: str
    parent_pid: int
    trainer: str
    """module:function with the signature of `training.finetune.finetune`"""
    package: str
    base_directory: str
    out_directory: str
    work_directory: str
    events: str
    """the file of JSON lines"""
    hyper_parameters: dict[str, int]
    seed: int

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> WorkerSpec:
        return cls(**json.loads(path.read_text()))


class EventFile:
    """JSON lines, each whole and on disk before the next, so that a killed worker has still said what it knew."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as the process lives
        self._lock = threading.Lock()

    def write(self, kind: str, **values: Any) -> None:
        record = {"type": kind, "at": datetime.now(UTC).isoformat(), **values}
        with self._lock:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()

    def log(self, message: str, level: str = "INFO") -> None:
        self.write("log", level=level, message=message)


def main(arguments: list[str]) -> int:
    spec = WorkerSpec.read(Path(arguments[0]))
    die_with_parent(spec.parent_pid)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    events = EventFile(Path(spec.events))
    try:
        run(spec, events, stop.is_set)
    except PlatformError as error:
        report_failure(events, error)
        return 1
    except Exception as error:
        # the one place where anything may be caught: a job that fails must say so
        traceback.print_exc()
        events.log(traceback.format_exc().rstrip(), "ERROR")
        events.write("failed", code="InternalError", message=f"{type(error).__name__}: {error}")
        return 1
    return 0


def run(spec: WorkerSpec, events: EventFile, should_stop: Callable[[], bool]) -> None:
    """Train, forwarding what happens; ends with one `succeeded` or `canceled` record.

    Raises: PlatformError and whatever the trainer raises, unless the job was cancelled meanwhile
    """
    hyper_parameters = HyperParameters.parse(spec.hyper_parameters)
    trainer = load_attribute(spec.trainer)
    work_done = WorkDone()

    def forward(event: TrainingEvent) -> None:
        work_done.see(event)
        events.write("event", event=event.to_json())

    started_at = time.monotonic()
    try:
        result = trainer(
            Path(spec.package),
            Path(spec.base_directory),
            Path(spec.out_directory),
            hyper_parameters,
            on_event=forward,
            should_stop=should_stop,
            work_directory=Path(spec.work_directory),
            seed=spec.seed,
        )
    except Exception:
        if not should_stop():
            raise
        # a trainer leaves its loops by an exception when it is asked to stop
        events.log(f"job canceled, {work_done.tokens} tokens consumed")
        events.write("canceled", tokens=work_done.tokens)
        return
    events.log(f"job succeeded in {time.monotonic() - started_at:.1f} s, {len(result.checkpoints)} checkpoints")
    events.log("##FT_COMPLETE##")
    checkpoints = [
        {
            "name": checkpoint.name,
            "lm_epoch": checkpoint.lm_epoch,
            "fm_epoch": checkpoint.fm_epoch,
            "directory": str(checkpoint.directory),
        }
        for checkpoint in result.checkpoints
    ]
    events.write("succeeded", tokens=result.tokens, checkpoints=checkpoints)


class WorkDone:
    """The finished epochs of a run and what they cost, for the bill of a job that is cancelled.

    The trainer reports the seconds of audio as the metric `audio_s` of stage "data", and the end of an epoch as progress
    without a step.
    """

    def __init__(self) -> None:
        self._audio_s = 0.0
        self._num_epochs = {"lm": 0, "flow": 0}

    def see(self, event: TrainingEvent) -> None:
        self._audio_s = event.metrics.get("audio_s", self._audio_s)
        if event.kind == "progress" and event.step == 0 and event.stage in self._num_epochs:
            self._num_epochs[event.stage] = max(self._num_epochs[event.stage], event.epoch)

    @property
    def tokens(self) -> int:
        return training_tokens(self._num_epochs["lm"], self._num_epochs["flow"], self._audio_s)


def report_failure(events: EventFile, error: PlatformError) -> None:
    for line in error.message.splitlines():
        events.log(line, "ERROR")
    code = "InvalidParameter" if isinstance(error, InvalidParameter) else "InternalError"
    events.write("failed", code=code, message=error.message)


def load_attribute(reference: str) -> Any:
    """The object that `module:name` names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
