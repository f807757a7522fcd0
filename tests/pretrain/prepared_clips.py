"""Clips of the recipe's corpus, made up."""

from __future__ import annotations

import torch

from cosyforge.dataset.synthetic import PHONES, Clip
from cosyforge.training.pretrain.corpus import PreparedClip

NUM_SOUNDS = 3


def three_sounds(number: int, *, speaker: str = "somebody", is_labelled: bool = True) -> PreparedClip:
    """Three sounds of twelve frames in an order of their own, each a hill at its own height of the mel, and at its own pitch."""
    generator = torch.Generator().manual_seed(number)
    order = torch.randperm(NUM_SOUNDS, generator=generator)
    label = order.repeat_interleave(12)
    height = 15.0 + 25.0 * label[:, None]
    mel = -8.0 + 6.0 * torch.exp(-(((torch.arange(80) - height) / 8.0) ** 2))
    phones = tuple((PHONES[int(sound)], 0.24 * (i + 1)) for i, sound in enumerate(order)) if is_labelled else ()
    nothing = torch.zeros(0)
    f0 = 100.0 + 20.0 * label
    label = label if is_labelled else torch.full_like(label, -1)
    return PreparedClip(Clip("a", speaker, 0, 11520, phones), mel.half(), nothing, nothing, f0, label.to(torch.int16))
