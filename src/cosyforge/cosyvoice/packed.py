"""Linear layers as a processor reads them fastest: one behind another where they share an input, 16 bits a weight.

A small network that says one position of a few rows at a time waits for its weights, not for arithmetic: half as many
bytes in reading order are half the time or less. Inputs, sums and outputs stay float32. Weights that were stored in 16
bits lose nothing (of a bfloat16 only numbers below 6e-5 are rounded, by at most 3e-8); others keep 11 digits.

Only where torch has the routine (x86 processors), and only for small networks: beside a large one the copies would
take too much memory. Everywhere else the plain layers go on working.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

MOST_WEIGHTS = 16 * 2**20
"""A network with more weights in its packable layers stays as it is; the copies of this many take 32 MiB."""

_LARGEST = torch.finfo(torch.float16).max
_pack_matrix = getattr(torch, "fbgemm_pack_gemm_matrix_fp16", None)
_multiply = getattr(torch, "fbgemm_linear_fp16_weight_fp32_activation", None)


class PackedLinear:
    """Linear layers that share an input as one, with weights of their own; a later change of the layers is not seen."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            # torch says once that these two may go; where they have gone, nothing is packed
            warnings.simplefilter("ignore", UserWarning)
            weight = torch.cat(tuple(layer.weight for layer in layers))
            self._weight: Tensor = _pack_matrix(weight.contiguous())  # type: ignore[misc]
            self._bias = None
            if any(layer.bias is not None for layer in layers):
                self._bias = torch.cat(tuple(_bias(layer) for layer in layers))
            self(weight[:1])

    def __call__(self, x: Tensor) -> Tensor:
        """Shapes: x (…, D) float32 -> (…, sum of the layers' outputs)"""
        out: Tensor = _multiply(x, self._weight, self._bias)  # type: ignore[misc]
        return out


def _bias(layer: nn.Linear) -> Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


class Packable(nn.Module):
    """A module with linear layers that can be packed; training, loading or moving it drops the packed copies."""

    _packed: Mapping[str, PackedLinear] | None = None

    def packable(self) -> Mapping[str, Sequence[nn.Linear]]:
        """Tell under which name which layers may become one."""
        raise NotImplementedError

    @property
    def packed(self) -> Mapping[str, PackedLinear] | None:
        """The packed layers, or None when there are none or gradients are wanted."""
        return None if torch.is_grad_enabled() else self._packed

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._packed = None
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._packed = None
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._packed = None
        super()._load_from_state_dict(*args, **kwargs)


def pack(network: nn.Module) -> None:
    """Switch a network to inference and pack its linear layers, unless it is too large or cannot be packed here."""
    network.eval()
    modules = [module for module in network.modules() if isinstance(module, Packable)]
    groups = [module.packable() for module in modules]
    weights = [layer.weight for group in groups for layers in group.values() for layer in layers]
    if not _is_possible(weights):
        return
    for module, group in zip(modules, groups, strict=True):
        module._packed = {name: PackedLinear(layers) for name, layers in group.items()}


def _is_possible(weights: Sequence[Tensor]) -> bool:
    has_routine = _pack_matrix is not None and "fbgemm" in torch.backends.quantized.supported_engines
    if not has_routine or sum(weight.numel() for weight in weights) > MOST_WEIGHTS:
        return False
    return all(
        weight.device.type == "cpu" and weight.dtype == torch.float32 and float(weight.detach().abs().max()) <= _LARGEST
        for weight in weights
    )
