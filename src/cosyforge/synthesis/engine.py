"""The speaking engine: one model in this process, and the loop that every request goes through.

    text pieces -> Segments -> speech tokens -> samples -> bytes, sentence by sentence

Several requests may speak at once: each takes the networks for one chunk, then the next in line does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cosyforge.audio.encode import FORMATS, MAX_OPUS_KBPS, MIN_OPUS_KBPS, SAMPLE_RATES_HZ
from cosyforge.cosyvoice.devices import usable_device
from cosyforge.cosyvoice.manifest import VoiceEntry
from cosyforge.cosyvoice.packed import pack
from cosyforge.cosyvoice.text_tokenizer import END_OF_PROMPT
from cosyforge.cosyvoice.weights import load_model
from cosyforge.errors import Internal, InvalidParameter, NotReady, PlatformError
from cosyforge.synthesis.incoming import arriving_segments
from cosyforge.synthesis.instruction import read_instruction
from cosyforge.synthesis.output import Output, speaking_rate
from cosyforge.synthesis.reading import Reading, stacked
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest, Word
from cosyforge.synthesis.scheduler import Scheduler
from cosyforge.synthesis.sequence import Canceled, Sequence, Status
from cosyforge.synthesis.stream import LENGTH_RULES, PreparedVoice, candidates_for, silent_tokens, stream_samples
from cosyforge.synthesis.words import Loudness, spoken_places, word_times
from cosyforge.text.frontend import Frontend
from cosyforge.text.segment import Segment

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
        Raises: InvalidParameter when the model cannot be loaded or there is no such device
        """
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self._model = load_model(
            model_directory,
            base_directory=base_directory,
            device=usable_device(device),
            networks=("lm", "flow", "hift"),
        )
        self._model.hift.fuse()
        pack(self._model.lm)
        pack(self._model.flow)
        self._frontend = Frontend(asdict(self._model.frontend))
        self._silent = silent_tokens(self._model)
        self._follows = self._model.config.lm.alignment_head is not None
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
        request, warnings = self._instructed(request)
        sequence = Sequence(request, getattr(text, "is_canceled", lambda: False))
        sequence.warnings += warnings
        segments = arriving_segments(self._frontend, sequence, text)
        # only once the request is known to be good is an encoder made
        return self._finished(sequence, self._chunks(sequence, segments, lambda: Output(request, self.sample_rate_hz)))

    def speak(self, text: str, voice: str = "default", seed: int = 0) -> tuple[Samples, int]:
        """Say a text at once: samples (L,) in [-1, 1] and their rate in Hz.

        Raises: as synthesize
        """
        request = SynthesisRequest(voice=voice, seed=seed, format="pcm", sample_rate_hz=self.sample_rate_hz)
        self._check(request)
        sequence = Sequence(request)
        samples = _Collected()
        segments = arriving_segments(self._frontend, sequence, text)
        chunks = self._chunks(sequence, segments, lambda: Output(request, self.sample_rate_hz, samples))
        for _ in self._finished(sequence, chunks):
            pass
        return np.concatenate(samples.pieces), self.sample_rate_hz

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
        """Only a whole model that reads text, or was taught words for it, follows instructions; control tokens are none."""
        is_base = self._model.manifest.base is None
        is_taught = self._frontend.english == "text" or bool(self._frontend.instructions)
        return is_base and is_taught and "<|" not in instruction

    def _instructed(self, request: SynthesisRequest) -> tuple[SynthesisRequest, list[str]]:
        """Where the model was taught words, the instruction becomes these, and pitch, its range and volume of the request.

        The second part says what could not be followed.
        """
        taught = self._frontend.instructions
        if not request.instruction or not taught:
            return request, []
        asked = read_instruction(request.instruction, taught)
        can = f"this model speaks {', '.join(taught)}, higher or lower, louder or more quietly"
        heeded = replace(
            request,
            instruction=", ".join(asked.words) or None,
            pitch=min(2.0, max(0.5, request.pitch * asked.pitch)),
            volume=min(100, round(request.volume * asked.volume)),
            melody_range=request.melody_range * asked.melody_range,
        )
        return heeded, [f"instruction: {what!r} was not followed; {can}" for what in asked.not_followed]

    def _finished(self, sequence: Sequence, chunks: Iterator[AudioChunk]) -> Iterator[AudioChunk]:
        """Pass chunks on and note how the request ends."""
        try:
            with self._scheduler.admitted(sequence):
                yield from chunks
            sequence.transition(Status.FINISHED)
        except Canceled:
            sequence.transition(Status.CANCELED)
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

    # ---- sentences

    def _chunks(
        self, sequence: Sequence, segments: Iterator[tuple[Segment, bool]], make_output: Callable[[], Output]
    ) -> Iterator[AudioChunk]:
        output: Output | None = None
        lead: list[Segment] = []  # pauses and sounds before the next sentence
        index, is_last, shown = 0, False, ""
        for segment, is_last in segments:
            output = output or make_output()
            if segment.spoken:
                with sequence.measured("encode"):
                    audio = b"".join(_after(output, each) for each in lead) + output.enter(segment)
                yield from self._sentence(sequence, segment, index, output, audio, is_last=is_last)
                index, shown = index + 1, segment.text
                lead = []
            lead.append(segment)
        if output is None or (is_last and lead[-1].spoken):
            return
        if sequence.status is Status.WAITING:  # sounds alone
            sequence.transition(Status.SPEAKING)
        with sequence.measured("encode"):
            audio = b"".join(_after(output, each) for each in lead if is_last) + output.finish()
        yield AudioChunk(
            audio,
            max(0, index - 1),
            shown,
            duration_s=output.take_duration_s(),
            timings_ms=sequence.timings_ms(),
            report=sequence.summary(),
        )

    def _sentence(
        self, sequence: Sequence, segment: Segment, index: int, output: Output, audio: bytes, *, is_last: bool
    ) -> Iterator[AudioChunk]:
        """Speak one sentence: chunks with sound while it streams, at the end one that closes it.

        audio: what was written before it begins
        """
        chunk = AudioChunk(b"", index, segment.text, is_sentence_begin=True)
        reading = self._reading(sequence, segment, index)
        begin_ms = output.position_ms
        output.begin_sentence(segment)
        loudness = Loudness(self.sample_rate_hz)
        for samples in self._samples(sequence, reading):
            if sequence.request.word_timestamps:
                loudness.push(samples)
            with sequence.measured("encode"):
                audio += output.push(samples)
            if audio and sequence.request.streaming:
                yield replace(chunk, audio=audio, duration_s=output.take_duration_s())
                chunk, audio = replace(chunk, is_sentence_begin=False), b""
        with sequence.measured("encode"):
            audio += output.end_sentence()
        chunk = replace(chunk, is_sentence_end=True)
        if sequence.request.word_timestamps:
            times = {"begin_ms": begin_ms, "end_ms": output.position_ms}
            chunk = replace(chunk, words=self._words(sequence, segment, reading, loudness, **times))
        if is_last:
            with sequence.measured("encode"):
                audio += output.silence(segment.pause_ms if segment.asked_pause else 0) + output.finish()
            chunk = replace(chunk, timings_ms=sequence.timings_ms(), report=sequence.summary())
        yield replace(chunk, audio=audio, duration_s=output.take_duration_s())

    def _reading(self, sequence: Sequence, segment: Segment, index: int) -> Reading:
        request, voice = sequence.request, self._voices[sequence.request.voice]
        encode = self._model.text_tokenizer.encode
        rule, text = LENGTH_RULES[self._frontend.reads(segment.language)], encode(segment.spoken)
        with self._scheduler.turn(sequence), sequence.measured("lm"):
            sequence.go_on()
            candidates = candidates_for(
                self._model,
                voice,
                encode(self._prefix(request.instruction)),
                text,
                length_rule=rule,
                continue_prompt=request.instruction is None,
            )
        return Reading(
            candidates,
            seed=request.seed + (MAX_SEED + 1) * index,
            silent=self._silent,
            most_tokens=rule.plausible(len(text)),
            follows=self._follows,
            report=sequence.report,
            on_draw=sequence.go_on,
            label=request.request_id,
        )

    def _samples(self, sequence: Sequence, reading: Reading) -> Iterator[Samples]:
        """Speak one sentence as samples; between the pieces other requests have their turns."""
        voice = self._voices[sequence.request.voice]
        pieces = stream_samples(self._model, voice, reading.tokens(), sequence, on_step=sequence.go_on)
        if sequence.status is Status.WAITING:
            sequence.transition(Status.SPEAKING)
        while True:
            with self._scheduler.turn(sequence):
                samples = next(pieces, None)
            if samples is None:
                return
            yield samples

    def _words(
        self,
        sequence: Sequence,
        segment: Segment,
        reading: Reading,
        loudness: Loudness,
        *,
        begin_ms: float,
        end_ms: float,
    ) -> tuple[Word, ...]:
        spans = self._model.text_tokenizer.spans(segment.spoken)
        places = spoken_places(stacked(reading.attention, len(spans)), follows=self._follows)
        return word_times(
            segment.text,
            segment.alignment,
            spans,
            places,
            begin_ms=begin_ms,
            end_ms=end_ms,
            rate=speaking_rate(sequence.request, segment),
            audible=loudness.audible(),
        )

    def _prefix(self, instruction: str | None) -> str:
        if not instruction:
            return self._frontend.prefix
        if self._frontend.instructions:
            head = self._frontend.prefix.removesuffix(END_OF_PROMPT)
            return f"{head} {instruction}{END_OF_PROMPT}".lstrip()
        return f"You are a helpful assistant. {instruction}<|endofprompt|>"

    def _transcript_tokens(self, transcript: str | None) -> list[int]:
        """The prompt's words as the LM read them when it was trained: all sentences in one."""
        if not transcript:
            return []
        spoken = " ".join(segment.spoken for segment in self._frontend.segments(transcript))
        return self._model.text_tokenizer.encode(spoken)


class _Collected:
    """Takes samples where an encoder would."""

    def __init__(self) -> None:
        self.pieces: list[Samples] = []

    def encode(self, samples: Samples) -> bytes:
        self.pieces.append(samples)
        return b""

    def finish(self) -> bytes:
        return b""


def _after(output: Output, segment: Segment) -> bytes:
    """What follows a sentence, or stands for one: a sound, a pause."""
    audio = output.enter(segment)
    if segment.sound is not None:
        audio += output.sound(segment.sound)
    return audio + output.silence(segment.pause_ms)


def _one_of(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise InvalidParameter(f"{name} must be one of {', '.join(map(str, known))} (got {value}).")


def _between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise InvalidParameter(f"{name} must lie in [{least}, {most}] (got {value}).")
