"""One training job in its own process: `python -m cosyforge.jobs.worker SPEC.json`.

The bridge between the platform and training: it reads what is to be done, calls one training function and writes what
happens as JSON lines, which the server takes in. It knows no database and no HTTP. It may be killed at any moment: the
next worker of the job goes on.
"""

from __future__ import annotations

import dataclasses
import fcntl
import importlib
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cosyforge.errors import InvalidDataset, InvalidParameter, PlatformError
from cosyforge.jobs.event_file import EventFile
from cosyforge.jobs.process import die_with_parent
from cosyforge.jobs.stop_request import StopRequest
from cosyforge.training.events import TrainingEvent, TrainingStopped
from cosyforge.training.hyper_parameters import HyperParameters

_BEFORE_TRAINING = ("data", "features")


@dataclass(frozen=True)
class WorkerSpec:
    """Everything a worker needs to know; written by the runner, read once."""

    job_id: str
    parent_pid: int
    trainer: str
    """module:function with the signature of `training.finetune.finetune`; beside it perhaps `combine_finished`"""
    package: str
    validation_package: str | None
    base_directory: str
    out_directory: str
    work_directory: str
    events: str
    """the file of JSON lines"""
    lock: str
    """the file that one worker of the job holds at a time"""
    hyper_parameters: dict[str, int]
    seed: int
    checkpoint_interval_s: float
    is_canceled: bool
    """do not train: make checkpoints of what is finished"""

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> WorkerSpec:
        return cls(**json.loads(path.read_text()))


def main(arguments: list[str]) -> int:
    stop = StopRequest()
    spec = WorkerSpec.read(Path(arguments[0]))
    die_with_parent(spec.parent_pid)
    with hold(Path(spec.lock)):
        events = EventFile(Path(spec.events))
        try:
            return run(spec, events, stop)
        except PlatformError as error:
            report_failure(events, error)
        except Exception as error:
            # the one place where anything may be caught: a job that fails must say so
            traceback.print_exc()
            events.log(traceback.format_exc().rstrip(), "ERROR")
            events.write("crashed", message=f"{type(error).__name__}: {error}")
    return 1


def run(spec: WorkerSpec, events: EventFile, stop: StopRequest) -> int:
    """Train, forwarding what happens; ends with one `succeeded`, `stopped` or `canceled` record.

    Raises: PlatformError and whatever the trainer raises, unless it was asked to stop meanwhile
    """
    if spec.is_canceled:
        write_canceled(spec, events)
        return 0

    def forward(event: TrainingEvent) -> None:
        if event.stage not in _BEFORE_TRAINING:
            stop.may_not_interrupt()
        events.forward(event)

    stop.may_interrupt(lambda: events.write("stopped"))
    try:
        result = load_attribute(spec.trainer)(
            *run_arguments(spec),
            **run_options(spec),
            on_event=forward,
            should_stop=stop.is_asked,
            checkpoint_interval_s=spec.checkpoint_interval_s,
        )
    except Exception as error:
        stop.may_not_interrupt()
        if not stop.is_asked():
            raise
        if not isinstance(error, TrainingStopped):
            events.log(f"While it was stopping: {type(error).__name__}: {error}", "WARNING")
        if stop.is_cancel:
            write_canceled(spec, events)
        else:
            events.write("stopped")
        return 0
    stop.may_not_interrupt()
    events.write("succeeded", tokens=result.tokens, checkpoints=[shown(item) for item in result.checkpoints])
    return 0


def write_canceled(spec: WorkerSpec, events: EventFile) -> None:
    """The last record of a cancelled job: the checkpoints whose two networks were finished; a fault leaves it none."""
    module, _, _ = spec.trainer.partition(":")
    combine = getattr(importlib.import_module(module), "combine_finished", None)
    checkpoints = []
    if combine is not None:
        checkpoints = combine(*run_arguments(spec), **run_options(spec), on_event=events.forward)
    events.write("canceled", checkpoints=[shown(item) for item in checkpoints])


def run_arguments(spec: WorkerSpec) -> tuple[Path, Path, Path, HyperParameters]:
    hyper_parameters = HyperParameters.parse(spec.hyper_parameters)
    return Path(spec.package), Path(spec.base_directory), Path(spec.out_directory), hyper_parameters


def run_options(spec: WorkerSpec) -> dict[str, Any]:
    """What decides where a run keeps its state, and so must be the same at every start."""
    validation_package = None if spec.validation_package is None else Path(spec.validation_package)
    return {
        "work_directory": Path(spec.work_directory),
        "seed": spec.seed,
        "validation_package": validation_package,
    }


def shown(checkpoint: Any) -> dict[str, Any]:
    return {
        "name": checkpoint.name,
        "lm_epoch": checkpoint.lm_epoch,
        "fm_epoch": checkpoint.fm_epoch,
        "directory": str(checkpoint.directory),
    }


def report_failure(events: EventFile, error: PlatformError) -> None:
    """What the user must change, or what cannot get better, fails the job; anything else may be tried again."""
    report = error.fields.get("report")
    lines = error.message.splitlines()
    if isinstance(error, InvalidDataset) and report is not None:
        lines = ["The training did not start: the package breaks the rules above."]  # each has its line already
    for line in lines:
        events.log(line, "ERROR")
    if isinstance(error, InvalidParameter):
        events.write("failed", code="InvalidParameter", message=error.message)
    elif error.fields.get("is_final"):
        events.write("failed", code="InternalError", message=error.message)
    else:
        events.write("crashed", message=error.message)


def hold(path: Path) -> IO[str]:
    """Wait until no other worker of the job lives, and keep the next one away; the system lets go when we end."""
    file = open(path, "w")  # noqa: SIM115 - the caller closes it
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def load_attribute(reference: str) -> Any:
    """The object that `module:name` names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # all that counts is on the disk; taking a training library apart would take seconds
    os._exit(code)
