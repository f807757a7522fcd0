"""Text to sentences, also while it is still arriving.

The cut depends on the text alone, never on how it was delivered: a sentence is given out only when no later character
could change it. Marks in decimals, abbreviations, initials and quotations end nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cosyforge.text.normalize.en import ABBREVIATIONS

_FULL_WIDTH_ENDS = "。！？"
_ENDS = f".!?…{_FULL_WIDTH_ENDS}"
_CLOSERS = "\"')]}”’»」』）】》"
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_CJK_WEIGHT = 3

_MAY_END_A_SENTENCE = frozenset({"etc", "Inc", "Ltd", "Corp", "Jr", "Sr", "Ave", "Blvd", "Rd", "St", "Co"})
_NEVER_ENDS = frozenset({
    *ABBREVIATIONS, "No", "Nos", "Jan", "Feb", "Mar", "Apr", "Jun", "Jul", "Aug", "Sep", "Sept", "Oct", "Nov", "Dec",
    "e.g", "i.e", "a.k.a",
}) - _MAY_END_A_SENTENCE  # fmt: skip
_STARTERS = frozenset({
    "A", "An", "And", "As", "At", "But", "For", "He", "How", "However", "I", "If", "In", "It", "No", "On", "Our", "She",
    "So", "That", "The", "Then", "There", "They", "This", "We", "What", "When", "You",
})  # fmt: skip
"""Words that begin a sentence after U.S. or p.m.; before another capital such a form goes on (U.S. Senate)."""

_NEXT_WORD = re.compile(r"[A-Za-z]*\.?")
_LAST_WORD = re.compile(r"(?:[A-Za-z]\.)*[A-Za-z]+$")

_CUT_SLACK = 1.25
"""A sentence this much over the limit is still spoken whole, so that no tiny rest is left behind a cut."""


@dataclass(frozen=True)
class Sentence:
    """Characters start to end of everything pushed so far. end_kind: "sentence", "paragraph" or "cut"."""

    start: int
    end: int
    end_kind: str


@dataclass(frozen=True)
class _End:
    end: int
    kind: str
    settled: bool = True


class SentenceSplitter:
    """Collects text and gives out the sentences that are complete.

    Units: lengths count one for a letter and three for a Chinese, Japanese or Korean character, about as they sound
    """

    def __init__(self, *, max_length: int = 160, min_length: int = 12) -> None:
        self._max_length = max_length
        self._min_length = min_length
        self._text = ""
        self._consumed = 0

    def push(self, text: str) -> list[Sentence]:
        """Add text; give out what no later text can change."""
        self._text += text
        return self._take(final=False)

    def finish(self) -> list[Sentence]:
        """Give out the rest; the splitter may be used on, counting goes on."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> list[Sentence]:
        sentences: list[Sentence] = []
        position = 0
        while (taken := self._next(position, final=final)) is not None:
            sentence, position = taken
            sentences.append(
                Sentence(self._consumed + sentence.start, self._consumed + sentence.end, sentence.end_kind)
            )
        if final:
            position = len(self._text)
        self._text = self._text[position:]
        self._consumed += position
        return sentences

    def _next(self, position: int, *, final: bool) -> tuple[Sentence, int] | None:
        """Find the next sentence from position, short ones joined with what follows; None when more text is needed."""
        start = _skip_space(self._text, position)
        if start == len(self._text):
            return None
        end = self._end_of_one(start, final=final)
        while end is not None and end.kind == "sentence" and _weight(self._text[start : end.end]) < self._min_length:
            following = _skip_space(self._text, end.end)
            if following == len(self._text):
                return (Sentence(start, end.end, end.kind), end.end) if final else None
            longer = self._end_of_one(following, final=final)
            if longer is None:
                return None
            if _weight(self._text[start : longer.end]) > self._max_length:
                break
            end = longer
        return None if end is None else (Sentence(start, end.end, end.kind), end.end)

    def _end_of_one(self, start: int, *, final: bool) -> _End | None:
        found = _find_end(self._text, start, final=final)
        limit = _reach(self._text, start, int(self._max_length * _CUT_SLACK))
        if found.end > limit:
            return _End(self._cut(start), "cut")
        return found if found.settled else None

    def _cut(self, start: int) -> int:
        """Find the best place to breathe within the limit: a semicolon, a comma, a space, or anywhere."""
        end = _reach(self._text, start, self._max_length)
        window = self._text[start:end]
        earliest = len(window) * 2 // 5
        for pattern in (r"[;:](?=\s)|[；：]|[—–]", r",(?=\s)|[，、]", r"(?=\s)"):
            places = [match.end() for match in re.finditer(pattern, window) if match.end() > earliest]
            if places:
                return start + places[-1]
        return end


