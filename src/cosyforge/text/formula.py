"""A LaTeX formula as a person says it, in Mandarin or English: TeX -> MathML tree (latex2mathml) -> words.

Mandarin names the denominator first (三分之二) as the language does; one sample of the service we are compatible with
has it the other way round and contradicts its own table.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from latex2mathml import exceptions
from latex2mathml.converter import convert_to_element

from cosyforge.text.formula_words import ENGLISH, MANDARIN, Wording

MAX_DEPTH = 24
"""Deeper nests of braces are nobody's formula; latex2mathml recurses on them."""

_BROKEN: tuple[type[Exception], ...] = (
    *(error for error in vars(exceptions).values() if isinstance(error, type) and issubclass(error, Exception)),
    *(IndexError, KeyError, ValueError, TypeError, AttributeError, RecursionError),
)
"""What latex2mathml raises about TeX that it cannot read."""

_UNIT = "\ue001"
"""Marks a text in upright letters that may be a unit."""

_BRACES = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
_QUANTITY = re.compile(r"\\(?:quantity|qty|SI)\s*" + _BRACES + r"\s*" + _BRACES)
_UPRIGHT = re.compile(
    r"\\(?:unit|si|mathrm|mathit|mathsf|operatorname|text|textrm|mbox|rm|it)\s*"
    + _BRACES
    + r"|\{\s*\\(?:rm|it)\b([^{}]*)\}"
)
_SWITCH = re.compile(r"\\(?:rm|it)\s+([A-Za-z]+)")
_DIGIT_COMMA = re.compile(r"(?<=\d)(?:\{,\}|,(?=\d{3}(?!\d)))(?=\d)")
_SIZES = re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|big|Big|bigg|Bigg)(?![A-Za-z])")

_SKIPPED = frozenset({"mspace", "mpadded"})
_GROUPS = frozenset({"math", "mrow", "mstyle"})
_OPEN, _CLOSE = "([{⟨", ")]}⟩"
_MINUS = "−-"
_BARS = "|‖"
_DEGREE = "∘°"
_PRIMES = {"′": 1, "″": 2, "‴": 3}
_BIG = {"∑": "sum", "∏": "product", "∫": "integral", "∬": "integral", "∮": "integral"}
_ACCENTS = {
    "→": "vector",
    "⃗": "vector",
    "⌢": "arc",
    "⏜": "arc",
    "‾": "bar",
    "―": "bar",
    "¯": "bar",
    "^": "hat",
    "~": "tilde",
}


class Unreadable(Exception):
    """The formula holds something that has no words here."""


def read_formula(tex: str, language: str) -> str | None:
    """Say a formula (without its delimiters); None when it cannot be said in this language."""
    wording = {"zh": MANDARIN, "en": ENGLISH}.get(language)
    if wording is None:
        return None
    try:
        return wording.join(_Reader(wording).row([_parse(tex)])) or None
    except Unreadable:
        return None


def _parse(tex: str) -> Element:
    depth = 0
    for char in tex:
        depth += (char == "{") - (char == "}")
        if not 0 <= depth <= MAX_DEPTH:
            raise Unreadable
    if depth:
        raise Unreadable
    tex = _SIZES.sub(" ", _DIGIT_COMMA.sub("", tex))
    tex = _QUANTITY.sub(r"\1\\unit{\2}", tex)
    tex = _SWITCH.sub(r"\\rm{\1} ", _UPRIGHT.sub(_as_text, tex))
    tex = _UPRIGHT.sub(_as_text, tex)
    try:
        return convert_to_element(tex)
    except _BROKEN as error:
        raise Unreadable from error


def _as_text(match: re.Match[str]) -> str:
    content = re.sub(r"\^\{?2\}?", "²", re.sub(r"\^\{?3\}?", "³", match[1] or match[2] or ""))
    content = content.replace("\\cdot", "·").replace("\\%", "%")
    return r"\text{" + _UNIT + re.sub(r"[\\{}$]", " ", content).strip() + "}"


def _text(element: Element) -> str:
    return html.unescape("".join(element.itertext())).strip()


