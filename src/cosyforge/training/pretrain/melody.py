"""Pitch as content: what is left of it once the height and the liveliness of a voice are taken away."""

from __future__ import annotations

import torch
from torch import Tensor

MELODY_SPREAD = 0.7
_FLAT_OCTAVES = 0.05
"""A clip whose pitch moves less, by its standard deviation, is not stretched further: what is left is the tracker's noise."""


def relative_log_f0(f0: Tensor) -> Tensor:
    """Log pitch relative to the clip's own mean and spread; a voice's height and liveliness are no content, a tone is.

    Shapes: f0 in Hz, 0 where unvoiced (B, T) -> (B, T), a spread of one being `MELODY_SPREAD`
    """
    voiced = f0 > 0
    log_f0 = torch.where(voiced, f0.clamp(min=1.0), torch.ones_like(f0)).log2()
    count = voiced.sum(1, keepdim=True).clamp(min=1)
    offset = (log_f0 - (log_f0 * voiced).sum(1, keepdim=True) / count) * voiced
    spread = (offset.square().sum(1, keepdim=True) / count).sqrt()
    return offset * (MELODY_SPREAD / spread.clamp(min=_FLAT_OCTAVES))
