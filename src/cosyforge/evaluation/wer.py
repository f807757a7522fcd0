"""Word and syllable errors: what was meant against what was heard. Knows text alone, no audio."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cosyforge.evaluation.alignment import Step, align

_NO_LETTER = re.compile(r"[^\w']+|_")


@dataclass(frozen=True)
class WordErrors:
    """Counts over one text or over many; adding two gives the counts of both."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    num_words: int = 0
    """Words (or phones, or syllables) of the reference, the denominator of every rate."""

    @property
    def errors(self) -> int:
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Word error rate; may exceed one when words were added.

        Raises: ValueError when there is no reference word to divide by
        """
        if self.num_words == 0:
            raise ValueError("no word error rate without words: the reference text holds none")
        return self.errors / self.num_words

    @property
    def words_understood(self) -> int:
        return self.num_words - self.substitutions - self.deletions

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.num_words + other.num_words,
        )


def normalise_words(text: str) -> list[str]:
    """Split into comparable words: small letters, no punctuation, hyphens part words, apostrophes stay inside them.

    Numbers are compared as they are written; give texts in which they are words.
    """
    plain = _NO_LETTER.sub(" ", text.lower().replace("’", "'"))
    return [word for word in (part.strip("'") for part in plain.split()) if word]


def word_errors(reference: str, heard: str) -> WordErrors:
    """Count the fewest changes that turn the reference into what was heard (Levenshtein distance over words).

    Among equally short ways the one with most substitutions is counted, so that the three counts are determined.
    """
    return sequence_errors(normalise_words(reference), normalise_words(heard))


def sequence_errors(wanted: Sequence[str], got: Sequence[str]) -> WordErrors:
    """As word_errors, for units of any kind; the number of words is then the number of wanted units."""
    # one row at a time; a cell is (errors, insertions, deletions), and the smallest cell wins
    row = [(j, j, 0) for j in range(len(got) + 1)]
    for i, word in enumerate(wanted, start=1):
        above, row = row, [(i, 0, i)]
        for j, other in enumerate(got, start=1):
            errors, insertions, deletions = above[j - 1]
            replaced = (errors + (word != other), insertions, deletions)
            errors, insertions, deletions = row[j - 1]
            inserted = (errors + 1, insertions + 1, deletions)
            errors, insertions, deletions = above[j]
            deleted = (errors + 1, insertions, deletions + 1)
            row.append(min(replaced, inserted, deleted))
    errors, insertions, deletions = row[-1]
    return WordErrors(errors - insertions - deletions, insertions, deletions, len(wanted))


def count_errors(steps: Sequence[Step]) -> WordErrors:
    """Count what an alignment changes; the number of words is that of the wanted units."""
    return WordErrors(
        substitutions=sum(bool(step.wanted and step.heard and step.wanted != step.heard) for step in steps),
        insertions=sum(step.wanted is None for step in steps),
        deletions=sum(step.heard is None for step in steps),
        num_words=sum(step.wanted is not None for step in steps),
    )


def corpus_errors(pairs: Iterable[tuple[str, str]]) -> WordErrors:
    """Add up the errors of many (reference, heard) pairs, so that long sentences weigh more than short ones."""
    return sum((word_errors(reference, heard) for reference, heard in pairs), WordErrors())


def repeated_words(reference: str, heard: str) -> int:
    """Count the words that were said again at once (one to four in a row) and not because the text wants it so."""
    return max(0, _num_repeated(normalise_words(heard)) - _num_repeated(normalise_words(reference)))


def _num_repeated(words: list[str]) -> int:
    index, repeated = 0, 0
    while index < len(words):
        lengths = [n for n in (4, 3, 2, 1) if words[index : index + n] == words[index + n : index + 2 * n]]
        repeated += lengths[0] if lengths else 0
        index += lengths[0] if lengths else 1
    return repeated


# --- Mandarin -------------------------------------------------------------------------------------------------------

_TONE = re.compile(r"([0-5]?)$")


def syllable_errors(wanted: Sequence[str], heard: Sequence[str], *, tones: bool) -> WordErrors:
    """Count syllable errors of Mandarin in pinyin with tone digits ("ni3", "hao3").

    tones: whether a wrong tone makes a syllable wrong. What fluent speech changes is right either way: the first of two
    third tones as a second one, 一 and 不 in the tone that their neighbour asks for
    """
    if not tones:
        return sequence_errors([toneless(each) for each in wanted], [toneless(each) for each in heard])
    spoken = [toned(each) for each in heard]
    return count_errors(align([[(way,) for way in ways] for ways in _spoken_tones(wanted)], spoken))


def _spoken_tones(syllables: Sequence[str]) -> list[list[str]]:
    """Per syllable the forms in which it may be spoken where it stands."""
    plain = [toned(each) for each in syllables]
    forms = []
    for syllable, following in zip(plain, [*plain[1:], ""], strict=True):
        ways = [syllable]
        if syllable[-1] == "3" and following[-1:] == "3":
            ways.append(f"{syllable[:-1]}2")
        if syllable[:-1] == "yi":
            ways += ["yi2", "yi4", "yi1"]
        if syllable[:-1] == "bu" and syllable[-1] in "24":
            ways += ["bu2", "bu4"]
        forms.append(ways)
    return forms


def toneless(syllable: str) -> str:
    return toned(syllable)[:-1]


def toned(syllable: str) -> str:
    """One spelling for each: small letters, ü as v, the neutral tone as 5."""
    plain = syllable.lower().replace("u:", "v").replace("ü", "v")
    tone = _TONE.search(plain)
    assert tone is not None
    return f"{plain[: tone.start()]}{tone[1] if tone[1] not in ('', '0') else '5'}"
