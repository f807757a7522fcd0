"""Formulas in a text: what stands between $…$, $$…$$, \\(…\\) and \\[…\\] is read as mathematics, not sign by sign.

A dollar sign before an amount stays money. How a formula is said is in formula.py.
"""

from __future__ import annotations

import re
from functools import partial

from cosyforge.text.formula import read_formula
from cosyforge.text.ribbon import CJK
from cosyforge.text.scan import Stretch, Window
from cosyforge.text.segment import held

MAX_INLINE_CHARACTERS = 300
"""A dollar sign waits this long for its partner; also the longest formula that is read."""

MAX_DISPLAY_CHARACTERS = 300

_CLOSING = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_WORDS_IN_FORMULA = re.compile(
    r"\\(?:text[a-z]*|math[a-z]+|operatorname|unit|quantity|mbox)\s*(?:\{[^{}]*\}?)?|\\(?:rm|it)\b\s*\{?[A-Za-z]*\}?"
)
_PROSE = re.compile(
    r"[，。；！？、“”「」《》…]"  # marks of Chinese prose
    r"|(?<![\\A-Za-z{])[A-Za-z]+[a-z][,.;:]?\s+[A-Za-z]+[a-z]"  # two words without a backslash
    r"|^\d[\d,.]*(?:\s*[-–]\s*\$?\d[\d,.]*)?\s*[.,;!?]?\s+[A-Za-z]{2,}"  # an amount and a word
    r"|[.!?]\s+[A-Z]"
)
"""What shows that a dollar sign was money after all. Text that goes on never makes it mathematics again."""

_OPERATOR = re.compile(r"[=+\\^_<>]")
_PROSE_SCRIPTS = re.compile(f"[{CJK}\uac00-\ud7af]")
_NAME = re.compile(r"[A-Za-z]{4,}")


class Formulas:
    """Finds formulas by their delimiters."""

    triggers = "$\\"

    def look(self, window: Window, place: int) -> Stretch | None:
        """A formula is one stretch, which the sentence splitter does not cut; an escaped dollar is a plain one."""
        window.need(place + 2)
        opening = window.text[place : place + 2]
        if opening == "\\$":
            return Stretch(held(2, 1), alias="$")
        if opening not in _CLOSING:
            if window.text[place] != "$":
                return None
            opening = "$"
        start = place + len(opening)
        end = self._end(window, start, opening)
        if end is None:
            return None
        tex = window.text[start:end]
        if opening == "$" and not _is_mathematics(window, tex, end + 1):
            return None
        length = end + len(opening) - place
        return Stretch(held(length, len(tex)), reading=partial(read_formula, tex), raw=tex.replace("\\", " "))

    def _end(self, window: Window, start: int, opening: str) -> int | None:
        """Where the closing delimiter begins; None when there is none, or prose comes first."""
        closing = _CLOSING[opening]
        longest = MAX_INLINE_CHARACTERS if opening == "$" else MAX_DISPLAY_CHARACTERS
        if opening == "$":
            window.need(start + 1)
            if window.text[start : start + 1].isspace():
                return None
        end = _find(window.text, closing, start, start + longest)
        inside = window.text[start : end if end >= 0 else start + longest]
        if _BLANK_LINE.search(inside) or (opening == "$" and _is_prose(inside)):
            return None
        if end < 0:
            window.need(start + longest + len(closing))
            return None
        if opening == "$":
            window.need(end + 2)  # what follows tells money from mathematics
        return end if inside.strip() else None


def _find(text: str, closing: str, start: int, stop: int) -> int:
    """Find the closing delimiter, which no backslash escapes."""
    place = text.find(closing, start, stop + len(closing))
    while place > start and closing[0] == "$" and text[place - 1] == "\\":
        place = text.find(closing, place + 1, stop + len(closing))
    return place


def _is_prose(inside: str) -> bool:
    return _PROSE.search(_WORDS_IN_FORMULA.sub(" ", inside)) is not None


def _is_mathematics(window: Window, tex: str, after: int) -> bool:
    """A closing dollar stands directly behind the formula and never in front of a digit: $5 and $6, $5-$6, $HOME/$USER."""
    if tex[-1].isspace() or tex[-1] in "+-*/=,(<>&" or window.text[after : after + 1].isdigit():
        return False
    if _PROSE_SCRIPTS.search(tex) and not _OPERATOR.search(tex):
        return False
    return _NAME.fullmatch(tex) is None
