"""What an instruction changes: the same sentences, by the same voices, said plainly and as told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log2
from operator import sub
from statistics import fmean

from cosyforge.evaluation.clip_store import Clip
from cosyforge.evaluation.figures import ClipFigures, summarise


@dataclass(frozen=True)
class Change:
    """How one quality of speech moved from the plain sentences to the told ones.

    mean: over the sentences; up: share of the sentences in which it rose; num_clips: sentences that have it both times
    """

    mean: float
    up: float
    num_clips: int


@dataclass(frozen=True)
class InstructedFigures:
    """Units: length as a factor, pitch and its range in semitones; rates of errors as in StageFigures, plain beside told."""

    num_clips: int
    length: Change | None
    pitch: Change | None
    pitch_range: Change | None
    word_error_rate: float | None
    plain_word_error_rate: float | None
    syllable_error_rate: float | None
    plain_syllable_error_rate: float | None


def instructed_figures(told: Sequence[Clip], plain: Sequence[Clip]) -> InstructedFigures | None:
    """Compare what was said as told with the same text of the same voice; None where nothing has its plain like."""
    pairs = list(_pairs(told, plain))
    if not pairs:
        return None
    as_told, as_plain = summarise([one for one, _ in pairs]), summarise([other for _, other in pairs])
    return InstructedFigures(
        num_clips=len(pairs),
        length=_change([(one.signal.speech_s, other.signal.speech_s) for one, other in pairs], _factor, plain_at=1.0),
        pitch=_change([(one.signal.median_f0_hz, other.signal.median_f0_hz) for one, other in pairs], _semitones),
        pitch_range=_change(
            [(one.signal.f0_range_semitones, other.signal.f0_range_semitones) for one, other in pairs], sub
        ),
        word_error_rate=as_told.word_error_rate,
        plain_word_error_rate=as_plain.word_error_rate,
        syllable_error_rate=as_told.syllable_error_rate,
        plain_syllable_error_rate=as_plain.syllable_error_rate,
    )


def _pairs(told: Sequence[Clip], plain: Sequence[Clip]) -> Iterator[tuple[ClipFigures, ClipFigures]]:
    said = {(clip.voice, clip.figures.text): clip.figures for clip in plain}
    for clip in told:
        other = said.get((clip.voice, clip.figures.text))
        if other is not None:
            yield clip.figures, other


def _factor(value: float, plain: float) -> float | None:
    return value / plain if plain > 0 else None


def _semitones(value: float, plain: float) -> float | None:
    return 12 * log2(value / plain) if value > 0 and plain > 0 else None


def _change(
    values: Sequence[tuple[float | None, float | None]],
    compare: Callable[[float, float], float | None],
    plain_at: float = 0.0,
) -> Change | None:
    changes = [
        change
        for value, plain in values
        if value is not None and plain is not None and (change := compare(value, plain)) is not None
    ]
    if not changes:
        return None
    return Change(fmean(changes), fmean(change > plain_at for change in changes), len(changes))
