"""The whole evaluation of a model: which clips are made, in which order, and what is kept for going on.

Recordings go first, through ever more of the model (`stages.py`); then the model speaks. One clip that fails is told of
with its text and costs no other. With a folder everything made is kept (`clip_store.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import cosyforge
from cosyforge.cosyvoice.manifest import manifest_digest
from cosyforge.cosyvoice.model import CosyVoice
from cosyforge.cosyvoice.weights import load_model
from cosyforge.errors import PlatformError
from cosyforge.evaluation.clip_store import Clip, ClipStore, as_kept
from cosyforge.evaluation.delivery import Followed
from cosyforge.evaluation.figures import ClipFigures, Ears, measure_clip
from cosyforge.evaluation.scorecard import Recording
from cosyforge.evaluation.similarity import VoiceEncoder
from cosyforge.evaluation.speaking import SpeakingModel, speak
from cosyforge.evaluation.stages import (
    CLONE_VOICE,
    COPY_STAGES,
    Copier,
    prompt_recording,
    write_voice_directory,
)
from cosyforge.synthesis.engine import Engine

Samples = npt.NDArray[np.float32]
MakeEngine = Callable[[Path, Path | None], SpeakingModel]
"""A model directory and its base's, where that has moved, to something that speaks."""

STRESS = "stress"
INSTRUCTED = "instructed"
PROMPT = "prompt"
"""Three more stages: long and short sentences put together by chance; sentences said as an instruction tells; a voice's own
prompt, made audible."""

_CODE = ("audio", "cosyvoice", "dataset", "evaluation", "synthesis", "text")
"""What the sound and its figures hang on besides the model: clips are not taken over from another code."""


@dataclass(frozen=True)
class Plan:
    """What is to be said and compared.

    sentences, stress: per voice; instructions: ways in which each voice says its sentences once more
    references: recordings by name; reference_of: which of them a voice should be like
    """

    sentences: Mapping[str, Sequence[str]]
    references: Mapping[str, Sequence[Recording]] = field(default_factory=dict)
    reference_of: Mapping[str, str] = field(default_factory=dict)
    stress: Mapping[str, Sequence[str]] = field(default_factory=dict)
    instructions: Sequence[str] = ()
    makes_clones: bool = False
    seed: int = 0

    @property
    def voices(self) -> list[str]:
        return list(self.sentences)


@dataclass(frozen=True)
class Failure:
    """A clip that could not be made or measured, and why."""

    voice: str
    stage: str
    text: str
    error: str
    instruction: str = ""


@dataclass
class Outcome:
    """Everything that was made. A copy or clone carries the reference's name as its voice."""

    clips: list[tuple[str, Clip]] = field(default_factory=list)
    """With the key of each, by which its file is found."""
    failures: list[Failure] = field(default_factory=list)

    def of(self, voice: str, stage: str) -> list[Clip]:
        return [clip for _, clip in self.clips if clip.voice == voice and clip.stage == stage]


