"""Batches by a budget of positions, in an order that depends on (seed, epoch) alone. Knows lengths, no tensors."""

from __future__ import annotations

import random
from collections.abc import Sequence

_LENGTH_JITTER = 0.1
"""Clips are sorted by length times 1 +- this: similar lengths share a batch, and its company changes every epoch."""


def plan_batches(lengths: Sequence[int], budget: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The indexes of every item once, in batches of which longest x count stays within the budget.

    An item longer than the budget is a batch of its own: it is trained on, not dropped.

    Units: lengths and budget count the same thing: sequence positions for the LM, mel frames for the flow
    """
    # a string seed is hashed with SHA-512, so the order is the same in every process and release
    rng = random.Random(f"batches {seed} {epoch}")
    jittered = [length * rng.uniform(1 - _LENGTH_JITTER, 1 + _LENGTH_JITTER) for length in lengths]
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda index: (jittered[index], index)):
        longest = max(longest, lengths[index])
        if not batches or longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    rng.shuffle(batches)
    return batches
