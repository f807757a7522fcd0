"""Which request computes next: one at a time, in the order in which they asked, a chunk of speech each.

A chunk is a turn, so a long text does not keep a short one waiting, and nobody holds the networks while its listener is
slow.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from cosyforge.synthesis.sequence import Sequence


class Scheduler:
    """Holds the requests in flight and gives turns in fair order."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._running: Sequence | None = None
        self._in_flight: set[Sequence] = set()

    @property
    def num_in_flight(self) -> int:
        """How many requests have begun and not ended."""
        return len(self._in_flight)

    @contextmanager
    def admitted(self, sequence: Sequence) -> Iterator[None]:
        """Count a request as in flight while inside."""
        with self._condition:
            self._in_flight.add(sequence)
        try:
            yield
        finally:
            with self._condition:
                self._in_flight.discard(sequence)

    @contextmanager
    def turn(self, sequence: Sequence) -> Iterator[None]:
        """Wait for the turn of this request and keep it while inside."""
        with sequence.measured("queue"), self._condition:
            self._waiting.append(sequence)
            try:
                self._condition.wait_for(lambda: self._running is None and self._waiting[0] is sequence)
            finally:
                self._waiting.remove(sequence)
            self._running = sequence
        try:
            yield
        finally:
            with self._condition:
                self._running = None
                self._condition.notify_all()