class Yardstick:
    """Evaluates one model."""

    def __init__(
        self,
        model_directory: Path,
        ears: Ears,
        encoder: VoiceEncoder | None,
        store: ClipStore,
        work_directory: Path,
        *,
        base_directory: Path | None = None,
        on_line: Callable[[str], None] = lambda line: None,
        make_engine: MakeEngine = lambda directory, base: Engine(directory, base_directory=base),
    ) -> None:
        """work_directory: a place for the voices of clones; on_line: gets a line for every clip"""
        self._make_engine = make_engine
        self._directory = model_directory
        self._base_directory = base_directory
        self._ears = ears
        self._encoder = encoder
        self._store = store
        self._work = work_directory
        self._on_line = on_line
        self._outcome = Outcome()
        self._num_done = self._num_planned = 0
        encoder_name = "none" if encoder is None else type(encoder).__name__
        self._common = {"encoder": encoder_name, "code": code_digest()}
        self._model_key = {"model": manifest_digest(model_directory)}

    def run(self, plan: Plan) -> Outcome:
        """Make and measure every clip of the plan.

        Raises: InvalidParameter when the model or a reference as a whole cannot be used
        """
        self._outcome = Outcome()
        self._num_done, self._num_planned = 0, _num_clips(plan)
        for name, recordings in plan.references.items():
            self._copies(name, recordings)
            if plan.makes_clones:
                self._clones(name, recordings, plan)
        self._prompts(plan)
        vars(self).pop("_model", None)  # the networks are not needed twice in memory
        for voice in plan.voices:
            self._spoken(self._engine, voice, "synthesis", plan.sentences[voice], plan.seed)
            self._spoken(self._engine, voice, STRESS, plan.stress.get(voice, ()), plan.seed)
            for instruction in plan.instructions:
                texts = plan.sentences[voice]
                self._spoken(self._engine, voice, INSTRUCTED, texts, plan.seed, instruction=instruction)
        return self._outcome

    # ---- what is made

    def _copies(self, name: str, recordings: Sequence[Recording]) -> None:
        copier: list[Copier] = []  # made when the first clip needs it
        for index, recording in enumerate(recordings):
            for stage in COPY_STAGES:

                def make(stage: str = stage, index: int = index) -> tuple[Samples, int, None]:
                    if stage == "source":
                        return recordings[index].samples, recordings[index].sample_rate_hz, None
                    if not copier:
                        copier.append(Copier(self._model, recordings))
                    copy = next(iter(copier[0].copies(index, (stage,))))
                    return copy.samples, copy.sample_rate_hz, None

                hangs_on: dict[str, Any] = {"recording": _digest(recording)}
                if stage == "copy":  # its voice and its prompt come from the others
                    hangs_on["recordings"] = [_digest(each) for each in recordings]
                if stage not in ("source", "griffin_lim"):
                    hangs_on |= self._model_key
                self._clip(name, stage, recording.text, hangs_on, make)

    def _clones(self, name: str, recordings: Sequence[Recording], plan: Plan) -> None:
        try:
            copier = Copier(self._model, recordings)
            directory = write_voice_directory(copier.cloned_voice(), self._directory, self._work / f"clone-{name}")
            engine = self._make_engine(directory, self._directory)
        except (PlatformError, RuntimeError, ValueError) as error:
            self._fail(name, "clone", "", error)
            return
        # what is in the prompt is not said again, lest the clone only repeat it
        prompts = {recordings[index].text for index in copier.clone_clips}
        voices = [voice for voice in plan.voices if plan.reference_of.get(voice) == name]
        texts = dict.fromkeys(text for voice in voices for text in plan.sentences[voice] if text not in prompts)
        extra = {"recordings": [_digest(each) for each in recordings]}
        self._spoken(engine, name, "clone", list(texts), plan.seed, spoken_as=CLONE_VOICE, extra=extra)

    def _prompts(self, plan: Plan) -> None:
        for voice in plan.voices:
            if voice in plan.reference_of:
                continue

            def make(voice: str = voice) -> tuple[Samples, int, None] | None:
                model = self._model
                prompt = prompt_recording(model.voices[voice], model.config.hift.sample_rate_hz)
                return None if prompt is None else (prompt.samples, prompt.sample_rate_hz, None)

            self._clip(voice, PROMPT, "", {"voice": voice, **self._model_key}, make)

    def _spoken(
        self,
        model: SpeakingModel,
        voice: str,
        stage: str,
        texts: Sequence[str],
        seed: int,
        *,
        spoken_as: str | None = None,
        instruction: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        hangs_on = {"seed": seed, "instruction": instruction, **self._model_key, **(extra or {})}
        for text in texts:

            def make(text: str = text) -> tuple[Samples, int, Followed]:
                return speak(model, text, spoken_as or voice, seed, instruction)

            self._clip(voice, stage, text, hangs_on, make, instruction)

    # ---- one clip

    def _clip(
        self,
        voice: str,
        stage: str,
        text: str,
        hangs_on: Mapping[str, Any],
        make: Callable[[], tuple[Samples, int, Followed | None] | None],
        instruction: str = "",
    ) -> None:
        ears = self._ears.name_for(text)
        key = self._store.key({"voice": voice, "stage": stage, "text": text, "ears": ears, **self._common, **hangs_on})
        clip = self._store.read(key)
        if clip is None:
            try:
                made = make()
                if made is None:
                    self._num_planned -= 1
                    return
                clip = replace(self._measured(voice, stage, text, *made), instruction=instruction)
            except (PlatformError, RuntimeError, ValueError) as error:
                self._fail(voice, stage, text, error, instruction)
                return
            self._store.write(key, clip)
        self._outcome.clips.append((key, clip))
        self._tell(voice, stage, _line(clip.figures))

    def _measured(
        self, voice: str, stage: str, text: str, samples: Samples, sample_rate_hz: int, followed: Followed | None
    ) -> Clip:
        samples = as_kept(samples)
        figures = measure_clip(samples, sample_rate_hz, text, self._ears)
        embedding = None if self._encoder is None or not samples.any() else self._encoder.embed(samples, sample_rate_hz)
        return Clip(voice, stage, samples, sample_rate_hz, figures, embedding, followed)

    def _fail(self, voice: str, stage: str, text: str, error: Exception, instruction: str = "") -> None:
        message = error.message if isinstance(error, PlatformError) else str(error)
        self._outcome.failures.append(Failure(voice, stage, text, message, instruction))
        self._tell(voice, stage, f"FAILED: {message} | {text}")

    def _tell(self, voice: str, stage: str, what: str) -> None:
        self._num_done += 1
        self._on_line(f"[{self._num_done}/{max(self._num_planned, self._num_done)}] {voice} {stage}: {what}")

    @cached_property
    def _model(self) -> CosyVoice:
        return load_model(
            self._directory,
            base_directory=self._base_directory,
            networks=("flow", "hift", "speech_tokenizer", "speaker_encoder"),
        )

    @cached_property
    def _engine(self) -> SpeakingModel:
        return self._make_engine(self._directory, self._base_directory)


def code_digest() -> str:
    """Digest of the code that makes sound and measures it."""
    root = Path(cosyforge.__file__).parent
    digest = hashlib.sha256()
    for path in _code_files(root):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _code_files(root: Path) -> Iterator[Path]:
    for folder in _CODE:
        yield from sorted((root / folder).rglob("*.py"))


def _digest(recording: Recording) -> str:
    digest = hashlib.sha256(f"{recording.sample_rate_hz} {recording.text}".encode())
    digest.update(np.ascontiguousarray(recording.samples, dtype=np.float32).tobytes())
    return digest.hexdigest()[:32]


def _num_clips(plan: Plan) -> int:
    """How many clips there will be, about: a clone does not say what is in its prompt."""
    spoken = sum(len(texts) for texts in plan.sentences.values()) * (1 + len(plan.instructions))
    spoken += sum(len(texts) for texts in plan.stress.values())
    copies = len(COPY_STAGES) * sum(len(recordings) for recordings in plan.references.values())
    cloned = 0
    if plan.makes_clones:
        cloned = sum(
            len(
                {
                    text
                    for voice in plan.voices
                    if plan.reference_of.get(voice) == name
                    for text in plan.sentences[voice]
                }
            )
            for name in plan.references
        )
    prompts = sum(voice not in plan.reference_of for voice in plan.voices)
    return spoken + copies + cloned + prompts


def _line(figures: ClipFigures) -> str:
    rates = {"words": figures.words, "phones": figures.phones, "syllables": figures.syllables, "tones": figures.tones}
    shown = [f"{name} {counts.rate:.2f}" for name, counts in rates.items() if counts and counts.num_words]
    marks = [figures.fault] if figures.fault else []
    marks += ["swallowed " + " ".join(figures.delivery.swallowed)] if figures.delivery.swallowed else []
    marks += ["repeated " + " ".join(figures.delivery.repeated)] if figures.delivery.repeated else []
    return " ".join([*shown, *marks]) + (f" | {figures.text}" if figures.text else f"{figures.signal.duration_s:.1f} s")
