"""Draws clips of like length for a batch, so that little of it is padding."""

from __future__ import annotations

import torch


class LengthSampler:
    """Batches of neighbours in length whose padded size stays within a budget.

    Units: lengths and budget in the caller's frames or tokens
    """

    def __init__(self, lengths: list[int], budget: int) -> None:
        if not lengths:
            raise ValueError("there is nothing to draw from: the corpus holds no clip of the kind this stage needs")
        self.order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        self.lengths = lengths
        self.budget = budget

    def draw(self, generator: torch.Generator) -> list[int]:
        """Indexes of one batch; a clip longer than the budget makes a batch of its own.

        Clips are chosen at random within a window of the length order four times the batch, so neighbours vary.
        """
        pivot = int(torch.randint(len(self.order), (1,), generator=generator))
        length = max(1, self.lengths[self.order[pivot]])
        count = max(1, self.budget // length)
        low = max(0, pivot - 4 * count + 1)
        window = self.order[low : pivot + 1]
        chosen = torch.randperm(len(window), generator=generator)[: count - 1].tolist()
        return [self.order[pivot], *(window[i] for i in chosen if window[i] != self.order[pivot])]
