"""Which clip of a speaker stands for the voice, the prompt that the tuned model continues from; which are unlike it.

A good prompt is clean, of a handy length, and typical: pitch, pace and timbre near the middle of all clips, because
what is odd in it (a shout, a hurry, a hum) colours every later sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosyforge.evaluation.signal import frame_levels_db, measure

PROMPT_S = (3.0, 8.0)
"""Long enough to show a voice, short enough not to slow down every sentence."""

MAX_CANDIDATES = 200
"""Clips that are measured; more would only take time."""

ODD_DEVIATIONS = 6.0
ODD_LEAST = 0.15
"""A clip is odd when its likeness lies so many usual deviations, and at least so much, below the middle."""

_CLEAN_SNR_DB = 35.0
_EASY_PAUSE_S = 0.5


@dataclass(frozen=True)
class PromptFigures:
    """What makes a clip a good or a bad prompt.

    Units: snr_db between loud and quiet frames; pace in letters per second of speech; likeness is the cosine to the
        mean speaker embedding
    """

    duration_s: float
    snr_db: float
    clipped_share: float
    longest_pause_s: float
    median_f0_hz: float | None
    pace: float
    likeness: float


def prompt_candidates(durations_s: Sequence[float]) -> list[int]:
    """Indexes of the clips worth measuring: those of a handy length, else the ones nearest to it; spread over the set."""
    distances = [_distance(duration_s) for duration_s in durations_s]
    handy = [index for index, distance in enumerate(distances) if distance == 0]
    if not handy:
        handy = sorted(range(len(distances)), key=lambda index: (distances[index], index))[:20]
    stride = -(-len(handy) // MAX_CANDIDATES)
    return handy[::stride]


def measure_prompt(samples: npt.NDArray[np.float32], sample_rate_hz: int, text: str, likeness: float) -> PromptFigures:
    """Take the figures of one clip. Shapes: samples (L,)"""
    figures = measure(samples, sample_rate_hz)
    levels = frame_levels_db(samples, sample_rate_hz)
    letters = sum(char.isalnum() for char in text)
    return PromptFigures(
        duration_s=figures.duration_s,
        snr_db=float(np.percentile(levels, 95)) - figures.noise_floor_db,
        clipped_share=figures.clipped_share,
        longest_pause_s=figures.longest_pause_s,
        median_f0_hz=figures.median_f0_hz,
        pace=letters / figures.speech_s if figures.speech_s else 0.0,
        likeness=likeness,
    )


def choose_prompt(candidates: Sequence[PromptFigures]) -> int:
    """Index of the best prompt; the earlier one when two are equal.

    Raises: ValueError when there is no candidate
    """
    if not candidates:
        raise ValueError("there is no clip to choose a prompt from")
    costs = np.asarray([_faults(candidate) for candidate in candidates])
    costs += _oddness([np.log2(c.median_f0_hz) if c.median_f0_hz else None for c in candidates])
    costs += _oddness([c.pace for c in candidates])
    # more like the mean voice than usual is no fault
    costs += _oddness([c.likeness for c in candidates], is_high_good=True)
    return int(np.argmin(costs))


def odd_voices(likeness: Sequence[float]) -> list[int]:
    """Indexes of the clips that sound like another speaker, by their likeness to the mean voice.

    Source: product document, "Training data must come from a single speaker"
    """
    values = np.asarray(likeness)
    below = np.median(values) - values
    limit = max(ODD_DEVIATIONS * float(np.median(np.abs(below))), ODD_LEAST)
    return [int(index) for index in np.flatnonzero(below > limit)]


def _faults(candidate: PromptFigures) -> float:
    """Faults of the clip itself, each scaled so that 1 is clearly heard."""
    noise = max(0.0, _CLEAN_SNR_DB - candidate.snr_db) / 10
    pause = max(0.0, candidate.longest_pause_s - _EASY_PAUSE_S) / 0.5
    return noise + pause + candidate.clipped_share / 1e-3 + _distance(candidate.duration_s)


def _oddness(values: Sequence[float | None], *, is_high_good: bool = False) -> npt.NDArray[np.float64]:
    """How many usual deviations each value lies from the middle; a clip without the value is as odd as the oddest."""
    known = np.asarray([value for value in values if value is not None], dtype=np.float64)
    if not known.size:
        return np.zeros(len(values))
    middle = np.median(known)
    usual = np.median(np.abs(known - middle)) or 1.0
    filled = np.asarray([np.nan if value is None else value for value in values], dtype=np.float64)
    deviation = (filled - middle) / usual
    oddness = np.maximum(0.0, -deviation) if is_high_good else np.abs(deviation)
    return np.asarray(np.where(np.isnan(oddness), np.nanmax(oddness, initial=0.0) + 1.0, oddness))


def _distance(duration_s: float) -> float:
    shortest_s, longest_s = PROMPT_S
    return max(0.0, shortest_s - duration_s, duration_s - longest_s)
