"""How good a voice is, in figures: words understood, likeness to recordings, pitch, pace, faults.

`score_clips` is pure: clips in, figures out. `evaluate_model` lets a model speak first. What a figure is worth is shown
by the same figure for the real recordings, which stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from cosyforge.evaluation.phones import count_phones as count_phones
from cosyforge.evaluation.signal import SignalFigures, fault, measure, phones_per_s
from cosyforge.evaluation.similarity import VoiceEncoder, similarity
from cosyforge.evaluation.transcriber import Transcriber
from cosyforge.evaluation.wer import WordErrors, normalise_words, repeated_words, word_errors

Vector = npt.NDArray[np.float32]


class Speaker(Protocol):
    """What is needed of a model to be judged; `synthesis.engine.Engine` is one."""

    def speak(self, text: str, voice: str, seed: int) -> tuple[npt.NDArray[np.float32], int]:
        """Say a text: samples (L,) and their rate in Hz."""
        ...


class Recording(NamedTuple):
    """A clip and the words in it; `Recording(*read_wav(path))` is one whose words are not known.

    Shapes: samples (L,) in [-1, 1]
    """

    samples: npt.NDArray[np.float32]
    sample_rate_hz: int
    text: str = ""


@dataclass(frozen=True)
class ClipScore:
    """One clip judged. None stands where nothing could be measured (a silent clip, a word without known phones)."""

    text: str
    heard: str
    words: WordErrors
    repeated_words: int
    signal: SignalFigures
    phones_per_s: float | None
    fault: str | None
    """silent, runaway, cut off; None when all is well."""
    similarity: float | None
    """Likeness of this clip to the mean voice of the recordings (without itself, when it is one of them)."""
    duration_ratio: float | None
    """Length of the speech against the recording of the same text, where there is one."""


@dataclass(frozen=True)
class VoiceFigures:
    """Several clips of one voice as a whole.

    Units: pitch in Hz, pace in phones per second, both the middle of the clips
    """

    num_clips: int
    words: WordErrors
    word_error_rate: float | None
    """None when the clips' words are not known."""
    similarity: float | None
    """Mean voice of the clips against that of the recordings; for the recordings, one half against the other."""
    median_f0_hz: float | None
    phones_per_s: float | None
    duration_ratio: float | None
    num_faults: int


@dataclass(frozen=True)
class Scorecard:
    """What a voice said, and the recordings that it should be like."""

    spoken: VoiceFigures
    recorded: VoiceFigures | None
    spoken_clips: tuple[ClipScore, ...]
    recorded_clips: tuple[ClipScore, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_model(
    engine: Speaker,
    sentences: Sequence[str],
    references: Sequence[Recording],
    transcriber: Transcriber,
    encoder: VoiceEncoder | None,
    *,
    voice: str = "default",
    seed: int = 0,
) -> Scorecard:
    """Let a model say the sentences and judge it by recordings of the wanted speaker, if there are any.

    Recordings with their texts also show how far the recogniser itself can be trusted, and give the duration ratio.

    Raises: ValueError when there is no sentence; what the engine raises
    """
    spoken = [Recording(*engine.speak(text, voice, seed), text) for text in sentences]
    return score_clips(spoken, references, transcriber, encoder)


def score_clips(
    spoken: Sequence[Recording],
    references: Sequence[Recording],
    transcriber: Transcriber,
    encoder: VoiceEncoder | None,
) -> Scorecard:
    """Judge clips of one voice against recordings of a speaker; without an encoder or references no likeness is given.

    Raises: ValueError when no clip was spoken
    """
    return Judge(references, transcriber, encoder).score(spoken)


class Judge:
    """Recordings of one speaker, listened to once, and any number of voices judged by them."""

    def __init__(self, references: Sequence[Recording], transcriber: Transcriber, encoder: VoiceEncoder | None) -> None:
        self._transcriber = transcriber
        self._encoder = encoder
        self._voices = [_voice(clip, encoder) for clip in references]
        self._by_text = {_key(clip.text): clip for clip in references if clip.text}
        self.recorded_clips = tuple(
            # a recording is compared with the others: with itself it would be perfectly alike
            _score_clip(clip, transcriber, _likeness(voice, self._voices[:i] + self._voices[i + 1 :]), None)
            for i, (clip, voice) in enumerate(zip(references, self._voices, strict=True))
        )
        half_to_half = _likeness(_mean_voice(self._voices[::2]), self._voices[1::2])
        self.recorded = _summary(self.recorded_clips, half_to_half) if references else None

    def score(self, spoken: Sequence[Recording]) -> Scorecard:
        """Judge clips of one voice.

        Raises: ValueError when there is no clip
        """
        if not spoken:
            raise ValueError("nothing to judge: give at least one sentence")
        voices = [_voice(clip, self._encoder) for clip in spoken]
        clips = tuple(
            _score_clip(clip, self._transcriber, _likeness(voice, self._voices), self._by_text.get(_key(clip.text)))
            for clip, voice in zip(spoken, voices, strict=True)
        )
        return Scorecard(
            spoken=_summary(clips, _likeness(_mean_voice(voices), self._voices)),
            recorded=self.recorded,
            spoken_clips=clips,
            recorded_clips=self.recorded_clips,
        )


def _key(text: str) -> tuple[str, ...]:
    return tuple(normalise_words(text))


def _voice(clip: Recording, encoder: VoiceEncoder | None) -> Vector | None:
    if encoder is None or not np.any(clip.samples):
        return None
    return encoder.embed(clip.samples, clip.sample_rate_hz)


def _mean_voice(voices: Sequence[Vector | None]) -> Vector | None:
    known = [voice for voice in voices if voice is not None]
    return np.mean(known, axis=0) if known else None


def _likeness(voice: Vector | None, others: Sequence[Vector | None]) -> float | None:
    mean = _mean_voice(others)
    return None if voice is None or mean is None else similarity(voice, mean)


def _score_clip(
    clip: Recording, transcriber: Transcriber, likeness: float | None, same_text: Recording | None
) -> ClipScore:
    signal = measure(clip.samples, clip.sample_rate_hz)
    heard = "" if not clip.text else transcriber.transcribe(clip.samples, clip.sample_rate_hz)
    num_phones = count_phones(clip.text)
    recorded_s = measure(same_text.samples, same_text.sample_rate_hz).speech_s if same_text else 0.0
    return ClipScore(
        text=clip.text,
        heard=heard,
        words=word_errors(clip.text, heard),
        repeated_words=repeated_words(clip.text, heard),
        signal=signal,
        phones_per_s=phones_per_s(signal, num_phones) if num_phones else None,
        fault=fault(signal, num_phones) if num_phones else None,
        similarity=likeness,
        duration_ratio=signal.speech_s / recorded_s if recorded_s else None,
    )


def _summary(clips: Sequence[ClipScore], likeness: float | None) -> VoiceFigures:
    words = sum((clip.words for clip in clips), WordErrors())
    pitches = [clip.signal.median_f0_hz for clip in clips if clip.signal.median_f0_hz is not None]
    paces = [clip.phones_per_s for clip in clips if clip.phones_per_s is not None]
    ratios = [clip.duration_ratio for clip in clips if clip.duration_ratio is not None]
    return VoiceFigures(
        num_clips=len(clips),
        words=words,
        word_error_rate=words.rate if words.num_words else None,
        similarity=likeness,
        median_f0_hz=median(pitches) if pitches else None,
        phones_per_s=median(paces) if paces else None,
        duration_ratio=fmean(ratios) if ratios else None,
        num_faults=sum(clip.fault is not None for clip in clips),
    )
