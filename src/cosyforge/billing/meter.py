"""What a workspace has used and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from cosyforge.billing.ledger import (
    DeploymentUsage,
    UsageEntry,
    add_usage,
    deployment_usage_of,
    usage_entries_of,
)
from cosyforge.billing.tariff import Tariff
from cosyforge.store.database import Database


@dataclass(frozen=True)
class CharacterUsage:
    """What one model has spoken. Units: cost_cny; a fine-tuned model is paid for by model units, so it costs nothing"""

    model: str
    characters: int
    num_requests: int
    cost_cny: Decimal


@dataclass(frozen=True)
class WorkspaceUsage:
    """Every cost is exact; round when showing."""

    trainings: list[tuple[UsageEntry, Decimal]]
    deployments: list[tuple[DeploymentUsage, Decimal]]
    characters: list[CharacterUsage]

    @property
    def total_cny(self) -> Decimal:
        costs = [cost for _, cost in self.trainings] + [cost for _, cost in self.deployments]
        return sum((*costs, *(usage.cost_cny for usage in self.characters)), Decimal(0))


class Meter:
    """Reads the ledger with the prices in hand."""

    def __init__(self, database: Database, tariff: Tariff, base_model: str) -> None:
        self._database = database
        self._tariff = tariff
        self._base_model = base_model

    def add_characters(self, workspace_id: str, request_id: str, model: str, characters: int, now: datetime) -> None:
        with self._database.transaction() as connection:
            add_usage(
                connection,
                workspace_id=workspace_id,
                kind="characters",
                subject=request_id,
                model=model,
                quantity=characters,
                now=now,
            )

    def usage_of(self, workspace_id: str, now: datetime) -> WorkspaceUsage:
        with self._database.read() as connection:
            entries = usage_entries_of(connection, workspace_id)
            deployments = deployment_usage_of(connection, workspace_id, now)
        trainings = [entry for entry in entries if entry.kind == "tokens"]
        return WorkspaceUsage(
            [(entry, self._tariff.training_cost(entry.quantity)) for entry in trainings],
            [(usage, self._tariff.deployment_cost(usage.model_unit_spec, usage.unit_seconds)) for usage in deployments],
            self._characters([entry for entry in entries if entry.kind == "characters"]),
        )

    def _characters(self, entries: list[UsageEntry]) -> list[CharacterUsage]:
        usages = []
        for model in sorted({entry.model for entry in entries}):
            quantities = [entry.quantity for entry in entries if entry.model == model]
            is_paid = model == self._base_model
            cost = self._tariff.synthesis_cost(sum(quantities)) if is_paid else Decimal(0)
            usages.append(CharacterUsage(model, sum(quantities), len(quantities), cost))
        return usages
