"""Tones to judge, and the type of the fixture that speaks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cosyforge.evaluation.scorecard import Recording

Say = Callable[[str, str], Recording]


def tone(f0_hz: float, duration_s: float, sample_rate_hz: int = 16000, level: float = 0.3) -> np.ndarray:
    """A buzz of ten harmonics, as a voice has them."""
    t = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    wave = sum(np.sin(2 * np.pi * f0_hz * k * t) / k for k in range(1, 11))
    return (level * wave / np.abs(wave).max()).astype(np.float32)
