"""Prices, and how much of what a price is for. Pure: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from cosyforge.training.checkpoints import TOKENS_PER_SECOND


@dataclass(frozen=True)
class Tariff:
    """Units: CNY"""

    training_per_1000_tokens: Decimal
    synthesis_per_10000_characters: Decimal
    unit_hour_by_spec: Mapping[str, Decimal]

    def training_cost(self, tokens: int) -> Decimal:
        return Decimal(tokens) / 1000 * self.training_per_1000_tokens

    def synthesis_cost(self, characters: int) -> Decimal:
        return Decimal(characters) / 10000 * self.synthesis_per_10000_characters

    def deployment_cost(self, model_unit_spec: str, unit_seconds: Decimal) -> Decimal:
        return unit_seconds / 3600 * self.unit_hour_by_spec[model_unit_spec]


def training_tokens(lm_epochs: int, fm_epochs: int, audio_s: Decimal | float) -> int:
    """Tokens that a training run consumes.

    Units: audio_s is the length of the whole training set
    Source: product document, "Training costs"; 99 clips of 497.03 s with 4 + 4 epochs are 99,406 tokens
    """
    exact = audio_s if isinstance(audio_s, Decimal) else Decimal(str(audio_s))
    product = Decimal(lm_epochs + fm_epochs) * TOKENS_PER_SECOND * exact
    return int(product.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def money(amount: Decimal) -> str:
    """CNY to the fen, as a person reads it."""
    return str(amount.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP))
