"""The Markdown filter: marks of Markdown are not read, the words are.

Rules look at one place and at most at the rest of its line, so they work on text that is still arriving. An emphasis mark
is known by what stands beside it; its partner is not looked for.
"""

from __future__ import annotations

import re

from cosyforge.text.scan import Stretch, Window

_LINE_LIMIT = 300
"""A link, a tag or a line of marks is looked for within this many characters."""

_MARK_ONLY_LINE = re.compile(r"(?:[-*_=] ?){3,}[ \t]*$|\|?(?:[ \t]*:?-+:?[ \t]*\|)+(?:[ \t]*:?-+:?)?[ \t]*$")
_MAYBE_MARK_ONLY = re.compile(r"[-*_=|: \t]*$")
_FENCE = re.compile(r"(?:`{3,}|~{3,})[^\n`]*$")
_MAYBE_FENCE = re.compile(r"`{1,}[^\n`]*$|~+[^\n]*$")
_DEFINITION = re.compile(r"\[[^\]\n]{1,100}\]:[ \t]*\S+.*$")
_HEADING = re.compile(r"#{1,6}[ \t]+")
_QUOTE = re.compile(r"(?:>[ \t]?)+")
_BULLET = re.compile(r"[-*+][ \t]+(?:\[[ xX]\][ \t]+)?")
_NUMBERED = re.compile(r"(\d{1,3})([.)])[ \t]+")
_LINK = re.compile(
    r"(!?\[)([^\[\]\n]*)(\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:[ \t]+[\"'(][^\n\"']*[\"')])?\)|\]\[[^\[\]\n]*\])"
)
_TAG = re.compile(
    r"</?(?:a|b|br|code|div|em|hr|i|img|li|ol|p|pre|s|span|strong|sub|sup|table|td|th|tr|u|ul)(?:\s[^<>\n]*)?/?>", re.I
)
_AUTOLINK = re.compile(r"<((?:https?://|mailto:)[^<>\s]*)>")
_ESCAPABLE = "*_`#>[]{}!~|+-.()"
_PARAGRAPH = "\u2029"


class Markdown:
    """Finds the marks; `_line` says what kind of line is being read."""

    triggers = "*_`~[]<|#>-+=!\n\\0123456789"

    def __init__(self) -> None:
        self._ends_paragraph = False
        self._is_table_row = False

    def look(self, window: Window, place: int) -> Stretch | None:
        """Say which mark stands at the place, if any."""
        if window.text[place] == "\n":
            ends, self._ends_paragraph, self._is_table_row = self._ends_paragraph, False, False
            return Stretch(_PARAGRAPH, alias=" ") if ends else None
        if window.is_line_start(place):
            stretch = self._line(window, place)
            if stretch is not None:
                return stretch
        return self._inline(window, place)

    # ---- at the start of a line

    def _line(self, window: Window, place: int) -> Stretch | None:
        line = _line_from(window, place)
        for maybe, marks in ((_MAYBE_MARK_ONLY, _MARK_ONLY_LINE), (_MAYBE_FENCE, _FENCE), (_DEFINITION, _DEFINITION)):
            if maybe.match(line):
                window.need(place + min(len(line), _LINE_LIMIT) + 1)
                if marks.match(line):
                    self._ends_paragraph = True
                    return Stretch(" " * len(line), alias="", is_left_out=True)
        if line[0] == "[":
            window.need(place + _LINE_LIMIT if "\n" not in window.text[place:] else 0)
        for pattern in (_HEADING, _QUOTE, _BULLET, _NUMBERED):
            stretch = self._marker(window, place, pattern, line)
            if stretch is not None:
                return stretch
        if line[0] == "|":
            self._ends_paragraph = self._is_table_row = True
            return _mark("“", 1)
        return None

    def _marker(self, window: Window, place: int, pattern: re.Pattern[str], line: str) -> Stretch | None:
        if place + len(line) == len(window.text) and re.fullmatch(
            r"[#>*+-]+[ \t]*(?:\[[ xX]?\]?)?|\d{1,3}[.)]?[ \t]*", line
        ):
            window.need(place + len(line) + 1)
        match = pattern.match(line)
        if match is None:
            return None
        self._ends_paragraph = pattern is not _QUOTE
        if pattern is _NUMBERED:
            window.plan(place + match.end(1), Stretch(",", alias=","))
            return None
        return _mark("‘" if pattern is _QUOTE else "“", match.end())

    # ---- inside a line

    def _inline(self, window: Window, place: int) -> Stretch | None:
        char = window.text[place]
        if char in "*_`~":
            return _emphasis(window, place, char)
        if char in "[!":
            return _link(window, place)
        if char == "<":
            return _tag(window, place)
        if char == "|" and self._is_table_row:
            return Stretch(",", alias=", ")
        if char == "\\":
            window.need(place + 2)
            escaped = window.text[place + 1 : place + 2]
            return Stretch(f"x{escaped}", alias=escaped) if escaped and escaped in _ESCAPABLE else None
        return None


def _line_from(window: Window, place: int) -> str:
    end = window.text.find("\n", place, place + _LINE_LIMIT)
    return window.text[place : end if end >= 0 else place + _LINE_LIMIT]


def _mark(mask: str, length: int) -> Stretch:
    return Stretch(mask * length, alias="")


def _emphasis(window: Window, place: int, char: str) -> Stretch | None:
    """Stars and underscores are marks when they touch a word on one side; between spaces or numbers they are signs."""
    end = place
    while end < len(window.text) and window.text[end] == char:
        end += 1
    window.need(end + 1)
    before, after = window.before(place), window.text[end : end + 1] or "\n"
    if char == "~" and end - place < 2:
        return None
    if char in "*_" and (before.isspace() and after.isspace()):
        return None
    if char == "*" and end - place == 1 and before.isdigit() and after.isdigit():
        return None
    if char == "_" and before.isalnum() and after.isalnum():
        return None
    return _mark("“" if before.isspace() else "”", end - place)


def _link(window: Window, place: int) -> Stretch | None:
    """[words](address), [words][reference] and ![picture](address): the words stay and are looked at like others."""
    if window.text[place] == "!":
        window.need(place + 2)
        if window.text[place + 1 : place + 2] != "[":
            return None
    rest = _line_from(window, place)
    match = _LINK.match(rest)
    if match is None:
        if "\n" not in window.text[place : place + _LINE_LIMIT]:
            window.need(place + _LINE_LIMIT)
        return None
    if len(rest) == match.end() and not match[3].endswith(")"):
        window.need(place + len(rest) + 1)
    window.plan(place + match.start(3), _mark("”", len(match[3])))
    return _mark("“", len(match[1]))


def _tag(window: Window, place: int) -> Stretch | None:
    rest = _line_from(window, place)
    link = _AUTOLINK.match(rest)
    if link is not None:
        window.plan(place + link.end() - 1, _mark("”", 1))
        return _mark("“", 1)
    tag = _TAG.match(rest)
    if tag is not None:
        return Stretch("”" * tag.end(), alias=" " if tag[0].startswith("<br") else "", is_left_out=True)
    if (
        re.match(r"</?[A-Za-z]", rest + "a" * (len(rest) < 3))
        and ">" not in rest
        and place + len(rest) == len(window.text)
    ):
        window.need(place + min(len(rest) + 1, _LINE_LIMIT))
    return None
