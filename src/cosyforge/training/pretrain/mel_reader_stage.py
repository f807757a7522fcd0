"""Teach a small network to read phones from mel spectrograms of recordings, to judge by it what flow and vocoder make.

The squared error of a mel knows nothing of what matters: a burst of two frames weighs as much as two frames of a vowel's grain. A reader
of recordings is asked in its place what it hears in a drawn mel, layer by layer. Exists for training alone; no part of the model.

Source of the idea: perceptual losses (Johnson et al., 2016), with phones in the place of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyforge.dataset.synthetic import PHONES
from cosyforge.training.batches import device_of, mixed_precision, padded
from cosyforge.training.pretrain.conv_stack import ConvStack
from cosyforge.training.pretrain.corpus import PreparedClip
from cosyforge.training.pretrain.disguises import smooth_curve
from cosyforge.training.pretrain.sampler import LengthSampler

_MEL_BINS = 80
_MEL_CENTRE, _MEL_SCALE = -6.0, 3.0
"""About the mean and the spread of the corpus' log mels."""
_UNKNOWN = -1

PHONE_WEIGHT, LIKENESS_WEIGHT = 0.4, 0.6
"""Of what the reader makes of a mel: its phones, and what every layer of it finds. A fourth of it does less (words of hard sentences wrong
.40, not .37, after 750 steps of the flow); with two and a half times as much the mel suffers, and words gain nothing."""


class MelReader(nn.Module):
    """Phones from a log mel, frame by frame, with two tenths of a second around each.

    Shapes: mel (B, 80, F) -> phone scores (B, F, P), what every layer makes of it, each (B, F, width)
    """

    def __init__(self, width: int = 192, depth: int = 4) -> None:
        super().__init__()
        self.enter = nn.Conv1d(_MEL_BINS, width, 5, padding=2)
        self.listen = ConvStack(width, depth)
        self.leave = nn.Linear(width, len(PHONES))

    def forward(self, mel: Tensor) -> tuple[Tensor, list[Tensor]]:
        layers = self.listen(self.enter((mel - _MEL_CENTRE) / _MEL_SCALE).transpose(1, 2))
        return self.leave(layers[-1]), layers


class MelReaderLoss:
    """Cross-entropy on the phone of every frame; clips are heard louder or softer, through another microphone, with some noise."""

    def __init__(self, reader: MelReader, clips: list[PreparedClip], frames_per_batch: int = 1600) -> None:
        self.reader = reader
        self.clips = [clip for clip in clips if clip.is_labelled]
        self.sampler = LengthSampler([len(clip.mel) for clip in self.clips], frames_per_batch)

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        clips = [self.clips[i] for i in self.sampler.draw(generator)]
        device = device_of(self.reader)
        mel = padded([_disguised(clip.mel.float(), generator) for clip in clips], device)
        label = padded([clip.label.long() for clip in clips], device, _UNKNOWN)
        with mixed_precision(device):
            scores, _ = self.reader(mel.transpose(1, 2))
        known = label != _UNKNOWN
        loss = F.cross_entropy(scores.float().flatten(0, 1), label.flatten(), ignore_index=_UNKNOWN)
        correct = ((scores.argmax(-1) == label) & known).sum() / known.sum()
        return loss, {"correct": correct}


def _disguised(mel: Tensor, generator: torch.Generator) -> Tensor:
    """The log mel (F, 80) of the same words at another level, with a smooth curve of up to some 8 dB over it and some noise."""
    level, noise = torch.rand(2, generator=generator).tolist()
    curve = smooth_curve(_MEL_BINS, 5, 0.5, generator)
    disguised: Tensor = mel + 2.0 * (level - 0.5) + curve + 0.5 * noise * torch.randn(mel.shape, generator=generator)
    return disguised


def reading_distance(
    reader: MelReader, drawn: Tensor, mel: Tensor, num_frames: Tensor, labels: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """How badly a drawn mel is read, and how far from the true one every layer finds it, as a share of the layer's own spread.

    Shapes: drawn, mel (B, 80, F), num_frames (B,), labels one a row, each (F_i,) with -1 where the phone is unknown
        -> cross-entropy (), 0 where no phone is known, and distance ()
    """
    count = mel.shape[2]
    is_real = (torch.arange(count, device=mel.device) < num_frames[:, None])[..., None]  # (B, F, 1)
    # behind the end of a row both are silent, whatever was drawn
    silenced = is_real.transpose(1, 2)
    with mixed_precision(mel.device):
        with torch.no_grad():
            _, wanted = reader(mel * silenced)
        scores, found = reader(drawn * silenced)
    distance = drawn.new_zeros(())
    for layer, goal in zip(found, wanted, strict=True):
        spread = ((goal.float() - goal.float().mean()).abs() * is_real).sum()
        distance = distance + ((layer.float() - goal.float()).abs() * is_real).sum() / spread
    label = padded(labels, mel.device, _UNKNOWN)[:, :count]
    label = F.pad(label, (0, count - label.shape[1]), value=_UNKNOWN)
    label = torch.where(is_real[..., 0], label, _UNKNOWN)
    num_known = (label != _UNKNOWN).sum().clamp(min=1)
    total = F.cross_entropy(scores.float().flatten(0, 1), label.flatten(), ignore_index=_UNKNOWN, reduction="sum")
    return total / num_known, distance / len(found)
