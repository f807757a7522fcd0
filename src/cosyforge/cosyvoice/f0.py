"""Pitch predictor of the vocoder, and the causal convolutions both are built from.

Knows nothing of the source or the waveform: mel spectrogram in, one pitch value per frame out.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm


class ConvState:
    """Left contexts of the causal convolutions of one stream; made per stream, never kept on the network."""

    def __init__(self) -> None:
        self._context_by_conv: dict[nn.Module, Tensor] = {}

    def join(self, conv: CausalConv1d, x: Tensor) -> Tensor:
        """Put what came before in front of x (zeros at the start of the stream) and remember the end of x.

        Shapes: x (B, C, 1, t) -> (B, C, 1, context + t)
        """
        context = self._context_by_conv.get(conv)
        x = functional.pad(x, (conv.left, 0)) if context is None else torch.cat([context, x], dim=-1)
        self._context_by_conv[conv] = x[..., x.shape[-1] - conv.keep :].clone()
        return x


class CausalConv1d(nn.Conv1d):
    """Convolution that sees nothing to the right, with an optional cache of its plain weight.

    Works on (B, C, 1, t) tensors in channels-last order: there oneDNN runs without reordering its input, with dilation
    too, and the backward pass is about twice as fast as that of a one-dimensional convolution.
    left zeros stand before the first sample; keep samples must be carried to the next piece of a stream.
    A weight-normed convolution recomputes its weight at every call, which fuse() avoids during inference; training,
    loading and moving the module drop that cache.
    """

    _fused: Tensor | None = None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, dilation: int = 1, stride: int = 1,
        left: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, dilation=dilation)
        reach = (kernel_size - 1) * dilation
        self.left = reach if left is None else left
        self.keep = reach + 1 - stride

    def forward(self, x: Tensor, state: ConvState | None = None) -> Tensor:
        """Shapes: x (B, C, 1, t) -> (B, out_channels, 1, t / stride)."""
        if state is not None:
            x = state.join(self, x)
        elif self.left:
            x = functional.pad(x, (self.left, 0))
        weight = self.kernel(x.dtype).unsqueeze(2)
        stride, dilation = (1, self.stride[0]), (1, self.dilation[0])
        return functional.conv2d(x, weight, self.offset(x.dtype), stride, 0, dilation)

    def kernel(self, dtype: torch.dtype) -> Tensor:
        """The plain weight; in float64 also when the parameters are float32, so that the norm is exact too."""
        if self._fused is not None and (dtype == torch.float64) == (self._fused.dtype == torch.float64):
            return self._fused
        if dtype != torch.float64:
            return self.weight
        return self._plain_weight(dtype)

    def offset(self, dtype: torch.dtype) -> Tensor | None:
        """The bias in the precision of the pass."""
        return self.bias.to(dtype) if self.bias is not None and dtype == torch.float64 else self.bias

    def fuse(self, dtype: torch.dtype | None = None) -> None:
        """Keep the plain weight until the module is trained, loaded or moved."""
        with torch.no_grad():
            self._fused = self._plain_weight(dtype or self._parameter_dtype()).clone()

    def train(self, mode: bool = True) -> Self:
        if mode:
            self._fused = None
        return super().train(mode)

    def _parameter_dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _plain_weight(self, dtype: torch.dtype) -> Tensor:
        if "parametrizations" not in self._modules:
            return self.weight.to(dtype)
        norm = self.parametrizations.weight  # type: ignore[union-attr]
        return torch._weight_norm(norm.original1.to(dtype), norm.original0.to(dtype), 0)  # type: ignore[union-attr, operator, arg-type]

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._fused = None
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._fused = None
        super()._load_from_state_dict(*args, **kwargs)


def channels_last(x: Tensor) -> Tensor:
    """Shapes: (B, C, t) -> (B, C, 1, t), stored time by time."""
    return x.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def normed(conv: CausalConv1d) -> CausalConv1d:
    """Weight-normalise a convolution in the official key layout (parametrizations.weight.original0 and 1)."""
    result = weight_norm(conv)
    assert isinstance(result, CausalConv1d)
    return result


class F0Predictor(nn.Module):
    """Mel spectrogram -> pitch; the first convolution looks look_right frames ahead, the others back.

    Works in the precision of its input: float32 while training, float64 for inference, where the phase summed from the
    pitch makes small differences between pieces of a stream audible.
    """

    def __init__(self, mel_bins: int, channels: int, look_right: int = 3) -> None:
        super().__init__()
        self.look_right = look_right
        layers: list[nn.Module] = [normed(CausalConv1d(mel_bins, channels, look_right + 1, left=0)), nn.ELU()]
        for _ in range(4):
            layers += [normed(CausalConv1d(channels, channels, 3)), nn.ELU()]
        self.condnet = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel: Tensor, *, final: bool = True, state: ConvState | None = None) -> Tensor:
        """Predict the pitch; values under the voicing threshold mean unvoiced.

        With final=False the last look_right frames are context only. With a state, mel must begin look_right frames
        before the first new frame (those frames were the context of the previous piece).

        Shapes: mel (B, M, F) -> f0 (B, F) or (B, F - look_right)
        Units: Hz
        """
        x = channels_last(functional.pad(mel, (0, self.look_right)) if final else mel)
        for index, layer in enumerate(self.condnet):
            # the first convolution sees only to the right: its context is in the input
            x = layer(x, state if index else None) if isinstance(layer, CausalConv1d) else layer(x)
        weight, bias = self.classifier.weight.to(x.dtype), self.classifier.bias.to(x.dtype)
        return functional.linear(x.squeeze(2).transpose(1, 2), weight, bias).squeeze(-1).abs()
