"""Teach the flow to draw mel spectrograms from codes and a voice: flow matching, with a mu that already resembles the mel.

Intelligibility comes from the prior loss on mu within minutes; the estimator adds the voice and the texture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyforge.cosyvoice.flow import Flow, FlowBatch
from cosyforge.training.pretrain.corpus import PreparedClip
from cosyforge.training.pretrain.sampler import LengthSampler

PRIOR_WEIGHT = 0.3
TIME_POWER = 1.5
"""More of the steps near t = 0, where the sentence is decided; the fine grain near t = 1 needs fewer."""
_OWN_VECTOR_SHARE = 0.5
"""How often a clip is drawn with its own speaker vector; else with its speaker's mean, as tuned and preset voices are."""


class FlowLossFunction:
    """Draws batches of like length; speaker vectors are the clip's own or its speaker's mean.

    Shapes: codes list of (S,), vectors (num_clips, 192) L2-normalised
    """

    def __init__(
        self, flow: Flow, clips: list[PreparedClip], codes: list[Tensor], vectors: Tensor, frames_per_batch: int = 1600
    ) -> None:
        self.flow, self.clips, self.codes, self.vectors = flow, clips, codes, vectors
        self.means = speaker_means(clips, vectors)
        self.sampler = LengthSampler([2 * len(code) for code in codes], frames_per_batch)

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = self.batch(self.sampler.draw(generator), generator)
        streaming = bool(torch.rand(1, generator=generator).item() < 0.5)
        with torch.autocast("cpu", torch.bfloat16):
            result = self.flow.loss(
                batch, streaming=streaming, generator=generator, prior_weight=PRIOR_WEIGHT, t_power=TIME_POWER
            )
        return result.loss, {"prior": float(result.prior_loss)}

    def batch(self, chosen: list[int], generator: torch.Generator) -> FlowBatch:
        """The clips as padded tensors."""
        own = torch.rand(len(chosen), generator=generator) < _OWN_VECTOR_SHARE
        vectors = [
            self.vectors[i] if own[row] else self.means[self.clips[i].clip.speaker] for row, i in enumerate(chosen)
        ]
        token = nn.utils.rnn.pad_sequence([self.codes[i] for i in chosen], batch_first=True)
        mels = [self.clips[i].mel[: 2 * len(self.codes[i])].float() for i in chosen]
        mel = nn.utils.rnn.pad_sequence(mels, batch_first=True).transpose(1, 2)
        return FlowBatch(
            token=token,
            token_len=torch.tensor([len(self.codes[i]) for i in chosen]),
            mel=mel,
            mel_len=torch.tensor([len(m) for m in mels]),
            speaker_embedding=torch.stack(vectors),
        )


def speaker_means(clips: list[PreparedClip], vectors: Tensor) -> dict[str, Tensor]:
    """The normalised mean vector (192,) of every speaker."""
    groups: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        groups.setdefault(clip.clip.speaker, []).append(index)
    return {name: F.normalize(vectors[rows].mean(0), dim=0) for name, rows in groups.items()}
