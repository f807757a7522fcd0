"""Residual convolutions over time, by which the recipe's readers see a frame or a token among its neighbours. No part of the model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

_KERNEL_SIZE = 5


class ConvStack(nn.Module):
    """Each layer adds what it finds in the two steps before and after.

    Shapes: (B, S, width) -> what every layer leaves, the last one's at the end, each (B, S, width)
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, _KERNEL_SIZE, padding=_KERNEL_SIZE // 2) for _ in range(depth)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))

    def forward(self, x: Tensor) -> list[Tensor]:
        layers = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + F.gelu(conv(norm(x).transpose(1, 2))).transpose(1, 2)
            layers.append(x)
        return layers
