"""The speaking engine: one model in this process, and the loop that every request goes through.

    text pieces -> Segments -> speech tokens -> samples -> bytes, sentence by sentence

Several requests may speak at once: each takes the networks for one chunk, then the next in line does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cosyforge.audio.encode import FORMATS, MAX_OPUS_KBPS, MIN_OPUS_KBPS, SAMPLE_RATES_HZ
from cosyforge.cosyvoice.manifest import VoiceEntry
from cosyforge.cosyvoice.weights import load_model
from cosyforge.errors import Internal, InvalidParameter, NotReady, PlatformError
from cosyforge.synthesis.output import Output
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest
from cosyforge.synthesis.scheduler import Scheduler
from cosyforge.synthesis.sequence import Sequence, Status
from cosyforge.synthesis.stream import (
    LENGTH_RULES,
    PreparedVoice,
    samples_at_once,
    silent_tokens,
    speech_tokens,
    stream_samples,
    until_lost,
    without_long_silence,
)
from cosyforge.text.frontend import NOTHING_TO_SAY, Frontend, Segment
from cosyforge.text.ssml import is_ssml

Samples = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)

UNKNOWN_VOICE = "[tts:]Engine return error code: 418"
BAD_INSTRUCTION = "[tts:]Engine return error code: 428"

MAX_SEED = 65535


class Engine:
    """Speaks with one model; implements `Synthesizer`."""

    is_concurrent = True
    """Requests may come from several threads; the engine itself gives them turns."""

    def __init__(
        self,
        model_directory: str | Path,
        *,
        base_directory: str | Path | None = None,
        device: str = "cpu",
        num_threads: int | None = None,
    ) -> None:
        """Load a model, whole or tuned.

        num_threads: how many threads torch may use in this process; None leaves it as it is
        Raises: InvalidParameter when the model cannot be loaded
        """
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._model = load_model(
            model_directory, base_directory=base_directory, device=device, networks=("lm", "flow", "hift")
        )
        self._model.hift.fuse()
        self._frontend = Frontend(asdict(self._model.frontend))
        self._silent = silent_tokens(self._model)
        self._voices = {
            name: PreparedVoice(self._model, voice, self._transcript_tokens(voice.prompt_text))
            for name, voice in self._model.voices.items()
        }
        self._scheduler = Scheduler()
        self._is_closed = False

    @property
    def num_in_flight(self) -> int:
        """How many requests have begun and not ended."""
        return self._scheduler.num_in_flight

    @property
    def sample_rate_hz(self) -> int:
        """The model's own rate."""
        return self._model.config.hift.sample_rate_hz

    def voices(self) -> Mapping[str, VoiceEntry]:
        """Tell which voices can be asked for, and what the manifest says of them."""
        return {name: self._model.manifest.voices.get(name, VoiceEntry()) for name in self._voices}

    def synthesize(self, request: SynthesisRequest, text: Iterable[str]) -> Iterator[AudioChunk]:
        """Speak the pieces of text as they arrive; closing the iterator stops the work.

        A sentence is spoken once it is complete. An empty piece of an iterator means: speak what is there already. With
        SSML all pieces are one document. When the text ends after its last sentence was spoken, one more chunk with
        neither flag closes the file.
        Raises: InvalidParameter and InvalidMarkup before the first chunk; Internal when the model fails
        """
        self._check(request)
        sequence = Sequence(request)
        return self._finished(sequence, self._chunks(sequence, self._segments(sequence, text)))

    def speak(self, text: str, voice: str = "default", seed: int = 0) -> tuple[Samples, int]:
        """Say a text at once: samples (L,) in [-1, 1] and their rate in Hz.

        Raises: as synthesize
        """
        request = SynthesisRequest(voice=voice, seed=seed, format="pcm", sample_rate_hz=self.sample_rate_hz)
        self._check(request)
        sequence = Sequence(request)
        pieces: list[Samples] = []
        with self._scheduler.admitted(sequence):
            for index, segment in enumerate(self._frontend.segments(text)):
                pieces += self._samples(sequence, segment, index)
                pieces.append(np.zeros(self.sample_rate_hz * segment.pause_ms // 1000, dtype=np.float32))
        return np.concatenate(pieces), self.sample_rate_hz

    def close(self) -> None:
        """Take no more requests; the memory goes when the engine does."""
        self._is_closed = True

    # ---- a request

    def _check(self, request: SynthesisRequest) -> None:
        """Refuse what this model cannot do.

        Raises: InvalidParameter naming the field; NotReady after close
        """
        if self._is_closed:
            raise NotReady("The engine has been closed.")
        if request.voice not in self._voices:
            raise InvalidParameter(UNKNOWN_VOICE)
        if request.instruction is not None and not self._takes_instruction(request.instruction):
            raise InvalidParameter(BAD_INSTRUCTION)
        _one_of("format", request.format, FORMATS)
        _one_of("sample_rate", request.sample_rate_hz, SAMPLE_RATES_HZ)
        _between("volume", request.volume, 0, 100)
        _between("rate", request.rate, 0.5, 2.0)
        _between("pitch", request.pitch, 0.5, 2.0)
        _between("bit_rate", request.bit_rate_kbps, MIN_OPUS_KBPS, MAX_OPUS_KBPS)
        _between("seed", request.seed, 0, MAX_SEED)
        self._frontend.check_language(request.language_hint)

    def _takes_instruction(self, instruction: str) -> bool:
        """Only a whole model that reads text was taught to follow instructions; control tokens are none."""
        is_base = self._model.manifest.base is None
        return is_base and self._frontend.english == "text" and "<|" not in instruction

    def _finished(self, sequence: Sequence, chunks: Iterator[AudioChunk]) -> Iterator[AudioChunk]:
        """Pass chunks on and note how the request ends."""
        try:
            with self._scheduler.admitted(sequence):
                yield from chunks
            sequence.transition(Status.FINISHED)
        except PlatformError:
            sequence.transition(Status.FAILED)
            raise
        except RuntimeError as error:
            sequence.transition(Status.FAILED)
            logger.exception("request %s: the model failed", sequence.request.request_id)
            raise Internal(f"The model failed while speaking: {error}") from error
        finally:
            if sequence.status in (Status.WAITING, Status.SPEAKING):
                sequence.transition(Status.CANCELED)

    def _segments(self, sequence: Sequence, text: Iterable[str]) -> Iterator[tuple[Segment, bool]]:
        """Give segments as the text completes them; True marks one that is known to be the last."""
        request = sequence.request
        if isinstance(text, (str, list, tuple)):
            whole: str | None = "".join(text)
            pieces: Iterator[str] = iter(())
        else:
            whole, pieces = self._whole_if_marked_up(iter(text), request.enable_ssml)
        if whole is None:
            yield from self._arriving(sequence, pieces)
            return
        with sequence.measured("text"):
            segments, warnings = self._frontend.plan(whole, request.language_hint, request.enable_ssml)
        self._log(sequence, warnings)
        for index, segment in enumerate(segments):
            yield segment, index == len(segments) - 1

    def _whole_if_marked_up(self, pieces: Iterator[str], enable_ssml: bool) -> tuple[str | None, Iterator[str]]:
        """Collect SSML whole; give plain text back as pieces, with nothing lost."""
        seen: list[str] = []
        while enable_ssml and len("".join(seen).lstrip()) < len("<speak>"):
            piece = next(pieces, None)
            if piece is None:
                break
            seen.append(piece)
        if enable_ssml and is_ssml("".join(seen)):
            return "".join([*seen, *pieces]), iter(())
        return None, _chained(seen, pieces)

    def _arriving(self, sequence: Sequence, pieces: Iterator[str]) -> Iterator[tuple[Segment, bool]]:
        stream = self._frontend.stream(sequence.request.language_hint)
        has_spoken = False
        for piece in pieces:
            with sequence.measured("text"):
                segments = stream.push(piece) if piece else stream.finish()
            for segment in segments:
                has_spoken = True
                yield segment, False
        with sequence.measured("text"):
            segments = stream.finish()
        self._log(sequence, stream.warnings)
        if not segments and not has_spoken:
            raise InvalidParameter(NOTHING_TO_SAY)
        for index, segment in enumerate(segments):
            yield segment, index == len(segments) - 1

    def _log(self, sequence: Sequence, warnings: list[str]) -> None:
        for warning in warnings:
            logger.warning("request %s: %s", sequence.request.request_id, warning)

    # ---- sentences

    def _chunks(self, sequence: Sequence, segments: Iterator[tuple[Segment, bool]]) -> Iterator[AudioChunk]:
        output: Output | None = None
        pause_ms, index, is_last = 0, 0, False
        shown = ""
        for segment, is_last in segments:
            # only now is the request known to be good: an encoder is made, the first sentence begins
            output = output or Output(sequence.request, self.sample_rate_hz)
            if segment.spoken:
                yield from self._sentence(sequence, segment, index, output, pause_ms, is_last=is_last)
                index, pause_ms, shown = index + 1, 0, segment.text
            pause_ms += segment.pause_ms
        if output is not None and not is_last:
            audio = output.finish()
            yield AudioChunk(audio, max(0, index - 1), shown, timings_ms=sequence.timings_ms())

    def _sentence(
        self, sequence: Sequence, segment: Segment, index: int, output: Output, pause_ms: int, *, is_last: bool
    ) -> Iterator[AudioChunk]:
        """Speak one sentence: chunks with sound while it streams, at the end one that closes it."""
        chunk = AudioChunk(b"", index, segment.text, is_sentence_begin=True)
        with sequence.measured("encode"):
            audio = output.silence(pause_ms)
        for samples in self._samples(sequence, segment, index):
            with sequence.measured("encode"):
                audio += output.push(samples)
            if audio and sequence.request.streaming:
                yield replace(chunk, audio=audio, duration_s=output.take_duration_s())
                chunk, audio = replace(chunk, is_sentence_begin=False), b""
        with sequence.measured("encode"):
            audio += output.end_sentence()
            if is_last:
                audio += output.silence(segment.pause_ms if segment.asked_pause else 0) + output.finish()
        timings_ms = sequence.timings_ms() if is_last else {}
        duration_s = output.take_duration_s()
        yield replace(chunk, audio=audio, duration_s=duration_s, timings_ms=timings_ms, is_sentence_end=True)

    def _samples(self, sequence: Sequence, segment: Segment, index: int) -> Iterator[Samples]:
        """Speak one sentence as samples; between the pieces other requests have their turns."""
        request, voice = sequence.request, self._voices[sequence.request.voice]
        encode = self._model.text_tokenizer.encode
        tokens = speech_tokens(
            self._model,
            voice,
            encode(self._prefix(request.instruction)),
            encode(segment.spoken),
            sampling=self._model.sampling,
            length_rule=LENGTH_RULES[self._frontend.english],
            generator=torch.Generator().manual_seed(request.seed + (MAX_SEED + 1) * index),
            continue_prompt=request.instruction is None,
        )
        tokens = without_long_silence(until_lost(tokens, request.request_id), self._silent)
        convert = stream_samples if request.streaming else samples_at_once
        pieces = convert(self._model, voice, tokens, sequence)
        if sequence.status is Status.WAITING:
            sequence.transition(Status.SPEAKING)
        while True:
            with self._scheduler.turn(sequence):
                samples = next(pieces, None)
            if samples is None:
                return
            yield samples

    def _prefix(self, instruction: str | None) -> str:
        if instruction is None:
            return self._frontend.prefix
        return f"You are a helpful assistant. {instruction}<|endofprompt|>"

    def _transcript_tokens(self, transcript: str | None) -> list[int]:
        """The prompt's words as the LM read them when it was trained: all sentences in one."""
        if not transcript:
            return []
        spoken = " ".join(segment.spoken for segment in self._frontend.segments(transcript))
        return self._model.text_tokenizer.encode(spoken)


def _chained(first: list[str], rest: Iterator[str]) -> Iterator[str]:
    yield from first
    yield from rest


def _one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise InvalidParameter(f"{name} must be one of {', '.join(map(str, known))} (got {value}).")


def _between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidParameter(f"{name} must lie in [{least}, {most}] (got {value}).")
