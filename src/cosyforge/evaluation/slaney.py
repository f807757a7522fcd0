"""Mel filters of the judges' own, apart from `audio/mel.py`, so that a fault in our features cannot flatter our voices."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def slaney_filters(sample_rate_hz: int, n_fft: int, num_bins: int) -> Tensor:
    """Triangles of equal area on the mel scale of Slaney's Auditory Toolbox, 0 Hz to half the rate.

    Shapes: -> (n_fft // 2 + 1, num_bins)
    """
    # the scale is linear to 1 kHz (15 mel of 200/3 Hz), then 27 mel for each factor of 6.4
    top_mel = 15 + np.log(sample_rate_hz / 2 / 1000) / np.log(6.4) * 27
    mel = np.linspace(0, top_mel, num_bins + 2)
    edges_hz = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))
    fft_hz = np.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1)[:, None]
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    triangles = np.minimum((fft_hz - low) / (centre - low), (high - fft_hz) / (high - centre)).clip(min=0)
    return torch.from_numpy((triangles * 2 / (high - low)).astype(np.float32))
