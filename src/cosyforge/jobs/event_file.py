"""What a worker says, as JSON lines in a file: each whole, each once, also by a worker that goes on after a crash.

The worker writes, the server reads from an offset. Both bring the lines onto the disk before anything is built on them:
the worker before the state that lies behind them, the server before it notes how far it has read.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cosyforge.training.events import TrainingEvent

Record = dict[str, Any]
_STAGES = ("data", "features", "lm", "flow", "combine", "score")
_Position = tuple[int, int, float, float]


class EventFile:
    """Written by one worker at a time; what an earlier one said here is not said again."""

    def __init__(self, path: Path) -> None:
        self._replay = Replay(repair(path))
        # open as long as the process lives; a transcript may hold halves of characters
        self._file = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._lock = threading.Lock()

    def write(self, kind: str, **values: Any) -> None:
        """One record, on the disk when this returns."""
        self._write({"type": kind, "at": datetime.now(UTC).isoformat(), **values}, is_synced=True)

    def log(self, message: str, level: str = "INFO") -> None:
        self.write("log", level=level, message=message)

    def forward(self, event: TrainingEvent) -> None:
        """What the trainer reports, unless it says again what it said before a crash."""
        values = event.to_json()
        if self._replay.is_new(values):
            # the progress between two states comes again by itself, so its lines need not be waited for
            is_synced = not (event.kind == "progress" and event.step)
            self._write({"type": "event", "at": datetime.now(UTC).isoformat(), "event": values}, is_synced=is_synced)

    def _write(self, record: Record, *, is_synced: bool) -> None:
        with self._lock:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
            if is_synced:
                os.fsync(self._file.fileno())


class Replay:
    """Tells new events from those that a trainer repeats when it goes on from an earlier state.

    It repeats itself to the letter: the same lines, the same checkpoints, and positions that it has been at.
    """

    def __init__(self, told: Iterable[Record]) -> None:
        self._told: Counter[tuple[str, str, str]] = Counter()
        self._farthest: dict[str, _Position] = {}
        for record in told:
            if record["type"] == "event":
                event = record["event"]
                if event["kind"] in ("log", "checkpoint"):
                    self._told[_key(event)] += 1
                elif event["kind"] in ("progress", "state"):
                    self._advance(event)

    def is_new(self, event: Record) -> bool:
        if event["kind"] in ("log", "checkpoint"):
            is_told = self._told[_key(event)] > 0
            self._told[_key(event)] -= is_told
            return not is_told
        if event["kind"] in ("progress", "state"):
            return self._advance(event)
        return True

    def _advance(self, event: Record) -> bool:
        position = _position(event)
        if position <= self._farthest.get(event["kind"], (-1, 0, 0.0, 0.0)):
            return False
        self._farthest[event["kind"]] = position
        return True


def _key(event: Record) -> tuple[str, str, str]:
    return event["kind"], event["stage"], event["message"]


def _position(event: Record) -> _Position:
    """Order of stage, epoch, step; the end of an epoch, which is reported without a step, is behind its steps."""
    stage = event["stage"]
    rank = _STAGES.index(stage) if stage in _STAGES else len(_STAGES)
    is_end_of_epoch = event["kind"] == "progress" and event["epoch"] and not event["step"]
    step = math.inf if is_end_of_epoch else event["step"]
    return rank, event["epoch"], step, event["progress"] or 0.0


def place_of(event: Record) -> str:
    """Where a progress or a state is, in words."""
    stage, epoch, step = event["stage"], event["epoch"], event["step"]
    if event["kind"] == "state" or (epoch and step):
        return f"{stage} epoch {epoch}, step {step}"
    if epoch:
        return f"{stage} end of epoch {epoch}"
    return f"{stage} {step}" if step else str(stage)


def repair(path: Path) -> list[Record]:
    """Cut off a last line that a killed worker or a fallen machine left broken; what is whole."""
    if not path.exists():
        return []
    records, length = read_records(path, 0)
    if length < path.stat().st_size:
        os.truncate(path, length)
    return records


def read_records(path: Path, offset: int) -> tuple[list[Record], int]:
    """The whole lines after an offset, and the offset behind them; a line still being written is left for later.

    What was read is on the disk when this returns, so that the offset can be relied on.
    """
    if not path.exists():
        return [], offset
    with open(path, "rb") as file:
        file.seek(offset)
        block = file.read()
        if block:
            os.fsync(file.fileno())
    records: list[Record] = []
    for line in block.splitlines(keepends=True):
        record = _parsed(line)
        if record is None:
            break
        records.append(record)
        offset += len(line)
    return records, offset


def _parsed(line: bytes) -> Record | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "type" in record and "at" in record else None
