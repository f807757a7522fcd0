"""Counted characters: one rule for bills, `usage.characters` and the length limits of a text."""

from __future__ import annotations

import html
import re

_TAG = re.compile(r"<[^<>]*>")
_HAN = (
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # iteration mark, closing mark, ideographic zero
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


def count_characters(text: str, *, is_ssml: bool = False) -> int:
    """Han characters (also kanji and hanja) count two, everything else one, SSML tags nothing."""
    if is_ssml:
        text = html.unescape(_TAG.sub("", text))
    return sum(2 if _is_han(ord(character)) else 1 for character in text)


def _is_han(code_point: int) -> bool:
    return code_point >= 0x2E80 and any(first <= code_point <= last for first, last in _HAN)
