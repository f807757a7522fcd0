"""Text as people write it to segments that a voice can speak: read this first.

    text or SSML -> findings (scan.py: formulas, hot fix, Markdown) -> sentences (segment.py) -> language (language.py)
    -> words in full (normalize/) -> text or phone tokens (speller.py) -> Segment

The engine says `prefix + segment.spoken` to the text tokenizer. The prefix is never part of the text: a control token
that somebody writes into the text has no power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cosyforge.errors import InvalidParameter
from cosyforge.text.hot_fix import HotFix, pronounced
from cosyforge.text.language import LANGUAGES
from cosyforge.text.latex import Formulas
from cosyforge.text.markdown import Markdown
from cosyforge.text.marked_up import MarkedUp
from cosyforge.text.scan import Recogniser
from cosyforge.text.segment import Segment
from cosyforge.text.speller import Speller
from cosyforge.text.ssml import is_ssml
from cosyforge.text.stream import TextStream

DEFAULT_PREFIX = "You are a helpful assistant.<|endofprompt|>"

NOTHING_TO_SAY = "Please ensure input text is valid."

Pairs = Sequence[tuple[str, str]]

_KNOWN_KEYS = frozenset({"languages", "english", "mandarin", "instructions", "prefix", "max_characters"})
_MAX_CHARACTERS = {"phones": 140, "text": 200}


class Frontend:
    """The text front end that a model was trained with, as its manifest names it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Read the manifest's `frontend` section.

        Raises: ValueError for unknown keys or values
        """
        unknown = sorted(set(settings) - _KNOWN_KEYS)
        if unknown:
            raise ValueError(f"frontend: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_KNOWN_KEYS))}")
        self.languages = tuple(settings.get("languages", ("zh", "en")))
        self.english = str(settings.get("english", "text"))
        self.mandarin = str(settings.get("mandarin", "text"))
        self.instructions = tuple(str(word) for word in settings.get("instructions", ()))
        self.prefix = str(settings.get("prefix", DEFAULT_PREFIX))
        if self.english not in _MAX_CHARACTERS:
            raise ValueError(f"frontend: english must be phones or text (got {self.english!r})")
        if self.mandarin not in ("text", "pinyin"):
            raise ValueError(f"frontend: mandarin must be text or pinyin (got {self.mandarin!r})")
        if (self.mandarin == "pinyin") != (self.english == "phones") and "zh" in self.languages:
            raise ValueError("frontend: a model reads both languages by their sounds (phones, pinyin) or both as text")
        for language in self.languages:
            if language not in LANGUAGES:
                raise ValueError(f"frontend: unknown language {language!r}; known are {', '.join(LANGUAGES)}")
        if not self.languages:
            raise ValueError("frontend: languages is empty")
        self.max_characters = int(settings.get("max_characters") or _MAX_CHARACTERS[self.english])
        self.speller = Speller(self.languages, self.english, self.mandarin)

    def reads(self, language: str) -> str:
        """How the model reads a language: as "text", as "phones" or as "pinyin"."""
        return self.mandarin if language == "zh" else self.english

    def segments(self, text: str, language_hint: str | None = None, ssml: bool = False) -> list[Segment]:
        """Cut and spell out a whole text; see plan for what could not be spoken."""
        return self.plan(text, language_hint, ssml)[0]

    def plan(
        self,
        text: str,
        language_hint: str | None = None,
        ssml: bool = False,
        *,
        pronunciations: Pairs = (),
        replacements: Pairs = (),
        markdown_filter: bool = False,
    ) -> tuple[list[Segment], list[str]]:
        """Cut and spell out a whole text; the second part says in sentences what had to be left out.

        Text that does not begin with <speak is plain text even when ssml is true.
        pronunciations: (written, pinyin with tone digits or CMU phones); replacements: (written, spoken instead)
        Raises: InvalidParameter when nothing can be spoken or a pronunciation is none; InvalidMarkup for bad SSML
        """
        stream = self.stream(
            language_hint, pronunciations=pronunciations, replacements=replacements, markdown_filter=markdown_filter
        )
        segments = self._marked_up(text, stream) if ssml and is_ssml(text) else stream.push(text) + stream.finish()
        if not any(segment.spoken or segment.sound for segment in segments):
            raise InvalidParameter(NOTHING_TO_SAY)
        if not segments[-1].asked_pause:
            segments[-1] = replace(segments[-1], pause_ms=0)
        return segments, stream.warnings

    def stream(
        self,
        language_hint: str | None = None,
        *,
        pronunciations: Pairs = (),
        replacements: Pairs = (),
        markdown_filter: bool = False,
    ) -> TextStream:
        """Take plain text piece by piece; sentences come out as they are complete.

        Raises: InvalidParameter for a bad hint or pronunciation
        """
        hint = self.check_language(language_hint)
        recognisers: list[Recogniser] = [Formulas()]
        if replacements or pronunciations:
            recognisers.append(HotFix(replacements, pronounced(pronunciations, self.languages, self.english)))
        if markdown_filter:
            recognisers.append(Markdown())
        stream = TextStream(self.speller, self.languages, hint, recognisers, self.max_characters)
        if language_hint is not None and hint is None:
            spoken = ", ".join(self.languages)
            stream.warn(f"language hint {language_hint!r} was ignored: this model speaks {spoken}")
        return stream

    def check_language(self, hint: str | None) -> str | None:
        """Let a hint pass that this model can follow, None for one that it cannot.

        Raises: InvalidParameter for a code that is no language of the service
        """
        if hint is None:
            return None
        if hint not in LANGUAGES:
            raise InvalidParameter(f"language_hints: {hint!r} is not one of {', '.join(LANGUAGES)}")
        return hint if hint in self.languages else None

    def _marked_up(self, text: str, stream: TextStream) -> list[Segment]:
        return MarkedUp(stream, self.languages, self.english).segments(text)
