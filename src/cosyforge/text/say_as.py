"""`<say-as interpret-as=…>`: one stretch of text in the reading that its author named, in Mandarin and English.

    read_as("telephone", "114", "zh") -> [Said("114", "幺幺四")]

What does not fit the reading (a date that is none) gives None: the front end then reads it as any text and says so. The
words are words: no digit or sign is left in them for a normaliser to change. A comma in them is a short pause.
Source: the markup page of DashScope for the values; the words follow common usage (`docs/ssml.md` lists examples)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from cosyforge.text import say_as_en, say_as_zh
from cosyforge.text.said import Said

SAY_AS = (
    "cardinal", "digits", "telephone", "name", "address", "id", "characters", "punctuation", "date", "time", "currency",
    "measure",
)  # fmt: skip
MAX_SAY_AS_CHARACTERS = 200

_FOLDED = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "～": "~", "〜": "~", "：": ":", "／": "/", "．": ".", "＋": "+", "，": ","}
)

_READINGS: dict[str, dict[str, Callable[[str], list[Said] | None]]] = {
    "zh": say_as_zh.READINGS,
    "en": say_as_en.READINGS,
}
READ_IN_PARTS = ("name", "characters", "punctuation", "id")
"""Readings in which every character counts: several parts, the same ones in every language but for names."""


def read_as(interpret_as: str, text: str, language: str) -> list[Said] | None:
    """The parts of the text in order, each with its words; None when the text does not fit, or for other languages.

    Parts without words are to be read as any text. The texts of the parts make up the text, spaces at its ends aside.
    Raises: ValueError for a value that is not in SAY_AS
    """
    if interpret_as not in SAY_AS:
        raise ValueError(f"interpret-as {interpret_as!r} is unknown; known are {', '.join(SAY_AS)}")
    reading = _READINGS.get(language, {}).get(interpret_as)
    written = text.strip()
    if reading is None or not written:
        return None
    if interpret_as in READ_IN_PARTS:
        return reading(written)
    folded = unicodedata.normalize("NFKC", written.translate(_FOLDED)).replace("\u2044", "/")
    folded = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in folded)
    said = reading(re.sub(r"\s+", " ", folded))
    # the words stand for the whole of what was written
    return None if said is None else [Said(written, said[0].words)]
