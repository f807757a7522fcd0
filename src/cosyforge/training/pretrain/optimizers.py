"""What descends: Muon for the matrices of stacked layers, AdamW for all else, as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Optimizers:
    """Muon for the matrices of stacked layers, AdamW for all else; their rates rise and fall together.

    Source: Jordan et al., Muon, an optimizer for hidden layers; Liu et al., Muon is Scalable for LLM Training (step sizes like AdamW's)
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *,
        learning_rate: float,
        matrix_learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        """The rates are the peaks; matrix_learning_rate is Muon's, 0 for AdamW everywhere."""
        self.parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        matrices = stacked_matrices(modules) if matrix_learning_rate > 0 else []
        taken = {id(p) for p in matrices}
        others = [p for p in self.parameters if id(p) not in taken]
        self._peaks: list[tuple[torch.optim.Optimizer, float]] = []
        if matrices:
            muon = torch.optim.Muon(
                matrices,
                lr=matrix_learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
            self._peaks.append((muon, matrix_learning_rate))
        if others:
            adamw = torch.optim.AdamW(others, lr=learning_rate, betas=betas, weight_decay=weight_decay, foreach=True)
            self._peaks.append((adamw, learning_rate))

    def zero_grad(self) -> None:
        for optimizer, _ in self._peaks:
            optimizer.zero_grad(set_to_none=True)

    def step(self, share: float) -> None:
        """One update at this share of the peak rates."""
        for optimizer, peak in self._peaks:
            for group in optimizer.param_groups:
                group["lr"] = peak * share
            optimizer.step()

    def state(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer, _ in self._peaks]

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Raises: ValueError when they are those of other optimizers"""
        if len(states) != len(self._peaks):
            raise ValueError(f"the state is of {len(states)} optimizers, the plan has {len(self._peaks)}")
        for (optimizer, _), state in zip(self._peaks, states, strict=True):
            optimizer.load_state_dict(state)


def stacked_matrices(modules: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    """The trainable matrices inside module lists: layers that follow one another, no embedding, no entry, no exit."""
    found: dict[int, nn.Parameter] = {}
    for module in modules.values():
        for part in module.modules():
            if isinstance(part, nn.ModuleList):
                found |= {id(p): p for p in part.parameters() if p.ndim == 2 and p.requires_grad}
    return list(found.values())
