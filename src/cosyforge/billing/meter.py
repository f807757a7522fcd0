"""What a workspace has used and what that costs, at today's prices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import TypeVar

from sqlalchemy import Connection

from cosyforge.billing import ledger
from cosyforge.billing.ledger import CharacterSum, DeploymentUsage, Period, UsageEntry, add_usage
from cosyforge.billing.tariff import Tariff
from cosyforge.billing.usage import Amounts, Summary, UnitSegment, day_of, start_of, sum_unit_seconds, summarize
from cosyforge.store.database import Database

_Key = TypeVar("_Key")


class GroupBy(StrEnum):
    """What a summary has a line for. Jobs are trainings alone, deployments are model units alone."""

    DAY = "day"
    JOB = "job"
    DEPLOYMENT = "deployment"
    MODEL = "model"


@dataclass(frozen=True)
class CharacterUsage:
    """What one model has spoken. Units: cost_cny; a fine-tuned model is paid for by model units, so it costs nothing"""

    model: str
    characters: int
    num_requests: int
    cost_cny: Fraction


@dataclass(frozen=True)
class WorkspaceUsage:
    """Every cost is exact; round when showing."""

    trainings: list[tuple[UsageEntry, Fraction]]
    deployments: list[tuple[DeploymentUsage, Fraction]]
    characters: list[CharacterUsage]

    @property
    def amounts(self) -> Amounts:
        return Amounts(
            sum(entry.quantity for entry, _ in self.trainings),
            sum((cost for _, cost in self.trainings), Fraction(0)),
            sum((usage.unit_seconds for usage, _ in self.deployments), Decimal(0)),
            sum((cost for _, cost in self.deployments), Fraction(0)),
            sum(usage.characters for usage in self.characters),
            sum(usage.num_requests for usage in self.characters),
            sum((usage.cost_cny for usage in self.characters), Fraction(0)),
        )

    @property
    def total_cny(self) -> Fraction:
        amounts = self.amounts
        return amounts.training_cny + amounts.deployment_cny + amounts.synthesis_cny


class Meter:
    """Reads the ledger with the prices in hand.

    zone: where days begin and end
    """

    def __init__(self, database: Database, tariff: Tariff, base_model: str, zone: tzinfo = UTC) -> None:
        self._database = database
        self._tariff = tariff
        self._base_model = base_model
        self._zone = zone

    def add_characters(self, workspace_id: str, request_id: str, model: str, characters: int, now: datetime) -> bool:
        """Count what a request has spoken; False when it was counted before.

        request_id: an id that the server made; a client could choose one that was used before
        """
        with self._database.transaction() as connection:
            return add_usage(
                connection,
                workspace_id=workspace_id,
                kind="characters",
                subject=request_id,
                model=model,
                quantity=characters,
                now=now,
            )

    def usage_of(self, workspace_id: str, now: datetime, period: Period | None = None) -> WorkspaceUsage:
        """Everything of a period; without one, everything until now."""
        period = period or Period(now)
        with self._database.read() as connection:
            trainings = ledger.token_entries_of(connection, workspace_id, period)
            deployments = ledger.deployment_usage_of(connection, workspace_id, now, period)
            characters = ledger.character_sums_of(connection, workspace_id, period)
        return WorkspaceUsage(
            [(entry, self._tariff.training_cost(entry.quantity)) for entry in trainings],
            [(usage, self._tariff.deployment_cost(usage.model_unit_spec, usage.unit_seconds)) for usage in deployments],
            [
                CharacterUsage(spoken.model, spoken.characters, spoken.num_requests, self._synthesis_cost(spoken))
                for spoken in characters
            ],
        )

    def summary_of(self, workspace_id: str, by: GroupBy, period: Period) -> Summary:
        """The lines of a period and their total; the lines add up to it exactly."""
        with self._database.read() as connection:
            if by is GroupBy.DAY:
                return self._by_day(connection, workspace_id, period)
            if by is GroupBy.JOB:
                return self._by_job(ledger.token_entries_of(connection, workspace_id, period))
            segments = ledger.unit_segments_of(connection, workspace_id, period)
            if by is GroupBy.DEPLOYMENT:
                return self._by_deployment(segments)
            entries = ledger.token_entries_of(connection, workspace_id, period)
            return self._by_model(entries, segments, ledger.character_sums_of(connection, workspace_id, period))

    def _by_day(self, connection: Connection, workspace_id: str, period: Period) -> Summary:
        sums: dict[date, Amounts] = {}
        for entry in ledger.token_entries_of(connection, workspace_id, period):
            _add(sums, day_of(entry.at, self._zone), self._training(entry))
        for segment in _used(ledger.unit_segments_of(connection, workspace_id, period)):
            for day, part in segment.by_day(self._zone):
                _add(sums, day, self._running(part))
        for day, spoken in self._spoken_by_day(connection, workspace_id, period):
            _add(sums, day, self._speaking(spoken))
        return summarize([({"day": day.isoformat()}, amounts) for day, amounts in sorted(sums.items())])

    def _spoken_by_day(
        self, connection: Connection, workspace_id: str, period: Period
    ) -> Iterable[tuple[date, CharacterSum]]:
        """Day by day, leaping over those without a word: the number of requests does not matter."""
        rest = period
        while (at := ledger.next_spoken_at(connection, workspace_id, rest)) is not None:
            day = day_of(at, self._zone)
            midnight = start_of(day + timedelta(days=1), self._zone)
            end = midnight if period.end is None else min(midnight, period.end)
            for spoken in ledger.character_sums_of(connection, workspace_id, replace(rest, end=end)):
                yield day, spoken
            rest = replace(rest, start=end)

    def _by_job(self, entries: list[UsageEntry]) -> Summary:
        return summarize(
            [
                ({"job_id": entry.subject, "model": entry.model, "at": entry.at}, self._training(entry))
                for entry in entries
            ]
        )

    def _by_deployment(self, segments: list[UnitSegment]) -> Summary:
        sums: dict[str, Amounts] = {}
        first: dict[str, UnitSegment] = {}
        for segment in _used(segments):
            first.setdefault(segment.deployment_id, segment)
            _add(sums, segment.deployment_id, self._running(segment))
        oldest_first = sorted(first.values(), key=lambda segment: (segment.start, segment.deployment_id))
        return summarize(
            [
                (
                    {
                        "deployment_id": segment.deployment_id,
                        "deployed_model": segment.deployed_model,
                        "model_unit_spec": segment.model_unit_spec,
                        "at": segment.start,
                    },
                    sums[segment.deployment_id],
                )
                for segment in oldest_first
            ]
        )

    def _by_model(self, entries: list[UsageEntry], segments: list[UnitSegment], spoken: list[CharacterSum]) -> Summary:
        sums: dict[str, Amounts] = {}
        for entry in entries:
            _add(sums, entry.model, self._training(entry))
        for segment in _used(segments):
            _add(sums, segment.deployed_model, self._running(segment))
        for item in spoken:
            _add(sums, item.model, self._speaking(item))
        return summarize([({"model": model}, amounts) for model, amounts in sorted(sums.items())])

    def _training(self, entry: UsageEntry) -> Amounts:
        return Amounts(tokens=entry.quantity, training_cny=self._tariff.training_cost(entry.quantity))

    def _running(self, segment: UnitSegment) -> Amounts:
        seconds = sum_unit_seconds([segment])
        return Amounts(
            unit_seconds=seconds, deployment_cny=self._tariff.deployment_cost(segment.model_unit_spec, seconds)
        )

    def _speaking(self, spoken: CharacterSum) -> Amounts:
        return Amounts(
            characters=spoken.characters,
            num_requests=spoken.num_requests,
            synthesis_cny=self._synthesis_cost(spoken),
        )

    def _synthesis_cost(self, spoken: CharacterSum) -> Fraction:
        is_paid = spoken.model == self._base_model
        return self._tariff.synthesis_cost(spoken.characters) if is_paid else Fraction(0)


def _used(segments: list[UnitSegment]) -> list[UnitSegment]:
    return [segment for segment in segments if segment.units]


def _add(sums: dict[_Key, Amounts], key: _Key, amounts: Amounts) -> None:
    sums[key] = sums.get(key, Amounts()) + amounts
