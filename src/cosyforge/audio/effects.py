"""Louder, faster, higher: volume, speaking rate and pitch of finished speech, also while it is still coming.

Rate keeps the pitch (WSOLA: windows of the sound are moved together or apart and laid where they match best). Pitch
keeps the duration: the sound is stretched the other way, then played faster (`PitchShift`), and its formants are put back.
Source: Verhelst and Roelands, An overlap-add technique based on waveform similarity (WSOLA)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from cosyforge.audio.formants import FormantKeeper

Samples = npt.NDArray[np.float32]

DEFAULT_VOLUME = 50
_KNEE = 0.85
"""Above this amplitude the limiter begins to bend; below it nothing changes."""

_HOP_S = 0.02
_SEARCH_S = 0.01
"""Best match within ±10 ms: a whole period of the lowest voices."""


def change_volume(samples: Samples, volume: int) -> Samples:
    """Scale by volume / 50: 50 leaves every sample as it is, 0 is silence, 100 is 6 dB louder with soft peaks.

    Raises: ValueError outside 0 to 100
    """
    if not 0 <= volume <= 100:
        raise ValueError(f"volume {volume} is not between 0 and 100")
    if volume == DEFAULT_VOLUME:
        return samples
    scaled = samples * np.float32(volume / DEFAULT_VOLUME)
    return _limited(scaled) if volume > DEFAULT_VOLUME else scaled


def _limited(samples: Samples) -> Samples:
    """Bend peaks towards one, smoothly from the knee on."""
    over = np.maximum(np.abs(samples) - _KNEE, 0.0)
    bent = _KNEE + (1.0 - _KNEE) * np.tanh(over / (1.0 - _KNEE))
    return np.where(over > 0.0, np.sign(samples) * bent, samples).astype(np.float32)


def change_rate(samples: Samples, rate: float, sample_rate_hz: int) -> Samples:
    """Make a finished clip rate times faster at the same pitch.

    Shapes: (L,) -> (round(L / rate),)
    """
    stretch = TimeStretch(rate, sample_rate_hz)
    return np.concatenate([stretch.push(samples), stretch.finish()])


def change_pitch(samples: Samples, pitch: float, sample_rate_hz: int) -> Samples:
    """Make a finished clip pitch times higher at the same duration.

    Shapes: (L,) -> (about L,)
    """
    shift = PitchShift(1.0, pitch, sample_rate_hz, sample_rate_hz, keep_formants=True)
    return np.concatenate([shift.push(samples), shift.finish()])


class TimeStretch:
    """Faster or slower speech in a stream; the result does not depend on how the samples were cut.

    Each step lays the next window over the natural continuation of the last one, shifted to where the two agree best.
    """

    def __init__(self, speed: float, sample_rate_hz: int) -> None:
        """speed 2 halves the duration.

        Raises: ValueError when speed is not positive
        """
        if speed <= 0:
            raise ValueError(f"speed {speed} is not positive")
        self._speed = speed
        self._hop = round(_HOP_S * sample_rate_hz)
        self._search = round(_SEARCH_S * sample_rate_hz)
        self._rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(self._hop) + 0.5) / self._hop)).astype(np.float32)
        self._input = np.zeros(0, dtype=np.float32)
        self._start = 0  # absolute index of the first sample that is still held
        self._num_received = 0
        self._num_emitted = 0
        self._step = 0
        self._next = 0  # absolute index of the natural continuation

    def push(self, samples: Samples) -> Samples:
        """Take samples, give those whose windows are complete."""
        self._num_received += samples.size
        if self._speed == 1.0:
            self._num_emitted += samples.size
            return samples
        self._input = np.concatenate([self._input, samples])
        return self._run(self._start + self._input.size)

    def finish(self) -> Samples:
        """Give the rest: in all, the samples received divided by speed."""
        total = round(self._num_received / self._speed)
        if self._speed == 1.0 or total <= self._num_emitted:
            return np.zeros(0, dtype=np.float32)
        missing = total - self._num_emitted
        padding = 3 * self._hop + self._search + int(missing * self._speed)
        self._input = np.concatenate([self._input, np.zeros(padding, dtype=np.float32)])
        rest = self._run(self._start + self._input.size)[:missing]
        assert rest.size == missing, "the padding must carry the last window"
        return rest

    def _run(self, available: int) -> Samples:
        steps = []
        while True:
            wanted = round(self._step * self._hop * self._speed)
            if max(wanted + self._search, self._next) + 2 * self._hop > available:
                break
            steps.append(self._one_step(wanted))
        self._forget(min(self._next, round(self._step * self._hop * self._speed) - self._search))
        out = np.concatenate(steps) if steps else np.zeros(0, dtype=np.float32)
        self._num_emitted += out.size
        return out

    def _one_step(self, wanted: int) -> Samples:
        """Give one hop: the continuation of the last window fades into the window that is due."""
        chosen = wanted if self._step == 0 else self._best_start(wanted)
        continued = self._held(self._next, self._next + self._hop)
        due = self._held(chosen, chosen + self._hop)
        self._step += 1
        self._next = chosen + self._hop
        return continued + (due - continued) * self._rise

    def _best_start(self, wanted: int) -> int:
        """Search around wanted for the start that looks most like the continuation; silence stays where it is."""
        first = max(wanted - self._search, self._start)
        continued = self._held(self._next, self._next + self._hop).astype(np.float64)
        around = self._held(first, wanted + self._search + self._hop).astype(np.float64)
        products = np.correlate(around, continued, mode="valid")
        sums = np.concatenate([[0.0], np.cumsum(around**2)])
        energies = sums[self._hop :] - sums[: -self._hop]
        if products.max() <= 0.0:
            return wanted
        return first + int(np.argmax(products / np.sqrt(energies + 1e-9)))

    def _held(self, start: int, end: int) -> Samples:
        return self._input[start - self._start : end - self._start]

    def _forget(self, before: int) -> None:
        drop = max(0, before - self._start)
        self._input = self._input[drop:]
        self._start += drop


class PitchShift:
    """Rate, pitch and the change of sample rate in one go, so that the sound is resampled once.

    Stretching by rate / pitch and then reading pitch times faster leaves the duration divided by rate.
    """

    def __init__(self, rate: float, pitch: float, from_hz: int, to_hz: int, *, keep_formants: bool = False) -> None:
        """keep_formants: the voice stays that of the same person; otherwise small or large throats are heard

        Raises: ValueError when a factor is not positive
        """
        if pitch <= 0:
            raise ValueError(f"pitch {pitch} is not positive")
        self._stretch = TimeStretch(rate / pitch, from_hz)
        changes = pitch != 1.0 or from_hz != to_hz
        self._resampler = soxr.ResampleStream(from_hz * pitch, to_hz, 1, dtype="float32") if changes else None
        self._formants = FormantKeeper(pitch, to_hz) if keep_formants and pitch != 1.0 else None

    def push(self, samples: Samples) -> Samples:
        moved = self._resampled(self._stretch.push(samples), last=False)
        return moved if self._formants is None else self._formants.push(moved)

    def finish(self) -> Samples:
        moved = self._resampled(self._stretch.finish(), last=True)
        if self._formants is None:
            return moved
        return np.concatenate([self._formants.push(moved), self._formants.finish()])

    def _resampled(self, samples: Samples, *, last: bool) -> Samples:
        if self._resampler is None:
            return samples
        return np.asarray(self._resampler.resample_chunk(np.ascontiguousarray(samples), last=last), dtype=np.float32)
