"""Teach the speaker encoder to tell the virtual speakers apart; what it says about strangers is what tuning starts from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyforge.cosyvoice.speaker_encoder import SpeakerEncoder
from cosyforge.training.batches import device_of, mixed_precision
from cosyforge.training.pretrain.corpus import PreparedClip

_CROP_FRAMES = 180
_BATCH = 32
_SCALE = 20.0
_MARGIN = 0.2


class SpeakerHead(nn.Module):
    """One direction per known speaker; exists for training alone. Shapes: (B, 192) -> cosines (B, num_speakers)."""

    def __init__(self, embedding_size: int, num_speakers: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_speakers, embedding_size) * 0.05)

    def forward(self, embedding: Tensor) -> Tensor:
        return F.normalize(embedding) @ F.normalize(self.weight).T


class SpeakerLoss:
    """Random crops of random speakers, additive-margin softmax (Wang et al., 2018)."""

    def __init__(self, encoder: SpeakerEncoder, head: SpeakerHead, clips: list[PreparedClip]) -> None:
        self.encoder, self.head = encoder, head
        self.by_speaker = clips_by_speaker(clips)
        self.names = sorted(self.by_speaker)

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        label = torch.randint(len(self.names), (_BATCH,), generator=generator)
        crops = [self._crop(self.names[i], generator) for i in label.tolist()]
        device = device_of(self.encoder)
        label = label.to(device)
        with mixed_precision(device):
            embedding = self.encoder(torch.stack(crops).to(device))
        cosine = self.head(embedding.float())
        margin = _MARGIN * F.one_hot(label, len(self.names))
        loss = F.cross_entropy(_SCALE * (cosine - margin), label)
        return loss, {"correct": (cosine.argmax(1) == label).float().mean()}

    def _crop(self, name: str, generator: torch.Generator) -> Tensor:
        clips = self.by_speaker[name]
        fbank = clips[int(torch.randint(len(clips), (1,), generator=generator))].fbank.float()
        fbank = fbank.repeat(-(-_CROP_FRAMES // len(fbank)), 1)
        start = int(torch.randint(len(fbank) - _CROP_FRAMES + 1, (1,), generator=generator))
        crop = fbank[start : start + _CROP_FRAMES]
        tilt = torch.linspace(-1, 1, crop.shape[1]) * (torch.rand(1, generator=generator) - 0.5)
        return crop + tilt + 0.1 * torch.randn(crop.shape, generator=generator)


def clips_by_speaker(clips: list[PreparedClip]) -> dict[str, list[PreparedClip]]:
    groups: dict[str, list[PreparedClip]] = {}
    for clip in clips:
        groups.setdefault(clip.clip.speaker, []).append(clip)
    return groups


@torch.no_grad()
def embed_clips(encoder: SpeakerEncoder, clips: list[PreparedClip]) -> Tensor:
    """One L2-normalised vector per clip, (num_clips, 192), whatever the device of the encoder in main memory."""
    encoder.eval()
    device = device_of(encoder)
    return torch.cat([F.normalize(encoder(clip.fbank.float()[None].to(device))) for clip in clips]).cpu()
