"""The effects of `<speak effect=…>`: robot, lolita, lowpass, echo, eq, lpfilter, hpfilter, each on a stream.

An effect belongs to one `<speak>` element: its sentences, pauses and sounds go through the same one, and `finish` lets
out what it still holds (an echo rings on). All leave the duration as it is, but for the echo's tail. Cutting the stream
elsewhere gives the same samples. Peaks above 0.85 are bent softly, so nothing clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cosyforge.audio.effects import PitchShift
from cosyforge.audio.filters import BUTTERWORTH_4_Q, FilterChain, Section, high_pass, low_pass, peak

Samples = npt.NDArray[np.float32]

EFFECTS = ("robot", "lolita", "lowpass", "echo", "eq", "lpfilter", "hpfilter")

EQ_BANDS_HZ = (40, 100, 200, 400, 800, 1600, 4000, 12000)
MAX_EQ_DB = 20
_EQ_Q = 1.1
"""Bands about an octave and a third wide, which is how far apart their centres lie."""

_KNEE = 0.85
_ROBOT_PITCH_HZ = 110.0
_LOLITA_PITCH = 1.35
_MUFFLED_HZ = 1000.0
_ECHO_DELAY_S, _ECHO_GAIN, _NUM_ECHOES = 0.22, 0.4, 4
_NO_SAMPLES = np.zeros(0, dtype=np.float32)


class Effect(Protocol):
    """Samples in, samples out, one channel; what came out in all has the duration of what went in, and a tail."""

    def push(self, samples: Samples) -> Samples: ...

    def finish(self) -> Samples: ...


def make_effect(name: str, values: Sequence[float], sample_rate_hz: int) -> Effect:
    """One effect for one `<speak>` element.

    Units: values are eight gains in dB for eq, one cut-off in Hz for lpfilter and hpfilter, none for the others;
    sample_rate_hz is that of the samples pushed, which should be the rate of the output
    Raises: ValueError for an unknown name, or values that do not belong to it
    """
    check_effect(name, values, sample_rate_hz)
    if name == "robot":
        return _Robot(sample_rate_hz)
    if name == "lolita":
        return _Lolita(sample_rate_hz)
    if name == "echo":
        return _Echo(sample_rate_hz)
    return _Filter(_sections(name, values, sample_rate_hz))


def check_effect(name: str, values: Sequence[float], sample_rate_hz: int) -> None:
    """Raises: ValueError, as `make_effect` would"""
    wanted = {"eq": len(EQ_BANDS_HZ), "lpfilter": 1, "hpfilter": 1}.get(name, 0)
    if name not in EFFECTS:
        raise ValueError(f"unknown effect {name!r}; known are {', '.join(EFFECTS)}")
    if len(values) != wanted:
        raise ValueError(f"the effect {name} takes {wanted} values, not {len(values)}")
    if name == "eq" and not all(-MAX_EQ_DB <= value <= MAX_EQ_DB for value in values):
        raise ValueError(f"the gains of eq must lie between -{MAX_EQ_DB} and {MAX_EQ_DB} dB")
    if name in ("lpfilter", "hpfilter") and not 0 < values[0] <= sample_rate_hz / 2:
        raise ValueError(
            f"the cut-off of {name} must lie above 0 and at most {sample_rate_hz / 2:g} Hz, half the sample rate"
        )


def limit_peaks(samples: Samples) -> Samples:
    """Bend peaks towards one, smoothly from 0.85 on; smaller samples stay as they are."""
    size = np.abs(samples)
    over = size - _KNEE
    if not (over > 0.0).any():
        return samples
    bent = np.sign(samples) * (_KNEE + (1.0 - _KNEE) * np.tanh(over / (1.0 - _KNEE)))
    return np.where(over > 0.0, bent, samples).astype(np.float32)


def _sections(name: str, values: Sequence[float], sample_rate_hz: int) -> list[Section]:
    if name == "eq":
        bands = zip(EQ_BANDS_HZ, values, strict=True)
        # a band beyond half the sample rate has nothing to act on
        return [peak(hz, _EQ_Q, gain, sample_rate_hz) for hz, gain in bands if gain and hz < 0.49 * sample_rate_hz]
    cutoff_hz = min(_MUFFLED_HZ, 0.45 * sample_rate_hz) if name == "lowpass" else values[0]
    if cutoff_hz > 0.499 * sample_rate_hz:
        # at half the sample rate the formulas degenerate: everything is below, nothing above
        return [Section(0.0 if name == "hpfilter" else 1.0, 0.0, 0.0, 0.0, 0.0)]
    make = high_pass if name == "hpfilter" else low_pass
    return [make(cutoff_hz, q, sample_rate_hz) for q in BUTTERWORTH_4_Q]


class _Filter:
    def __init__(self, sections: list[Section]) -> None:
        self._chain = FilterChain(sections) if sections else None

    def push(self, samples: Samples) -> Samples:
        return samples if self._chain is None else limit_peaks(self._chain.push(samples))

    def finish(self) -> Samples:
        return _NO_SAMPLES


class _Echo:
    """Each sound comes back every 0.22 s, weaker each time; the last echoes follow after the end."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._delay = round(_ECHO_DELAY_S * sample_rate_hz)
        self._past = np.zeros(self._delay, dtype=np.float32)  # the output before limiting, one delay long
        self._has_sound = False

    def push(self, samples: Samples) -> Samples:
        self._has_sound = self._has_sound or bool(samples.any())
        return self._run(samples)

    def finish(self) -> Samples:
        if not self._has_sound:
            return _NO_SAMPLES
        tail = self._run(np.zeros(_NUM_ECHOES * self._delay, dtype=np.float32))
        # the echo that would come next is cut off at 1 %; let the last one fade rather than stop
        tail[-self._delay :] *= np.linspace(1.0, 0.0, self._delay, dtype=np.float32)
        return tail

    def _run(self, samples: Samples) -> Samples:
        pieces = []
        for start in range(0, samples.size, self._delay):
            piece = samples[start : start + self._delay]
            echoed = piece + np.float32(_ECHO_GAIN) * self._past[: piece.size]
            self._past = np.concatenate([self._past[piece.size :], echoed])
            pieces.append(echoed)
        return limit_peaks(np.concatenate(pieces)) if pieces else _NO_SAMPLES


