"""SSML to `Speak` elements made of pieces: text, breaks, sounds, pronunciations; strict, and safe against XML tricks.

    parse_ssml(text) -> [Speak(pieces, rate, pitch, volume, effect, background, …), …]

One `Speak` per `<speak>` element, in order; what one asks for ends with it. Whoever speaks them ends the sentence after
each one, and before and after a piece that is a break or a sound. A sound and the background are known by their
address here; they are fetched elsewhere, before anything is spoken (`net/sounds.py`). A tag or an attribute that is not
documented is refused with its place: better than reading it aloud or dropping what it asked for.
Source: the markup page of DashScope (subset of W3C SSML 1.0)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NoReturn
from xml.parsers import expat

from cosyforge.errors import InvalidMarkup
from cosyforge.text.mandarin import spell_pinyin
from cosyforge.text.pronunciation import parse_cmu
from cosyforge.text.say_as import MAX_SAY_AS_CHARACTERS, SAY_AS
from cosyforge.text.ssml_attributes import RULES, START, Place, SpeakAttributes, read_speak, web_address

MAX_SSML_CHARACTERS = 500_000
MAX_ELEMENTS = 20_000
MAX_BREAK_MS = 10_000
MAX_ALIAS_CHARACTERS = 300
"""An alias is spoken in one breath with its sentence, so it cannot be a page."""

_ATTRIBUTES = {
    "break": ("time",),
    "sub": ("alias",),
    "phoneme": ("alphabet", "ph"),
    "soundEvent": ("src",),
    "say-as": ("interpret-as",),
}
_EMPTY = ("break", "soundEvent")
_ROOT = "<document>"
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_BEGINNING = re.compile(r"\s*<speak[\s/>]")
_XML_DECLARATION = re.compile(r"\s*<\?xml\s[^<>]{0,200}\?>")
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Piece:
    """A run of visible text, a break, or a sound. At most one of alias, cmu, pinyin, say_as says how the text is read.

    say_as: one of `SAY_AS`; the words depend on the language, see `say_as.read_as`
    sound: the address of a sound in place of this piece (whose text is empty then)
    Units: break_ms is silence in place of this piece
    """

    text: str = ""
    alias: str | None = None
    cmu: str | None = None
    pinyin: str | None = None
    break_ms: int = 0
    sound: str | None = None
    say_as: str | None = None
    place: Place = START

    @property
    def is_plain(self) -> bool:
        """It is nothing but text."""
        return not self.break_ms and (self.alias, self.cmu, self.pinyin, self.sound, self.say_as) == (None,) * 5


@dataclass(frozen=True)
class Speak(SpeakAttributes):
    """One `<speak>` element; of the attributes, None is what the request says."""

    pieces: tuple[Piece, ...] = ()
    place: Place = START

    @property
    def sounds(self) -> list[tuple[str, str, Place]]:
        """Every address in it, with what it is for (`bgm` or `soundEvent`) and where it stands."""
        background = [(self.background, "bgm", self.place)] if self.background else []
        return background + [(piece.sound, "soundEvent", piece.place) for piece in self.pieces if piece.sound]


def is_ssml(text: str) -> bool:
    """Markup is only what begins like it: clients switch SSML on for plain text, too."""
    declaration = _XML_DECLARATION.match(text)
    return _BEGINNING.match(text, declaration.end() if declaration else 0) is not None


def parse_ssml(text: str, *, voice: str | None = None, sample_rate_hz: int | None = None) -> list[Speak]:
    """Read one or several `<speak>` elements.

    voice: the request's, which `<speak voice>` may name beside `default`; None: any voice passes here
    sample_rate_hz: the request's, half of which bounds the cut-off of filters; None: that of the highest rate
    Raises: InvalidMarkup with line and column (both from 1)
    """
    if len(text) > MAX_SSML_CHARACTERS:
        raise _error(f"the text is longer than {MAX_SSML_CHARACTERS} characters", START)
    reader = _Reader(voice, sample_rate_hz)
    reader.read(text)
    return reader.speaks


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Consecutive breaks add up, to ten seconds at most; text that came in several runs becomes one."""
    joined: list[Piece] = []
    texts: list[str] = []
    for piece in pieces:
        if piece.is_plain:
            texts.append(piece.text)
            continue
        if texts:
            joined.append(Piece("".join(texts)))
            texts = []
        if piece.break_ms and joined and joined[-1].break_ms:
            break_ms = min(MAX_BREAK_MS, joined[-1].break_ms + piece.break_ms)
            joined[-1] = replace(joined[-1], break_ms=break_ms)
        else:
            joined.append(piece)
    return [*joined, Piece("".join(texts))] if texts else joined


