"""From scores of every frame to syllables: the best way through the graph of all legal syllables, or through a given row of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cosyforge.evaluation.mandarin_ear.sounds import INITIALS, NUM_TONES, SILENCE, UNITS, sounds_of

FloatArray = npt.NDArray[np.float32]

MIN_FINAL_FRAMES = 3
_UNIT_INDEX = {name: index for index, name in enumerate(UNITS)}
_WORST = np.float32(-1e9)


@dataclass(frozen=True)
class AlignedSyllable:
    """One syllable with its place in the clip.

    Units: start, end in frames of 20 ms, the initial included
    score: mean log probability of its frames; tone_score: mean log probability of its tone on the final
    """

    syllable: str
    start: int
    end: int
    score: float
    tone_score: float


class SyllableGraph:
    """Silence and all legal syllables in any order: an initial of at least one frame, a final of at least three.

    entry_cost: log probability paid for each syllable, against rows of short ones; silence_bonus: added to each frame of silence
    """

    def __init__(self, bases: Sequence[str], entry_cost: float = 1.0, silence_bonus: float = 0.0) -> None:
        self.bases = tuple(bases)
        self.entry_cost, self.silence_bonus = entry_cost, silence_bonus
        sounds = [sounds_of(base) for base in self.bases]
        unknown = [base for base, sound in zip(self.bases, sounds, strict=True) if sound is None]
        if unknown:
            raise ValueError(f"no Mandarin syllables: {', '.join(unknown)}")
        pairs = [sound for sound in sounds if sound is not None]
        self._final_unit = np.array([_UNIT_INDEX[final] for _, final in pairs])
        # states: silence, then the initials, then MIN_FINAL_FRAMES rows of one state for each syllable
        self._initial_state = np.array([1 + INITIALS.index(initial) if initial else 0 for initial, _ in pairs])
        self._has_initial = self._initial_state > 0

    def settings(self) -> dict[str, float]:
        """The costs, as the constructor takes them."""
        return {"entry_cost": self.entry_cost, "silence_bonus": self.silence_bonus}

    def decode(self, unit: FloatArray, tone: FloatArray) -> list[AlignedSyllable]:
        """The syllables of the best path, each with the tone that its final sounds like.

        Shapes: unit (T, len(UNITS)) and tone (T, 5), log probabilities
        """
        num_frames = len(unit)
        if num_frames <= MIN_FINAL_FRAMES:
            return []
        states = self._best_path(unit)
        first_final = 1 + len(INITIALS)
        num_bases = len(self.bases)
        pieces = []
        start = 0
        for index in range(num_frames):
            state = int(states[index])
            before = int(states[index - 1]) if index else 0
            row = (state - first_final) // num_bases
            if 1 <= state < first_final and before != state:
                start = index
            if state >= first_final and row == 0:
                base = (state - first_final) % num_bases
                final_start = index
                if not self._has_initial[base]:
                    start = index
                end = index + 1
                while (
                    end < num_frames
                    and states[end] >= first_final + num_bases
                    and ((states[end] - first_final) % num_bases == base)
                ):
                    end += 1
                heard = tone[final_start:end].mean(axis=0)
                score = unit[final_start:end, self._final_unit[base]].mean()
                best = int(heard.argmax())
                pieces.append(
                    AlignedSyllable(f"{self.bases[base]}{best + 1}", start, end, float(score), float(heard[best]))
                )
        return pieces

    def _best_path(self, unit: FloatArray) -> npt.NDArray[np.int32]:
        """Viterbi; returns the state of every frame."""
        num_frames, num_bases, num_initials = len(unit), len(self.bases), len(INITIALS)
        first_final = 1 + num_initials
        num_states = first_final + MIN_FINAL_FRAMES * num_bases
        silence = unit[:, _UNIT_INDEX[SILENCE]] + np.float32(self.silence_bonus)
        initial = unit[:, 1 : 1 + num_initials]
        final = unit[:, self._final_unit]
        score = np.full(num_states, _WORST, np.float32)
        score[0] = silence[0]
        score[1:first_final] = initial[0] - self.entry_cost
        score[first_final : first_final + num_bases] = np.where(
            self._has_initial, _WORST, final[0] - np.float32(self.entry_cost)
        )
        own = np.arange(num_states, dtype=np.int32)
        back = np.zeros((num_frames, num_states), np.int32)
        last_row = slice(num_states - num_bases, num_states)
        initial_of_base = self._initial_state
        for index in range(1, num_frames):
            # a syllable may begin after silence or after the last state of any syllable
            ended = num_states - num_bases + int(score[last_row].argmax())
            source = ended if score[ended] > score[0] else 0
            entry = score[source] - np.float32(self.entry_cost)
            new, came = score.copy(), own.copy()
            if score[ended] > score[0]:
                new[0], came[0] = score[ended], ended
            new[0] += silence[index]
            begins = entry > score[1:first_final]
            new[1:first_final] = np.where(begins, entry, score[1:first_final]) + initial[index]
            came[1:first_final] = np.where(begins, source, own[1:first_final])
            for row in range(MIN_FINAL_FRAMES):
                here = slice(first_final + row * num_bases, first_final + (row + 1) * num_bases)
                if row == 0:
                    arriving = np.where(self._has_initial, score[initial_of_base], entry)
                    origin = np.where(self._has_initial, initial_of_base, source)
                else:
                    before = slice(here.start - num_bases, here.stop - num_bases)
                    arriving, origin = score[before], own[before]
                if row == MIN_FINAL_FRAMES - 1:
                    stays = score[here] > arriving
                    arriving, origin = np.where(stays, score[here], arriving), np.where(stays, own[here], origin)
                new[here], came[here] = arriving + final[index], origin
            score, back[index] = new, came
        ended = num_states - num_bases + int(score[last_row].argmax())
        states = np.empty(num_frames, np.int32)
        states[-1] = ended if score[ended] > score[0] else 0
        for index in range(num_frames - 1, 0, -1):
            states[index - 1] = back[index, states[index]]
        return states


def align(
    unit: FloatArray, tone: FloatArray, syllables: Sequence[tuple[str, tuple[str, str], int]]
) -> list[AlignedSyllable]:
    """The best places of given syllables, in their order.

    Shapes: unit (T, len(UNITS)) and tone (T, 5), log probabilities; syllables (name, (initial, final), tone 1 to 5)
    Raises: ValueError when the clip is too short for them
    """
    # a row of states: optional silence before every syllable and at the end, an initial, MIN_FINAL_FRAMES of the final
    states_of: list[tuple[int, str, str]] = []
    for index, (_, (initial, final), _) in enumerate(syllables):
        states_of.append((index, SILENCE, "silence"))
        if initial:
            states_of.append((index, initial, "initial"))
        states_of += [(index, final, "final")] * (MIN_FINAL_FRAMES - 1) + [(index, final, "end")]
    states_of.append((len(syllables), SILENCE, "silence"))
    owner = [index for index, _, _ in states_of]
    units = [_UNIT_INDEX[name] for _, name, _ in states_of]
    kinds = [kind for _, _, kind in states_of]
    num_states, num_frames = len(units), len(unit)
    emission = unit[:, units]
    is_silence = np.array([kind == "silence" for kind in kinds])
    may_stay = np.array([kind != "final" for kind in kinds])
    # what follows a silence may be entered from what is before it
    may_skip = np.concatenate([[False, False], is_silence[1:-1]])
    score = np.full(num_states, _WORST, np.float32)
    score[0] = emission[0, 0] if num_frames else _WORST
    if num_frames and num_states > 1:
        score[1] = emission[0, 1]
    back = np.zeros((num_frames, num_states), np.int32)
    own = np.arange(num_states, dtype=np.int32)
    for index in range(1, num_frames):
        stay = np.where(may_stay, score, _WORST)
        step = np.concatenate([[_WORST], score[:-1]])
        skip = np.where(may_skip, np.concatenate([[_WORST, _WORST], score[:-2]]), _WORST)
        choices = np.stack([stay, step, skip])
        best = choices.argmax(axis=0)
        back[index] = own - best
        score = (choices[best, own] + emission[index]).astype(np.float32)
    last = num_states - 1 if num_frames and score[-1] >= score[-2] else num_states - 2
    if num_frames == 0 or score[last] < _WORST / 2:
        raise ValueError(f"the clip of {num_frames / 50:.2f} s is too short for {len(syllables)} syllables")
    states = np.empty(num_frames, np.int32)
    states[-1] = last
    for index in range(num_frames - 1, 0, -1):
        states[index - 1] = back[index, states[index]]
    of_frame = np.array(owner)[states]
    is_final = np.array([kind in ("final", "end") for kind in kinds])[states]
    found = []
    for index, (name, _, tone_number) in enumerate(syllables):
        mine = np.flatnonzero((of_frame == index) & ~is_silence[states])
        on_final = np.flatnonzero((of_frame == index) & is_final)
        assert 1 <= tone_number <= NUM_TONES, name
        found.append(
            AlignedSyllable(
                name, int(mine[0]), int(mine[-1]) + 1,
                float(emission[mine, states[mine]].mean()), float(tone[on_final, tone_number - 1].mean()),
            )
        )  # fmt: skip
    return found
