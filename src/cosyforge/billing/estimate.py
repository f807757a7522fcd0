"""What a job would cost and how long it would take, before it is started."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from cosyforge.billing.forecast import Forecast, Forecaster
from cosyforge.billing.tariff import Tariff
from cosyforge.dataset.report import Report
from cosyforge.training.checkpoints import Candidate, billed_tokens, plan_checkpoints
from cosyforge.training.hyper_parameters import HyperParameters


@dataclass(frozen=True)
class Estimate:
    """report: the clips, their seconds, and the problems that headers show. Units: cost_cny exact"""

    hyper_parameters: HyperParameters
    report: Report
    tokens: int
    cost_cny: Fraction
    checkpoints: list[Candidate]
    forecast: Forecast


class Estimator:
    """Reads packages by their headers; nothing is kept."""

    def __init__(self, tariff: Tariff, forecaster: Forecaster) -> None:
        self._tariff = tariff
        self._forecaster = forecaster

    def estimate(self, package: Path, hyper_parameters: HyperParameters) -> Estimate:
        """Raises: InvalidDataset when the package cannot be read at all"""
        # imported here: numpy and libsndfile are needed for this alone
        from cosyforge.dataset.survey import survey

        report = survey(package)
        tokens = billed_tokens(Decimal(str(report.total_seconds)), hyper_parameters)
        return Estimate(
            hyper_parameters,
            report,
            tokens,
            self._tariff.training_cost(tokens),
            plan_checkpoints(hyper_parameters),
            self._forecaster.forecast(hyper_parameters, report.total_seconds),
        )
