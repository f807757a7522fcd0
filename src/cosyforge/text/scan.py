"""Finds what is not read as it is written: formulas, words of the hot fix, marks of Markdown. Works on arriving text.

A recogniser looks at one place of the text and says how much of it it takes and what is spoken instead; where more text
could change the answer the scanner holds back, so that the findings depend on the text alone and never on its delivery.
The sentence splitter sees a mask of the same length in place of each finding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cosyforge.text.segment import without_holds

Reading = Callable[[str], str | None]
"""Language -> what is said, None when it cannot be said in this language and is read raw."""


@dataclass(frozen=True)
class Stretch:
    """Characters of the written text that are spoken otherwise: exactly one of alias, tokens, reading says how.

    mask: what the sentence splitter sees, of the same length
    alias: words that take part in normalisation; empty for a mark that is not read
    tokens: goes to the text tokenizer as it is
    raw: read when the reading is None
    parts: an alias that holds tokens, too: (alias, tokens) pairs in order
    is_left_out: a warning names the characters
    """

    mask: str
    alias: str | None = None
    tokens: str | None = None
    reading: Reading | None = None
    raw: str = ""
    parts: tuple[tuple[str, str], ...] = ()
    is_left_out: bool = False

    @property
    def length(self) -> int:
        return len(self.mask)


@dataclass(frozen=True)
class Found:
    """A stretch at its place in everything pushed so far."""

    start: int
    end: int
    stretch: Stretch


_BLANKS = " \t>"


class NeedsMore(Exception):
    """What comes next decides; never raised when the text is final."""


class Window:
    """The text that a recogniser may look at, and what it may ask about a place."""

    def __init__(self, text: str, before: str, *, begins_line: bool, final: bool) -> None:
        """before: the character in front; begins_line: there are only blanks in front of it on its line."""
        self.text = text
        self.final = final
        self.planned: dict[int, Stretch] = {}
        self._before = before
        self._begins_line = begins_line

    def before(self, place: int) -> str:
        """The character in front of a place; a new line at the very beginning."""
        return self.text[place - 1] if place else self._before

    def is_line_start(self, place: int) -> bool:
        """Whether a line has only blanks in front of the place; marks of quotation count as such."""
        line = self.text.rfind("\n", 0, place) + 1
        is_blank = not self.text[line:place].strip(_BLANKS)
        return is_blank and (line > 0 or self._begins_line)

    def need(self, end: int) -> None:
        """Hold back unless the text reaches to end, or has ended."""
        if end > len(self.text) and not self.final:
            raise NeedsMore

    def plan(self, place: int, stretch: Stretch) -> None:
        """Announce a finding further on, such as the end of a link."""
        self.planned[place] = stretch


class Recogniser(Protocol):
    """triggers: characters at which it wants to look."""

    triggers: str

    def look(self, window: Window, place: int) -> Stretch | None:
        """Say what stands at the place.

        Raises: NeedsMore
        """
        ...


class Scanner:
    """Takes text in pieces; gives it back with the findings in it, as far as it is settled."""

    def __init__(self, recognisers: Sequence[Recogniser]) -> None:
        self._recognisers = recognisers
        triggers = "".join({char for recogniser in recognisers for char in recogniser.triggers})
        self._trigger = re.compile(f"[{re.escape(triggers)}]") if triggers else None
        self._waiting = ""
        self._before = "\n"
        self._begins_line = True
        self._planned: dict[int, Stretch] = {}
        self._consumed = 0

    def push(self, text: str) -> tuple[str, str, list[Found]]:
        """Add text; give what is settled: the written text, what the splitter sees, and the findings."""
        self._waiting += text
        return self._take(final=False)

    def finish(self) -> tuple[str, str, list[Found]]:
        """Give the rest; more text may follow."""
        return self._take(final=True)

    def skip(self, text: str) -> int:
        """Count text that is none of the scanner's business, after finish; say where it begins."""
        assert not self._waiting, "text was waiting"
        start = self._consumed
        self._consumed += len(text)
        self._remember(text)
        return start

    def _remember(self, text: str) -> None:
        """What recognisers may ask about text that has gone by."""
        self._before = text[-1:] or self._before
        _, newline, line = text.rpartition("\n")
        self._begins_line = (bool(newline) or self._begins_line) and not line.strip(_BLANKS)

    def _take(self, *, final: bool) -> tuple[str, str, list[Found]]:
        window = Window(self._waiting, self._before, begins_line=self._begins_line, final=final)
        window.planned = {place - self._consumed: stretch for place, stretch in self._planned.items()}
        found: list[Found] = []
        masked: list[str] = []
        place = 0
        while (following := self._next_trigger(window, place)) is not None:
            masked.append(without_holds(window.text[place:following]))
            place = following
            try:
                stretch = window.planned.pop(place, None) or self._look(window, place)
            except NeedsMore:
                return self._settled(window, place, masked, found)
            if stretch is None:
                masked.append(without_holds(window.text[place]))
                place += 1
                continue
            start = self._consumed + place
            found.append(Found(start, start + stretch.length, stretch))
            masked.append(stretch.mask)
            place += stretch.length
        masked.append(without_holds(window.text[place:]))
        return self._settled(window, len(window.text), masked, found)

    def _next_trigger(self, window: Window, place: int) -> int | None:
        match = self._trigger.search(window.text, place) if self._trigger else None
        places = [match.start()] if match else []
        places += [planned for planned in window.planned if planned >= place]
        return min(places) if places else None

    def _look(self, window: Window, place: int) -> Stretch | None:
        for recogniser in self._recognisers:
            if window.text[place] in recogniser.triggers:
                stretch = recogniser.look(window, place)
                if stretch is not None:
                    return stretch
        return None

    def _settled(
        self, window: Window, place: int, masked: list[str], found: list[Found]
    ) -> tuple[str, str, list[Found]]:
        written = window.text[:place]
        self._planned = {self._consumed + at: stretch for at, stretch in window.planned.items() if at >= place}
        self._waiting = window.text[place:]
        self._consumed += place
        self._remember(written)
        return written, "".join(masked), found
