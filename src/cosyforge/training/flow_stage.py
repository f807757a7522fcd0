"""The flow's fine-tuning: clips as speech tokens with their mel, the loss on a batch of them, and its validation.

Every clip carries the mean speaker embedding of all clips, the one that is used when the tuned voice speaks.

Shapes: B batch, S speech tokens, M mel bins, F mel frames.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosyforge.cosyvoice.flow import Flow, FlowBatch
from cosyforge.dataset.batches import plan_batches
from cosyforge.training.batches import device_of, padded_rows
from cosyforge.training.loop import Metrics, Objective, derived_seed
from cosyforge.training.lora import Trainables

_VALIDATION_DRAWS = 2
"""Times and noises drawn per validation batch: the velocity's error differs much more between times than epochs."""


@dataclass(frozen=True)
class FlowSample:
    """One clip, perhaps behind another one of the speaker.

    num_prompt_frames: leading frames that are given, as a prompt is; -1 where the loss shall draw them
    Shapes: speech_token (S,) int64, mel (M, 2S)
    """

    speech_token: Tensor
    mel: Tensor
    num_prompt_frames: int = -1

    def behind(self, prompt: FlowSample) -> FlowSample:
        return FlowSample(
            torch.cat((prompt.speech_token, self.speech_token)),
            torch.cat((prompt.mel, self.mel), dim=1),
            prompt.mel.shape[1],
        )


@dataclass(frozen=True)
class FlowTask:
    """Everything about the flow's training that stays the same from step to step.

    prior_weight, prior_from_bin, t_power, sampler_share: as the base model was trained with them (see Flow.loss);
    the defaults are the official ones
    pair_share: how many clips are learnt behind another one, which is given; streaming_share: how often a batch has the
    streaming block mask (one network serves both)
    Shapes: speaker_embedding (192,)
    """

    flow: Flow
    speaker_embedding: Tensor
    batch_frames: int
    seed: int
    prior_weight: float = 0.0
    prior_from_bin: int = 0
    t_power: float = 1.0
    sampler_share: float = 0.0
    pair_share: float = 0.0
    streaming_share: float = 0.5

    def objective(self, samples: Sequence[FlowSample], trainables: Trainables) -> Objective[list[FlowSample]]:
        """What the loop descends for these samples."""
        return Objective(
            name="flow",
            parameters=trainables.parameters,
            batches=lambda epoch: self.batches(samples, epoch),
            loss=self.loss,
        )

    def batches(self, samples: Sequence[FlowSample], epoch: int) -> list[list[FlowSample]]:
        """Every sample once, some behind another, in batches of at most `batch_frames` mel frames, padding included."""
        sequences = self._some_behind_others(samples, epoch) if self.pair_share > 0 else list(samples)
        return self._planned(sequences, epoch)

    def _planned(self, samples: Sequence[FlowSample], epoch: int) -> list[list[FlowSample]]:
        lengths = [sample.mel.shape[1] for sample in samples]
        plan = plan_batches(lengths, self.batch_frames, seed=self.seed, epoch=epoch)
        return [[samples[index] for index in batch] for batch in plan]

    def _some_behind_others(self, samples: Sequence[FlowSample], epoch: int) -> list[FlowSample]:
        rng = random.Random(f"prompts {self.seed} {epoch}")
        sequences = []
        for sample in samples:
            prompt = rng.choice(samples)
            fits = sample.mel.shape[1] + prompt.mel.shape[1] <= self.batch_frames
            sequences.append(sample.behind(prompt) if rng.random() < self.pair_share and fits else sample)
        return sequences

    def loss(self, samples: Sequence[FlowSample], generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Squared error of the velocity; the mask is drawn once per batch."""
        self.flow.train()
        streaming = float(torch.rand((), generator=generator)) < self.streaming_share
        result = self.flow.loss(
            self._batch(samples),
            streaming=streaming,
            generator=generator,
            cond_len=torch.tensor([sample.num_prompt_frames for sample in samples], device=device_of(self.flow)),
            prior_weight=self.prior_weight,
            prior_from_bin=self.prior_from_bin,
            t_power=self.t_power,
            sampler_share=self.sampler_share,
        )
        return result.loss, {"mse": float(result.mse)}

    @torch.no_grad()
    def validation(self, samples: Sequence[FlowSample]) -> Metrics:
        """Mean squared error on clips that are not trained on, under both masks, with the same draws at every call."""
        self.flow.eval()
        total, count = 0.0, 0
        for index, samples_of_batch in enumerate(self._planned(samples, epoch=0)):
            weight = sum(sample.mel.shape[1] for sample in samples_of_batch)
            batch = self._batch(samples_of_batch)
            for draw in range(_VALIDATION_DRAWS):
                for streaming in (False, True):
                    generator = torch.Generator().manual_seed(derived_seed("flow validation", index, draw))
                    result = self.flow.loss(batch, streaming=streaming, generator=generator)
                    total += float(result.mse) * weight
                    count += weight
        return {"loss": total / count}

    def _batch(self, samples: Sequence[FlowSample]) -> FlowBatch:
        device = device_of(self.flow)
        token, token_len = padded_rows([sample.speech_token for sample in samples], device)
        mel, mel_len = padded_rows([sample.mel.T for sample in samples], device)
        return FlowBatch(
            token=token,
            token_len=token_len,
            mel=mel.transpose(1, 2),
            mel_len=mel_len,
            speaker_embedding=self.speaker_embedding.to(device).expand(len(samples), -1),
        )


def mean_speaker_embedding(embeddings: Sequence[Tensor]) -> Tensor:
    """Direction of a voice over all its clips: the mean of unit vectors, so that no clip weighs more than another.

    Shapes: each (192,) -> (192,)
    """
    return torch.stack([torch.nn.functional.normalize(embedding, dim=0) for embedding in embeddings]).mean(dim=0)
