"""The step loop of every pretraining stage: warm-up and cosine, clipping, moving average, resume.

Every step draws from a generator seeded by (seed, step), so a run that was stopped and resumed sees the same batches as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from cosyforge.training.pretrain.optimizers import Optimizers

LossFunction = Callable[[int, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
"""(step, generator) -> what to descend, and figures for the curve. Figures are tensors: a number would have to be waited for."""


@dataclass(frozen=True)
class StepPlan:
    """How long and how fast a stage learns.

    ema_decay: decay of the averaged weights that are kept in the end; 0 keeps the last ones
    matrix_learning_rate: peak rate of Muon for the matrices of stacked layers, 0 for AdamW everywhere
    """

    num_steps: int
    learning_rate: float
    warmup_steps: int = 200
    final_share: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    matrix_learning_rate: float = 0.0
    ema_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    save_every: int = 250
    log_every: int = 50
    seed: int = 1986


@dataclass
class StepReport:
    """The curve of a stage: one row per logged step."""

    rows: list[dict[str, float]] = field(default_factory=list)


def rate_share_at(plan: StepPlan, step: int) -> float:
    """Share of the peak rates at a step: linear warm-up, then half a cosine down to `final_share`."""
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    share = (step - plan.warmup_steps) / max(1, plan.num_steps - plan.warmup_steps)
    floor = plan.final_share
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def run_steps(
    modules: Mapping[str, nn.Module],
    loss_function: LossFunction,
    plan: StepPlan,
    checkpoint: Path,
    *,
    on_log: Callable[[str], None] = print,
    on_save: Callable[[int], None] = lambda step: None,
) -> StepReport:
    """Train the modules together until the plan is done; goes on from `checkpoint` when it is there.

    The modules hold the averaged weights on return when the plan averages.
    Raises: RuntimeError when the loss is not finite; ValueError for a checkpoint of other optimizers
    """
    optimizers = Optimizers(
        modules,
        learning_rate=plan.learning_rate,
        matrix_learning_rate=plan.matrix_learning_rate,
        weight_decay=plan.weight_decay,
        betas=plan.betas,
    )
    parameters = optimizers.parameters
    average = [p.detach().clone() for p in parameters] if plan.ema_decay else []
    report = StepReport()
    start = _restore(checkpoint, modules, optimizers, average, report)
    began = time.monotonic()
    sums: dict[str, float] = {}
    num_summed = 0
    for step in range(start, plan.num_steps):
        seed = plan.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(seed)
        # what a network itself draws (the noise of the vocoder's source)
        torch.manual_seed(seed)
        optimizers.zero_grad()
        loss, metrics = loss_function(step, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, plan.clip_norm, foreach=True)
        if not torch.isfinite(loss):
            raise RuntimeError(f"{checkpoint.stem}: the loss is {loss.item()} at step {step}; lower the learning rate")
        optimizers.step(rate_share_at(plan, step))
        _update_average(average, parameters, plan.ema_decay, step)
        for name, value in {"loss": loss, **metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        num_summed += 1
        done = step + 1
        if done % plan.log_every == 0 or done == plan.num_steps:
            row = {"step": float(done), **{name: value / num_summed for name, value in sums.items()}}
            report.rows.append(row)
            sums, num_summed = {}, 0
            pace = (time.monotonic() - began) / max(1, done - start)
            figures = " ".join(f"{name} {value:.4f}" for name, value in row.items() if name != "step")
            on_log(f"{checkpoint.stem} {done}/{plan.num_steps} {figures} ({pace:.2f} s/step)")
        if done % plan.save_every == 0 or done == plan.num_steps:
            _save(checkpoint, modules, optimizers, average, report, done)
            on_save(done)
    if average:
        with torch.no_grad():
            for parameter, mean in zip(parameters, average, strict=True):
                parameter.copy_(mean)
    return report


def _update_average(average: Sequence[Tensor], parameters: Sequence[Tensor], decay: float, step: int) -> None:
    if not average:
        return
    # a young average must not remember the random start
    rate = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average), [p.detach() for p in parameters], 1 - rate)


def _save(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Optimizers,
    average: Sequence[Tensor],
    report: StepReport,
    step: int,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "step": step,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimizers": optimizers.state(),
        "average": list(average),
        "rows": json.dumps(report.rows),
    }
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def _restore(
    path: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Optimizers,
    average: Sequence[Tensor],
    report: StepReport,
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    try:
        optimizers.restore(state["optimizers"])
    except (KeyError, ValueError) as e:
        raise ValueError(f"{path} was begun by another recipe ({e}); give another work folder") from e
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    for mean, saved in zip(average, state["average"], strict=True):
        mean.copy_(saved)
    report.rows.extend(json.loads(state["rows"]))
    return int(state["step"])


def load_averaged(path: Path, modules: Mapping[str, nn.Module]) -> int:
    """Put a stage's best weights so far (averaged ones where kept) into the modules.

    Returns: the step they are from. Raises: FileNotFoundError when the stage has saved nothing
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run that stage first")
    state = torch.load(path, weights_only=True, map_location="cpu")
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    if state["average"]:
        parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        with torch.no_grad():
            for parameter, mean in zip(parameters, state["average"], strict=True):
                parameter.copy_(mean)
    return int(state["step"])
