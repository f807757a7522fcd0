"""From clips to figures: per voice and stage, over the voices of a language, voice against voice, long sentences.

Plain records that become `report.json`; what a page shows of them is `report_page.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cosyforge.evaluation.clip_store import Clip
from cosyforge.evaluation.confusion import Confusion, confusion, gap_closed
from cosyforge.evaluation.figures import ClipFigures, StageFigures, mean_figures, summarise
from cosyforge.evaluation.instructed import InstructedFigures, instructed_figures
from cosyforge.evaluation.similarity import similarity
from cosyforge.evaluation.stages import STAGES
from cosyforge.evaluation.wer import normalise_words
from cosyforge.evaluation.yardstick import INSTRUCTED, PROMPT, STRESS, Failure, Outcome, Plan

Vector = npt.NDArray[np.float32]

FORMAT = "cosyforge-evaluation/1"


@dataclass(frozen=True)
class CloneFigures:
    """How like a speaker a clone of a few seconds is: the outside encoder's cosines to the speaker's recordings.

    random_voice: the mean of the other voices that were evaluated; closed: share of the way from there to copy-synthesis
    """

    random_voice: float | None
    clone: float
    copy: float
    closed: float | None


@dataclass(frozen=True)
class StressFigures:
    """Sentences of 2 to 40 words: of how many the ear says so, of how many the model's own alignment, and which."""

    num_clips: int
    by_ear: Mapping[str, Sequence[str]]
    by_alignment: Mapping[str, Sequence[str]]
    """swallowed, repeated, runaway -> texts."""
    num_resampled: int
    word_error_rate: float | None
    phone_error_rate: float | None
    syllable_error_rate: float | None


@dataclass(frozen=True)
class Report:
    """Everything that is told of a model.

    voices: by voice and language the figures of each stage; average: by language and stage, every voice weighs the same
    """

    model: Mapping[str, Any]
    recogniser: str
    notes: Sequence[str]
    voices: Mapping[str, Mapping[str, Mapping[str, StageFigures]]]
    average: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    confusion: Confusion | None
    clones: Mapping[str, CloneFigures]
    stress: Mapping[str, StressFigures]
    instructed: Mapping[str, Mapping[str, InstructedFigures]]
    """By language and instruction."""
    clips: Sequence[Mapping[str, Any]]
    failures: Sequence[Failure]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    def headline(self) -> dict[str, Any]:
        """The figures over all voices, without the clips."""
        whole = self.to_json()
        kept = ("model", "recogniser", "notes", "average", "clones", "instructed", "failures")
        return {name: whole[name] for name in kept}


def make_report(
    plan: Plan, outcome: Outcome, *, model: Mapping[str, Any], recogniser: str, notes: Sequence[str] = ()
) -> Report:
    """Bring the outcome of a plan together."""
    references = {voice: _reference(plan, outcome, voice) for voice in plan.voices}
    voices = {voice: _voice(plan, outcome, voice, references[voice]) for voice in plan.voices}
    compared, why_not = _confusion(plan, outcome)
    return Report(
        model=model,
        recogniser=recogniser,
        notes=[*notes, *why_not],
        voices=voices,
        average=_average(voices),
        confusion=compared,
        clones=_clones(plan, outcome),
        stress=_stress(outcome),
        instructed=_instructed(outcome),
        clips=[_clip_json(key, clip) for key, clip in outcome.clips if clip.stage != PROMPT],
        failures=outcome.failures,
    )


def _voice(plan: Plan, outcome: Outcome, voice: str, reference: Vector | None) -> dict[str, dict[str, StageFigures]]:
    name = plan.reference_of.get(voice)
    recorded = {} if name is None else {_words(c): c.figures.signal.speech_s for c in outcome.of(name, "source")}
    figures: dict[str, dict[str, StageFigures]] = {}
    for stage in STAGES:
        owner = voice if stage == "synthesis" else name
        clips = [] if owner is None else outcome.of(owner, stage)
        # recordings without a text have no language; they stand beside all of the voice's
        for language in dict.fromkeys(clip.figures.language for clip in clips):
            group = [clip for clip in clips if clip.figures.language == language]
            figures.setdefault(language, {})[stage] = _stage(group, stage, reference, recorded)
    return figures


def _stage(
    clips: Sequence[Clip], stage: str, reference: Vector | None, recorded: Mapping[tuple[str, ...], float]
) -> StageFigures:
    if stage == "source":
        likeness = _likeness(_mean(clips[::2]), _mean(clips[1::2]))
        ratios = []
    else:
        likeness = _likeness(_mean(clips), reference)
        known = [(clip.figures.signal.speech_s, recorded.get(_words(clip), 0.0)) for clip in clips if clip.figures.text]
        ratios = [spoken_s / recorded_s for spoken_s, recorded_s in known if recorded_s]
    return summarise([clip.figures for clip in clips], similarity=likeness, duration_ratios=ratios)


def _average(
    voices: Mapping[str, Mapping[str, Mapping[str, StageFigures]]],
) -> dict[str, dict[str, dict[str, float | None]]]:
    average: dict[str, dict[str, dict[str, float | None]]] = {}
    for language in dict.fromkeys(language for by_language in voices.values() for language in by_language):
        for stage in STAGES:
            found = [by[language][stage] for by in voices.values() if stage in by.get(language, {})]
            if found:
                average.setdefault(language, {})[stage] = mean_figures(found)
    return average


