"""Find clicks: samples that stick out of what the sound around them predicts, as a bad join makes them.

Linear prediction takes out what is regular. Speech leaves pulses behind, one per period of the voice, and bursts that
last; a click leaves one pulse alone. So a click is a residual far above all others within a few hundredths of a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

THRESHOLD = 3.0
"""Real speech stays below; a step of a few hundredths of full scale in a quiet place is above."""

_ORDER = 16
_FRAME_S, _HOP_S = 0.04, 0.01
_CELL_S = 0.001
_NEAR_CELLS, _FAR_CELLS = 2, 30
_FLOOR = 10 ** (-66 / 20)
"""Residuals below -66 dB of full scale are heard by nobody."""


@dataclass(frozen=True)
class Click:
    """Units: at_s from the beginning; strength as a multiple of the strongest residual nearby"""

    at_s: float
    strength: float


def find_clicks(samples: Samples, sample_rate_hz: int, threshold: float = THRESHOLD) -> list[Click]:
    """List the clicks of a clip, in order. Shapes: samples (L,)"""
    strength = click_strength(samples, sample_rate_hz)
    cell = round(_CELL_S * sample_rate_hz)
    return [
        Click((index + 0.5) * cell / sample_rate_hz, float(strength[index]))
        for index in np.flatnonzero(strength > threshold)
    ]


def click_strength(samples: Samples, sample_rate_hz: int) -> Array:
    """How far each millisecond's largest residual stands above those around it.

    Shapes: (L,) -> (number of whole milliseconds,)
    """
    cell = round(_CELL_S * sample_rate_hz)
    residual = np.abs(prediction_residual(samples.astype(np.float64), sample_rate_hz))
    num_cells = residual.size // cell
    if num_cells == 0:
        return np.zeros(0)
    peaks = residual[: num_cells * cell].reshape(num_cells, cell).max(axis=1)
    padded = np.pad(peaks, _FAR_CELLS)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * _FAR_CELLS + 1)
    before = windows[:, : _FAR_CELLS - _NEAR_CELLS + 1].max(axis=1)
    after = windows[:, _FAR_CELLS + _NEAR_CELLS :].max(axis=1)
    return np.asarray(peaks / (np.maximum(before, after) + _FLOOR), dtype=np.float64)


def prediction_residual(samples: Array, sample_rate_hz: int) -> Array:
    """What the samples before do not predict, with a predictor fitted anew every 10 ms.

    Shapes: (L,) -> (L,)
    Source: Makhoul, Linear Prediction (1975), autocorrelation method
    """
    hop = round(_HOP_S * sample_rate_hz)
    frame = round(_FRAME_S * sample_rate_hz)
    num_frames = -(-samples.size // hop)
    margin = (frame - hop) // 2
    padded = np.pad(samples, (margin, margin + num_frames * hop - samples.size + frame))
    frames = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop][:num_frames] * np.hanning(frame)
    predictors = _predictors(frames)
    history = np.pad(samples, (_ORDER, num_frames * hop - samples.size))
    pasts = np.lib.stride_tricks.sliding_window_view(history, _ORDER)[:-1]  # (L, order), oldest first
    pasts = pasts.reshape(num_frames, hop, _ORDER)[:, :, ::-1]
    predicted = np.einsum("fhk,fk->fh", pasts, predictors).reshape(-1)[: samples.size]
    return np.asarray(samples - predicted, dtype=np.float64)


def _predictors(frames: Array) -> Array:
    """Coefficients of the samples before, latest first: (F, frame) -> (F, order)."""
    size = 2 * frames.shape[1]
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, size)) ** 2, axis=1)[:, : _ORDER + 1]
    # a little white noise keeps silence and pure tones solvable
    correlation[:, 0] = correlation[:, 0] * (1 + 1e-5) + 1e-9
    lags = np.abs(np.arange(_ORDER)[:, None] - np.arange(_ORDER)[None, :])
    solved = np.linalg.solve(correlation[:, lags], correlation[:, 1:, None])[:, :, 0]
    return np.asarray(solved, dtype=np.float64)
