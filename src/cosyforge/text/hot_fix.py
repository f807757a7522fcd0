"""The hot fix: a user's own pronunciations and replacements of words, for one request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cosyforge.errors import InvalidParameter
from cosyforge.text.language import SCRIPTS
from cosyforge.text.mandarin import spell_pinyin
from cosyforge.text.pronunciation import parse_cmu, parse_pinyin, phone_tokens
from cosyforge.text.scan import Scanner, Stretch, Window
from cosyforge.text.segment import held

MAX_SPOKEN_CHARACTERS = 300
"""A replacement is spoken in one breath with its sentence, so it cannot be a page."""

MAX_WRITTEN_CHARACTERS = 100

Pair = tuple[str, str]
_HAN = re.compile(f"[{SCRIPTS['zh']}]")


class HotFix:
    """Words with a pronunciation or a replacement of the user's; the longest written form wins."""

    def __init__(self, replacements: Sequence[Pair], tokens_by_word: Sequence[Pair]) -> None:
        """tokens_by_word: see pronounced.

        Raises: InvalidParameter naming a word that is empty or too long
        """
        for written, _ in (*replacements, *tokens_by_word):
            if not written.strip() or len(written) > MAX_WRITTEN_CHARACTERS:
                raise InvalidParameter(f"hot_fix: {written!r} must have 1 to {MAX_WRITTEN_CHARACTERS} characters.")
        for written, spoken in replacements:
            if len(spoken) > MAX_SPOKEN_CHARACTERS:
                raise InvalidParameter(
                    f"hot_fix.replace: {written!r} becomes more than {MAX_SPOKEN_CHARACTERS} characters."
                )
        self._replacements = _longest_first(replacements)
        self._tokens = _longest_first(tokens_by_word)
        self.triggers = "".join({word[0] for word, _ in (*self._replacements, *self._tokens)})

    def look(self, window: Window, place: int) -> Stretch | None:
        """A replacement goes before a pronunciation."""
        for word, spoken in self._replacements:
            if _stands_at(window, place, word):
                return Stretch(held(len(word), len(spoken)), alias=spoken, parts=self._pronounced(spoken))
        for word, tokens in self._tokens:
            if _stands_at(window, place, word):
                return Stretch(held(len(word), len(word)), tokens=tokens)
        return None

    def _pronounced(self, spoken: str) -> tuple[Pair, ...]:
        """A replacement may hold words with a pronunciation."""
        scanner = Scanner([HotFix((), self._tokens)])
        found = scanner.push(spoken)[2] + scanner.finish()[2]
        parts, place = [], 0
        for item in found:
            parts.append((spoken[place : item.start], item.stretch.tokens or ""))
            place = item.end
        return (*parts, (spoken[place:], "")) if parts else ()


def pronounced(pronunciations: Sequence[Pair], languages: tuple[str, ...], english: str) -> list[Pair]:
    """Turn pronunciations into tokens of the text tokenizer: hanzi take pinyin, other words CMU phones or pinyin.

    english: "phones" or "text", as in the manifest
    Raises: InvalidParameter naming the word whose pronunciation is none
    """
    return [(word, _tokens(word, symbols, languages, english)) for word, symbols in pronunciations]


def _tokens(word: str, symbols: str, languages: tuple[str, ...], english: str) -> str:
    num_han = len(_HAN.findall(word))
    try:
        if not num_han:
            return phone_tokens(parse_cmu(symbols, keep_stress=english == "text"))
        # a model that reads phones has the nearest syllable for one that the tokenizer lacks
        tokens = phone_tokens(parse_pinyin(symbols) if english == "text" else spell_pinyin(symbols))
    except ValueError as error:
        raise InvalidParameter(f"hot_fix.pronunciation of {word!r}: {error}.") from error
    if "zh" not in languages:
        raise InvalidParameter(f"hot_fix.pronunciation of {word!r}: this model does not speak Mandarin.")
    num_syllables = len(symbols.split())
    if num_han == len(word) and num_syllables != num_han:
        raise InvalidParameter(
            f"hot_fix.pronunciation of {word!r}: {num_syllables} syllables for {num_han} characters; "
            "there must be one for each."
        )
    return tokens


def _longest_first(pairs: Sequence[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def _stands_at(window: Window, place: int, word: str) -> bool:
    """A Latin word is not found inside another one; hanzi have no such bounds."""
    end = place + len(word)
    if not window.text.startswith(word, place):
        if word.startswith(window.text[place:end]):
            window.need(end)
        return False
    if _is_latin(word[0]) and _is_latin(window.before(place)):
        return False
    if not _is_latin(word[-1]):
        return True
    window.need(end + 1)
    return not _is_latin(window.text[end : end + 1])


def _is_latin(char: str) -> bool:
    return char.isalnum() and char < "\u0250"
