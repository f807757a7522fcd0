"""Samples of the model to the bytes that were asked for: rate, pitch, sample rate, volume, effects, music, format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cosyforge.audio.background import Background
from cosyforge.audio.effects import PitchShift, change_volume
from cosyforge.audio.encode import Encoder, make_encoder, opus_rate_hz
from cosyforge.audio.resample import resample
from cosyforge.audio.voice_effects import check_effect, make_effect
from cosyforge.audio.wav import read_wav
from cosyforge.errors import InvalidMarkup
from cosyforge.synthesis.request import SynthesisRequest
from cosyforge.text.segment import Segment

Samples = npt.NDArray[np.float32]

_FADE_S = 0.003
"""Sentences and sounds begin and end this softly, so that none meets silence with a click."""


class Stage(Protocol):
    """Something on the way of all sound of one `<speak>` element."""

    def push(self, samples: Samples) -> Samples: ...

    def finish(self) -> Samples: ...


class Output:
    """The way out of one request. Each sentence has rate and pitch of its own, each `<speak>` element its effect and
    music, and all go into one encoder. What comes out does not depend on whether the request streams.
    """

    def __init__(self, request: SynthesisRequest, model_rate_hz: int, encoder: Encoder | None = None) -> None:
        """encoder: another than the request's"""
        self._request = request
        self._model_rate_hz = model_rate_hz
        self._rate_hz = output_rate_hz(request)
        self._encoder = encoder or make_encoder(
            request.format, self._rate_hz, request.bit_rate_kbps, request.streaming, request.aigc
        )
        self._attachments = dict(request.attachments)
        self._speak: int | None = None
        self._stages: list[Stage] = []
        self._sentence: PitchShift | None = None
        self._edges = _SoftEdges(round(_FADE_S * self._rate_hz))
        self._volume = request.volume
        self._num_encoded = 0
        self._total_encoded = 0
        self._num_entered = 0

    @property
    def position_ms(self) -> float:
        """Where in the audio the next sound will be."""
        return 1000 * self._num_entered / self._rate_hz

    def enter(self, segment: Segment) -> bytes:
        """Go on to a segment: what comes from now on belongs to its `<speak>` element."""
        if segment.speak == self._speak:
            return b""
        rest = self._leave()
        self._speak = segment.speak
        self._volume = self._request.volume if segment.volume is None else segment.volume
        if segment.effect is not None:
            self._stages.append(make_effect(*segment.effect, self._rate_hz))
        if segment.background is not None:
            music, rate_hz = read_wav(attachment(self._attachments, segment.background))
            self._stages.append(Background(music, self._rate_hz, segment.background_volume, from_hz=rate_hz))
        return rest

    def begin_sentence(self, segment: Segment) -> None:
        rate, pitch = speaking_rate(self._request, segment), self._request.pitch
        pitch = pitch if segment.pitch is None else segment.pitch
        self._sentence = PitchShift(rate, pitch, self._model_rate_hz, self._rate_hz, keep_formants=True)

    def push(self, samples: Samples) -> bytes:
        """Take samples of the sentence, give what can be written.

        Shapes: samples (L,) at the model's rate
        """
        assert self._sentence is not None, "a sentence has been begun"
        return self._enter(self._spoken(self._edges.push(self._sentence.push(samples))))

    def end_sentence(self) -> bytes:
        """Let out what rate and pitch still hold."""
        assert self._sentence is not None, "a sentence has been begun"
        rest = np.concatenate([self._edges.push(self._sentence.finish()), self._edges.finish()])
        self._sentence = None
        return self._enter(self._spoken(rest))

    def silence(self, duration_ms: int) -> bytes:
        """Write a pause; it lasts as long at any speaking rate."""
        return self._enter(np.zeros(self._rate_hz * duration_ms // 1000, dtype=np.float32))

    def sound(self, address: str) -> bytes:
        """Put a sound in, as it was recorded."""
        samples, rate_hz = read_wav(attachment(self._attachments, address))
        edges = _SoftEdges(round(_FADE_S * self._rate_hz))
        return self._enter(np.concatenate([edges.push(resample(samples, rate_hz, self._rate_hz)), edges.finish()]))

    def finish(self) -> bytes:
        """Close the file."""
        return self._leave() + self._encoder.finish()

    def take_duration_s(self) -> float:
        """Tell how much sound went into the encoder since the last call."""
        duration_s = self._num_encoded / self._rate_hz
        self._num_encoded = 0
        return duration_s

    def _spoken(self, samples: Samples) -> Samples:
        return change_volume(samples, self._volume)

    def _enter(self, samples: Samples) -> bytes:
        self._num_entered += samples.size
        for stage in self._stages:
            samples = stage.push(samples)
        return self._encode(samples)

    def _leave(self) -> bytes:
        """Let the stages out, the first one's rest through the later ones."""
        rest = np.zeros(0, dtype=np.float32)
        for stage in self._stages:
            rest = np.concatenate([stage.push(rest), stage.finish()])
        self._stages = []
        encoded = self._encode(rest)
        # an echo and the end of the music make the audio longer
        self._num_entered = self._total_encoded
        return encoded

    def _encode(self, samples: Samples) -> bytes:
        self._num_encoded += samples.size
        self._total_encoded += samples.size
        return self._encoder.encode(samples)


class _SoftEdges:
    """The first and last samples of a sound rise from and fall to zero; so many samples are held back for that."""

    def __init__(self, size: int) -> None:
        self._rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(size) + 0.5) / size)).astype(np.float32)
        self._held = np.zeros(0, dtype=np.float32)
        self._num_risen = 0

    def push(self, samples: Samples) -> Samples:
        rising = self._rise[self._num_risen :][: samples.size]
        self._num_risen += rising.size
        samples = np.concatenate([samples[: rising.size] * rising, samples[rising.size :]])
        sound = np.concatenate([self._held, samples])
        keep = max(0, sound.size - self._rise.size)
        self._held = sound[keep:]
        return sound[:keep]

    def finish(self) -> Samples:
        """Give what was held; the next sound may begin."""
        rest = self._held * self._rise[: self._held.size][::-1]
        self._held = np.zeros(0, dtype=np.float32)
        self._num_risen = 0
        return rest


def output_rate_hz(request: SynthesisRequest) -> int:
    """The rate that effects work at and encoders get."""
    asked_hz = request.sample_rate_hz
    return opus_rate_hz(asked_hz) if request.format == "opus" else asked_hz


def speaking_rate(request: SynthesisRequest, segment: Segment) -> float:
    return request.rate if segment.rate is None else segment.rate


def attachment(attachments: Mapping[str, str], address: str) -> str:
    """The file that was fetched for an address.

    Raises: InvalidMarkup when there is none
    """
    if address not in attachments:
        raise InvalidMarkup(f"{address}: this sound was not fetched; sounds can be used through the server only")
    return attachments[address]


def check_segment(segment: Segment, request: SynthesisRequest) -> None:
    """Refuse what a segment asks for and cannot have, before anything is spoken.

    Raises: InvalidMarkup
    """
    attachments = dict(request.attachments)
    for address in (segment.background, segment.sound):
        if address is not None:
            attachment(attachments, address)
    if segment.effect is not None:
        try:
            check_effect(*segment.effect, output_rate_hz(request))
        except ValueError as error:
            raise InvalidMarkup(f"<speak effect=…>: {error}") from error