# ---- likeness


def _reference(plan: Plan, outcome: Outcome, voice: str) -> Vector | None:
    """Who a voice should be like: its recordings, else the prompt that it carries."""
    name = plan.reference_of.get(voice)
    return _mean(outcome.of(voice, PROMPT) if name is None else outcome.of(name, "source"))


def _confusion(plan: Plan, outcome: Outcome) -> tuple[Confusion | None, list[str]]:
    """Every voice against every voice's own reference; where a voice has none, half of its clips stands for it."""
    names = [plan.reference_of[voice] for voice in plan.voices if voice in plan.reference_of]
    if len(plan.voices) < 2:
        return None, []
    if len(set(names)) < len(names):
        return None, ["Voices were not compared with each other: several of them share one reference."]
    spoken: dict[str, list[Vector]] = {}
    references: dict[str, Vector] = {}
    kinds: dict[str, str] = {}
    for voice in plan.voices:
        vectors = [clip.embedding for clip in outcome.of(voice, "synthesis") if clip.embedding is not None]
        reference = _reference(plan, outcome, voice)
        kinds[voice] = "recordings" if voice in plan.reference_of else "prompt"
        if reference is None and len(vectors) >= 2:
            reference, vectors = np.mean(vectors[1::2], axis=0), vectors[::2]
            kinds[voice] = "the other half of its own sentences"
        if reference is None or not vectors:
            return None, [f"Voices were not compared with each other: {voice} has too few clips, or nobody compares."]
        spoken[voice], references[voice] = vectors, reference
    return confusion(spoken, references, kinds), []


def _clones(plan: Plan, outcome: Outcome) -> dict[str, CloneFigures]:
    figures = {}
    for name in plan.references:
        speaker = _mean(outcome.of(name, "source"))
        clone = _likeness(_mean(outcome.of(name, "clone")), speaker)
        copy = _likeness(_mean(outcome.of(name, "copy")), speaker)
        if clone is None or copy is None:
            continue
        others = [
            likeness
            for voice in plan.voices
            if plan.reference_of.get(voice) != name
            and (likeness := _likeness(_mean(outcome.of(voice, "synthesis")), speaker)) is not None
        ]
        random_voice = float(np.mean(others)) if others else None
        closed = None if random_voice is None else gap_closed(random_voice, clone, copy)
        figures[name] = CloneFigures(random_voice, clone, copy, closed)
    return figures


def _mean(clips: Sequence[Clip]) -> Vector | None:
    known = [clip.embedding for clip in clips if clip.embedding is not None]
    return np.mean(known, axis=0) if known else None


def _likeness(one: Vector | None, other: Vector | None) -> float | None:
    return None if one is None or other is None else similarity(one, other)


# ---- long and short sentences


def _stress(outcome: Outcome) -> dict[str, StressFigures]:
    clips = [clip for _, clip in outcome.clips if clip.stage == STRESS]
    return {
        language: _stress_figures([clip for clip in clips if clip.figures.language == language])
        for language in dict.fromkeys(clip.figures.language for clip in clips)
    }


def _stress_figures(clips: Sequence[Clip]) -> StressFigures:
    summary = summarise([clip.figures for clip in clips])
    followed = [(clip.figures.text, clip.followed) for clip in clips if clip.followed is not None]
    return StressFigures(
        num_clips=len(clips),
        by_ear={
            "swallowed": [c.figures.text for c in clips if c.figures.delivery.swallowed],
            "repeated": [c.figures.text for c in clips if c.figures.delivery.repeated],
            "runaway": [c.figures.text for c in clips if _is_runaway(c.figures)],
        },
        by_alignment={
            "swallowed": [text for text, each in followed if each.is_swallowed],
            "repeated": [text for text, each in followed if each.is_repeated],
            "runaway": [text for text, each in followed if each.is_runaway],
        },
        num_resampled=sum(each.num_resampled for _, each in followed),
        word_error_rate=summary.word_error_rate,
        phone_error_rate=summary.phone_error_rate,
        syllable_error_rate=summary.syllable_error_rate,
    )


def _instructed(outcome: Outcome) -> dict[str, dict[str, InstructedFigures]]:
    told = [clip for _, clip in outcome.clips if clip.stage == INSTRUCTED]
    plain = [clip for _, clip in outcome.clips if clip.stage == "synthesis"]
    found: dict[str, dict[str, InstructedFigures]] = {}
    for language, instruction in dict.fromkeys((clip.figures.language, clip.instruction) for clip in told):
        same = [c for c in told if c.instruction == instruction and c.figures.language == language]
        figures = instructed_figures(same, plain)
        if figures is not None:
            found.setdefault(language, {})[instruction] = figures
    return found


def _is_runaway(figures: ClipFigures) -> bool:
    return figures.delivery.is_runaway or figures.fault == "runaway"


# ---- clips


def _words(clip: Clip) -> tuple[str, ...]:
    return tuple(normalise_words(clip.figures.text))


def _clip_json(key: str, clip: Clip) -> dict[str, Any]:
    return {
        "voice": clip.voice,
        "stage": clip.stage,
        "instruction": clip.instruction,
        "file": f"clips/{key}.flac",
        **asdict(clip.figures),
        "error_rate": clip.figures.error_rate,
        "followed": None if clip.followed is None else asdict(clip.followed),
    }
