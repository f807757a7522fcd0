"""The loop: it learns, repeats itself to the bit, and goes on after any interruption as if there had been none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cosyforge.errors import Internal
from cosyforge.training import loop, state
from cosyforge.training.events import TrainingStopped
from cosyforge.training.hyper_parameters import StageConfig
from cosyforge.training.loop import Metrics, Objective, derived_seed, learning_rate_factor, train
from cosyforge.training.lora import make_trainable

CONFIG = StageConfig(
    max_epoch=3,
    step=1,
    num=1,
    batch_size=1,
    learning_rate=0.02,
    final_learning_rate_factor=0.2,
    max_warmup_steps=2,
    weight_decay=0.01,
    max_gradient_norm=1.0,
)


class Problem:
    """A small network with dropout, fed batches of another number every epoch, with noise from the step's generator."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.2), nn.Linear(32, 1)).train()
        self.trainables = make_trainable(self.network, seed=1, rank=2, whole_limit=100)
        assert self.trainables.low_rank
        self.losses: list[float] = []
        self.epochs: list[tuple[int, Metrics]] = []

    def objective(self) -> Objective[Tensor]:
        return Objective("toy", self.trainables.parameters, self.batches, self.loss)

    def batches(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(epoch)
        return list(torch.randn(4 + epoch, 16, 8, generator=generator))

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        noisy = batch + 0.01 * torch.randn(batch.shape, generator=generator)
        loss = (self.network(noisy)[:, 0] - batch.sum(dim=1)).square().mean()
        return loss, {"shown": float(loss.detach()) * 2}

    def run(self, state_path: Path | None = None, should_stop: Callable[[], bool] = loop.never) -> None:
        train(
            self.objective(),
            CONFIG,
            seed=1986,
            state_path=state_path,
            save_interval_s=0.0,
            on_step=lambda report: self.losses.append(report.metrics["loss"]),
            on_epoch=lambda epoch, metrics: self.epochs.append((epoch, metrics)),
            should_stop=should_stop,
        )

    def weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.trainables.parameters.items()}


def after(calls: int) -> Callable[[], bool]:
    """A wish to stop at the n-th question."""
    count = 0

    def should_stop() -> bool:
        nonlocal count
        count += 1
        return count > calls

    return should_stop


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_falls() -> None:
    problem = Problem()

    problem.run()

    assert len(problem.losses) == 5 + 6 + 7
    assert problem.epochs[-1][1]["loss"] < 0.6 * problem.epochs[0][1]["loss"]


def test_an_epochs_figures_are_the_means_of_its_steps() -> None:
    problem = Problem()

    problem.run()

    assert [epoch for epoch, _ in problem.epochs] == [1, 2, 3]
    assert problem.epochs[0][1]["loss"] == pytest.approx(sum(problem.losses[:5]) / 5)
    assert problem.epochs[2][1]["shown"] == pytest.approx(2 * sum(problem.losses[11:]) / 7)


def test_the_same_seed_gives_the_same_bits_whatever_else_was_drawn() -> None:
    first, second = Problem(), Problem()

    first.run()
    torch.manual_seed(99)
    second.run()

    assert first.losses == second.losses
    assert_same(first.weights(), second.weights())


def test_the_global_generator_is_left_as_it_was() -> None:
    problem = Problem()
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    problem.run()

    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 6, 17])
def test_a_stopped_run_goes_on_to_the_same_bits(steps: int, tmp_path: Path) -> None:
    whole, first, second = Problem(), Problem(), Problem()
    whole.run()

    with pytest.raises(TrainingStopped, match="toy stopped in epoch"):
        first.run(tmp_path / "state", after(steps))
    second.run(tmp_path / "state")

    assert first.losses + second.losses == whole.losses
    assert_same(second.weights(), whole.weights())
    assert second.epochs[-1] == whole.epochs[-1]


def test_a_killed_run_goes_on_from_the_last_saved_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, first, second = Problem(), Problem(), Problem()
    whole.run()

    real_save, saved = loop._save, 0

    def save_seven_times(*arguments: object) -> None:
        nonlocal saved
        if saved == 7:
            raise KeyboardInterrupt
        saved += 1
        real_save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_save", save_seven_times)
    with pytest.raises(KeyboardInterrupt):
        first.run(tmp_path / "state")
    monkeypatch.undo()
    second.run(tmp_path / "state")

    assert second.losses == whole.losses[7:]
    assert_same(second.weights(), whole.weights())


def test_a_finished_run_is_not_repeated_and_its_weights_are_there(tmp_path: Path) -> None:
    first, again = Problem(), Problem()
    first.run(tmp_path / "state")

    again.run(tmp_path / "state")

    assert again.losses == []
    assert_same(again.weights(), first.weights())


def test_a_state_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    state.save_atomically({"a": torch.ones(3)}, path)

    def fail(*arguments: object) -> None:
        Path(str(arguments[1])).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(state, "save_file", fail)
    with pytest.raises(Internal, match=r"weights: cannot be written \(disk full\)"):
        state.save_atomically({"a": torch.zeros(3)}, path)

    assert torch.equal(load_file(path)["a"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    problem = Problem()
    state.save_atomically({"weight/x": torch.ones(1)}, tmp_path / "state", {"objective": "toy"})

    with pytest.raises(Internal, match="state of another training"):
        problem.run(tmp_path / "state")


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_diverging_run_ends_with_its_place_and_keeps_the_last_good_weights(poison: float, tmp_path: Path) -> None:
    problem = Problem()
    good = problem.loss

    def poisoned(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        loss, metrics = good(batch, generator)
        return (loss * poison if len(problem.losses) == 6 else loss), metrics

    problem.loss = poisoned  # type: ignore[method-assign]
    with pytest.raises(Internal, match=r"toy, epoch 2, step 2: training diverged"):
        problem.run(tmp_path / "state")

    assert all(parameter.isfinite().all() for parameter in problem.weights().values())
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "state").values())


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    factors = [learning_rate_factor(progress / 100, 0.1, CONFIG) for progress in range(1, 101)]

    assert factors[4] == pytest.approx(0.5)
    assert max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) == 9
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] == pytest.approx(0.2)


def test_weight_decay_pulls_factors_alone() -> None:
    problem = Problem()

    groups = loop._optimizer(problem.trainables.parameters, CONFIG).param_groups

    decay_by_id = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {decay_by_id[id(p)] for p in problem.trainables.low_rank.values()} == {0.01}
    assert {decay_by_id[id(p)] for p in problem.trainables.whole.values()} == {0.0}


def test_derived_seeds_are_fixed_and_far_apart() -> None:
    seeds = {derived_seed(seed, name, step) for seed in range(5) for name in ("lm", "flow") for step in range(100)}

    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed(1, "lm", 1) == derived_seed(1, "lm", 1)
