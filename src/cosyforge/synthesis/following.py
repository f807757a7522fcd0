"""Does the model follow the text? Where its alignment head looks, token by token, and what is wrong with that.

While a speech token is drawn, the head looks at the text token being spoken next. Good reading moves on by one or two
text tokens at a time and looks at little else; skipped words, repeated words and getting stuck show at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SKIP, REPEAT, STUCK, UNFINISHED = "skipped_text", "repeated_text", "stuck", "unfinished"

_STRIDE = 2
"""A step over the blank between two words is no skip."""

_SKIP_COST, _HELD_COST = 4.0, 1.0
"""What one skipped text token weighs against one token of vagueness (the width of what the head looks at, in tokens).

Chosen on 40 sentences read six times: the ways to read one sentence differ in word error as they differ in this cost."""

_LONG_HOLD = 10
_FAULTY_SKIP, _FAULTY_HOLD = 6, 25
"""More text tokens left out at once, or more speech tokens on one text token (a second), than a reading may have."""

_LAST_SOUNDS, _LONGEST_END = 3, 40
"""So many speech tokens on the last sounds of the text and nothing more can be coming. Of 267 sentences the
longest end took 22; told to speak slowly, 98 of 100 took 30 at most."""


@dataclass
class Follower:
    """One row: position is the text token it looks at, held for how many speech tokens it has; at_end: for how many the last sounds."""

    num_text: int
    position: int = -1
    held: int = 0
    at_end: int = 0
    cost: float = 0.0
    num_seen: int = 0
    faults: list[str] = field(default_factory=list)

    def branch(self) -> Follower:
        """A follower that goes on from here with a clean record."""
        return Follower(self.num_text, self.position, self.held, self.at_end)

    @property
    def mean_cost(self) -> float:
        return self.cost / max(1, self.num_seen)

    @property
    def is_done(self) -> bool:
        """Whether the text has been spoken and its end drawn out: the model has missed the moment to stop."""
        return self.at_end >= _LONGEST_END

    def see(self, position: int, width: float) -> None:
        """Take in where the head looked for the next speech token, and how widely."""
        step = position - self.position
        missed = max(0, abs(step) - _STRIDE)
        self.held = self.held + 1 if step == 0 else 0
        # a glance back from the end is not a new beginning
        threshold = self.num_text - (2 if self.at_end else 1) * _LAST_SOUNDS
        self.at_end = self.at_end + 1 if position >= threshold else 0
        self.cost += width + _SKIP_COST * missed + _HELD_COST * (self.held > _LONG_HOLD)
        self.num_seen += 1
        if missed >= _FAULTY_SKIP:
            self.faults.append(SKIP if step > 0 else REPEAT)
        if self.held >= _FAULTY_HOLD:
            self.faults.append(STUCK)
        self.position = position

    def end(self) -> None:
        """The row has ended; what is left of the text, but for its full stop, was not spoken."""
        missed = max(0, self.num_text - 2 - self.position)
        self.cost += _SKIP_COST * missed
        if missed >= _FAULTY_SKIP:
            self.faults.append(UNFINISHED)


def where_it_looks(attention: Tensor) -> tuple[Sequence[int], Sequence[float]]:
    """Per row the text token looked at most, and the standard deviation around the mean place in text tokens.

    Shapes: attention (B, T) -> B positions, B widths
    """
    mass = attention.sum(dim=1, keepdim=True).clamp(min=1e-6)
    place = torch.arange(attention.shape[1], dtype=attention.dtype)
    share = attention / mass
    mean = (share * place).sum(dim=1, keepdim=True)
    variance = (share * (place - mean).square()).sum(dim=1)
    return attention.argmax(dim=1).tolist(), variance.sqrt().tolist()


def monotonic_path(attention: Tensor) -> list[int]:
    """For each speech token the text token it speaks: the likeliest way through the text that never goes back.

    Shapes: attention (S, T) -> S positions
    """
    num_speech, num_text = attention.shape
    score = attention.clamp(min=1e-4).log()
    total = torch.full((num_text,), float("-inf"))
    total[0] = 0.0
    origin = torch.zeros(num_speech, num_text, dtype=torch.int64)
    for index in range(num_speech):
        best, origin[index] = total.cummax(dim=0)
        total = best + score[index]
    # the path ends where the last token is: earlier text can only have been spoken before
    place = int(total.argmax())
    path = []
    for index in range(num_speech - 1, -1, -1):
        path.append(place)
        place = int(origin[index, place])
    return path[::-1]