class _Lolita:
    """A child's voice: pitch and formants a third higher, the tempo unchanged."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._shift = PitchShift(1.0, _LOLITA_PITCH, sample_rate_hz, sample_rate_hz)
        self._num_missing = 0

    def push(self, samples: Samples) -> Samples:
        self._num_missing += samples.size
        return self._given(self._shift.push(samples))

    def finish(self) -> Samples:
        rest = self._given(self._shift.finish())
        return np.pad(rest, (0, self._num_missing))

    def _given(self, samples: Samples) -> Samples:
        """The resampler may end a few samples early or late; the duration stays exact."""
        samples = samples[: self._num_missing]
        self._num_missing -= samples.size
        return limit_peaks(samples)


class _Robot:
    """One pitch for everything: the phases of each short window are set to zero, so that a pulse comes per window.

    Source: Zölzer, DAFX, "robotization"
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._hop = round(sample_rate_hz / _ROBOT_PITCH_HZ)
        self._size = 4 * self._hop
        self._window = np.hanning(self._size + 1)[:-1].astype(np.float32)
        # the pulses carry the energy of their windows: bring it back to that of the sound
        self._gain = np.float32(np.sqrt(self._hop / np.sum(self._window**2)))
        self._input = np.zeros(self._size // 2, dtype=np.float32)  # the first window is centred on the first sample
        self._overlap = np.zeros(self._size, dtype=np.float32)
        self._num_to_skip = self._size // 2
        self._num_missing = 0

    def push(self, samples: Samples) -> Samples:
        self._num_missing += samples.size
        self._input = np.concatenate([self._input, samples])
        return self._run()

    def finish(self) -> Samples:
        self._input = np.concatenate([self._input, np.zeros(2 * self._size, dtype=np.float32)])
        return self._run()

    def _run(self) -> Samples:
        num_windows = max(0, (self._input.size - self._size) // self._hop + 1)
        if not num_windows:
            return _NO_SAMPLES
        windows = np.lib.stride_tricks.sliding_window_view(self._input, self._size)[:: self._hop][:num_windows]
        strength = np.abs(np.fft.rfft(windows * self._window, axis=1))
        pulses = np.fft.fftshift(np.fft.irfft(strength, self._size, axis=1), axes=1).astype(np.float32)
        out = np.zeros((num_windows - 1) * self._hop + self._size, dtype=np.float32)
        out[: self._size] = self._overlap
        for index in range(num_windows):
            out[index * self._hop :][: self._size] += pulses[index] * self._window * self._gain
        num_done = num_windows * self._hop
        self._overlap = np.pad(out[num_done:], (0, self._size - (out.size - num_done)))
        self._input = self._input[num_done:]
        return self._given(out[:num_done])

    def _given(self, samples: Samples) -> Samples:
        skipped = min(self._num_to_skip, samples.size)
        self._num_to_skip -= skipped
        samples = samples[skipped:][: self._num_missing]
        self._num_missing -= samples.size
        return limit_peaks(samples)
