"""One sentence from text to speech tokens: drawn in several ways side by side, the best kept, and drawn again if none is good.

This happens stretch by stretch, a second of speech each, so that a stretch is checked before it is spoken and listening
can begin after the first one. Streaming or not, the same choices are made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cosyforge.cosyvoice.candidates import Candidates
from cosyforge.synthesis.following import Follower, where_it_looks

logger = logging.getLogger(__name__)

NUM_ROWS = 6
"""Ways that are drawn side by side where the model shows what it reads; without that nothing tells which is best."""

FIRST_STRETCH, STRETCH = 28, 25
"""Speech tokens: what the flow needs for its first second, and a second."""

MAX_ATTEMPTS = 3
"""A sentence is drawn again at most twice."""

LOOP, EMPTY, NO_STOP, TOO_LONG = "loop", "empty", "no_stop", "too_long"

_LOOP_TOKENS, _LOOP_PERIOD, _LOOP_DISTINCT = 75, 15, 3
"""The model is lost when three seconds repeat one short pattern, or hold hardly any different tokens."""

_LONGEST_SILENCE = 5


@dataclass
class ReadingReport:
    """How the sentences of a request went: how many were drawn again, and which checks failed for good."""

    resampled: int = 0
    failed_checks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Attempt:
    """The best row of one attempt at a stretch."""

    row: int
    faults: tuple[str, ...]
    cost: float
    follower: Follower
    tokens: list[int]


class Reading:
    """Draws one sentence. `tokens` may be read once; attention then tells, per token given, where the model looked."""

    def __init__(
        self,
        candidates: Candidates,
        *,
        seed: int,
        silent: frozenset[int],
        most_tokens: float,
        follows: bool,
        report: ReadingReport,
        on_draw: Callable[[], None] = lambda: None,
        label: str = "",
    ) -> None:
        """seed: of this sentence; the same one gives the same tokens
        silent: the tokens of silence, of which at most five in a row are given
        most_tokens: more speech than this is not plausible for the text
        follows: the model has an alignment head
        on_draw: called before every step; what it raises ends the reading
        """
        self.attention: list[Tensor] = []
        self._candidates = candidates
        self._seed = seed
        self._silent = silent
        self._most_tokens = most_tokens
        self._follows = follows
        self._report = report
        self._on_draw = on_draw
        self._label = label
        self._follower = Follower(candidates.num_text)
        self._num_repeats = 0
        self._silence = 0

    def tokens(self) -> Iterator[int]:
        """Give the speech tokens, stretch by stretch."""
        length, stretch = FIRST_STRETCH, 0
        while True:
            best, looked = self._best(stretch, length)
            self._follower = best.follower
            tokens = self._candidates.choose(best.row)
            is_lost = LOOP in best.faults
            yield from self._without_long_silence(tokens, looked[best.row])
            if is_lost or self._candidates.has_ended[best.row]:
                return
            length, stretch = STRETCH, stretch + 1

    def _best(self, stretch: int, length: int) -> tuple[_Attempt, list[list[Tensor]]]:
        """Draw a stretch until a row passes the checks or the sentence's attempts are used up; the last draw stands."""
        while True:
            attempt, looked = self._attempt(stretch, length)
            if not attempt.faults:
                return attempt, looked
            if self._num_repeats >= MAX_ATTEMPTS - 1:
                break
            self._report.resampled += self._num_repeats == 0
            self._num_repeats += 1
            logger.info("request %s: a stretch is drawn again: %s", self._label, ", ".join(attempt.faults))
        new = [name for name in attempt.faults if name not in self._report.failed_checks]
        self._report.failed_checks += new
        logger.warning("request %s: a sentence fails its checks: %s", self._label, ", ".join(attempt.faults))
        return attempt, looked

    def _attempt(self, stretch: int, length: int) -> tuple[_Attempt, list[list[Tensor]]]:
        candidates = self._candidates
        number = (self._seed << 16 | stretch) * MAX_ATTEMPTS + self._num_repeats
        # a stretch that went wrong is drawn again with the model held to its place
        place = max(0, self._follower.position) if self._follows and self._num_repeats else None
        candidates.begin([number * NUM_ROWS + row for row in range(candidates.num_rows)], place)
        attention = []
        for _ in range(length):
            self._on_draw()
            attention.append(candidates.draw())
            if all(candidates.has_ended):
                break
        steps = torch.stack(attention)  # (S, B, T)
        followers = self._followed(steps)
        # a row draws from the first step on until it ends
        looked = [list(steps[: len(tokens), row]) for row, tokens in enumerate(candidates.drawn)]
        attempts = [self._judged(row, follower) for row, follower in enumerate(followers)]
        return min(attempts, key=lambda attempt: (len(attempt.faults) > 0, attempt.cost)), looked

    def _followed(self, attention: Tensor) -> list[Follower]:
        """Follow every row through the stretch that was drawn; one that misses the end of the text ends there.

        Shapes: attention (S, B, T) -> B followers
        """
        candidates = self._candidates
        followers = [self._follower.branch() for _ in range(candidates.num_rows)]
        if not self._follows:
            return followers
        places, widths = where_it_looks(attention.flatten(0, 1))
        # the head was not taught where the very first token comes from
        first = 0 if candidates.chosen else 1
        for row, follower in enumerate(followers):
            for step in range(first, len(candidates.drawn[row])):
                index = step * candidates.num_rows + row
                follower.see(places[index], widths[index])
                if follower.is_done:
                    candidates.stop(row, step + 1)
                    break
            if candidates.has_stopped[row]:
                follower.end()
        return followers

    def _judged(self, row: int, follower: Follower) -> _Attempt:
        """Check a row: what is wrong with it, if anything."""
        candidates = self._candidates
        tokens = candidates.drawn[row]
        whole = candidates.chosen + tokens
        faults = list(dict.fromkeys(follower.faults))
        if is_loop(whole):
            faults.append(LOOP)
        if candidates.has_ended[row] and not candidates.has_stopped[row]:
            faults.append(NO_STOP)
        if len(whole) > self._most_tokens:
            faults.append(TOO_LONG)
        if candidates.has_ended[row] and all(token in self._silent for token in whole):
            faults.append(EMPTY)
        return _Attempt(row, tuple(faults), follower.mean_cost, follower, tokens)

    def _without_long_silence(self, tokens: list[int], looked: list[Tensor]) -> Iterator[int]:
        """Leave silent tokens out after five in a row; the LM has seen them, the flow does not."""
        for token, attention in zip(tokens, looked, strict=True):
            self._silence = self._silence + 1 if token in self._silent else 0
            if self._silence <= _LONGEST_SILENCE:
                self.attention.append(attention)
                yield token


def is_loop(tokens: Sequence[int]) -> bool:
    """Whether the last three seconds repeat themselves."""
    recent = list(tokens[-_LOOP_TOKENS:])
    if len(recent) < _LOOP_TOKENS:
        return False
    if len(set(recent)) <= _LOOP_DISTINCT:
        return True
    return any(recent[period:] == recent[:-period] for period in range(1, _LOOP_PERIOD + 1))


def stacked(attention: Sequence[Tensor], num_text: int) -> Tensor:
    """Shapes: S rows of (T,) -> (S, T)"""
    return torch.stack(list(attention)) if attention else torch.zeros(0, num_text)
