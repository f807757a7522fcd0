"""The speaker encoder CAM++: filter banks in, one vector per clip out.

Parameter names are those of 3D-Speaker, so published state dicts load as they are.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyforge.cosyvoice.config import SpeakerEncoderConfig

_HEAD_CHANNELS = 32
_SEGMENT_FRAMES = 100
_KERNEL = 3
_DILATIONS = (1, 2, 2)


class SpeakerEncoder(nn.Module):
    """A small 2-D convolutional head, densely connected time-delay layers with context-aware masks, statistics pooling.

    Source: Wang et al., CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware Masking
    """

    def __init__(self, config: SpeakerEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.head = _Head()
        self.xvector = _xvector(config)

    def forward(self, fbank: Tensor) -> Tensor:
        """One vector per clip, not normalised.

        Shapes: fbank (B, T, feat_dim) -> (B, embedding_size)
        Units: fbank at 100 Hz as `kaldi_fbank` makes it, less its mean over time
        Raises: ValueError when the number of bins differs, or the clip is too short for a spread over time
        """
        if fbank.ndim != 3 or fbank.shape[2] != self.config.feat_dim:
            wanted = f"(batch, frames, {self.config.feat_dim})"
            raise ValueError(f"the speaker encoder takes fbank {wanted}, got {tuple(fbank.shape)}")
        if fbank.shape[1] < 3:
            raise ValueError(f"the speaker encoder needs at least 3 frames, got {fbank.shape[1]}")
        vector: Tensor = self.xvector(self.head(fbank.transpose(1, 2)))
        return vector


def _xvector(config: SpeakerEncoderConfig) -> nn.Sequential:
    growth, width = config.growth_rate, config.init_channels
    head_out = _HEAD_CHANNELS * -(-config.feat_dim // 8)  # three halvings of the frequency axis, each rounded up
    parts: OrderedDict[str, nn.Module] = OrderedDict(tdnn=_TimeDelay(head_out, width))
    for number, num_layers in enumerate(config.blocks, start=1):
        dilation = _DILATIONS[min(number, len(_DILATIONS)) - 1]
        parts[f"block{number}"] = _DenseBlock(num_layers, width, growth, config.bn_size * growth, dilation)
        width += num_layers * growth
        parts[f"transit{number}"] = _Transit(width, width // 2)
        width //= 2
    parts["out_nonlinear"] = _norm_relu(width)
    parts["stats"] = _Statistics()
    parts["dense"] = _Dense(2 * width, config.embedding_size)
    return nn.Sequential(parts)


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(channels), relu=nn.ReLU(inplace=True)))


class _Head(nn.Module):
    """Treats the filter bank as a picture; the frequency axis shrinks to an eighth: (B, bins, T) -> (B, C, T)."""

    def __init__(self) -> None:
        super().__init__()
        width = _HEAD_CHANNELS
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(_Residual(width, 2), _Residual(width, 1))
        self.layer2 = nn.Sequential(_Residual(width, 2), _Residual(width, 1))
        self.conv2 = nn.Conv2d(width, width, 3, stride=(2, 1), padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, fbank: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(fbank[:, None])), inplace=True)
        x = x.contiguous(memory_format=torch.channels_last)  # saves a quarter of the time on a CPU
        x = self.layer2(self.layer1(x))
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return x.flatten(1, 2)


class _Residual(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride=(stride, 1), padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width, width, 1, stride=(stride, 1), bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)


class _TimeDelay(nn.Module):
    """Halves the frame rate: (B, C, T) -> (B, D, T at a half, rounded up)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(channels, width, 5, stride=2, padding=2, bias=False)
        self.nonlinear = _norm_relu(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.nonlinear(self.linear(x))
        return y


class _DenseBlock(nn.Module):
    """Every layer reads all that came before it and adds `growth` channels."""

    def __init__(self, num_layers: int, width: int, growth: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        for index in range(num_layers):
            layer = _DenseLayer(width + index * growth, growth, bottleneck, dilation)
            self.add_module(f"tdnnd{index + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = torch.cat([x, layer(x)], dim=1)
        return x


class _DenseLayer(nn.Module):
    def __init__(self, width: int, growth: int, bottleneck: int, dilation: int) -> None:
        super().__init__()
        self.nonlinear1 = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(width), relu=nn.ReLU(inplace=True)))
        self.linear1 = nn.Conv1d(width, bottleneck, 1, bias=False)
        self.nonlinear2 = _norm_relu(bottleneck)
        self.cam_layer = _ContextMask(bottleneck, growth, dilation)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cam_layer(self.nonlinear2(self.linear1(self.nonlinear1(x))))
        return y


class _ContextMask(nn.Module):
    """A convolution whose channels are scaled by what the clip and the surrounding second hold."""

    def __init__(self, width: int, growth: int, dilation: int) -> None:
        super().__init__()
        padding = (_KERNEL - 1) // 2 * dilation
        self.linear_local = nn.Conv1d(width, growth, _KERNEL, padding=padding, dilation=dilation, bias=False)
        self.linear1 = nn.Conv1d(width, width // 2, 1)
        self.linear2 = nn.Conv1d(width // 2, growth, 1)

    def forward(self, x: Tensor) -> Tensor:
        segments = F.avg_pool1d(x, _SEGMENT_FRAMES, _SEGMENT_FRAMES, ceil_mode=True)
        context = x.mean(dim=2, keepdim=True) + segments  # (B, C, T at a hundredth)
        mask = torch.sigmoid(self.linear2(F.relu(self.linear1(context), inplace=True)))
        # the mask is the same all through a segment, so it is computed once for each and spread afterwards
        mask = mask.repeat_interleave(_SEGMENT_FRAMES, dim=2)[..., : x.shape[2]]
        y: Tensor = self.linear_local(x)
        return y * mask


class _Transit(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.nonlinear = _norm_relu(width)
        self.linear = nn.Conv1d(width, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.nonlinear(x))
        return y


class _Statistics(nn.Module):
    """Mean and standard deviation over time: (B, C, T) -> (B, 2C)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean(dim=2), x.std(dim=2)], dim=1)


class _Dense(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Conv1d(width, out, 1, bias=False)
        self.nonlinear = nn.Sequential(OrderedDict(batchnorm=nn.BatchNorm1d(out, affine=False)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.nonlinear(self.linear(x[..., None]).squeeze(2))
        return y
