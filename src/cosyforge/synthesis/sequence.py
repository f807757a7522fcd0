"""One request in flight: where it stands and where its time went."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import Enum
from typing import Any

from cosyforge.synthesis.reading import ReadingReport
from cosyforge.synthesis.request import SynthesisRequest


class Status(Enum):
    """WAITING for its text or its turn, SPEAKING, and three ways to end."""

    WAITING = "waiting"
    SPEAKING = "speaking"
    FINISHED = "finished"
    CANCELED = "canceled"
    FAILED = "failed"


_MOVES = {
    Status.WAITING: {Status.SPEAKING, Status.CANCELED, Status.FAILED},
    Status.SPEAKING: {Status.FINISHED, Status.CANCELED, Status.FAILED},
}


class Canceled(Exception):
    """Nobody listens any more."""


class Sequence:
    """The state of one request that the engine keeps; made when it comes in, dropped when it ends."""

    def __init__(self, request: SynthesisRequest, is_canceled: Callable[[], bool] = lambda: False) -> None:
        """is_canceled: asked again and again while the request is worked on"""
        self.request = request
        self.report = ReadingReport()
        self.warnings: list[str] = []
        self._is_canceled = is_canceled
        self.status = Status.WAITING
        self.num_tokens = 0
        self._started = time.perf_counter()
        self._spent_s: dict[str, float] = defaultdict(float)
        self._first_token_s: float | None = None

    def transition(self, status: Status) -> None:
        """Move on.

        Raises: ValueError for a move that does not exist; a request that has ended stays so
        """
        if status not in _MOVES.get(self.status, set()):
            raise ValueError(f"request {self.request.request_id}: {self.status.value} cannot become {status.value}")
        self.status = status

    def go_on(self) -> None:
        """Raises: Canceled when nobody listens any more"""
        if self._is_canceled():
            raise Canceled

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """Add the time inside to a part of the work."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._spent_s[part] += time.perf_counter() - begun

    def note_token(self) -> None:
        self.num_tokens += 1
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._started

    def summary(self) -> dict[str, Any]:
        """What the last chunk reports."""
        return {**asdict(self.report), "warnings": list(self.warnings)}

    def timings_ms(self) -> dict[str, float]:
        """Where the time went so far. first_token and total count from the arrival, the others are sums of work."""
        parts = {part: self._spent_s[part] for part in ("queue", "text", "lm", "flow", "vocoder", "encode")}
        parts["first_token"] = self._first_token_s or 0.0
        parts["total"] = time.perf_counter() - self._started
        return {part: round(1000 * spent_s, 3) for part, spent_s in parts.items()}
