"""Parsed SSML to segments: each `<speak>` in turn, its pieces pushed into one text stream."""

from __future__ import annotations

import re
from dataclasses import replace

from cosyforge.errors import InvalidMarkup
from cosyforge.text.lexicon import letter_phones
from cosyforge.text.mandarin import spell_pinyin
from cosyforge.text.pronunciation import parse_cmu, parse_pinyin, phone_tokens
from cosyforge.text.said import Said
from cosyforge.text.say_as import READ_IN_PARTS, read_as
from cosyforge.text.segment import Segment
from cosyforge.text.ssml import MAX_BREAK_MS, Piece, Speak, parse_ssml
from cosyforge.text.stream import TextStream

_HAN = re.compile(r"[\u3400-\u9fff]")


class MarkedUp:
    """One SSML text on its way through a stream that was made for it."""

    def __init__(self, stream: TextStream, languages: tuple[str, ...], english: str) -> None:
        self._stream = stream
        self._languages = languages
        self._english = english

    def segments(self, text: str) -> list[Segment]:
        """Speak SSML: a break or a sound ends a segment, replaced words are opaque to the sentence splitter.

        Raises: InvalidMarkup
        """
        segments: list[Segment] = []
        for index, speak in enumerate(parse_ssml(text)):
            asked = {
                "rate": speak.rate,
                "pitch": speak.pitch,
                "volume": speak.volume,
                "effect": speak.effect,
                "background": speak.background,
                "background_volume": speak.background_volume,
            }
            segments += [replace(segment, speak=index, **asked) for segment in self._spoken(speak)]  # type: ignore[arg-type]
        return segments

    def _spoken(self, speak: Speak) -> list[Segment]:
        segments: list[Segment] = []
        for piece in speak.pieces:
            if piece.break_ms:
                segments = _with_break(segments + self._stream.finish(), piece.break_ms)
            elif piece.sound is not None:
                segments += [*self._stream.finish(), Segment("", "", asked_pause=True, sound=piece.sound)]
            else:
                segments += self._text(piece)
        return segments + self._stream.push("\n\n") + self._stream.finish()

    def _text(self, piece: Piece) -> list[Segment]:
        if piece.alias is not None:
            return self._stream.push_alias(piece.text, piece.alias)
        if piece.cmu is not None:
            phones = parse_cmu(piece.cmu, keep_stress=self._english == "text")
            return self._stream.push_tokens(piece.text, phone_tokens(phones))
        if piece.pinyin is not None:
            return self._stream.push_tokens(piece.text, self._pinyin(piece))
        if piece.say_as is not None:
            return self._say_as(piece.say_as, piece.text)
        return self._stream.push(piece.text)

    def _pinyin(self, piece: Piece) -> str:
        try:
            if "zh" not in self._languages:
                raise ValueError("this model does not speak Mandarin")
            return phone_tokens(self._syllables(piece.pinyin or ""))
        except ValueError as error:
            line, column = piece.place.line, piece.place.column
            message = f'SSML line {line}, column {column}: <phoneme alphabet="py">: {error}'
            raise InvalidMarkup(message, line=line, column=column) from error

    def _syllables(self, symbols: str) -> list[str]:
        """A model that reads phones has the nearest syllable for one that the tokenizer lacks."""
        return parse_pinyin(symbols) if self._english == "text" else spell_pinyin(symbols)

    # ---- say-as

    def _say_as(self, kind: str, text: str) -> list[Segment]:
        """Which words it becomes is decided in the stream, where the language of the sentence is known."""
        if kind not in READ_IN_PARTS:
            return self._stream.push_reading(text, lambda language: self._words(kind, text, language))
        language = "zh" if _HAN.search(text) and "zh" in self._languages else "en"
        parts = read_as(kind, text, language)
        if parts is None:
            return self._stream.push(text)
        segments: list[Segment] = []
        for index, part in enumerate(parts):
            segments += self._part(kind, text, part, index)
        return segments

    def _part(self, kind: str, text: str, part: Said, index: int) -> list[Segment]:
        if part.letters is not None and self._english == "phones":
            return self._stream.push_tokens(part.text, phone_tokens(letter_phones(part.letters) or []))
        if part.letters is not None:
            # as a reading, for the letters say nothing about the language
            spelled = f" {' '.join(part.letters.upper())} "
            return self._stream.push_reading(part.text, lambda language: spelled)
        if part.pinyin is not None and "zh" in self._languages:
            return self._stream.push_tokens(part.text, phone_tokens(self._syllables(part.pinyin)))
        if part.words is None:
            return self._stream.push(part.text)
        return self._stream.push_reading(part.text, lambda language: self._words(kind, text, language, index))

    def _words(self, kind: str, text: str, language: str, index: int = 0) -> str | None:
        """The words of one part, in the language of its sentence or, where its form belongs to that, in the other."""
        if _HAN.search(text) and language == "en" and "zh" in self._languages:
            language = "zh"
        others = [other for other in ("zh", "en") if other in self._languages and other != language]
        for candidate in (language, *others) if language in ("zh", "en") else ():
            said = read_as(kind, text, candidate)
            if said is not None:
                return f" {said[index].words} " if candidate == "en" else said[index].words
        return None


def _with_break(segments: list[Segment], break_ms: int) -> list[Segment]:
    """Let the last segment be followed by a break; breaks with nothing between them add up."""
    last = segments[-1] if segments else Segment("", "", 0, asked_pause=True)
    pause_ms = min(MAX_BREAK_MS, break_ms + (last.pause_ms if last.asked_pause else 0))
    return [*segments[:-1], replace(last, pause_ms=pause_ms, asked_pause=True)]
