"""Samples of the model to the bytes that were asked for: rate, pitch, sample rate, volume, format."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cosyforge.audio.effects import PitchShift, change_volume
from cosyforge.audio.encode import make_encoder, opus_rate_hz
from cosyforge.synthesis.request import SynthesisRequest

Samples = npt.NDArray[np.float32]


class Output:
    """The way out of one request. Each sentence goes through effects of its own, all go into one encoder."""

    def __init__(self, request: SynthesisRequest, model_rate_hz: int) -> None:
        self._request = request
        self._model_rate_hz = model_rate_hz
        asked_hz = request.sample_rate_hz
        self._rate_hz = opus_rate_hz(asked_hz) if request.format == "opus" else asked_hz
        self._encoder = make_encoder(request.format, self._rate_hz, request.bit_rate_kbps, request.streaming)
        self._effects = self._new_effects()
        self._num_samples = 0

    def push(self, samples: Samples) -> bytes:
        """Take samples of the sentence, give what can be written.

        Shapes: samples (L,) at the model's rate
        """
        return self._encode(self._effects.push(samples))

    def end_sentence(self) -> bytes:
        """Let out what the effects still hold."""
        rest = self._effects.finish()
        self._effects = self._new_effects()
        return self._encode(rest)

    def silence(self, duration_ms: int) -> bytes:
        """Write a pause between sentences; it lasts as long at any speaking rate."""
        return self._encode(np.zeros(self._rate_hz * duration_ms // 1000, dtype=np.float32))

    def finish(self) -> bytes:
        """Close the file."""
        return self._encoder.finish()

    def take_duration_s(self) -> float:
        """Tell how much sound went into the encoder since the last call."""
        duration_s = self._num_samples / self._rate_hz
        self._num_samples = 0
        return duration_s

    def _encode(self, samples: Samples) -> bytes:
        self._num_samples += samples.size
        return self._encoder.encode(change_volume(samples, self._request.volume))

    def _new_effects(self) -> PitchShift:
        return PitchShift(self._request.rate, self._request.pitch, self._model_rate_hz, self._rate_hz)
