"""Requests and counted characters per minute of each deployment. Torch-free, in memory, safe from any thread.

A minute is any 60 seconds, not one of the clock. Characters stand for the tokens of `tpm_limit`. The counts live as long
as the server.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from cosyforge import metrics
from cosyforge.errors import Throttled

WINDOW_S = 60.0
_GRAIN_S = 0.25
"""Characters of one grain are remembered as one entry, however many pieces they came in."""


class Limited(Protocol):
    """What a deployment must tell; None is no limit."""

    @property
    def deployment_id(self) -> str: ...
    @property
    def deployed_model(self) -> str: ...
    @property
    def rpm_limit(self) -> int | None: ...
    @property
    def tpm_limit(self) -> int | None: ...


@dataclass
class _Window:
    """What was let in during the last minute."""

    requests: deque[float] = field(default_factory=deque)
    characters: deque[tuple[float, int]] = field(default_factory=deque)
    """(end of the grain, characters)"""
    num_characters: int = 0

    def forget_old(self, now: float) -> None:
        while self.requests and self.requests[0] + WINDOW_S <= now:
            self.requests.popleft()
        while self.characters and self.characters[0][0] + WINDOW_S <= now:
            self.num_characters -= self.characters.popleft()[1]

    def add_characters(self, characters: int, now: float) -> None:
        if characters:
            end = (now // _GRAIN_S + 1) * _GRAIN_S
            if self.characters and self.characters[-1][0] == end:
                characters_before = self.characters.pop()[1]
                self.num_characters -= characters_before
                characters += characters_before
            self.characters.append((end, characters))
            self.num_characters += characters

    def room_for_request_at(self, limit: int | None) -> float:
        """From when one more request may come: in the past when it may now."""
        if limit is None or len(self.requests) < limit:
            return -math.inf
        return self.requests[len(self.requests) - limit] + WINDOW_S

    def room_for_characters_at(self, characters: int, limit: int | None) -> float:
        """From when so many more characters may come."""
        room_at, left = -math.inf, self.num_characters
        # the text may come later than its request, so a full window has no room for one that has none yet
        waiting = iter(self.characters)
        while limit is not None and left and left + max(characters, 1) > limit:
            end, number = next(waiting)
            room_at, left = end + WINDOW_S, left - number
        return room_at

    @property
    def is_empty(self) -> bool:
        return not self.requests and not self.characters


class RateLimits:
    """The windows of all deployments."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    def admit(self, deployment: Limited, characters: int, now: float) -> None:
        """Let one request with so many characters in, and count it.

        A text that is alone larger than the limit passes after a minute of silence: it could never be spoken else.
        Units: now is in monotonic seconds
        Raises: Throttled with `retry_after_s`; nothing is counted then
        """
        if deployment.rpm_limit is None and deployment.tpm_limit is None:
            return
        with self._lock:
            window = self._window(deployment, now)
            room_at, kind = max(
                (window.room_for_request_at(deployment.rpm_limit), "rpm"),
                (window.room_for_characters_at(characters, deployment.tpm_limit), "tpm"),
            )
            if room_at > now:
                raise _throttled(deployment, kind, room_at - now)
            window.requests.append(now)
            window.add_characters(characters, now)

    def add(self, deployment: Limited, characters: int, now: float) -> None:
        """Count text of a request that was admitted without it; it is spoken in any case, the next request waits."""
        if deployment.tpm_limit is not None:
            with self._lock:
                self._window(deployment, now).add_characters(characters, now)

    def _window(self, deployment: Limited, now: float) -> _Window:
        window = self._windows.get(deployment.deployment_id)
        if window is None:
            self._sweep(now)
            window = self._windows.setdefault(deployment.deployment_id, _Window())
        window.forget_old(now)
        return window

    def _sweep(self, now: float) -> None:
        """Deployments that are gone, or silent, need no window."""
        for deployment_id, window in list(self._windows.items()):
            window.forget_old(now)
            if window.is_empty:
                del self._windows[deployment_id]


def _throttled(deployment: Limited, kind: str, wait_s: float) -> Throttled:
    metrics.throttled.labels(f"deployment_{kind}").inc()
    what, limit = ("requests", deployment.rpm_limit) if kind == "rpm" else ("characters", deployment.tpm_limit)
    return Throttled(
        f"Requests rate limit exceeded, please try again later: {deployment.deployed_model} takes {limit} {what} per "
        f"minute ({kind}_limit); there is room again in {wait_s:.1f} s.",
        retry_after_s=wait_s,
    )
