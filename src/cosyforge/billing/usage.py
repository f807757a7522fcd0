"""What was used, cut into days and added up. Pure: records in, exact sums out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any

from cosyforge.billing.tariff import fen_of


@dataclass(frozen=True)
class UnitSegment:
    """A stretch of time in which a deployment used the same number of model units."""

    deployment_id: str
    deployed_model: str
    model_unit_spec: str
    units: int
    start: datetime
    end: datetime

    @property
    def unit_seconds(self) -> Decimal:
        return self.units * seconds_between(self.start, self.end)

    def since(self, moment: datetime) -> UnitSegment | None:
        """What is left of it from a moment on."""
        if self.end < moment or self.start < moment == self.end:
            return None
        return self if self.start >= moment else replace(self, start=moment)

    def by_day(self, zone: tzinfo) -> Iterator[tuple[date, UnitSegment]]:
        """Its parts between the midnights of a zone; together they are the whole."""
        rest = self
        while rest.start < rest.end:
            day = day_of(rest.start, zone)
            midnight = min(start_of(day + timedelta(days=1), zone), rest.end)
            yield day, replace(rest, end=midnight)
            rest = replace(rest, start=midnight)


def segments_of(marks: Iterable[Any], end: datetime) -> Iterator[UnitSegment]:
    """The steps of one deployment from its marks (rows of `unit_marks` in order); the last one lasts until `end`."""
    previous = None
    for mark in marks:
        if previous is not None:
            yield _segment(previous, mark.at)
        previous = mark
    if previous is not None:
        yield _segment(previous, max(previous.at, end))


def _segment(mark: Any, end: datetime) -> UnitSegment:
    return UnitSegment(mark.deployment_id, mark.deployed_model, mark.model_unit_spec, mark.units, mark.at, end)


def sum_unit_seconds(segments: Iterable[UnitSegment]) -> Decimal:
    return sum((segment.unit_seconds for segment in segments), Decimal(0))


def unit_seconds(steps: Iterable[tuple[datetime, int]], now: datetime) -> Decimal:
    """The area under a step function of model units.

    steps: (moment, units from then on) in order
    """
    total = Decimal(0)
    units, since = 0, None
    for at, next_units in [*steps, (now, 0)]:
        if since is not None:
            total += units * seconds_between(since, at)
        units, since = next_units, at
    return total


def seconds_between(start: datetime, end: datetime) -> Decimal:
    """Exact to the microsecond."""
    delta = end - start
    return Decimal(delta.days * 86400 + delta.seconds) + Decimal(delta.microseconds) / 1_000_000


def day_of(moment: datetime, zone: tzinfo) -> date:
    return moment.astimezone(zone).date()


def start_of(day: date, zone: tzinfo) -> datetime:
    """Midnight at which a day begins."""
    return datetime.combine(day, time(), zone)


@dataclass(frozen=True)
class Amounts:
    """What was used of each kind and what it costs, all of it exact. Units: *_cny in CNY"""

    tokens: int = 0
    training_cny: Fraction = Fraction(0)
    unit_seconds: Decimal = Decimal(0)
    deployment_cny: Fraction = Fraction(0)
    characters: int = 0
    num_requests: int = 0
    synthesis_cny: Fraction = Fraction(0)

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            self.tokens + other.tokens,
            self.training_cny + other.training_cny,
            self.unit_seconds + other.unit_seconds,
            self.deployment_cny + other.deployment_cny,
            self.characters + other.characters,
            self.num_requests + other.num_requests,
            self.synthesis_cny + other.synthesis_cny,
        )


@dataclass(frozen=True)
class Bill:
    """Amounts with their costs in whole fen. Units: *_fen in 1/100 CNY"""

    amounts: Amounts
    training_fen: int
    deployment_fen: int
    synthesis_fen: int

    @property
    def total_fen(self) -> int:
        return self.training_fen + self.deployment_fen + self.synthesis_fen


@dataclass(frozen=True)
class UsageGroup:
    """One line of a summary: what its key says (a day, a job, ...) and its bill."""

    key: dict[str, Any]
    bill: Bill


@dataclass(frozen=True)
class Summary:
    """Lines that add up to their total, quantities and fen alike."""

    groups: list[UsageGroup] = field(default_factory=list)
    total: Bill = field(default_factory=lambda: bill_of(Amounts()))


def summarize(lines: Sequence[tuple[dict[str, Any], Amounts]]) -> Summary:
    """Round each line so that the lines add up to the rounded total; none is a whole fen from its exact cost."""
    training = _shares([amounts.training_cny for _, amounts in lines])
    deployment = _shares([amounts.deployment_cny for _, amounts in lines])
    synthesis = _shares([amounts.synthesis_cny for _, amounts in lines])
    groups = [
        UsageGroup(key, Bill(amounts, *fen))
        for (key, amounts), *fen in zip(lines, training, deployment, synthesis, strict=True)
    ]
    total = Amounts()
    for _, amounts in lines:
        total += amounts
    return Summary(groups, bill_of(total))


def bill_of(amounts: Amounts) -> Bill:
    """Each kind rounded by itself."""
    return Bill(amounts, fen_of(amounts.training_cny), fen_of(amounts.deployment_cny), fen_of(amounts.synthesis_cny))


def _shares(costs: Sequence[Fraction]) -> list[int]:
    """Fen of each cost: the differences of the rounded running sum."""
    shares, running, given = [], Fraction(0), 0
    for cost in costs:
        running += cost
        shares.append(fen_of(running) - given)
        given += shares[-1]
    return shares
