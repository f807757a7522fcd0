"""Teach the flow to draw mel spectrograms from codes and a voice: flow matching, with a mu that already resembles the mel.

Intelligibility comes from the prior loss on mu within minutes; the estimator adds the voice and the texture. A mu that is a mel of nobody
in particular has no pitch, and the estimator sees the codes through it alone: two bins of it, below all speech, tell melody and voicing
instead. It stands still for the two frames of a token, too: six more bins, where a stranger's lowest harmonics would be, tell which way the
mel goes from the first to the second. Pairs of one speaker's sentences, the first of them given, teach it to go on in the voice of a
prompt; most of them sound through a microphone that nobody had. The speaker vector cannot tell that (it is worked out from features whose
mean is taken off), so it must be heard from the prompt. What is drawn must also be read like the recording by a reader of mels: without
that copies lose words (.22 of them after the same 750 steps, with it .18).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from cosyforge.cosyvoice.flow import Flow, FlowBatch
from cosyforge.training.batches import device_of, mixed_precision, padded, padded_rows
from cosyforge.training.pretrain.corpus import PreparedClip
from cosyforge.training.pretrain.disguises import smooth_curve
from cosyforge.training.pretrain.mel_reader_stage import LIKENESS_WEIGHT, PHONE_WEIGHT, MelReader, reading_distance
from cosyforge.training.pretrain.melody import relative_log_f0
from cosyforge.training.pretrain.sampler import LengthSampler

PRIOR_WEIGHT = 0.3
PRIOR_FROM_BIN = 8
_MELODY_BIN, _VOICING_BIN = 0, 1
_MOVEMENT_BINS = slice(2, PRIOR_FROM_BIN)
_BANDS = (0, 8, 18, 30, 45, 62, 80)
"""Edges in mel bins, one band for each bin of movement: up to 340 Hz, .76, 1.3, 2.5, 5.3 and 12 kHz."""
_MELODY_WEIGHT, _VOICING_WEIGHT, _MOVEMENT_WEIGHT = 0.06, 0.02, 0.1
_MELODY_SCALE, _VOICING_SCALE, _MOVEMENT_SCALE = 4.0, 2.0, 2.0
"""mel values lie some three apart, and so should these, for the estimator to see them."""
TIME_POWER = 1.5
"""More of the steps near t = 0, where the sentence is decided; the fine grain near t = 1 needs fewer."""
SAMPLER_SHARE = 0.7
"""Four steps are taken when speaking, so most of the training is at their times. 6,000 steps with it, from weights trained without: words
wrong .176 -> .166, Mandarin syllables with tone .23 -> .20."""
_OWN_VECTOR_SHARE = 0.5
"""How often a clip is drawn with its own speaker vector (a pair with its prompt's, as a clone is); else with its speaker's mean, as
tuned and preset voices are."""
PAIR_SHARE = 0.35
"""How often a clip stands behind another of its speaker; in tuning, too."""
_COLOURED_PAIR_SHARE, _COLOURED_SHARE = 0.5, 0.7
"""Where pairs are coloured: how many clips stand in one, and how many of these sound through a curve of up to some 8 dB, at another level.
After 2,600 steps with it clones of three strangers were as like them as .75, .85 and .80, not .74, .78 and .79, and lost .09 of the words
(.11)."""
_FLOOR = math.log(1e-5)
"""The least that a mel holds."""


class FlowLossFunction:
    """Draws batches of like length; speaker vectors are the clip's own or its speaker's mean.

    reader: judges the mels that are drawn, and learns nothing here
    coloured: most pairs sound through a microphone of their own
    Shapes: codes list of (S,), vectors (num_clips, 192) L2-normalised
    """

    def __init__(
        self,
        flow: Flow,
        clips: list[PreparedClip],
        codes: list[Tensor],
        vectors: Tensor,
        reader: MelReader,
        frames_per_batch: int = 1600,
        coloured: bool = True,
    ) -> None:
        self.pair_share, self.coloured_share = (
            (_COLOURED_PAIR_SHARE, _COLOURED_SHARE) if coloured else (PAIR_SHARE, 0.0)
        )
        self.flow, self.clips, self.codes, self.vectors = flow, clips, codes, vectors
        self.reader = reader.eval().requires_grad_(False)
        self.means = speaker_means(clips, vectors)
        self.sampler = LengthSampler([2 * len(code) for code in codes], frames_per_batch)
        self.by_speaker: dict[str, list[int]] = {}
        for index, clip in enumerate(clips):
            self.by_speaker.setdefault(clip.clip.speaker, []).append(index)

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = self.sampler.draw(generator)
        rows = [[index] for index in chosen]
        if torch.rand(1, generator=generator).item() < self.pair_share:
            rows = [[self._other(index, generator), index] for index in chosen[: max(1, len(chosen) // 2)]]
        batch, cond_len = self.batch(rows, generator)
        streaming = bool(torch.rand(1, generator=generator).item() < 0.5)
        with mixed_precision(batch.mel.device):
            result = self.flow.loss(
                batch,
                streaming=streaming,
                generator=generator,
                cond_len=cond_len,
                prior_weight=PRIOR_WEIGHT,
                prior_from_bin=PRIOR_FROM_BIN,
                t_power=TIME_POWER,
                sampler_share=SAMPLER_SHARE,
            )
        melody, voicing = melody_distance(result.mu.float(), [self._cut(row, "f0") for row in rows])
        movement = movement_distance(result.mu.float(), batch.mel, batch.mel_len)
        labels = [torch.cat(self._cut(row, "label")).long() for row in rows]
        phone, likeness = reading_distance(
            self.reader, result.clean, batch.mel[:, :, : result.clean.shape[2]], batch.mel_len, labels
        )
        loss = result.loss + _MELODY_WEIGHT * melody + _VOICING_WEIGHT * voicing + _MOVEMENT_WEIGHT * movement
        loss = loss + PHONE_WEIGHT * phone + LIKENESS_WEIGHT * likeness
        return loss, {
            "prior": result.prior_loss,
            "melody": melody,
            "voicing": voicing,
            "movement": movement,
            "phone": phone,
            "likeness": likeness,
        }

    def _coloured(self, mel: Tensor, generator: torch.Generator) -> Tensor:
        """Through a microphone of its own, or as it is. Shapes: (F, 80) -> (F, 80)"""
        if torch.rand(1, generator=generator).item() >= self.coloured_share:
            return mel
        level = torch.rand(1, generator=generator) - 0.5
        return (mel + smooth_curve(mel.shape[1], 6, 0.5, generator) + level).clamp(min=_FLOOR)

    def _other(self, index: int, generator: torch.Generator) -> int:
        others = self.by_speaker[self.clips[index].clip.speaker]
        return others[int(torch.randint(len(others), (1,), generator=generator))]

    def _cut(self, row: list[int], feature: str) -> list[Tensor]:
        """A feature (F, ...) of every clip of a row, as long as its codes."""
        return [getattr(self.clips[i], feature)[: 2 * len(self.codes[i])] for i in row]

    def batch(self, rows: list[list[int]], generator: torch.Generator) -> tuple[FlowBatch, Tensor | None]:
        """Rows of one clip each, or of a prompt and a clip, as padded tensors.

        Returns: the batch; the frames (B,) that are given, None where the loss shall draw them
        """
        own = torch.rand(len(rows), generator=generator) < _OWN_VECTOR_SHARE
        # a prompt's own vector, as a clone has it
        vectors = [
            self.vectors[row[0]] if own[number] else self.means[self.clips[row[0]].clip.speaker]
            for number, row in enumerate(rows)
        ]
        tokens = [torch.cat([self.codes[i] for i in row]) for row in rows]
        mels = [torch.cat(self._cut(row, "mel")).float() for row in rows]
        if len(rows[0]) > 1:
            mels = [self._coloured(mel, generator) for mel in mels]
        device = device_of(self.flow)
        token, token_len = padded_rows(tokens, device)
        mel, mel_len = padded_rows(mels, device)
        batch = FlowBatch(
            token=token,
            token_len=token_len,
            mel=mel.transpose(1, 2),
            mel_len=mel_len,
            speaker_embedding=torch.stack(vectors).to(device),
        )
        if len(rows[0]) == 1:
            return batch, None
        return batch, torch.tensor([2 * len(self.codes[row[0]]) for row in rows], device=device)


def melody_distance(mu: Tensor, f0: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """How far the lowest bins of mu are from melody and voicing, mean absolute error over voiced and over all frames.

    Shapes: mu (B, M, F), f0 per row its clips' pitch in Hz, each (F_i,) -> (), ()
    """
    melody = [torch.cat([relative_log_f0(clip[None])[0] for clip in row]) for row in f0]
    wanted = padded(melody, mu.device)[:, : mu.shape[2]] * _MELODY_SCALE
    pitch = padded([torch.cat(row) for row in f0], mu.device, padding_value=-1.0)[:, : mu.shape[2]]
    is_voiced, is_real = pitch > 0, pitch >= 0
    melody_error = (mu[:, _MELODY_BIN, : wanted.shape[1]] - wanted).abs() * is_voiced
    sign = torch.where(is_voiced, _VOICING_SCALE, -_VOICING_SCALE)
    voicing_error = (mu[:, _VOICING_BIN, : wanted.shape[1]] - sign).abs() * is_real
    return melody_error.sum() / is_voiced.sum().clamp(min=1), voicing_error.sum() / is_real.sum().clamp(min=1)


def movement_distance(mu: Tensor, mel: Tensor, mel_len: Tensor) -> Tensor:
    """How far the bins of mu that tell movement are from how each band of the mel changes within a token; mean absolute error.

    Shapes: mu, mel (B, M, F) with the two frames of a token side by side, mel_len (B,) -> ()
    """
    num_frames = min(mu.shape[2], mel.shape[2]) // 2 * 2
    change = mel[:, :, 1:num_frames:2] - mel[:, :, 0:num_frames:2]
    bands = [change[:, low:high].mean(1) for low, high in pairwise(_BANDS)]
    error = (mu[:, _MOVEMENT_BINS, 0:num_frames:2] - _MOVEMENT_SCALE * torch.stack(bands, dim=1)).abs().mean(1)
    is_real = torch.arange(error.shape[1], device=mel.device)[None] < mel_len[:, None] // 2
    return (error * is_real).sum() / is_real.sum().clamp(min=1)


def speaker_means(clips: list[PreparedClip], vectors: Tensor) -> dict[str, Tensor]:
    """The normalised mean vector (192,) of every speaker."""
    groups: dict[str, list[int]] = {}
    for index, clip in enumerate(clips):
        groups.setdefault(clip.clip.speaker, []).append(index)
    return {name: F.normalize(vectors[rows].mean(0), dim=0) for name, rows in groups.items()}