def _find_end(text: str, start: int, *, final: bool) -> _End:
    """Find where the sentence that begins at start ends; unsettled when that depends on text still to come."""
    position = start
    while position < len(text):
        if text[position] == "\n":
            end = _end_at_newline(text, position, final=final)
        elif text[position] in _ENDS:
            end = _end_at_mark(text, start, position, final=final)
        else:
            position += 1
            continue
        if isinstance(end, _End):
            return end
        position = end
    return _End(len(text), "sentence", settled=final)


def _end_at_newline(text: str, position: int, *, final: bool) -> _End | int:
    """A new line ends the sentence unless it only wraps it, which shows in a small letter after it."""
    following = _skip_space(text, position)
    if following == len(text) and not final:
        return _End(position, "paragraph", settled=False)
    if following < len(text) and text[following].islower() and text[position:following].count("\n") == 1:
        return following
    return _End(position, "paragraph")


def _end_at_mark(text: str, start: int, position: int, *, final: bool) -> _End | int:
    """Decide about a full stop, question or exclamation mark: its end, or where to search on."""
    after_marks = _skip(text, position, _ENDS)
    after = _skip(text, after_marks, _CLOSERS)
    if after == len(text):
        return _End(after, "sentence", settled=final)
    marks = text[position:after_marks]
    if marks[-1] in _FULL_WIDTH_ENDS:
        return _End(after, _kind_at(text, after))
    if not text[after].isspace():
        glued_sentence = marks[-1] in "!?" and text[after].isupper()
        return _End(after, "sentence") if glued_sentence or _CJK.match(text[after]) else after
    word = _LAST_WORD.search(text, start, position)
    needs_look_ahead = after > after_marks or marks.startswith(("..", "…")) or (marks == "." and _is_short_form(word))
    if not needs_look_ahead:
        return _End(after, _kind_at(text, after))
    following = _skip_space(text, after)
    if _end_of_word(text, following) == len(text) and not final:
        return _End(after, _kind_at(text, after), settled=False)
    if text[following : following + 1].islower() or (
        marks == "." and after == after_marks and _continues(word, text, following)
    ):
        return after
    return _End(after, _kind_at(text, after))


def _is_short_form(word: re.Match[str] | None) -> bool:
    return word is not None and (
        len(word[0]) == 1 or "." in word[0] or word[0] in _NEVER_ENDS or word[0] in _MAY_END_A_SENTENCE
    )


def _continues(word: re.Match[str] | None, text: str, following: int) -> bool:
    """Say whether a short form before a capital or a digit goes on (Dr. Smith, J. Smith, No. 5) or ends (etc. Then).

    following: where the next word begins
    """
    assert word is not None, "asked about short forms only"
    if word[0] != "I" and word[0].isupper() and (len(word[0]) == 1 or "." in word[0]):
        next_word = text[following : _end_of_word(text, following)]
        return next_word != "" and next_word not in _STARTERS
    return word[0] in _NEVER_ENDS


def _end_of_word(text: str, position: int) -> int:
    """Skip a word and the full stop that may make an initial of it."""
    match = _NEXT_WORD.match(text, position)
    return match.end() if match else position


def _kind_at(text: str, position: int) -> str:
    return "paragraph" if text[position : position + 1] == "\n" else "sentence"


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _weight(text: str) -> int:
    return len(text) + (_CJK_WEIGHT - 1) * len(_CJK.findall(text))


def _reach(text: str, start: int, weight: int) -> int:
    """Find how far a length reaches from start."""
    position = start
    while position < len(text) and weight > 0:
        weight -= _CJK_WEIGHT if _CJK.match(text[position]) else 1
        position += 1
    return position
