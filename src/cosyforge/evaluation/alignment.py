"""What was heard against what was meant, unit by unit (phones, syllables): which belongs to which, and what is left over.

The wanted side may be said in several ways: each word has one or more pronunciations, and the one that fits best counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Pronunciations = Sequence[Sequence[str]]
"""The ways to say one word, each a sequence of units; the first one is the usual one."""

_TIE = 1e-4
"""What a substitution of unlike units costs more than one of like units; too little ever to change a count."""


@dataclass(frozen=True)
class Step:
    """One unit of an alignment. Without `heard` it was left out, without `wanted` it was added.

    word_index: the word that it belongs to; of an addition the word before it, -1 before the first one
    """

    word_index: int
    wanted: str | None
    heard: str | None


def align(
    words: Sequence[Pronunciations], heard: Sequence[str], is_like: Callable[[str, str], bool] = lambda one, other: True
) -> list[Step]:
    """The way with the fewest changes from the wanted units to the heard ones (Levenshtein distance through a lattice).

    is_like: of two different units whether one may easily pass for the other; decides among equally short ways
    Raises: ValueError when a word has no pronunciation
    """
    tables: list[_Word] = []
    row = [float(column) for column in range(len(heard) + 1)]
    for pronunciations in words:
        tables.append(_Word(row, pronunciations, heard, is_like))
        row = tables[-1].after
    steps: list[Step] = []
    column = len(heard)
    for index in range(len(words) - 1, -1, -1):
        column = tables[index].trace(index, column, steps)
    steps += [Step(-1, None, unit) for unit in reversed(heard[:column])]
    return steps[::-1]


class _Word:
    """The distances through one word: a table per pronunciation, entered from the same row, left at the best one."""

    def __init__(
        self,
        before: list[float],
        pronunciations: Pronunciations,
        heard: Sequence[str],
        is_like: Callable[[str, str], bool],
    ) -> None:
        if not pronunciations:
            raise ValueError("a word without any pronunciation cannot be aligned")
        self._heard = heard
        self._is_like = is_like
        self._pronunciations = pronunciations
        self._tables = [self._table(before, units) for units in pronunciations]
        self._best = [
            min(range(len(self._tables)), key=lambda way: (self._tables[way][-1][column], way))
            for column in range(len(heard) + 1)
        ]
        self.after = [self._tables[way][-1][column] for column, way in enumerate(self._best)]

    def trace(self, index: int, column: int, steps: list[Step]) -> int:
        """Go backwards through the word from a column, noting the steps; gives the column in which it was entered."""
        way = self._best[column]
        table, units = self._tables[way], self._pronunciations[way]
        place = len(units)
        while place:
            unit, here = units[place - 1], table[place][column]
            if column and here == table[place - 1][column - 1] + self._cost(unit, self._heard[column - 1]):
                steps.append(Step(index, unit, self._heard[column - 1]))
                place, column = place - 1, column - 1
            elif here == table[place - 1][column] + 1.0:
                steps.append(Step(index, unit, None))
                place -= 1
            else:
                # after the last unit of a word an addition is its own, inside too
                steps.append(Step(index, None, self._heard[column - 1]))
                column -= 1
        return column

    def _table(self, before: list[float], units: Sequence[str]) -> list[list[float]]:
        table = [before]
        for unit in units:
            above, row = table[-1], [table[-1][0] + 1.0]
            for column, other in enumerate(self._heard, start=1):
                row.append(min(above[column - 1] + self._cost(unit, other), above[column] + 1.0, row[column - 1] + 1.0))
            table.append(row)
        return table

    def _cost(self, unit: str, other: str) -> float:
        if unit == other:
            return 0.0
        return 1.0 if self._is_like(unit, other) else 1.0 + _TIE
