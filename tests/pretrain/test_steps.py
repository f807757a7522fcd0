"""The step loop: resumed equals uninterrupted, schedule, averages, which weights are Muon's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cosyforge.training.pretrain.optimizers import stacked_matrices
from cosyforge.training.pretrain.sampler import LengthSampler
from cosyforge.training.pretrain.steps import StepPlan, load_averaged, rate_share_at, run_steps

PLAN = StepPlan(12, 1e-2, warmup_steps=2, ema_decay=0.9, save_every=5, log_every=4)


def build() -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    network = nn.Linear(3, 1)

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.randn(4, 3, generator=generator)
        return (network(x) - x.sum(1, keepdim=True)).square().mean(), {}

    return network, loss


class Stack(nn.Module):
    """Entry, two layers that follow one another, exit."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 6)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.leave = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        out: Tensor = self.leave(x)
        return out


def build_stack() -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    network = Stack()

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.randn(16, 3, generator=generator)
        return (network(x) - x.prod(1, keepdim=True)).square().mean(), {}

    return network, loss


class StopError(Exception):
    pass


MUON_PLAN = replace(PLAN, matrix_learning_rate=2e-2)


@pytest.mark.parametrize(("build", "plan"), [(build, PLAN), (build_stack, MUON_PLAN)])
def test_a_stopped_run_goes_on_to_the_same_weights(
    tmp_path: Path, build: Callable[[], tuple[nn.Module, object]], plan: StepPlan
) -> None:
    whole, loss = build()
    run_steps({"net": whole}, loss, plan, tmp_path / "whole.pt", on_log=lambda line: None)

    def stop(step: int) -> None:
        raise StopError

    halted, loss = build()
    with pytest.raises(StopError):
        run_steps({"net": halted}, loss, plan, tmp_path / "halted.pt", on_log=lambda line: None, on_save=stop)
    resumed, loss = build()
    report = run_steps({"net": resumed}, loss, plan, tmp_path / "halted.pt", on_log=lambda line: None)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [row["step"] for row in report.rows] == [4.0, 8.0, 12.0]


def test_a_run_of_another_recipe_is_not_gone_on_with(tmp_path: Path) -> None:
    network, loss = build_stack()
    run_steps({"net": network}, loss, PLAN, tmp_path / "run.pt", on_log=lambda line: None)
    with pytest.raises(ValueError, match=r"run\.pt was begun by another recipe .* give another work folder"):
        run_steps({"net": network}, loss, MUON_PLAN, tmp_path / "run.pt", on_log=lambda line: None)


def test_only_the_matrices_of_stacked_layers_are_muons() -> None:
    network = Stack()
    assert {id(p) for p in stacked_matrices({"net": network})} == {id(layer.weight) for layer in network.layers}
    network.layers[0].requires_grad_(False)
    assert [id(p) for p in stacked_matrices({"net": network})] == [id(network.layers[1].weight)]


def test_muon_turns_a_layer_in_all_directions_alike(tmp_path: Path) -> None:
    """Its first step is an orthogonal matrix, whatever the gradient: no direction is left behind."""
    network, loss = build_stack()
    before = [layer.weight.detach().clone() for layer in network.layers]
    plan = replace(MUON_PLAN, num_steps=1, warmup_steps=0, ema_decay=0.0, weight_decay=0.0)
    run_steps({"net": network}, loss, plan, tmp_path / "run.pt", on_log=lambda line: None)
    for old, layer in zip(before, network.layers, strict=True):
        lengths = torch.linalg.svdvals((layer.weight - old).detach())
        assert lengths.max() < 4 * lengths.median()
        assert lengths.max() < 0.2 * 6**0.5 * plan.matrix_learning_rate * 1.3


def test_the_averaged_weights_are_what_is_loaded(tmp_path: Path) -> None:
    network, loss = build()
    run_steps({"net": network}, loss, PLAN, tmp_path / "run.pt", on_log=lambda line: None)
    fresh, _ = build()
    assert load_averaged(tmp_path / "run.pt", {"net": fresh}) == 12
    assert torch.equal(fresh.weight, network.weight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    network, _ = build()

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return network.weight.sum() * float("nan"), {}

    with pytest.raises(RuntimeError, match="at step 0"):
        run_steps({"net": network}, loss, PLAN, tmp_path / "run.pt", on_log=lambda line: None)


def test_the_learning_rate_rises_then_falls() -> None:
    shares = [rate_share_at(PLAN, step) for step in range(13)]
    assert shares[0] < shares[1] <= 1.0
    assert shares[2:] == sorted(shares[2:], reverse=True)
    assert shares[-1] == pytest.approx(PLAN.final_share)


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
