"""Floating-point samples as 16-bit integers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]


def to_int16(samples: Samples) -> npt.NDArray[np.int16]:
    """Round to 16 bits; what exceeds [-1, 1] is clipped. Shapes: (L,) -> (L,)"""
    return np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2")


def to_pcm16(samples: Samples) -> bytes:
    """Write 16-bit little-endian PCM; what exceeds [-1, 1] is clipped."""
    return to_int16(samples).tobytes()
