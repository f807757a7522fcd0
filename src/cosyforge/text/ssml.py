"""SSML to pieces of text, breaks and pronunciations; strict, and safe against entity tricks.

Served today: speak, break, sub and phoneme. Every other tag, and the attributes of speak, are refused with their place
in the text; refusing is better than reading a tag aloud or dropping what it asked for.
Source: the markup page of DashScope (subset of W3C SSML 1.0)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from xml.parsers import expat

from cosyforge.errors import InvalidMarkup
from cosyforge.text.pronunciation import parse_cmu, parse_pinyin

DOCUMENTED_TAGS = ("speak", "break", "sub", "phoneme", "say-as", "soundEvent")
MAX_BREAK_MS = 10_000
MAX_ALIAS_CHARACTERS = 300
"""An alias is spoken in one breath with its sentence, so it cannot be a page."""

_DOCUMENTED_SPEAK_ATTRIBUTES = (
    "voice",
    "rate",
    "pitch",
    "volume",
    "effect",
    "effectValue",
    "bgm",
    "backgroundMusicVolume",
)
_HARMLESS_SPEAK_ATTRIBUTES = ("version", "xmlns", "xml:lang")
_ROOT = "<document>"
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class Piece:
    """A run of visible text, or a break. At most one of alias, cmu, pinyin says how the text is spoken instead.

    Units: break_ms is silence in place of this piece (whose text is empty then)
    """

    text: str = ""
    alias: str | None = None
    cmu: str | None = None
    pinyin: str | None = None
    break_ms: int = 0


def is_ssml(text: str) -> bool:
    """Markup is only what begins like it: clients switch SSML on for plain text, too."""
    return re.match(r"\s*<speak[\s/>]", text) is not None


def parse_ssml(text: str) -> list[Piece]:
    """Read one or several `<speak>` elements.

    Raises: InvalidMarkup with line and column (both from 1)
    """
    reader = _Reader()
    reader.read(text)
    return _joined_breaks(reader.pieces)


def _joined_breaks(pieces: list[Piece]) -> list[Piece]:
    """Consecutive breaks add up, to ten seconds at most."""
    joined: list[Piece] = []
    for piece in pieces:
        if piece.break_ms and joined and joined[-1].break_ms:
            joined[-1] = Piece(break_ms=min(MAX_BREAK_MS, joined[-1].break_ms + piece.break_ms))
        else:
            joined.append(piece)
    return joined


class _Reader:
    """Walks through the elements; the stack holds the names of those that are open."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._open: list[str] = []
        self._attributes: dict[str, str] = {}
        self._inner = ""
        self._start = (1, 1)
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._element_starts
        self._parser.EndElementHandler = self._element_ends
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.EntityDeclHandler = self._doctype
        self._parser.ProcessingInstructionHandler = self._instruction

    def read(self, text: str) -> None:
        try:
            # the wrapper allows several <speak> side by side; it stands on the first line, see _place
            self._parser.Parse(f"{_ROOT}{text}</document>", True)
        except expat.ExpatError as error:
            line, column = self._place(error.lineno, error.offset)
            # at the end expat points into the wrapper's closing tag
            column = min(column, len(text.split("\n")[line - 1]) + 1)
            reason = expat.errors.messages.get(error.code, "not well-formed")
            raise _error(
                f"{reason}; check that every tag is closed and that & and < are escaped", line, column
            ) from error

    def _place(self, line: int, offset: int) -> tuple[int, int]:
        return line, max(1, offset + 1 - (len(_ROOT) if line == 1 else 0))

    def _refuse(self, what: str) -> NoReturn:
        raise _error(what, *self._place(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber))

    def _doctype(self, *_: object) -> None:
        self._refuse("document types and entity declarations are not allowed")

    def _instruction(self, target: str, _: str) -> None:
        self._refuse(f"the processing instruction <?{target} …?> is not allowed")

    def _element_starts(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else ""
        self._open.append(name)
        if not parent:
            return
        if parent == "document" and name != "speak":
            self._refuse(f"<{name}> must stand inside <speak>")
        if parent not in ("document", "speak"):
            self._refuse(f"<{parent}> may hold text only, not <{name}>")
        if name == "speak":
            self._speak(parent, attributes)
        elif name == "break":
            self._break(attributes)
        elif name in ("sub", "phoneme"):
            self._spoken_otherwise(name, attributes)
        elif name in DOCUMENTED_TAGS:
            self._refuse(f"<{name}> is not supported yet; served are speak, break, sub and phoneme")
        else:
            self._refuse(f"unknown tag <{name}>; served are speak, break, sub and phoneme")

    def _speak(self, parent: str, attributes: dict[str, str]) -> None:
        if parent == "speak":
            self._refuse("<speak> must not stand inside <speak>")
        for key, value in attributes.items():
            if key in _DOCUMENTED_SPEAK_ATTRIBUTES and (key, value) != ("voice", "default"):
                self._refuse(f'the attribute {key}="{value}" of <speak> is not supported yet; set it on the request')
            if key not in (*_DOCUMENTED_SPEAK_ATTRIBUTES, *_HARMLESS_SPEAK_ATTRIBUTES):
                self._refuse(f"unknown attribute {key} of <speak>")

    def _break(self, attributes: dict[str, str]) -> None:
        self._only(attributes, "break", "time")
        time = attributes.get("time", "1s")
        match = re.fullmatch(r"(\d{1,5})(ms|s)", time.strip())
        duration_ms = int(match[1]) * (1000 if match[2] == "s" else 1) if match else 0
        if not 50 <= duration_ms <= MAX_BREAK_MS:
            self._refuse(f'the time "{time}" of <break> must lie between 50ms and 10000ms, or 1s and 10s')
        self.pieces.append(Piece(break_ms=duration_ms))

    def _spoken_otherwise(self, name: str, attributes: dict[str, str]) -> None:
        wanted = ("alias",) if name == "sub" else ("alphabet", "ph")
        self._only(attributes, name, *wanted)
        for key in wanted:
            if not attributes.get(key, "").strip():
                self._refuse(f"<{name}> needs the attribute {key}")
        if name == "sub" and len(attributes["alias"]) > MAX_ALIAS_CHARACTERS:
            self._refuse(f"the alias of <sub> is longer than {MAX_ALIAS_CHARACTERS} characters")
        if name == "phoneme" and attributes["alphabet"] not in ("cmu", "py"):
            self._refuse(f'the alphabet "{attributes["alphabet"]}" of <phoneme> must be cmu or py')
        self._attributes, self._inner = attributes, ""
        self._start = self._place(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber)

    def _only(self, attributes: dict[str, str], name: str, *known: str) -> None:
        for key in attributes:
            if key not in known:
                self._refuse(f"unknown attribute {key} of <{name}>; known are {', '.join(known)}")

    def _characters(self, text: str) -> None:
        inside = self._open[-1]
        if inside in ("sub", "phoneme"):
            self._inner += text
        elif inside == "speak":
            self.pieces.append(Piece(text))
        elif text.strip():
            self._refuse("<break> must be empty" if inside == "break" else "text must stand inside <speak>")

    def _element_ends(self, name: str) -> None:
        self._open.pop()
        if name == "sub":
            self.pieces.append(Piece(self._inner, alias=self._attributes["alias"]))
        elif name == "phoneme":
            self.pieces.append(self._phoneme())
        elif name == "speak":
            self.pieces.append(Piece("\n\n"))

    def _phoneme(self) -> Piece:
        symbols = self._attributes["ph"]
        try:
            if self._attributes["alphabet"] == "cmu":
                parse_cmu(symbols, keep_stress=True)
                return Piece(self._inner, cmu=symbols)
            parse_pinyin(symbols)
        except ValueError as error:
            raise _error(f"<phoneme>: {error}", *self._start) from error
        num_syllables, num_characters = len(symbols.split()), len(_HAN.findall(self._inner))
        if num_syllables != num_characters:
            reason = f"{num_syllables} syllables for {num_characters} characters; there must be one for each"
            raise _error(f"<phoneme>: {reason}", *self._start)
        return Piece(self._inner, pinyin=symbols)


def _error(what: str, line: int, column: int) -> InvalidMarkup:
    return InvalidMarkup(f"SSML line {line}, column {column}: {what}", line=line, column=column)
