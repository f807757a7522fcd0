"""The LM's fine-tuning: clips as sequences of text and speech tokens, the loss on a batch of them, and its validation.

Every clip is seen once per epoch. Some are joined with the next one into one sequence, because speaking does the same:
a reference clip stands before the text to speak, and a long text needs a model that has seen more than one sentence.

Shapes: B batch, T text tokens, I instruct tokens, S speech tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.dataset.batches import plan_batches
from cosyforge.training.batches import padded_rows
from cosyforge.training.loop import Metrics, Objective
from cosyforge.training.lora import Trainables

BISTREAM_PROBABILITY = 0.25
"""Ours; the public recipe draws 0.5. A voice speaks whole sentences: the other layout has to survive, not to lead."""

JOIN_PROBABILITY = 0.3
_NUM_FRAME_POSITIONS = 2
"""sos and task_id."""


@dataclass(frozen=True)
class LMSample:
    """One sequence to learn: what is said and how it sounds.

    Shapes: text_token (T,), speech_token (S,), int64
    """

    text_token: Tensor
    speech_token: Tensor

    def joined(self, following: LMSample) -> LMSample:
        return LMSample(
            torch.cat((self.text_token, following.text_token)), torch.cat((self.speech_token, following.speech_token))
        )


@dataclass(frozen=True)
class LMTask:
    """Everything about the LM's training that stays the same from step to step.

    Shapes: instruct_token (I,), the prefix that ends with the end-of-prompt token
    """

    lm: SpeechLM
    instruct_token: Tensor
    batch_positions: int
    seed: int

    def objective(self, samples: Sequence[LMSample], trainables: Trainables) -> Objective[list[LMSample]]:
        """What the loop descends for these samples."""
        return Objective(
            name="lm",
            parameters=trainables.parameters,
            batches=lambda epoch: self.batches(samples, epoch),
            loss=self.loss,
        )

    def batches(self, samples: Sequence[LMSample], epoch: int) -> list[list[LMSample]]:
        """Every sample once, alone or joined, in batches of at most `batch_positions` positions, padding included."""
        sequences = self._join_some(samples, epoch)
        lengths = [self._num_positions(sequence) for sequence in sequences]
        plan = plan_batches(lengths, self.batch_positions, seed=self.seed, epoch=epoch)
        return [[sequences[index] for index in batch] for batch in plan]

    def loss(self, samples: Sequence[LMSample], generator: torch.Generator) -> tuple[Tensor, Metrics]:
        """Cross entropy of the next speech token; each sequence in unistream or, drawn, in bistream layout."""
        self.lm.train()
        return self._loss(samples, generator, BISTREAM_PROBABILITY)

    @torch.no_grad()
    def validation(self, samples: Sequence[LMSample]) -> Metrics:
        """Loss and accuracy on clips that are not trained on, in unistream layout: nothing is drawn.

        Weighted by the predicted tokens, so that the batching does not matter.
        """
        self.lm.eval()
        loss_sum, accuracy_sum, count = 0.0, 0.0, 0
        for batch in self._fixed_batches(samples):
            loss, metrics = self._loss(batch, torch.Generator(), bistream_probability=0.0)
            weight = sum(len(sample.speech_token) + 1 for sample in batch)
            loss_sum += float(loss) * weight
            accuracy_sum += metrics["accuracy"] * weight
            count += weight
        return {"loss": loss_sum / count, "accuracy": accuracy_sum / count}

    def _fixed_batches(self, samples: Sequence[LMSample]) -> list[list[LMSample]]:
        lengths = [self._num_positions(sample) for sample in samples]
        plan = plan_batches(lengths, self.batch_positions, seed=self.seed, epoch=0)
        return [[samples[index] for index in batch] for batch in plan]

    def _loss(
        self, samples: Sequence[LMSample], generator: torch.Generator, bistream_probability: float
    ) -> tuple[Tensor, Metrics]:
        device = self.lm.device
        text, text_len = padded_rows([sample.text_token for sample in samples], device)
        speech, speech_len = padded_rows([sample.speech_token for sample in samples], device)
        instruct, instruct_len = padded_rows([self.instruct_token] * len(samples), device)
        bistream = self.lm.draw_bistream(text_len, speech_len, probability=bistream_probability, generator=generator)
        batch = self.lm.training_batch(text, text_len, speech, speech_len, instruct, instruct_len, bistream)
        result = self.lm.loss(batch)
        return result.loss, {"accuracy": float(result.accuracy)}

    def _join_some(self, samples: Sequence[LMSample], epoch: int) -> list[LMSample]:
        rng = random.Random(f"join {self.seed} {epoch}")
        order = list(samples)
        rng.shuffle(order)
        sequences: list[LMSample] = []
        while order:
            sequence = order.pop()
            if order and rng.random() < JOIN_PROBABILITY:
                joined = sequence.joined(order[-1])
                if self._num_positions(joined) <= self.batch_positions:
                    sequence = joined
                    order.pop()
            sequences.append(sequence)
        return sequences

    def _num_positions(self, sample: LMSample) -> int:
        return len(self.instruct_token) + len(sample.text_token) + len(sample.speech_token) + _NUM_FRAME_POSITIONS
