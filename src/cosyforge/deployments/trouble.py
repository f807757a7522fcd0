"""What went wrong lately with one deployment, and how long to wait before the next try. Pure: one clock, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

MAX_BACKOFF_S = 30.0


@dataclass(frozen=True)
class BackoffRules:
    """Units: seconds

    first_s: the wait after the first end; it doubles with each one, up to MAX_BACKOFF_S
    stable_s: so long without an end sets the wait back to its beginning
    """

    first_s: float
    stable_s: float


@dataclass
class Trouble:
    """Lives as long as the server: a restart forgets it and tries anew."""

    start_failures: int = 0
    """Ends in a row of replicas that never answered."""
    num_ends: int = 0
    last_end_at: datetime | None = None
    retry_at: datetime | None = None
    reason: str = ""

    def note(self, reason: str, *, was_ready: bool, rules: BackoffRules, now: datetime) -> None:
        """A replica ended that nobody had asked to go."""
        if self.last_end_at and (now - self.last_end_at).total_seconds() > rules.stable_s:
            self.num_ends = 0
        self.start_failures = 0 if was_ready else self.start_failures + 1
        # no power of a number without end: it would grow past what a float holds
        backoff_s = min(rules.first_s * 2 ** min(self.num_ends, 16), MAX_BACKOFF_S)
        self.num_ends += 1
        self.last_end_at = now
        self.retry_at = now + timedelta(seconds=backoff_s)
        self.reason = reason

    def must_wait(self, now: datetime) -> bool:
        return self.retry_at is not None and now < self.retry_at
