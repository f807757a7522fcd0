"""What may be asked of a voice and what comes back: plain data, no torch, shared by API, console, CLI and engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol


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
    melody_range: float = 1.0
    """How far the pitch moves, a factor; only a model that keeps melody apart heeds it. Instructions set it."""
    bit_rate_kbps: int = 32
    seed: int = 0
    enable_ssml: bool = False
    instruction: str | None = None
    language_hint: str | None = None
    request_id: str = ""
    streaming: bool = False
    """True: the container is written for a listener that reads while it grows. False: sizes in headers are exact."""
    word_timestamps: bool = False
    """The last chunk of each sentence tells when its words are spoken."""
    pronunciations: tuple[tuple[str, str], ...] = ()
    """hot_fix: (written, pinyin with tone digits or CMU phones); the longest written form wins."""
    replacements: tuple[tuple[str, str], ...] = ()
    """hot_fix: (written, spoken instead)."""
    markdown_filter: bool = False
    """Marks of Markdown are not read aloud."""
    aigc: tuple[tuple[str, str], ...] = ()
    """Names and values of the mark that says that the audio was made by a machine; empty: no mark."""
    attachments: tuple[tuple[str, str], ...] = ()
    """(URL in the SSML, path of a checked 16 kHz mono WAV): the sounds that were fetched before synthesis."""

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> SynthesisRequest:
        """A request that has travelled as JSON, where tuples have become lists."""
        pairs = {
            name: tuple((str(first), str(second)) for first, second in fields.get(name, ()))
            for name in ("pronunciations", "replacements", "aigc", "attachments")
        }
        return cls(**{**fields, **pairs})


@dataclass(frozen=True)
class Word:
    """One word (or CJK character) of a sentence and when it is spoken.

    Units: begin_ms and end_ms from the beginning of the whole audio; begin_index is the position of its first character
    in the sentence's text, end_index the one after its last
    """

    text: str
    begin_index: int
    end_index: int
    begin_ms: int
    end_ms: int


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
    words: tuple[Word, ...] = ()
    """On the last chunk of a sentence, when word_timestamps were asked for."""
    report: dict[str, Any] = field(default_factory=dict)
    """On the last chunk of a request: `resampled` (sentences spoken again because a check failed), `failed_checks`
    (their names, those that still failed after the last try among them) and `warnings` (sentences on what was left out)."""


class Synthesizer(Protocol):
    """Anything that speaks: the engine in this process, or a replica in another."""

    def synthesize(self, request: SynthesisRequest, text: Iterable[str]) -> Iterator[AudioChunk]:
        """Speak the pieces of text as they arrive.

        Work is done only while a chunk is asked for, so a slow listener costs no memory and keeps nobody waiting.
        Closing the iterator cancels. `text` may offer `is_canceled() -> bool`, cheap and safe from any thread: an engine
        that finds it asks a few times a second while it computes, and once it is true stops at once, by ending or by
        raising anything; nobody listens any more.
        Raises: InvalidParameter, InvalidMarkup before the first chunk; Internal when the model fails
        """
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...
