"""Change the sample rate of a finished clip."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr


def resample(samples: npt.NDArray[np.float32], from_hz: int, to_hz: int) -> npt.NDArray[np.float32]:
    """The same sound at another rate, band-limited (soxr, high quality).

    Shapes: (L,) -> (about L * to_hz / from_hz,)
    Raises: ValueError when a rate is not positive or the clip is not one channel
    """
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates must be positive, got {from_hz} Hz -> {to_hz} Hz")
    if samples.ndim != 1:
        raise ValueError(f"resample takes one channel (samples,), got shape {samples.shape}")
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if from_hz == to_hz or samples.size == 0:
        return samples
    return np.asarray(soxr.resample(samples, from_hz, to_hz, quality="HQ"), dtype=np.float32)
