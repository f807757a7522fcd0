"""English phones: how each word may be said, and which phones a recogniser hears without knowing any word.

Phones are finer than words: a recogniser with a dictionary guesses whole words from few sounds, and one wrong sound
may cost it three words. The free phone decoder has neither help nor excuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from cosyforge.evaluation.alignment import Step, align
from cosyforge.evaluation.wer import WordErrors, count_errors, normalise_words
from cosyforge.text.lexicon import PHONES, dictionary_path, english_phones

VOWELS = frozenset(phone for phone in PHONES if phone[0] in "AEIOU")


def pronunciations(word: str) -> list[tuple[str, ...]]:
    """All ways in which the CMU dictionary says a word, the usual one first; none when nobody knows it."""
    usual = english_phones(word)
    if usual is None:
        return []
    return list(dict.fromkeys([tuple(usual), *_others().get(word.lower(), ())]))


def wanted_phones(text: str) -> list[list[tuple[str, ...]]] | None:
    """Per word of an English text its pronunciations; None when a word has none."""
    words = [pronunciations(word) for word in normalise_words(text)]
    return words if all(words) else None


def count_phones(text: str) -> int | None:
    """Phones of an English text as usually said, None when a word is in no dictionary."""
    words = wanted_phones(text)
    return None if words is None else sum(len(ways[0]) for ways in words)


def align_phones(text: str, heard: Sequence[str]) -> list[Step] | None:
    """Which heard phone belongs to which word of an English text; None when a word has no known pronunciation."""
    words = wanted_phones(text)
    return None if words is None else align(words, heard, _same_class)


def phone_errors(text: str, heard: Sequence[str]) -> WordErrors | None:
    """Count phone errors of an English text, each word taken as it was said best; None when a word is unknown."""
    steps = align_phones(text, heard)
    return None if steps is None else count_errors(steps)


def _same_class(one: str, other: str) -> bool:
    return (one in VOWELS) == (other in VOWELS)


@cache
def _others() -> dict[str, list[tuple[str, ...]]]:
    """The second and further pronunciations of the dictionary, written word(2)."""
    found: dict[str, list[tuple[str, ...]]] = {}
    with dictionary_path().open(encoding="ascii") as lines:
        for line in lines:
            word, _, phones = line.rstrip("\n").partition(" ")
            if word.endswith(")"):
                found.setdefault(word.partition("(")[0], []).append(tuple(phones.split()))
    return found
