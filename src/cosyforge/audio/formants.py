"""Give a voice whose pitch was moved its own vocal tract back: without this a higher voice is that of a chipmunk.

Playing speech faster moves everything up, the resonances of the mouth as well as the pitch. Those resonances are the
smooth shape of the spectrum. In short overlapping frames the shape is measured and moved back to where it was.
Source: Röbel and Rodet, Efficient spectral envelope estimation (DAFx 2005), the "true envelope"
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]

_FRAME_S = 0.04
_HOPS_PER_FRAME = 4
_DETAIL_S = 0.0012
"""The shape follows resonances and not the harmonics of a voice up to 500 Hz."""

_NUM_ROUNDS = 8
_MAX_GAIN_DB = 24.0
_NO_SAMPLES = np.zeros(0, dtype=np.float32)


class FormantKeeper:
    """Moves the spectrum's shape down by the factor that the pitch was moved up; what comes out is as long as what went in."""

    def __init__(self, pitch: float, sample_rate_hz: int) -> None:
        """pitch: the factor by which the sound was moved

        Raises: ValueError when it is not positive
        """
        if pitch <= 0:
            raise ValueError(f"pitch {pitch} is not positive")
        self._pitch = pitch
        self._hop = round(_FRAME_S * sample_rate_hz) // _HOPS_PER_FRAME
        self._size = self._hop * _HOPS_PER_FRAME
        self._num_cepstrum = max(8, round(_DETAIL_S * sample_rate_hz))
        self._window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(self._size) + 0.5) / self._size))
        # every sample lies in four frames, each windowed twice
        self._scale = 2.0 / _HOPS_PER_FRAME
        lead = self._size - self._hop
        self._input = np.zeros(lead, dtype=np.float64)
        self._overlap = np.zeros(lead, dtype=np.float64)
        self._num_to_skip = lead
        self._num_missing = 0

    def push(self, samples: Samples) -> Samples:
        """Take samples, give those whose frames are complete; cutting elsewhere gives the same samples."""
        self._num_missing += samples.size
        self._input = np.concatenate([self._input, samples])
        return self._run()

    def finish(self) -> Samples:
        """Give the rest."""
        self._input = np.concatenate([self._input, np.zeros(2 * self._size)])
        return self._run()

    def _run(self) -> Samples:
        num_frames = max(0, (self._input.size - self._size) // self._hop + 1)
        pieces = [self._one_frame(self._input[k * self._hop :][: self._size]) for k in range(num_frames)]
        self._input = self._input[num_frames * self._hop :]
        out = np.concatenate(pieces) if pieces else _NO_SAMPLES
        skipped = min(self._num_to_skip, out.size)
        self._num_to_skip -= skipped
        out = out[skipped:][: self._num_missing]
        self._num_missing -= out.size
        return out.astype(np.float32)

    def _one_frame(self, frame: Array) -> Array:
        spectrum = np.fft.rfft(frame * self._window)
        magnitude = np.abs(spectrum)
        gain = self._gain(magnitude)
        # the shape moves, the loudness stays
        energy, energy_after = np.square(magnitude).sum(), np.square(magnitude * gain).sum()
        level = np.sqrt(energy / energy_after) if energy_after > 0.0 else 1.0
        shaped = np.fft.irfft(spectrum * gain * level, self._size) * self._window * self._scale
        shaped[: self._overlap.size] += self._overlap
        self._overlap = shaped[self._hop :]
        return shaped[: self._hop]

    def _gain(self, magnitude: Array) -> Array:
        """What moves the shape: its value where the resonance is now, over its value here."""
        loudest = magnitude.max()
        if loudest < 1e-6:
            return np.ones_like(magnitude)
        shape = self._shape(np.log(np.maximum(magnitude, 1e-4 * loudest)))
        place = np.arange(magnitude.size, dtype=np.float64)
        # above the last known place the shape stays what it was there
        moved = np.interp(np.minimum(place * self._pitch, magnitude.size - 1), place, shape)
        limit = _MAX_GAIN_DB / 20 * np.log(10)
        return np.asarray(np.exp(np.clip(moved - shape, -limit, limit)), dtype=np.float64)

    def _shape(self, log_magnitude: Array) -> Array:
        """A smooth line through the peaks: smoothing again and again what is above the last line."""
        raised = log_magnitude
        smooth = self._smoothed(raised)
        for _ in range(_NUM_ROUNDS):
            raised = np.maximum(log_magnitude, smooth)
            smooth = self._smoothed(raised)
        return smooth

    def _smoothed(self, log_magnitude: Array) -> Array:
        cepstrum = np.fft.irfft(log_magnitude, self._size)
        cepstrum[self._num_cepstrum : self._size - self._num_cepstrum + 1] = 0.0
        return np.asarray(np.fft.rfft(cepstrum).real, dtype=np.float64)