class _Reader:
    """Walks along rows of the tree; `_said` remembers what the last thing was, for signs and implied products."""

    def __init__(self, wording: Wording) -> None:
        self._words = wording

    def row(self, elements: Sequence[Element]) -> list[str]:
        """Say elements that stand beside each other."""
        flat = _flat(elements)
        said: list[str] = []
        place = 0
        is_start = True
        while place < len(flat):
            words, place, is_start = self._next(flat, place, is_start)
            said += words
        return [words for words in said if words]

    def _next(self, flat: list[Element], place: int, is_start: bool) -> tuple[list[str], int, bool]:
        """Say one thing: its words, where to go on, and whether a sign there would belong to a number."""
        element = flat[place]
        tag, text = element.tag, _text(element)
        if tag in ("mo", "mi"):
            return self._sign_or_name(flat, place, text, is_start)
        if tag == "mn":
            return self._number(flat, place, text)
        if tag == "mtext":
            return [self._upright(text, None)], place + 1, False
        if tag in ("msub", "msubsup", "munder", "munderover", "msup"):
            head = _text(element[0])
            if head in ("log", "lim", "max", "min") or head in _BIG:
                return self._with_limits(flat, place, head)
        if tag == "msup" and _text(element[1]) in _DEGREE:
            return self._degrees(flat, place)
        return [self._words.join(self._structure(element))], place + 1, False

    # ---- leaves

    def _sign_or_name(self, flat: list[Element], place: int, text: str, is_start: bool) -> tuple[list[str], int, bool]:
        words = self._words
        if text in _BARS and text:
            return self._absolute(flat, place, text)
        if is_start and text and text in _MINUS:
            return [words.signs.negative], place + 1, False
        if is_start and text in words.signs.leading_signs:
            return [words.signs.leading_signs[text]], place + 1, False
        if text in words.signs.functions:
            return [words.signs.functions[text]], place + 1, True
        if text in _BIG:
            return [words.signs.big[_BIG[text]]], place + 1, True
        if text in words.signs.figures:
            return [words.signs.figures[text]], place + 1, False
        if text in words.signs.operators:
            return [words.signs.operators[text]], place + 1, text not in _CLOSE + "!%′∞∅…"
        if text in ("", "\u2061", "\u2062", "\u200b"):
            return [], place + 1, is_start
        return [self._letter(text)], place + 1, False

    def _letter(self, text: str) -> str:
        if text in self._words.signs.letters:
            return self._words.signs.letters[text]
        if text.isalpha() and (len(text) == 1 or text.isascii()):
            return self._words.spell_letter(text)
        raise Unreadable

    def _number(self, flat: list[Element], place: int, text: str) -> tuple[list[str], int, bool]:
        """A number with what makes one reading with it: a fraction, a percent sign, a unit."""
        if not re.fullmatch(r"\d+(?:\.\d+)?|\.\d+", text):
            raise Unreadable
        number = self._words.number(text)
        following = flat[place + 1] if place + 1 < len(flat) else None
        if following is not None:
            if following.tag == "mfrac" and "." not in text and _is_plain_fraction(following):
                return [self._words.mixed(number, self._fraction(following))], place + 2, False
            if _text(following) == "%":
                return [self._words.percent(number)], place + 2, False
            if following.tag == "mtext":
                return [self._upright(_text(following), text)], place + 2, False
        return [number], place + 1, False

    def _upright(self, text: str, number: str | None) -> str:
        """Words in upright letters; a unit when one is meant."""
        content = text.lstrip(_UNIT).replace("\xa0", " ").strip()
        if number is not None:
            measured = self._words.measure(number, content)
            return measured or self._words.join([self._words.number(number), self._plain(content)])
        return self._words.unit(content) or self._plain(content)

    def _plain(self, content: str) -> str:
        if content in self._words.signs.figures:
            return self._words.signs.figures[content]
        if content in self._words.signs.functions:
            return self._words.signs.functions[content]
        return content

    # ---- things with parts

    def _structure(self, element: Element) -> list[str]:
        readers: dict[str, Callable[[Element], str]] = {
            "mfrac": self._fraction, "msqrt": self._root, "mroot": self._root, "msup": self._power,
            "msub": self._index, "msubsup": self._index_and_power, "mover": self._accent,
        }  # fmt: skip
        reader = readers.get(element.tag)
        if reader is None or len(element) < {"msqrt": 1, "msubsup": 3}.get(element.tag, 2):
            raise Unreadable
        return [reader(element)]

    def _fraction(self, element: Element) -> str:
        if element.get("linethickness") == "0":
            raise Unreadable
        upper, lower = self._inside(element[0]), self._inside(element[1])
        if _is_plain_fraction(element):
            return self._words.numeric_fraction(_text(element[0]), _text(element[1]))
        return self._words.fraction(upper, lower, _is_single(element[0]))

    def _root(self, element: Element) -> str:
        degree = _text(element[1]) if element.tag == "mroot" else "2"
        degree_words = self._inside(element[1]) if element.tag == "mroot" else ""
        return self._words.root(self._inside(element[0]), degree, degree_words, _is_single(element[0]))

    def _power(self, element: Element) -> str:
        primes = _PRIMES.get(_text(element[1]))
        base = self._words.join(self.row([element[0]]))
        if primes:
            return self._words.primes(base, primes)
        return self._words.power(base, _text(element[1]), self._inside(element[1]))

    def _index(self, element: Element) -> str:
        base = self._words.join(self.row([element[0]]))
        return self._words.index(base, _text(element[1]), self._inside(element[1]))

    def _index_and_power(self, element: Element) -> str:
        base = self._index(element)
        return self._words.power(base, _text(element[2]), self._inside(element[2]))

    def _accent(self, element: Element) -> str:
        kind = _ACCENTS.get(_text(element[1]))
        if kind is None:
            raise Unreadable
        return self._words.accent(kind, self._inside(element[0]))

    def _degrees(self, flat: list[Element], place: int) -> tuple[list[str], int, bool]:
        """30^\\circ, and 30^\\circ C when the scale follows in upright letters."""
        number = _text(flat[place][0])
        following = _text(flat[place + 1]).lstrip(_UNIT) if place + 1 < len(flat) else ""
        is_number = re.fullmatch(r"\d+(?:\.\d+)?", number) is not None
        if following in ("C", "F") and is_number:
            return [self._words.measure(number, f"°{following}") or ""], place + 2, False
        words = self._words.measure(number, "°") if is_number else None
        return [words or self._words.degrees(self._inside(flat[place][0]))], place + 1, False

    def _absolute(self, flat: list[Element], place: int, bar: str) -> tuple[list[str], int, bool]:
        end = next((at for at in range(place + 1, len(flat)) if _text(flat[at]) == bar), None)
        if end is None or end == place + 1:
            raise Unreadable
        return [self._words.absolute(self._words.join(self.row(flat[place + 1 : end])))], end + 1, False

    def _with_limits(self, flat: list[Element], place: int, head: str) -> tuple[list[str], int, bool]:
        """log_2 8, lim, sums and integrals: the limits are said before what they are about."""
        element = flat[place]
        parts = [self._inside(part) for part in element[1:]]
        lower = parts[0] if element.tag != "msup" else ""
        upper = parts[-1] if element.tag in ("msubsup", "munderover", "msup") else ""
        if head == "log" and lower and not upper:
            end = _argument_end(flat, place + 1)
            argument = self._words.join(self.row(flat[place + 1 : end]))
            if not argument:
                raise Unreadable
            return [self._words.logarithm(lower, argument)], end, False
        if head in _BIG:
            return [self._words.limits(_BIG[head], lower, upper)], place + 1, True
        if head == "lim" and lower and not upper:
            return [self._words.limits("limit", lower, "")], place + 1, True
        if head in self._words.signs.functions and upper and not lower:
            words = self._words.power(self._words.signs.functions[head], _text(element[1]), upper)
            return [words], place + 1, True
        raise Unreadable

    def _inside(self, element: Element) -> str:
        return self._words.join(self.row([element]))


def _flat(elements: Sequence[Element]) -> list[Element]:
    """Groups that only keep things together are opened."""
    flat: list[Element] = []
    for element in elements:
        if element.tag in _GROUPS:
            flat += _flat(list(element))
        elif element.tag not in _SKIPPED:
            flat.append(element)
    return flat


def _is_single(element: Element) -> bool:
    """One number or name, which needs no pause around it."""
    flat = _flat([element])
    return len(flat) == 1 and flat[0].tag in ("mn", "mi", "mtext")


def _is_plain_fraction(element: Element) -> bool:
    return len(element) == 2 and _text(element[0]).isdecimal() and _text(element[1]).isdecimal()


def _argument_end(flat: list[Element], start: int) -> int:
    """Where the argument of a function ends: at its closing bracket, or at the next operator."""
    depth = 0
    for place in range(start, len(flat)):
        text = _text(flat[place])
        if text in _OPEN and flat[place].tag == "mo":
            depth += 1
        elif text in _CLOSE and flat[place].tag == "mo":
            depth -= 1
            if depth <= 0:
                return place + 1 if depth == 0 else place
        elif depth == 0 and flat[place].tag == "mo":
            return place
    return len(flat)
