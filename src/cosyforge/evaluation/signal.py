"""What can be measured in a clip without knowing any language: level, silence, noise, pitch, length. numpy alone.

All functions take one channel of float samples in [-1, 1] and its rate in Hz; none of them changes the clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_FRAME_S = 0.02
_SPEECH_DB = 35.0
"""A frame counts as speech when it is at most so far below the loud ones (95th percentile)."""
_LOUD_DB = 15.0
"""Vowels lie within so much of the loudest frames."""
_SILENT_DBFS = -70.0
_CLIPPED_AT = 0.999
_PAUSE_S = 0.15
"""Shorter silences are the closures of stops (p, t, k), not pauses."""

_LOWEST_F0_HZ = 60.0
_HIGHEST_F0_HZ = 400.0
_F0_WINDOW_S = 0.04
_VOICED_CORRELATION = 0.6
_NEAR_BEST = 0.9
"""The shortest lag within this share of the best is taken: multiples of the period correlate as well as the period."""

SLOWEST_PHONES_PER_S = 5.0
FASTEST_PHONES_PER_S = 25.0
"""People read 8 to 16 phones in a second; outside of these marks the text and the sound do not belong together."""


@dataclass(frozen=True)
class SignalFigures:
    """What one clip is like as a signal.

    Units: levels in dB below full scale; shares 0 .. 1 of the samples (clipped) or of the frames (silence)
    """

    duration_s: float
    speech_s: float
    """From the first to the last frame of speech; 0 for a silent clip."""
    clipped_share: float
    silence_share: float
    noise_floor_db: float
    longest_pause_s: float
    """Inside of the speech, not before or after."""
    median_f0_hz: float | None
    """None when nothing is voiced."""
    f0_range_semitones: float | None = None
    """From the tenth to the ninetieth percentile of the voiced frames: small for a monotone; None as above."""
    num_pauses: int = 0
    """Silences of 0.15 s and more inside of the speech."""
    pause_share: float = 0.0
    """Of the time from the first to the last frame of speech."""
    snr_db: float | None = None
    """Mean level of the loud speech over that of the quietest twentieth of the clip. A clip without any pause has speech
    there, so its figure is a lower bound; None for a silent clip."""


def measure(samples: Samples, sample_rate_hz: int) -> SignalFigures:
    """Take all figures of one clip.

    Raises: ValueError when the clip is shorter than one frame (20 ms)
    """
    levels = frame_levels_db(samples, sample_rate_hz)
    is_speech = _speech_frames(levels)
    spoken = np.flatnonzero(is_speech)
    inside = is_speech[spoken[0] : spoken[-1] + 1] if spoken.size else is_speech[:0]
    pauses = _run_lengths(~inside) * _FRAME_S
    f0_hz = voiced_f0_hz(samples, sample_rate_hz)
    return SignalFigures(
        duration_s=len(samples) / sample_rate_hz,
        speech_s=len(inside) * _FRAME_S,
        clipped_share=clipped_share(samples),
        silence_share=float(1.0 - is_speech.mean()),
        noise_floor_db=float(np.percentile(levels, 5)),
        longest_pause_s=float(pauses.max(initial=0.0)),
        median_f0_hz=float(np.median(f0_hz)) if f0_hz.size else None,
        f0_range_semitones=float(12 * np.log2(np.percentile(f0_hz, 90) / np.percentile(f0_hz, 10)))
        if f0_hz.size
        else None,
        num_pauses=int(np.sum(pauses >= _PAUSE_S)),
        pause_share=float(np.mean(~inside)) if inside.size else 0.0,
        snr_db=_snr_db(levels) if spoken.size else None,
    )


def clipped_share(samples: Samples) -> float:
    """Share of samples at full scale, where the true peak was cut off."""
    return float(np.mean(np.abs(samples) >= _CLIPPED_AT))


def frame_levels_db(samples: Samples, sample_rate_hz: int) -> npt.NDArray[np.float64]:
    """Level of every 20 ms.

    Shapes: (L,) -> (L // frame,)
    Units: dB below full scale, at least -120
    Raises: ValueError when the clip is shorter than one frame
    """
    length = round(_FRAME_S * sample_rate_hz)
    num_frames = len(samples) // length
    if num_frames == 0:
        raise ValueError(f"a clip of {len(samples)} samples at {sample_rate_hz} Hz is too short to measure; give 20 ms")
    frames = samples[: num_frames * length].reshape(num_frames, length).astype(np.float64)
    return np.asarray(10 * np.log10(np.mean(frames**2, axis=1) + 1e-12))


def median_f0_hz(samples: Samples, sample_rate_hz: int) -> float | None:
    """Middle pitch of the voiced frames, by autocorrelation; None when nothing between 60 and 400 Hz is periodic."""
    f0_hz = voiced_f0_hz(samples, sample_rate_hz)
    return float(np.median(f0_hz)) if f0_hz.size else None


def voiced_f0_hz(samples: Samples, sample_rate_hz: int) -> npt.NDArray[np.float64]:
    """Pitch of each voiced frame, 10 ms apart; frames of silence and noise are left out. Shapes: (L,) -> (N,)"""
    window = round(_F0_WINDOW_S * sample_rate_hz)
    if len(samples) < window:
        return np.zeros(0)
    hop = window // 4
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop].astype(np.float64)
    levels = 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12)
    correlation = _normalised_autocorrelation(frames[_speech_frames(levels)])
    shortest, longest = int(sample_rate_hz / _HIGHEST_F0_HZ), int(sample_rate_hz / _LOWEST_F0_HZ)
    lags = [shortest + lag for row in correlation[:, shortest : longest + 1] if (lag := _period(row)) is not None]
    return sample_rate_hz / np.asarray(lags)


def phones_per_s(figures: SignalFigures, num_phones: int) -> float | None:
    """Speaking rate of a clip whose text is known; None for a silent clip."""
    return num_phones / figures.speech_s if figures.speech_s else None


def fault(figures: SignalFigures, num_phones: int) -> str | None:
    """Name what went plainly wrong when a model spoke a text of so many phones; None when nothing did.

    "silent", "runaway" (it went on far beyond the text) and "cut off" (the text cannot fit in so little speech)
    """
    rate = phones_per_s(figures, num_phones)
    if rate is None:
        return "silent"
    if rate < SLOWEST_PHONES_PER_S:
        return "runaway"
    return "cut off" if rate > FASTEST_PHONES_PER_S else None


def _speech_frames(levels_db: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    loud = np.percentile(levels_db, 95)
    return np.asarray(levels_db > max(loud - _SPEECH_DB, _SILENT_DBFS))


def _run_lengths(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """How long each unbroken row of true flags is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return np.asarray(edges[1::2] - edges[::2])


def _snr_db(levels_db: npt.NDArray[np.float64]) -> float:
    """The loud frames against the quietest twentieth; noise that fills the pauses must not count as speech."""
    loud = levels_db > np.percentile(levels_db, 95) - _LOUD_DB
    return _mean_db(levels_db[loud]) - _mean_db(levels_db[levels_db <= np.percentile(levels_db, 5)])


def _mean_db(levels_db: npt.NDArray[np.float64]) -> float:
    """The level of the mean power."""
    return float(10 * np.log10(np.mean(10 ** (levels_db / 10))))


def _normalised_autocorrelation(frames: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Correlate each frame with itself shifted, over the part that overlaps: (N, W) -> (N, W), 1 at lag 0."""
    frames = frames - frames.mean(axis=1, keepdims=True)
    width = frames.shape[1]
    spectrum = np.fft.rfft(frames, n=2 * width, axis=1)
    products = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :width]
    energy = np.cumsum(frames**2, axis=1)
    total = energy[:, -1:]
    head = energy[:, ::-1]  # energy of the first W - lag samples
    tail = total - np.concatenate([np.zeros_like(total), energy[:, :-1]], axis=1)  # of the last W - lag samples
    return np.asarray(products / np.sqrt(np.maximum(head * tail, 1e-20)))


def _period(correlation: npt.NDArray[np.float64]) -> float | None:
    """Find the lag of the first peak that is nearly the best, to a fraction of a sample; None without any peak."""
    inner = correlation[1:-1]
    is_peak = (inner >= correlation[:-2]) & (inner >= correlation[2:]) & (inner > _VOICED_CORRELATION)
    peaks = np.flatnonzero(is_peak) + 1
    if peaks.size == 0:
        return None
    lag = int(peaks[correlation[peaks] >= _NEAR_BEST * correlation[peaks].max()][0])
    before, at, after = correlation[lag - 1 : lag + 2]
    bend = before - 2 * at + after
    return lag + (0.5 * float((before - after) / bend) if bend < 0 else 0.0)
