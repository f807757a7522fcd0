"""Word errors: what was meant against what was heard. Knows words alone, no audio."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_NO_LETTER = re.compile(r"[^\w']+|_")


@dataclass(frozen=True)
class WordErrors:
    """Counts over one text or over many; adding two gives the counts of both."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    num_words: int = 0
    """Words of the reference, the denominator of every rate."""

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
    wanted, got = normalise_words(reference), normalise_words(heard)
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
