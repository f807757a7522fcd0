"""What the readings of `<say-as>` share: the part that was read, and how numbers and symbols are taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
RANGE = r"\s?(?:~|-|至|到|to)\s?"


@dataclass(frozen=True)
class Said:
    """A part of the text and how it is read; with nothing but the text, as any text.

    words: spoken instead
    letters: Latin letters, each by its name
    pinyin: one syllable with a tone digit per character of the text
    """

    text: str
    words: str | None = None
    letters: str | None = None
    pinyin: str | None = None


def grouped(digits: str) -> list[str]:
    """Long numbers in groups of four, the odd ones first; up to ten digits stay together."""
    if len(digits) <= 10:
        return [digits]
    first = len(digits) % 4
    return [digits[:first]] * bool(first) + [digits[start : start + 4] for start in range(first, len(digits), 4)]


def digit_groups(written: str) -> list[str] | None:
    """The groups in which digits are read one by one: as they are written, or of four; None when it is no number."""
    if not re.fullmatch(r"[+-]?\d+(?:[ ,-]+\d+)*", written):
        return None
    if re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+", written):
        return grouped(re.sub(r"\D", "", written))
    return [group for part in re.findall(r"\d+", written) for group in grouped(part)]


def identity_groups(written: str) -> list[str]:
    """A Chinese identity number (18 places) as region, birthday, rest; others as they are."""
    if re.fullmatch(r"\d{17}[\dXx]", written):
        return [written[:6], written[6:14], written[14:]]
    return [written]


def number_value(written: str) -> tuple[str, str, str]:
    """-1,234.50 -> sign, whole, fraction, without commas and leading zeros of the whole."""
    sign = written[0] if written[0] in "+-" else ""
    whole, _, fraction = written.removeprefix(sign).replace(",", "").partition(".")
    return sign, whole.lstrip("0") or "0", fraction
