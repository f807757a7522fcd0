"""Epochs of steps: AdamW, warmup and cosine, clipping, saving and resuming. Knows a loss function, not a network.

Nothing random is kept between steps: what a step draws comes from (seed, epoch, step), what it sees from (seed, epoch).
So the state to resume from is weights, optimizer moments and a position, and a run that was killed and resumed ends
with the same bits as one that was not (on the same machine with the same number of threads). `state.py` keeps it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from cosyforge.errors import Internal
from cosyforge.training.events import TrainingStopped
from cosyforge.training.hyper_parameters import StageConfig
from cosyforge.training.state import StatePosition, read_newest_state, write_state

Batch = TypeVar("Batch")
Metrics = dict[str, float]


@dataclass(frozen=True)
class Objective(Generic[Batch]):
    """What a loop descends."""

    name: str
    parameters: Mapping[str, nn.Parameter]
    batches: Callable[[int], Sequence[Batch]]
    """The batches of an epoch (counted from 1): the same at every call."""
    loss: Callable[[Batch, torch.Generator], tuple[Tensor, Metrics]]
    """The loss to descend, and figures to report beside it. All randomness comes from the generator, except dropout."""


@dataclass(frozen=True)
class StepReport:
    """One finished step. progress 0..1 over this stage; epochs and steps count from 1."""

    epoch: int
    step: int
    num_steps: int
    progress: float
    metrics: Metrics


@dataclass
class _Position:
    """Where a run stands: `step` steps of `epoch` are done, with these sums of their figures."""

    epoch: int = 1
    step: int = 0
    sums: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class StateReport:
    """The state to resume from was written, or read: `step` steps of `epoch` are in it.

    damaged: the files that were passed over for this older state, or for none
    """

    epoch: int
    step: int
    damaged: tuple[Path, ...] = ()


def never() -> bool:
    return False


def train(
    objective: Objective[Batch],
    config: StageConfig,
    *,
    seed: int,
    state_path: Path | None = None,
    save_interval_s: float = 60.0,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_epoch: Callable[[int, Metrics], None] = lambda epoch, metrics: None,
    on_restored: Callable[[StateReport], None] = lambda report: None,
    on_saved: Callable[[StateReport], None] = lambda report: None,
    should_stop: Callable[[], bool] = never,
) -> None:
    """Train for `config.max_epoch` epochs, from the state at `state_path` when there is one.

    The state is written after `save_interval_s`, when the run is to stop, and at the end of an epoch unless that comes
    within a tenth of the interval. on_epoch gets the means over the epoch's steps, before the state is written: a run
    that is killed between the two calls it again, with the same weights.

    Raises: TrainingStopped when asked to stop, checked at every step; Internal when loss or gradients are not finite, or
        the state cannot be written
    """
    optimizer = _optimizer(objective.parameters, config)
    position = _restore(state_path, objective, optimizer, on_restored)
    saved_at = time.monotonic()

    def save() -> None:
        nonlocal saved_at
        _save(state_path, objective, optimizer, position)
        on_saved(StateReport(position.epoch, position.step))
        saved_at = time.monotonic()

    while position.epoch <= config.max_epoch:
        batches = objective.batches(position.epoch)
        while position.step < len(batches):
            if should_stop():
                save()
                raise TrainingStopped(f"{objective.name} stopped in epoch {position.epoch} of {config.max_epoch}")
            progress = _progress(position, len(batches), config)
            _set_rate(optimizer, learning_rate_factor(progress, _warmup_part(len(batches), config), config))
            metrics = _step(objective, optimizer, batches[position.step], config, position, seed)
            position.step += 1
            position.sums = {name: position.sums.get(name, 0.0) + value for name, value in metrics.items()}
            on_step(StepReport(position.epoch, position.step, len(batches), progress, metrics))
            if position.step < len(batches) and time.monotonic() - saved_at >= save_interval_s:
                save()
        on_epoch(position.epoch, {name: total / len(batches) for name, total in position.sums.items()})
        position = _Position(epoch=position.epoch + 1)
        if position.epoch > config.max_epoch or time.monotonic() - saved_at >= save_interval_s / 10:
            save()


def _step(
    objective: Objective[Batch],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: StageConfig,
    position: _Position,
    seed: int,
) -> Metrics:
    where = f"{objective.name}, epoch {position.epoch}, step {position.step + 1}"
    step_seed = derived_seed(seed, objective.name, position.epoch, position.step)
    parameters = list(objective.parameters.values())
    # dropout draws from the global generator: seeded per step, and given back as it was
    with torch.random.fork_rng(devices={p.device for p in parameters if p.is_cuda}):
        torch.manual_seed(step_seed)
        loss, metrics = objective.loss(batch, torch.Generator().manual_seed(step_seed))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm))
    value = float(loss.detach())
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise Internal(
            f"{where}: training diverged (loss {value}, gradient norm {norm}); the last state is kept",
            # the same steps give the same numbers again
            is_final=True,
        )
    optimizer.step()
    return {"loss": value, "gradient_norm": norm, **metrics}


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed from any parts: unlike sums of numbers, neighbours share nothing."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


# --- rate -------------------------------------------------------------------------------------------------------------


def _progress(position: _Position, num_steps: int, config: StageConfig) -> float:
    """Part of the whole run that is done after the coming step; epochs of different length weigh the same."""
    return (position.epoch - 1 + (position.step + 1) / num_steps) / config.max_epoch


def _warmup_part(num_steps: int, config: StageConfig) -> float:
    return min(0.1, config.max_warmup_steps / (num_steps * config.max_epoch))


def learning_rate_factor(progress: float, warmup_part: float, config: StageConfig) -> float:
    """Linear to 1 over the warmup, then along a cosine to the final factor at progress 1."""
    if progress < warmup_part:
        return progress / warmup_part
    along = (progress - warmup_part) / (1 - warmup_part)
    floor = config.final_learning_rate_factor
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along))


def _set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def _optimizer(parameters: Mapping[str, nn.Parameter], config: StageConfig) -> torch.optim.AdamW:
    """Weight decay for low-rank factors alone: there it pulls towards the base model, elsewhere towards zero."""
    factors = [p for name, p in parameters.items() if _is_factor(name)]
    others = [p for name, p in parameters.items() if not _is_factor(name)]
    groups = [
        {"params": group, "weight_decay": decay, "peak_lr": config.learning_rate}
        for group, decay in ((factors, config.weight_decay), (others, 0.0))
        if group
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.adam_betas)


def _is_factor(name: str) -> bool:
    return name.endswith((".lora_A", ".lora_B"))


# --- state on disk ----------------------------------------------------------------------------------------------------


def _save(path: Path | None, objective: Objective[Any], optimizer: torch.optim.Optimizer, position: _Position) -> None:
    if path is None:
        return
    tensors: dict[str, Tensor] = {}
    for name, parameter in objective.parameters.items():
        tensors[f"weight/{name}"] = parameter.detach()
        for part, value in optimizer.state[parameter].items():
            tensors[f"{part}/{name}"] = value
    sums = {name: value.hex() for name, value in position.sums.items()}
    write_state(path, StatePosition(objective.name, position.epoch, position.step, json.dumps(sums)), tensors)


def _restore(
    path: Path | None,
    objective: Objective[Any],
    optimizer: torch.optim.Optimizer,
    on_restored: Callable[[StateReport], None],
) -> _Position:
    if path is None:
        return _Position()
    state, damaged = read_newest_state(path)
    if state is None:
        if damaged:
            on_restored(StateReport(1, 0, damaged))
        return _Position()
    saved, tensors = state
    if saved.objective != objective.name or {k for k in tensors if k.startswith("weight/")} != {
        f"weight/{name}" for name in objective.parameters
    }:
        raise Internal(f"{path}: is the state of another training; give each run its own work directory", is_final=True)
    with torch.no_grad():
        for name, parameter in objective.parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
    _restore_moments(tensors, objective.parameters, optimizer)
    on_restored(StateReport(saved.epoch, saved.step, damaged))
    sums = {name: float.fromhex(value) for name, value in json.loads(saved.sums).items()}
    return _Position(saved.epoch, saved.step, sums)


def _restore_moments(
    tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    for name, parameter in parameters.items():
        parts = {part: tensors.get(f"{part}/{name}") for part in ("step", "exp_avg", "exp_avg_sq")}
        for part, value in parts.items():
            if value is not None:
                # the step counter stays on the CPU, as the optimizer itself keeps it
                optimizer.state[parameter][part] = value if part == "step" else value.to(parameter.device)
