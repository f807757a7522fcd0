"""Was the text delivered whole, and once? Words swallowed, words said twice, speech that went on beyond the text.

Two witnesses, neither of whom suffices. The ear aligns what it heard with the text, phone by phone; it is deaf to much,
so each of its findings needs a run of several units. The model's own alignment says where the model looked while it
spoke, not what came out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from cosyforge.evaluation.alignment import Step
from cosyforge.evaluation.wer import normalise_words, repeated_words, word_errors

SURE_RUN, LIKELY_RUN = 3, 2
"""Units left out (or added) in a row: so many are believed at once, so many when the words that were heard agree.

Chosen on recordings with one word cut out or doubled; docs/evaluation.md says how many of them are noticed."""

RUNAWAY_RUN = 8
"""More added units in a row are no repeated word any more: the speech went its own way."""


@dataclass(frozen=True)
class Heard:
    """What the ear says of one clip."""

    swallowed: tuple[str, ...] = ()
    """Words of which nothing, or hardly anything, was heard."""
    repeated: tuple[str, ...] = ()
    """Words after which something was said again, or added."""
    is_runaway: bool = False


@dataclass(frozen=True)
class Followed:
    """What the model's own alignment says of one clip: the checks that failed for good, words it never dwelt on."""

    failed_checks: tuple[str, ...] = ()
    unspoken: tuple[str, ...] = ()
    num_resampled: int = 0
    """Sentences that were drawn again because a check failed."""

    @property
    def is_swallowed(self) -> bool:
        return bool(self.unspoken) or not {"skipped_text", "unfinished", "empty"}.isdisjoint(self.failed_checks)

    @property
    def is_repeated(self) -> bool:
        return not {"repeated_text", "loop"}.isdisjoint(self.failed_checks)

    @property
    def is_runaway(self) -> bool:
        return not {"no_stop", "too_long", "stuck"}.isdisjoint(self.failed_checks)


def heard_delivery(
    words: Sequence[str],
    steps: Sequence[Step],
    *,
    words_missing: bool,
    words_added: bool,
    sure_run: int = SURE_RUN,
) -> Heard:
    """Judge an alignment.

    words: the words that the steps' indexes count
    words_missing, words_added: whether the ear, asked for words, missed or added some, too
    """
    swallowed: dict[int, None] = {}
    repeated: dict[int, None] = {}
    is_runaway = False
    for kind, run in groupby(steps, key=_kind):
        several = list(run)
        if kind == "left out" and len(several) >= (LIKELY_RUN if words_missing else sure_run):
            swallowed.update(dict.fromkeys(_mostly_gone(several, steps)))
        elif kind == "added" and len(several) >= (LIKELY_RUN if words_added else sure_run):
            repeated[_nearest_word(several, steps, len(words))] = None
            is_runaway = is_runaway or len(several) >= RUNAWAY_RUN
    return Heard(
        swallowed=tuple(words[index] for index in swallowed),
        repeated=tuple(words[index] for index in repeated),
        is_runaway=is_runaway,
    )


def heard_english(text: str, heard: str, steps: Sequence[Step] | None) -> Heard:
    """Judge an English clip by the words and by the aligned phones that were heard in it.

    Without steps (a word with unknown phones) only words said again at once are found
    """
    words = normalise_words(text)
    counts = word_errors(text, heard)
    said_again = repeated_words(text, heard) > 0
    if steps is None:
        return Heard(repeated=(text,) if said_again else ())
    found = heard_delivery(
        words,
        steps,
        words_missing=counts.deletions > counts.insertions,
        words_added=counts.insertions > counts.deletions,
    )
    num_added = sum(step.wanted is None for step in steps) - sum(step.heard is None for step in steps)
    # a word heard twice where no sound was added is a wrong guess ("then" as "ben ben")
    if said_again and not found.repeated and num_added >= LIKELY_RUN:
        return Heard(found.swallowed, _said_again(heard), found.is_runaway)
    return found


def _said_again(heard: str) -> tuple[str, ...]:
    words = normalise_words(heard)
    for length in (1, 2, 3, 4):
        for start in range(len(words) - 2 * length + 1):
            if words[start : start + length] == words[start + length : start + 2 * length]:
                return tuple(words[start : start + length])
    return ()


def _kind(step: Step) -> str:
    if step.heard is None:
        return "left out"
    return "added" if step.wanted is None else "heard"


def _nearest_word(run: Sequence[Step], steps: Sequence[Step], num_words: int) -> int:
    """Of the words around added units the one that they are most like: what was said again may stand on either side."""
    added = [step.heard for step in run]
    before = run[0].word_index
    around = [index for index in (before, before + 1) if 0 <= index < num_words]

    def num_shared(index: int) -> int:
        own = [step.wanted for step in steps if step.word_index == index]
        return sum(min(added.count(unit), own.count(unit)) for unit in set(added))

    return max(around, key=num_shared)


def _mostly_gone(run: Sequence[Step], steps: Iterable[Step]) -> list[int]:
    """The words of a run of which at least half was left out; the one that lost most when there is none."""
    lost = {index: sum(step.word_index == index for step in run) for index in dict.fromkeys(s.word_index for s in run)}
    sizes: dict[int, int] = {}
    for step in steps:
        if step.wanted is not None:
            sizes[step.word_index] = sizes.get(step.word_index, 0) + 1
    return [index for index in lost if 2 * lost[index] >= sizes[index]] or [max(lost, key=lambda index: lost[index])]
