"""Text to sentences, also while it is still arriving.

The cut depends on the text alone, never on how it was delivered: a sentence is given out only when no later character
could change it. Marks in decimals, abbreviations, initials and quotations end nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cosyforge.text.normalize.en import ABBREVIATIONS
from cosyforge.text.ribbon import Alignment

_FULL_WIDTH_ENDS = "。！？"
_ENDS = f".!?…{_FULL_WIDTH_ENDS}"
_CLOSERS = "\"')]}”’»」』）】》"
_SYLLABLES = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_CJK = re.compile(f"[{_SYLLABLES}]")
_HEAVY = re.compile(f"[{_SYLLABLES}0-9]")
_HEAVY_WEIGHT = 3

HELD = "\ue000"
HELD_STARTS = {"\ue001": 8, "\ue002": 32, "\ue003": 128, "\ue004": 512}
"""A stretch that must not be cut, such as a formula, is one of the starts, which weighs for all of it, and HELD."""

_HOLDS = re.compile(f"[{HELD}{''.join(HELD_STARTS)}]")

_PARAGRAPH = "\u2029"

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

_BEFORE_NUMBERS = frozenset({"No", "Nos"})
_ADDRESS = re.compile(r"(?:https?://|ftp://|www\.|[^\s@]+@)\S*$", re.IGNORECASE)
_CONJUNCTIONS = (
    "and|but|or|nor|so|yet|because|although|though|while|when|where|if|unless|until|since|that|which|who|whose|than"
)
_PREPOSITIONS = "in|on|at|of|to|for|from|with|by|near|into|over|under|after|before|during|through|without|behind|beside"
_STRONG_CUTS = tuple(re.compile(pattern) for pattern in (r"[;:](?=\s)|[；：]|[—–]", r",(?=\s)|[，、]"))
_WEAK_CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?=\s+(?:{_CONJUNCTIONS})\b)|(?=因为|所以|但是|可是|而且|然后|如果|虽然|同时|以及|或者|并且)",
        rf"(?=\s+(?:{_PREPOSITIONS})\b)|(?<![现存正实自内外])(?=在(?![于线意乎]))",
        r"(?=\s)",
        rf"[{_SYLLABLES}](?![，。！？；：、…”’」』）】》])",
    )
)
"""Where one may breathe in a long sentence, the best first; at a mark (strong) even a little beyond the limit."""

_NEXT_WORD = re.compile(r"[A-Za-z]*\.?")
_LAST_WORD = re.compile(r"(?:[A-Za-z]\.)*[A-Za-z]+$")

_CUT_SLACK = 1.25
"""A sentence this much over the limit is still spoken whole, so that no tiny rest is left behind a cut."""


@dataclass(frozen=True)
class Segment:
    """One sentence, or a piece of a long one.

    text: what the user wrote; spoken: what the text tokenizer gets, empty when the segment is only a pause
    words: spoken before it became phones, for people to read
    asked_pause: the user asked for the pause (a break), so it counts at the very end, too
    start, end: where the text stands in all that was written (SSML: in the text between the tags)
    alignment: per written word (begin and end in text, begin and end in spoken); see ribbon.align
    readings: (written, words) of what is not said as it is written, in order
    speak: the index of the SSML `<speak>` element that it belongs to; what follows is what that element asks for, None
    where it asks for nothing and the request counts; effect as `audio.voice_effects.make_effect` takes it; background
    and sound are addresses, keys of `SynthesisRequest.attachments`; a segment with a sound has no text
    Units: pause_ms is the silence after it; volumes 0 to 100
    """

    text: str
    spoken: str
    pause_ms: int = 0
    language: str = "en"
    asked_pause: bool = False
    words: str = ""
    start: int = 0
    end: int = 0
    alignment: Alignment = ()
    readings: tuple[tuple[str, str], ...] = ()
    sound: str | None = None
    speak: int = 0
    rate: float | None = None
    pitch: float | None = None
    volume: int | None = None
    effect: tuple[str, tuple[float, ...]] | None = None
    background: str | None = None
    background_volume: int = 50


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

    Units: lengths count one for a letter and three for a digit or a Chinese, Japanese or Korean character, about as they
    sound
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
        limit = _reach(self._text, start, int(self._max_length * _CUT_SLACK))
        found = _find_end(self._text, start, limit, final=final)
        if found.end > limit:
            return _End(self._cut(start), "cut")
        return found if found.settled else None

    def _cut(self, start: int) -> int:
        """Find the best place to breathe: a semicolon, a comma, before a conjunction or preposition, a space, between
        hanzi, or anywhere."""
        end, furthest = (_reach(self._text, start, int(self._max_length * slack)) for slack in (1.0, _CUT_SLACK))
        earliest = (end - start) * 2 // 5
        for patterns, reach in ((_STRONG_CUTS, furthest), (_WEAK_CUTS, end)):
            window = self._text[start:reach]
            for pattern in patterns:
                places = [match.end() for match in pattern.finditer(window) if match.end() > earliest]
                if places:
                    return start + places[-1]
        return self._outside_held(start, end)

    def _outside_held(self, start: int, end: int) -> int:
        """Move a cut out of a stretch that must stay whole: in front of it, or behind when it begins the piece."""
        before = end
        while self._text[before : before + 1] == HELD:
            before -= 1
        return before if before > start else _skip(self._text, end, HELD)


def _find_end(text: str, start: int, limit: int, *, final: bool) -> _End:
    """Find where the sentence that begins at start ends; unsettled when that depends on text still to come.

    limit: where to give up looking
    """
    position = start
    while position < len(text):
        if position > limit:
            return _End(position, "cut")
        if text[position] == _PARAGRAPH:
            return _End(position, "paragraph")
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
    following = _skip_space(text, _skip(text, _skip_space(text, position), "‘"))
    if following == len(text) and not final:
        return _End(position, "paragraph", settled=False)
    if _PARAGRAPH in text[position:following]:
        return _End(position, "paragraph")
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
        is_glued = marks[-1] in "!?" and text[after].isupper()
        glued_sentence = is_glued and not _ADDRESS.search(text, max(start, position - 200), position)
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
    if word[0] in _BEFORE_NUMBERS:
        return text[following : following + 1].isdigit()
    return word[0] in _NEVER_ENDS


def _end_of_word(text: str, position: int) -> int:
    """Skip a word and the full stop that may make an initial of it."""
    match = _NEXT_WORD.match(text, position)
    return match.end() if match else position


def _kind_at(text: str, position: int) -> str:
    return "paragraph" if text[position : position + 1] in ("\n", _PARAGRAPH) else "sentence"


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def held(length: int, spoken_length: int) -> str:
    """What the splitter sees in place of a stretch that must not be cut, of this length.

    spoken_length: about how long it sounds
    """
    weights = [start for start, weight in HELD_STARTS.items() if weight >= spoken_length]
    return (weights or [*HELD_STARTS])[0 if weights else -1] + HELD * (length - 1)


def without_holds(text: str) -> str:
    """The text of users, whose private characters hold nothing."""
    return _HOLDS.sub("\ue005", text)


def _weight(text: str) -> int:
    holds = sum(HELD_STARTS.get(char, 0) - 1 for char in _HOLDS.findall(text))
    return len(text) + holds + (_HEAVY_WEIGHT - 1) * len(_HEAVY.findall(text))


def _reach(text: str, start: int, weight: int) -> int:
    """Find how far a length reaches from start."""
    position = start
    while position < len(text) and weight > 0:
        weight -= _weight_of(text[position])
        position += 1
    return position


def _weight_of(char: str) -> int:
    if _HEAVY.match(char):
        return _HEAVY_WEIGHT
    return 0 if char == HELD else HELD_STARTS.get(char, 1)
