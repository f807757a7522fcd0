"""The step loop: resumed equals uninterrupted, schedule, averages."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosyforge.training.pretrain.sampler import LengthSampler
from cosyforge.training.pretrain.steps import StepPlan, learning_rate_at, load_averaged, run_steps

PLAN = StepPlan(12, 1e-2, warmup_steps=2, ema_decay=0.9, save_every=5, log_every=4)


def build() -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        x = torch.randn(4, 3, generator=generator)
        return (network(x) - x.sum(1, keepdim=True)).square().mean(), {}

    return network, loss


class StopError(Exception):
    pass


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, loss = build()
    run_steps({"net": whole}, loss, PLAN, tmp_path / "whole.pt", on_log=lambda line: None)

    def stop(step: int) -> None:
        raise StopError

    halted, loss = build()
    with pytest.raises(StopError):
        run_steps({"net": halted}, loss, PLAN, tmp_path / "halted.pt", on_log=lambda line: None, on_save=stop)
    resumed, loss = build()
    report = run_steps({"net": resumed}, loss, PLAN, tmp_path / "halted.pt", on_log=lambda line: None)
    assert torch.equal(whole.weight, resumed.weight)
    assert [row["step"] for row in report.rows] == [4.0, 8.0, 12.0]


def test_the_averaged_weights_are_what_is_loaded(tmp_path: Path) -> None:
    network, loss = build()
    run_steps({"net": network}, loss, PLAN, tmp_path / "run.pt", on_log=lambda line: None)
    fresh, _ = build()
    assert load_averaged(tmp_path / "run.pt", {"net": fresh}) == 12
    assert torch.equal(fresh.weight, network.weight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    network, _ = build()

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return network.weight.sum() * float("nan"), {}

    with pytest.raises(RuntimeError, match="at step 0"):
        run_steps({"net": network}, loss, PLAN, tmp_path / "run.pt", on_log=lambda line: None)


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate_at(PLAN, step) for step in range(13)]
    assert rates[0] < rates[1] <= PLAN.learning_rate
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(PLAN.learning_rate * PLAN.final_share)


def test_batches_stay_within_the_budget_and_reach_every_clip() -> None:
    lengths = [5, 9, 13, 40, 7, 22, 31, 8, 90]
    sampler = LengthSampler(lengths, 60)
    seen: set[int] = set()
    for seed in range(200):
        batch = sampler.draw(torch.Generator().manual_seed(seed))
        assert len(set(batch)) == len(batch)
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 60
        seen |= set(batch)
    assert seen == set(range(len(lengths)))