class _Reader:
    """Walks through the elements; the stack holds the names of those that are open, three at most."""

    def __init__(self, voice: str | None, sample_rate_hz: int | None) -> None:
        self.speaks: list[Speak] = []
        self._voice = voice
        self._sample_rate_hz = sample_rate_hz
        self._pieces: list[Piece] = []
        self._open: list[str] = []
        self._attributes: dict[str, str] = {}
        self._inner: list[str] = []
        self._start = START
        self._num_elements = 0
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._element_starts
        self._parser.EndElementHandler = self._element_ends
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.EntityDeclHandler = self._doctype
        self._parser.ProcessingInstructionHandler = self._instruction

    def read(self, text: str) -> None:
        if declaration := _XML_DECLARATION.match(text):
            # it says nothing that counts; blanks keep every place where it is
            text = re.sub(r"\S", " ", declaration[0]) + text[declaration.end() :]
        try:
            # the wrapper allows several <speak> side by side; it stands on the first line, see _place
            self._parser.Parse(f"{_ROOT}{text}</document>", True)
        except expat.ExpatError as error:
            place = self._place(error.lineno, error.offset)
            # at the end expat points into the wrapper's closing tag
            lines = _LINE_END.split(text)
            column = min(place.column, len(lines[min(place.line, len(lines)) - 1]) + 1)
            reason = expat.errors.messages.get(error.code, "not well-formed")
            raise _error(
                f"{reason}; check that every tag is closed and that & and < are escaped", Place(place.line, column)
            ) from error
        except UnicodeEncodeError as error:
            before = _LINE_END.split(text[: max(0, error.start - len(_ROOT))])
            raise _error("half a surrogate pair is no character", Place(len(before), len(before[-1]) + 1)) from error

    def _place(self, line: int, offset: int) -> Place:
        return Place(line, max(1, offset + 1 - (len(_ROOT) if line == 1 else 0)))

    def _here(self) -> Place:
        return self._place(self._parser.CurrentLineNumber, self._parser.CurrentColumnNumber)

    def _refuse(self, what: str, rule_of: str = "") -> NoReturn:
        raise _error(f"{what}. {RULES[rule_of]}" if rule_of else what, self._here())

    def _doctype(self, *_: object) -> None:
        self._refuse("document types and entity declarations are not allowed")

    def _instruction(self, target: str, _: str) -> None:
        self._refuse(f"the processing instruction <?{target[:40]} …?> is not allowed")

    # ---- elements

    def _element_starts(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._open[-1] if self._open else ""
        self._open.append(name)
        if not parent:
            return
        self._num_elements += 1
        if self._num_elements > MAX_ELEMENTS:
            self._refuse(f"there are more than {MAX_ELEMENTS} tags")
        if parent not in ("document", "speak"):
            self._refuse(f"<{parent}> cannot hold <{name[:40]}>", parent if parent in RULES else "")
        if name == "speak":
            self._speak(parent, attributes)
            return
        if name not in _ATTRIBUTES:
            self._refuse(f"unknown tag <{name[:40]}>; known are {', '.join(RULES)}")
        if parent == "document":
            self._refuse(f"<{name}> must stand inside <speak>")
        self._check_attributes(name, attributes)
        self._attributes, self._inner, self._start = attributes, [], self._here()
        if name == "break":
            self._break(attributes.get("time", "1s"))
        elif name == "soundEvent":
            self._sound(attributes["src"])

    def _speak(self, parent: str, attributes: dict[str, str]) -> None:
        if parent == "speak":
            self._refuse("<speak> must not stand inside <speak>; close the first one before the next begins")
        place = self._here()
        try:
            found = read_speak(attributes, self._voice, self._sample_rate_hz)
        except ValueError as error:
            raise _error(str(error), place) from error
        self.speaks.append(Speak(**vars(found), place=place))
        self._pieces = []

    def _check_attributes(self, name: str, attributes: dict[str, str]) -> None:
        for key in attributes:
            if key not in _ATTRIBUTES[name]:
                self._refuse(f"unknown attribute {key[:40]} of <{name}>", name)
        for key in _ATTRIBUTES[name]:
            if name != "break" and not attributes.get(key, "").strip():
                self._refuse(f"<{name}> needs the attribute {key}", name)
        if len(attributes.get("alias", "")) > MAX_ALIAS_CHARACTERS:
            self._refuse(f"the alias of <sub> is longer than {MAX_ALIAS_CHARACTERS} characters")
        if name == "phoneme" and attributes["alphabet"] not in ("cmu", "py"):
            self._refuse(f'unknown alphabet "{attributes["alphabet"][:40]}" of <phoneme>', name)
        if name == "say-as" and attributes["interpret-as"] not in SAY_AS:
            self._refuse(f'unknown interpret-as "{attributes["interpret-as"][:40]}" of <say-as>', name)

    def _break(self, time: str) -> None:
        match = re.fullmatch(r"(\d{1,5})(ms|s)", time.strip(), re.ASCII)
        duration_ms = int(match[1]) * (1000 if match[2] == "s" else 1) if match else 0
        if not 50 <= duration_ms <= MAX_BREAK_MS:
            self._refuse(f'the time "{time[:40]}" of <break> is not allowed', "break")
        self._pieces.append(Piece(break_ms=duration_ms, place=self._start))

    def _sound(self, src: str) -> None:
        try:
            self._pieces.append(Piece(sound=web_address(src), place=self._start))
        except ValueError as error:
            self._refuse(f"src of <soundEvent>: {error}", "soundEvent")

    def _characters(self, text: str) -> None:
        inside = self._open[-1]
        if inside == "speak":
            self._pieces.append(Piece(text))
        elif inside not in ("document", *_EMPTY):
            self._inner.append(text)
        elif text.strip():
            self._refuse(f"<{inside}> must be empty" if inside in _EMPTY else "text must stand inside <speak>")

    def _element_ends(self, name: str) -> None:
        self._open.pop()
        inner = "".join(self._inner)
        if name == "speak":
            self.speaks[-1] = replace(self.speaks[-1], pieces=tuple(_joined(self._pieces)))
        elif name == "sub":
            self._pieces.append(Piece(inner, alias=self._attributes["alias"], place=self._start))
        elif name == "phoneme":
            self._pieces.append(self._phoneme(inner))
        elif name == "say-as":
            self._pieces.append(self._say_as(inner))

    def _say_as(self, inner: str) -> Piece:
        if not inner.strip():
            raise _error(f"<say-as> has no text. {RULES['say-as']}", self._start)
        if len(inner) > MAX_SAY_AS_CHARACTERS:
            raise _error(f"the text of <say-as> is longer than {MAX_SAY_AS_CHARACTERS} characters", self._start)
        return Piece(inner, say_as=self._attributes["interpret-as"], place=self._start)

    def _phoneme(self, inner: str) -> Piece:
        symbols = self._attributes["ph"]
        try:
            if self._attributes["alphabet"] == "cmu":
                parse_cmu(symbols, keep_stress=True)
                return Piece(inner, cmu=symbols, place=self._start)
            spell_pinyin(symbols)
        except ValueError as error:
            raise _error(f"<phoneme>: {error}", self._start) from error
        num_syllables, num_characters = len(symbols.split()), len(_HAN.findall(inner))
        if num_syllables != num_characters:
            reason = f"{num_syllables} syllables for {num_characters} characters; there must be one for each"
            raise _error(f"<phoneme>: {reason}", self._start)
        return Piece(inner, pinyin=symbols, place=self._start)


def _error(what: str, place: Place) -> InvalidMarkup:
    return InvalidMarkup(f"SSML line {place.line}, column {place.column}: {what}", line=place.line, column=place.column)
