"""Prices, and how much of what a price is for. Pure: numbers in, numbers out.

Costs are fractions: a second of a model unit costs 20/3600 CNY, which no decimal number is. They are rounded when shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from cosyforge.training.checkpoints import TOKENS_PER_SECOND


@dataclass(frozen=True)
class Tariff:
    """Units: CNY"""

    training_per_1000_tokens: Decimal
    synthesis_per_10000_characters: Decimal
    unit_hour_by_spec: Mapping[str, Decimal]

    def training_cost(self, tokens: int) -> Fraction:
        return Fraction(tokens, 1000) * Fraction(self.training_per_1000_tokens)

    def synthesis_cost(self, characters: int) -> Fraction:
        return Fraction(characters, 10000) * Fraction(self.synthesis_per_10000_characters)

    def deployment_cost(self, model_unit_spec: str, unit_seconds: Decimal) -> Fraction:
        return Fraction(unit_seconds) / 3600 * Fraction(self.unit_hour_by_spec[model_unit_spec])


def training_tokens(lm_epochs: int, fm_epochs: int, audio_s: Decimal | float) -> int:
    """Tokens that a training run consumes.

    Units: audio_s is the length of the whole training set
    Source: product document, "Training costs"; 99 clips of 497.03 s with 4 + 4 epochs are 99,406 tokens
    """
    exact = audio_s if isinstance(audio_s, Decimal) else Decimal(str(audio_s))
    product = Decimal(lm_epochs + fm_epochs) * TOKENS_PER_SECOND * exact
    return int(product.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def fen_of(amount: Fraction | Decimal) -> int:
    """CNY to 1/100 CNY, halves up."""
    return int((Fraction(amount) * 200 + 1) // 2)


def money(amount: Fraction | Decimal) -> str:
    """CNY to the fen, as a person reads it."""
    return shown_fen(fen_of(amount))


def shown_fen(fen: int) -> str:
    """1988 -> 19.88"""
    return f"{fen // 100}.{fen % 100:02d}"
