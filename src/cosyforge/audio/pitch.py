"""Fundamental frequency of speech, one value per mel frame: what the vocoder's pitch predictor learns from, and a measure of voices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

MIN_HZ, MAX_HZ = 55.0, 500.0
_WINDOW_S = 0.06
_NUM_CANDIDATES = 6
_UNVOICED_STRENGTH = 0.45
_OCTAVE_COST = 0.02
_JUMP_COST = 0.6
_VOICING_COST = 0.15


def estimate_f0(samples: npt.NDArray[np.float32], sample_rate_hz: int = 16_000) -> npt.NDArray[np.float32]:
    """Pitch per 20 ms frame, 0 where unvoiced; frame i is centred where mel frame i is, 10 ms into its hop.

    Shapes: samples (L,) -> (F,) with F = floor(L / hop), hop = sample_rate_hz / 50
    Source: Boersma (1993), autocorrelation divided by the window's own, best path through the candidates
    """
    hop = sample_rate_hz // 50
    num_frames = len(samples) // hop
    if num_frames == 0:
        return np.zeros(0, dtype=np.float32)
    frequency, strength = _candidates(samples.astype(np.float64), sample_rate_hz, hop, num_frames)
    return _best_path(frequency, strength).astype(np.float32)


def _candidates(samples: FloatArray, rate_hz: int, hop: int, num_frames: int) -> tuple[FloatArray, FloatArray]:
    """The strongest autocorrelation peaks of every frame: frequency and strength, both (F, K)."""
    window_size = int(_WINDOW_S * rate_hz) // 2 * 2
    size = 1 << (2 * window_size - 1).bit_length()
    window = np.hanning(window_size)
    padded = np.pad(samples, (window_size // 2, window_size))
    starts = np.arange(num_frames) * hop + hop // 2
    frames = padded[starts[:, None] + np.arange(window_size)]
    loudness = np.abs(frames).max(axis=1)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * window
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, size)) ** 2, axis=1)
    of_window = np.fft.irfft(np.abs(np.fft.rfft(window, size)) ** 2)
    low, high = int(rate_hz / MAX_HZ), int(rate_hz / MIN_HZ) + 1
    lags = np.arange(low - 1, high + 2)
    normal = correlation[:, lags] / (of_window[lags] / of_window[0]) / np.maximum(correlation[:, :1], 1e-12)
    middle = normal[:, 1:-1]
    is_peak = (middle > normal[:, :-2]) & (middle >= normal[:, 2:])
    score = np.where(is_peak, middle, -1.0)
    best = np.argsort(-score, axis=1)[:, :_NUM_CANDIDATES]
    row = np.arange(num_frames)[:, None]
    left, centre, right = normal[row, best], normal[row, best + 1], normal[row, best + 2]
    curvature = left - 2 * centre + right
    shift = np.where(np.abs(curvature) > 1e-9, 0.5 * (left - right) / np.where(curvature == 0, 1.0, curvature), 0.0)
    shift = np.clip(shift, -0.5, 0.5)
    frequency = rate_hz / (lags[best + 1] + shift)
    # quiet frames are silence however periodic their noise is
    strength = np.where(score[row, best] > 0, centre - 0.25 * (left - right) * shift, -1.0)
    strength -= 1.0 * np.maximum(0.0, 1.0 - loudness / (0.03 * max(loudness.max(), 1e-9)))[:, None]
    # among equal peaks the higher frequency is the truer one: its multiples of the period peak as well
    return frequency, strength + _OCTAVE_COST * np.log2(frequency / MIN_HZ)


def _best_path(frequency: FloatArray, strength: FloatArray) -> FloatArray:
    """Dynamic programming over the candidates and the unvoiced state; returns (F,)."""
    num_frames, num_candidates = frequency.shape
    log_frequency = np.log2(frequency)
    score = np.concatenate([strength[0], [_UNVOICED_STRENGTH]])
    back = np.zeros((num_frames, num_candidates + 1), dtype=np.int64)
    for index in range(1, num_frames):
        move = np.full((num_candidates + 1, num_candidates + 1), _VOICING_COST)
        move[:-1, :-1] = _JUMP_COST * np.abs(log_frequency[index - 1][:, None] - log_frequency[index][None, :])
        move[-1, -1] = 0.0
        total = score[:, None] - move
        back[index] = total.argmax(axis=0)
        score = total.max(axis=0) + np.concatenate([strength[index], [_UNVOICED_STRENGTH]])
    states = np.empty(num_frames, dtype=np.int64)
    states[-1] = score.argmax()
    for index in range(num_frames - 1, 0, -1):
        states[index - 1] = back[index, states[index]]
    with_unvoiced = np.concatenate([frequency, np.zeros((num_frames, 1))], axis=1)
    return with_unvoiced[np.arange(num_frames), states]
