"""Another microphone, another throat: what is laid over a mel so that few voices teach to understand, and to draw, many."""

from __future__ import annotations

import torch
from torch import Tensor


def smooth_curve(num_bins: int, num_waves: int, height: float, generator: torch.Generator) -> Tensor:
    """A random curve over the bins of a mel: cosines of half a wave up to `num_waves` halves, the slower ones higher. (num_bins,)

    height: standard deviation of the slowest
    """
    order = torch.arange(1, num_waves + 1)
    waves = torch.cos(torch.pi * order[:, None] * (torch.arange(num_bins) + 0.5) / num_bins)
    heights = height * torch.randn(num_waves, generator=generator) / order.sqrt()
    return heights @ waves
