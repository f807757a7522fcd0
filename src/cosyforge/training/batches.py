"""From samples, which stay where they were read, to batches on the device that a network trains on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device


def padded(rows: Sequence[Tensor], device: torch.device, padding_value: float = 0.0) -> Tensor:
    """Shapes: rows of (n_i, ...) -> (B, longest, ...)"""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=padding_value).to(device)


def padded_rows(rows: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """With their lengths. Shapes: rows of (n_i, ...) -> (B, longest, ...), (B,) int64"""
    return padded(rows, device), torch.tensor([len(row) for row in rows], device=device)


def mixed_precision(device: torch.device) -> torch.autocast:
    """The networks' own arithmetic in bfloat16; losses stay outside of it."""
    return torch.autocast(device.type, torch.bfloat16)
