"""Can an outsider tell the voices apart? Each voice's speech against every voice's own reference.

Knows vectors alone. What a reference is made of is the caller's choice, but it must not be the very clips compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosyforge.evaluation.similarity import similarity

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Confusion:
    """Likeness of what each voice says (row) to each voice's reference (column), both in the order of `voices`.

    clip_share: how many of the single clips are closest to their own voice's reference
    reference_of: what each reference was made of
    """

    voices: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]
    closest: tuple[str, ...]
    """Per row the voice whose reference is nearest."""
    margin: tuple[float, ...]
    """Per row how much nearer the own reference is than the nearest other; negative for a voice that is confused."""
    clip_share: float
    reference_of: Mapping[str, str]

    @property
    def num_right(self) -> int:
        return sum(voice == nearest for voice, nearest in zip(self.voices, self.closest, strict=True))


def confusion(
    spoken: Mapping[str, Sequence[Vector]], references: Mapping[str, Vector], reference_of: Mapping[str, str]
) -> Confusion:
    """Compare every voice with every reference.

    spoken: per voice the vectors of its clips
    Raises: ValueError when there are fewer than two voices, or a voice has no clip or no reference
    """
    voices = tuple(spoken)
    lacking = [voice for voice in voices if not len(spoken[voice]) or voice not in references]
    if len(voices) < 2 or lacking:
        raise ValueError(f"comparing voices needs two, each with clips and a reference (lacking: {lacking or voices})")
    matrix = [
        tuple(similarity(np.mean(spoken[row], axis=0), references[column]) for column in voices) for row in voices
    ]
    closest = tuple(voices[int(np.argmax(row))] for row in matrix)
    margin = tuple(row[i] - max(row[:i] + row[i + 1 :]) for i, row in enumerate(matrix))
    is_own = [
        voices[int(np.argmax([similarity(vector, references[column]) for column in voices]))] == voice
        for voice in voices
        for vector in spoken[voice]
    ]
    return Confusion(voices, tuple(matrix), closest, margin, float(np.mean(is_own)), dict(reference_of))


def gap_closed(random_voice: float, clone: float, copy: float) -> float | None:
    """How much of the way from a random voice to copy-synthesis a clone goes; None when there is no way to go."""
    return (clone - random_voice) / (copy - random_voice) if copy > random_voice else None
