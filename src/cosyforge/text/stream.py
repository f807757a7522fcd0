"""One text on its way in: pieces are pushed, segments come out; warnings collect what was left out."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from cosyforge.text.language import LanguageFinder
from cosyforge.text.ribbon import Ribbon, align, readings
from cosyforge.text.scan import Found, Reading, Recogniser, Scanner, Stretch
from cosyforge.text.segment import Segment, Sentence, SentenceSplitter, held
from cosyforge.text.speller import MAX_LITERALS, PRIVATE, Speller, placeholder

PAUSES_MS = {"sentence": 150, "paragraph": 350, "cut": 60}
"""Silence between two segments, by how the first one ended."""


class TextStream:
    """Made by Frontend.stream. What comes out does not depend on how the text was cut into pieces."""

    def __init__(
        self,
        speller: Speller,
        languages: tuple[str, ...],
        hint: str | None,
        recognisers: Sequence[Recogniser],
        max_characters: int,
    ) -> None:
        self._speller = speller
        self._language = LanguageFinder(languages, hint)
        self._scanner = Scanner(recognisers)
        self._splitter = SentenceSplitter(max_length=max_characters)
        self._written = ""
        self._forgotten = 0
        self._found: list[Found] = []
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> list[str]:
        """Each once, in the order of the text."""
        return list(self._warnings)

    def warn(self, warning: str) -> None:
        self._warnings[warning] = None

    def push(self, text: str) -> list[Segment]:
        """Add a piece of plain text; give out the segments that it completes."""
        return self._split(*self._scanner.push(text))

    def finish(self) -> list[Segment]:
        """Give out what is left, as at a flush or at the end; more text may follow."""
        segments = self._split(*self._scanner.finish()) + self._segments(self._splitter.finish())
        self._forget(self._forgotten + len(self._written))
        return segments

    def push_alias(self, text: str, alias: str) -> list[Segment]:
        """Add words that are shown as text and spoken as alias."""
        return self._push_stretch(text or alias or "-", alias=alias)

    def push_tokens(self, text: str, tokens: str) -> list[Segment]:
        """Add words that are shown as text and spoken as tokens of the text tokenizer."""
        return self._push_stretch(text or "-", tokens=tokens)

    def push_reading(self, text: str, reading: Reading) -> list[Segment]:
        """Add words that are shown as text and spoken as the reading says, once the language is known."""
        return self._push_stretch(text or "-", reading=reading)

    def _push_stretch(
        self, shown: str, alias: str | None = None, tokens: str | None = None, reading: Reading | None = None
    ) -> list[Segment]:
        segments = self._split(*self._scanner.finish())
        # the splitter does not see its punctuation and must not cut inside
        stretch = Stretch(held(len(shown), len(alias or shown)), alias, tokens, reading, raw=shown)
        start = self._scanner.skip(shown)
        return segments + self._split(shown, stretch.mask, [Found(start, start + len(shown), stretch)])

    def _split(self, written: str, masked: str, found: list[Found]) -> list[Segment]:
        self._written += written
        self._found += found
        return self._segments(self._splitter.push(masked))

    def _segments(self, sentences: list[Sentence]) -> list[Segment]:
        made = []
        for sentence in sentences:
            made.append(self._segment(sentence))
            self._forget(sentence.end)
        return [segment for segment in made if segment is not None]

    def _forget(self, end: int) -> None:
        """What has been said need not be kept; what was not to be said is named."""
        for found in self._found:
            if found.start < end and found.stretch.is_left_out:
                self._warn_left_out(self._text(found.start, found.end))
        self._found = [found for found in self._found if found.start >= end]
        self._written = self._written[end - self._forgotten :]
        self._forgotten = end

    def _text(self, start: int, end: int) -> str:
        return self._written[start - self._forgotten : end - self._forgotten]

    def _segment(self, sentence: Sentence) -> Segment | None:
        shown = self._text(sentence.start, sentence.end).rstrip()
        found = [item for item in self._found if sentence.start <= item.start < sentence.end]
        language = self._language.find(self._as_heard(sentence, found))
        literal: list[str] = []
        ribbon = self._ribbon(sentence, found, language, literal)
        for char in sorted(set(PRIVATE.findall(shown))):
            self._warn_left_out(char)
        spelled = self._speller.spell(ribbon, language, literal)
        for char in spelled.left_out:
            self._warn_left_out(char)
        if not spelled.spoken.text:
            self.warn(f"left out {shown!r}: there is nothing in it to speak")
            return None
        return Segment(
            shown,
            spelled.spoken.text,
            PAUSES_MS[sentence.end_kind],
            language,
            words=spelled.words.text,
            start=sentence.start,
            end=sentence.start + len(shown),
            alignment=align(shown, spelled.spoken, sentence.start),
            readings=readings(shown, spelled.words, sentence.start),
        )

    def _as_heard(self, sentence: Sentence, found: list[Found]) -> str:
        """The text by which the language is found: formulas belong to none."""
        heard, place = "", sentence.start
        for item in found:
            heard += self._text(place, item.start) + (item.stretch.alias or "")
            heard += self._text(item.start, item.end) if item.stretch.tokens else ""
            place = item.end
        return heard + self._text(place, sentence.end)

    def _ribbon(self, sentence: Sentence, found: list[Found], language: str, literal: list[str]) -> Ribbon:
        """Put aliases and placeholders where words are spoken otherwise; private-use characters of the user go first."""
        ribbon, place = Ribbon(), sentence.start
        for item in found:
            ribbon.append_written(_without_private(self._text(place, item.start)), place)
            self._append_stretch(ribbon, item, language, literal)
            place = item.end
        ribbon.append_written(_without_private(self._text(place, sentence.end)), place)
        return ribbon

    def _append_stretch(self, ribbon: Ribbon, item: Found, language: str, literal: list[str]) -> None:
        stretch = item.stretch
        alias = stretch.alias
        if stretch.reading is not None:
            alias = stretch.reading(language)
            if alias is None:
                alias = stretch.raw
                self.warn(f"{self._text(item.start, item.end)!r} is read as it is written: no words for it are known")
        for words, tokens in stretch.parts or ((alias or "", stretch.tokens or ""),):
            ribbon.append(_without_private(words), item.start, item.end)
            if tokens and len(literal) < MAX_LITERALS:
                ribbon.append(placeholder(len(literal)), item.start, item.end)
                literal.append(tokens)

    def _warn_left_out(self, text: str) -> None:
        if len(text) == 1:
            name = f"{text!r} (U+{ord(text):04X} {unicodedata.name(text, 'without a name')})"
            self.warn(f"left out {name}: this model cannot speak it")
        else:
            self.warn(f"left out {text.strip()!r}: it is not read aloud")


def _without_private(text: str) -> str:
    return PRIVATE.sub(" ", text)
