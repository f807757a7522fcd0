"""A text whose every character remembers which stretch of the written text it stands for.

Normalisation rewrites ribbons instead of strings, so that the alignment of written and spoken words comes out by
construction. Plain words keep their exact places; a stretch that a rule rewrote stands for the whole of what it replaced.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Literal

Alignment = tuple[tuple[int, int, int, int], ...]

CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff々〇\U00020000-\U0003ffff"
"""Scripts whose characters are words of their own; Korean puts spaces between words."""

_FOLDABLE = re.compile(r"[^\x00-\x7f][\u0300-\u036f\u1160-\u11ff\u3099\u309a]*|[A-Za-z][\u0300-\u036f]+")
_SPACES = re.compile(r"\s+")
_WRITTEN_WORD = re.compile(rf"[{CJK}]|[^\s{CJK}—–…，。、；：！？]+")
_EDGES = "\"'“”‘’«»()[]{}<>（）【】《》「」『』.,;:!?*_`~|"
_SOUNDLESS = re.compile(r"[\s,.;!?，。；！？]")


class Ribbon:
    """text, and per character where its source starts and ends in the written text."""

    __slots__ = ("ends", "starts", "text")

    def __init__(self) -> None:
        self.text = ""
        self.starts: list[int] = []
        self.ends: list[int] = []

    @classmethod
    def of(cls, text: str, start: int = 0) -> Ribbon:
        """A written text that stands for itself."""
        ribbon = cls()
        ribbon.append_written(text, start)
        return ribbon

    def copy(self) -> Ribbon:
        """The same text from the same places."""
        twin = Ribbon()
        twin.text, twin.starts, twin.ends = self.text, [*self.starts], [*self.ends]
        return twin

    def append_written(self, text: str, start: int) -> None:
        """Add characters that stand for themselves, from this place on."""
        self.text += text
        self.starts += range(start, start + len(text))
        self.ends += range(start + 1, start + 1 + len(text))

    def append(self, text: str, start: int, end: int) -> None:
        """Add characters that all stand for one stretch."""
        self.text += text
        self.starts += [start] * len(text)
        self.ends += [end] * len(text)

    def source(self, begin: int, end: int) -> tuple[int, int]:
        """The stretch that the characters begin to end stand for; an empty one at the place between two."""
        if begin < end:
            return min(self.starts[begin:end]), max(self.ends[begin:end])
        place = self.ends[begin - 1] if begin else (self.starts[0] if self.starts else 0)
        return place, place

    def sub(self, pattern: re.Pattern[str], words: Callable[[re.Match[str]], str]) -> None:
        """As re.sub; whole words that a replacement leaves at its edges keep their own places."""
        text = self.text
        changes = [(match.start(), match.end(), words(match)) for match in pattern.finditer(text)]
        changes = [change for change in changes if text[change[0] : change[1]] != change[2]]
        if changes:
            self._rewrite(changes)

    def replace(self, old: str, new: str) -> None:
        """As str.replace."""
        if old in self.text:
            self.sub(re.compile(re.escape(old)), lambda match: new)

    def translate(self, table: Mapping[int, str]) -> None:
        """As str.translate, for tables of one character to a text."""
        found = "".join(chr(code) for code in table if chr(code) in self.text)
        if found:
            self.sub(re.compile(f"[{re.escape(found)}]"), lambda match: table[ord(match[0])])

    def fold(self, form: Literal["NFC", "NFKC"], keep: str = "") -> None:
        """Bring every character to a Unicode normal form, with the marks that follow it, except the ones to keep."""
        if not self.text.isascii():
            self.sub(_FOLDABLE, lambda match: match[0] if match[0] in keep else unicodedata.normalize(form, match[0]))

    def squeeze(self) -> None:
        """One space for a run of them, none at the edges."""
        self.sub(_SPACES, lambda match: " ")
        self.strip(" ")

    def strip(self, characters: str) -> None:
        """As str.strip."""
        left = len(self.text) - len(self.text.lstrip(characters))
        right = len(self.text.rstrip(characters))
        self._keep(left, max(left, right))

    def strip_right(self, characters: str) -> None:
        """As str.rstrip."""
        self._keep(0, len(self.text.rstrip(characters)))

    def _keep(self, begin: int, end: int) -> None:
        self.text, self.starts, self.ends = self.text[begin:end], self.starts[begin:end], self.ends[begin:end]

    def _rewrite(self, changes: list[tuple[int, int, str]]) -> None:
        text, starts, ends = self.text, self.starts, self.ends
        rewritten = Ribbon()
        pieces: list[str] = []
        position = 0
        for change_begin, change_end, new in changes:
            head, tail = _common_edges(text[change_begin:change_end], new)
            begin, end = change_begin + head, change_end - tail
            middle = new[head : len(new) - tail]
            source = self.source(begin, end)
            pieces += [text[position:begin], middle]
            rewritten.starts += starts[position:begin] + [source[0]] * len(middle)
            rewritten.ends += ends[position:begin] + [source[1]] * len(middle)
            position = end
        self.text = "".join([*pieces, text[position:]])
        self.starts = rewritten.starts + starts[position:]
        self.ends = rewritten.ends + ends[position:]


def _common_edges(old: str, new: str) -> tuple[int, int]:
    """How many characters of whole words two texts share at their beginnings and at their ends."""
    limit = min(len(old), len(new))
    head = 0
    while head < limit and old[head] == new[head]:
        head += 1
    while head and _is_inside_word(old, head) | _is_inside_word(new, head):
        head -= 1
    tail = 0
    while tail < limit - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    while tail and _is_inside_word(old, len(old) - tail) | _is_inside_word(new, len(new) - tail):
        tail -= 1
    return head, tail


def _is_inside_word(text: str, place: int) -> bool:
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    return before.isalnum() and after.isalnum() and not (_is_cjk(before) or _is_cjk(after))


def _is_cjk(char: str) -> bool:
    return char >= "\u3040" and re.match(f"[{CJK}]", char) is not None


def written_words(text: str) -> list[tuple[int, int]]:
    """Begin and end of every word as it stands in the text: a CJK character, or what spaces and brackets enclose."""
    words = []
    for match in _WRITTEN_WORD.finditer(text):
        begin, end = match.span()
        inner = match[0].lstrip(_EDGES)
        begin = end - len(inner)
        end = begin + len(inner.rstrip(_EDGES))
        words.append((begin, end) if begin < end else match.span())
    return words


def align(text: str, spoken: Ribbon, offset: int) -> Alignment:
    """Match written words with the stretches of the spoken text that say them, both in order.

    Words that were rewritten together are one entry; words that are not spoken have none.
    offset: where the text begins in the places that the ribbon remembers
    """
    words = written_words(text)
    word_of = [-1] * len(text)
    for index, (begin, end) in enumerate(words):
        word_of[begin:end] = [index] * (end - begin)
    entries: list[tuple[int, int, int, int]] = []
    for place, char in enumerate(spoken.text):
        if _SOUNDLESS.match(char):
            continue
        begin, end = spoken.starts[place] - offset, spoken.ends[place] - offset
        said = [index for index in word_of[max(0, begin) : max(0, end)] if index >= 0]
        if said:
            _add(entries, (words[said[0]][0], words[said[-1]][1], place, place + 1))
    return tuple(entries)


def _add(entries: list[tuple[int, int, int, int]], new: tuple[int, int, int, int]) -> None:
    """Join a character's entry with those before it that it overlaps."""
    text_begin, text_end, spoken_begin, spoken_end = new
    while entries and entries[-1][1] > text_begin:
        text_begin, text_end = min(text_begin, entries[-1][0]), max(text_end, entries[-1][1])
        spoken_begin = entries[-1][2]
        entries.pop()
    entries.append((text_begin, text_end, spoken_begin, spoken_end))


def readings(text: str, words: Ribbon, offset: int) -> tuple[tuple[str, str], ...]:
    """What is not said as it is written: (written, words), in order; see align."""
    pairs = []
    for text_begin, text_end, spoken_begin, spoken_end in align(text, words, offset):
        written, said = text[text_begin:text_end], words.text[spoken_begin:spoken_end]
        if written != said:
            pairs.append((written, said))
    return tuple(pairs)
