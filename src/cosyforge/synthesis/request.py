"""What may be asked of a voice and what comes back: plain data, no torch, shared by API, console, CLI and engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class SynthesisRequest:
    """One request to speak, already checked at the edge.

    Units: volume 0-100; rate and pitch are factors; bit_rate_kbps is for opus alone
    """

    voice: str = "default"
    format: str = "mp3"
    """One of pcm, wav, mp3, opus; pcm is 16-bit little-endian mono."""
    sample_rate_hz: int = 22050
    volume: int = 50
    rate: float = 1.0
    pitch: float = 1.0
    bit_rate_kbps: int = 32
    seed: int = 0
    enable_ssml: bool = False
    instruction: str | None = None
    language_hint: str | None = None
    request_id: str = ""
    streaming: bool = False
    """True: the container is written for a listener that reads while it grows. False: sizes in headers are exact."""


@dataclass(frozen=True)
class AudioChunk:
    """A piece of encoded audio; the bytes of all chunks of a request concatenate to one file.

    Units: sentence_index counts from 0; duration_s is the audio that this chunk holds before encoding
    """

    audio: bytes
    sentence_index: int
    sentence_text: str
    is_sentence_begin: bool = False
    is_sentence_end: bool = False
    duration_s: float = 0.0
    timings_ms: dict[str, float] = field(default_factory=dict)
    """Filled on the last chunk of a request: where the time went (text, first_token, flow, vocoder, encode, total)."""


class Synthesizer(Protocol):
    """Anything that speaks: the engine in this process, or a replica in another."""

    def synthesize(self, request: SynthesisRequest, text: Iterable[str]) -> Iterator[AudioChunk]:
        """Speak the pieces of text as they arrive.

        Raises: InvalidParameter, InvalidMarkup before the first chunk; Internal when the model fails
        """
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...
