"""Which language a sentence is in: by its script first, then by its words where several languages share the letters.

The answer depends on the text before it in the same stream, never on how the stream was cut into pieces: a sentence
that does not show its language is in that of the sentence before.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

LANGUAGES = ("zh", "en", "fr", "de", "ja", "ko", "ru", "pt", "th", "id", "vi", "it", "es", "ms")

SCRIPTS = {
    "zh": "\u3400-\u9fff\uf900-\ufaff〇\U00020000-\U0003ffff", "ja": "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff々〇",
    "ko": "\uac00-\ud7af\u1100-\u11ff", "ru": "\u0400-\u04ff", "th": "\u0e00-\u0e7f",
}  # fmt: skip
"""Characters beside the Latin letters that a language is written with."""

LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"

_LATIN_LANGUAGES = tuple(language for language in LANGUAGES if language not in SCRIPTS)
_LATIN_WORD = re.compile(f"[{LATIN}]+")
_SHOWS_LANGUAGE = re.compile(f"[{LATIN}]{{2}}")
_HAN = re.compile(f"[{SCRIPTS['zh']}]")
_ONLY_OF = tuple(
    (language, re.compile(f"[{characters}]"))
    for language, characters in (
        ("ja", "\u3040-\u30ff"),
        *((language, SCRIPTS[language]) for language in ("ko", "ru", "th")),
    )
)

_FEWEST_LETTERS = 4
"""Below this nothing is guessed from words."""

_CLEAR_LEAD = 0.15
"""How much likelier another language must be before a stream changes to it."""


class LanguageFinder:
    """Finds the language of one sentence after the other, among those of a model."""

    def __init__(self, languages: tuple[str, ...], hint: str | None = None) -> None:
        self._languages = languages
        self._hint = hint
        self._last: str | None = None
        self._latin = tuple(language for language in languages if language in _LATIN_LANGUAGES)

    def find(self, text: str) -> str:
        """Name the language of the next sentence."""
        found = self._by_script(text)
        if found is None and _SHOWS_LANGUAGE.search(text):
            found = self._by_words(text)
        language = found or self._hint or self._last or self._languages[0]
        self._last = language
        return language

    def _by_script(self, text: str) -> str | None:
        for language, characters in _ONLY_OF:
            if language in self._languages and characters.search(text):
                return language
        num_han = len(_HAN.findall(text))
        if not num_han:
            return None
        if "ja" in self._languages and ("zh" not in self._languages or "ja" in (self._hint, self._last)):
            return "ja"
        if "zh" not in self._languages:
            return None
        return "zh" if self._hint == "zh" or num_han >= len(_LATIN_WORD.findall(text)) else None

    def _by_words(self, text: str) -> str | None:
        """Tell languages with Latin letters apart; the hint and the language of the stream so far count."""
        if self._hint is not None:
            return self._hint
        if len(self._latin) < 2:
            return self._first_latin()
        words = " ".join(_LATIN_WORD.findall(text))
        stay = self._last if self._last in self._latin else None
        if len(words) < _FEWEST_LETTERS:
            return stay or self._first_latin()
        likelihoods = _likelihoods(words, self._latin)
        best = max(self._latin, key=lambda language: likelihoods[language])
        if stay and likelihoods[best] - likelihoods[stay] < _CLEAR_LEAD:
            return stay
        return best

    def _first_latin(self) -> str | None:
        """The language of Latin letters that show none: English where the model speaks it."""
        return "en" if "en" in self._latin else next(iter(self._latin), None)


def _likelihoods(words: str, languages: tuple[str, ...]) -> dict[str, float]:
    values = _detector(languages).compute_language_confidence_values(words)
    return {value.language.iso_code_639_1.name.lower(): value.value for value in values}


@cache
def _detector(languages: tuple[str, ...]) -> Any:
    # imported here: its tables are large, and most models speak one language with Latin letters or none
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    codes = [getattr(IsoCode639_1, language.upper()) for language in languages]
    return LanguageDetectorBuilder.from_iso_codes_639_1(*codes).build()
