"""Teach the speech tokenizer to keep what is said: its 25 Hz codes must tell the phone of every 20 ms, the melody, the voicing and the mel.

Frame cross-entropy on phone labels learns in minutes what reconstruction learns in days; the labels come from the synthesizer. What of
the mel is left (bursts, stress, the way from sound to sound) is asked for by redrawing it with the speaker given, so that the codes need
not tell who speaks. Mandarin's tones have labels of their own: the pitch loss alone leaves them out where a voice moves little. And a
clip that is heard as two persons' must give the same codes: of a code that noise changes an LM learns nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
from cosyforge.dataset.synthetic import PHONES, Clip
from cosyforge.training.batches import device_of, mixed_precision, padded_rows
from cosyforge.training.pretrain.conv_stack import ConvStack
from cosyforge.training.pretrain.corpus import PreparedClip
from cosyforge.training.pretrain.disguises import smooth_curve
from cosyforge.training.pretrain.melody import relative_log_f0
from cosyforge.training.pretrain.sampler import LengthSampler

_FRAMES_PER_TOKEN = 2
_MELODY_WEIGHT = 0.6
_VOICING_WEIGHT = 0.2
_MEL_WEIGHT = 1.0
_MOVEMENT_WEIGHT = 0.5
"""Of the mel's change over one and two frames. Without it and with .4 for the mel the codes say which sounds there are, and not when:
words of copies suffer."""
_TONE_WEIGHT = 0.8
_AGREEMENT_WEIGHT = 1.0
"""Of what two hearings of a clip disagree about, before rounding. After 1,600 steps with it .64 of the codes of a voice survive a disguise
(before .54), .50 of a stranger's (.41), and as many phones are read back."""
NUM_TONES = 5
_FIRST_FORMANT_BIN = 40
"""Of the whisper mel: 1 kHz."""
_SMOOTH_BINS = 9
_MEL_BINS = 80


class TokenReader(nn.Module):
    """Reads phones, log pitch, voicing and mel back from the codes; exists for training and evaluation alone.

    Shapes: levels (B, S, fsq_dim), speaker (B,) index or -1 for a stranger
        -> phone scores (B, 2S, P), log pitch (B, 2S), voicing score (B, 2S), mel (B, 2S, 80), tone scores (B, 2S, 5)
    """

    def __init__(self, fsq_dim: int, num_speakers: int, width: int = 192, depth: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(fsq_dim, width)
        self.listen = ConvStack(width, depth)
        self.leave = nn.Linear(width, _FRAMES_PER_TOKEN * (len(PHONES) + 2))
        self.tone = nn.Linear(width, _FRAMES_PER_TOKEN * NUM_TONES)
        self.speaker = nn.Embedding(num_speakers + 1, width)
        self.draw = ConvStack(width, depth)
        self.mel = nn.Linear(width, _FRAMES_PER_TOKEN * _MEL_BINS)

    def forward(self, levels: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x = self.listen(self.enter(levels))[-1]
        out = self.leave(x).unflatten(-1, (_FRAMES_PER_TOKEN, -1)).flatten(1, 2)  # (B, 2S, P + 2)
        drawn = self.draw(x + self.speaker(speaker + 1)[:, None])[-1]
        mel = self.mel(drawn).unflatten(-1, (_FRAMES_PER_TOKEN, -1)).flatten(1, 2)
        tone = self.tone(x).unflatten(-1, (_FRAMES_PER_TOKEN, -1)).flatten(1, 2)
        return out[..., :-2], out[..., -2], out[..., -1], mel, tone


def warp_whisper(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Pretend another person, channel and room. (T, 128) -> (T, 128).

    A few synthetic voices must teach to understand all others: the mel axis is stretched and shifted as a longer or shorter vocal tract
    would, its peaks become sharper or blunter, a random smooth curve of up to some 10 dB stands for timbre and microphone, and noise of
    random level for the room.
    """
    num_bins = mel.shape[1]
    shift, stretch, contrast, level, noise, is_noisy = torch.rand(6, generator=generator).tolist()
    axis = torch.arange(num_bins, dtype=torch.float32)
    # formants move, the lowest harmonics keep to their lattice: pitch is read from it
    formants = (axis / _FIRST_FORMANT_BIN).clamp(max=1.0)
    position = (axis * (1 + (stretch - 0.5) * 0.19) + (shift - 0.5) * 9.6 * formants).clamp(0, num_bins - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=num_bins - 1)
    share = position - low
    warped = mel[:, low] * (1 - share) + mel[:, high] * share
    edge = _SMOOTH_BINS // 2
    smooth = F.avg_pool1d(F.pad(warped[:, None], (edge, edge), mode="replicate"), _SMOOTH_BINS, stride=1)[:, 0]
    warped = smooth + (warped - smooth) * (1 + (contrast - 0.5) * 0.8)
    warped = warped + smooth_curve(num_bins, 7, 0.19, generator) + (level - 0.5) * 0.3
    # the floor of the room: what is softer than it is covered
    floor = warped.max() - 2.0 + 1.0 * noise
    warped = torch.logaddexp(warped * 9.2, (floor * 9.2).expand_as(warped)) / 9.2 if is_noisy < 0.5 else warped
    return warped + 0.03 * torch.randn(mel.shape, generator=generator)


class SpeechTokenizerLoss:
    """Draws a batch of clips and scores what the codes tell; a clip without phone times is judged by melody and mel alone.

    Each clip is heard as another person's (`warp_whisper`). Without that the codes of a few voices hold who speaks, and an LM
    foretells them worse.
    heard_twice: as two persons' in one batch, about whom the codes must agree; that takes longer to learn to read
    """

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        reader: TokenReader,
        clips: list[PreparedClip],
        frames_per_batch: int = 1300,
        heard_twice: bool = True,
    ) -> None:
        self.tokenizer, self.reader = tokenizer, reader
        self.clips = clips
        self.num_hearings = 2 if heard_twice else 1
        self.speaker_index = {name: index for index, name in enumerate(sorted({c.clip.speaker for c in clips}))}
        self.sampler = LengthSampler([len(clip.mel) for clip in self.clips], frames_per_batch // self.num_hearings)

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        clips = [self.clips[i] for i in self.sampler.draw(generator)] * self.num_hearings
        return self.score(clips, [warp_whisper(clip.whisper.float(), generator) for clip in clips])

    def score(self, clips: list[PreparedClip], mels: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and figures for clips whose (warped) whisper mels are given, each (T, 128); where clips are heard twice,
        all of them stand behind all."""
        device = device_of(self.tokenizer)
        mel, mel_len = padded_rows(mels, device)
        with mixed_precision(device):
            hidden, hidden_len = self.tokenizer.encode_hidden(mel.transpose(1, 2), mel_len)
        hidden = hidden.float()
        levels = self.tokenizer.quantize_ste(hidden)
        disagreement = self._disagreement(hidden, hidden_len)
        names = [clip.clip.speaker for clip in clips]
        speaker = torch.tensor([self.speaker_index.get(name, -1) for name in names], device=device)
        phone, melody, voicing, drawn, tone = self.reader(levels, speaker)
        label, f0, is_real = (part.to(device) for part in _targets(clips, phone.shape[1]))
        known = label >= 0
        num_known = known.sum().clamp(min=1)
        phone_loss = F.cross_entropy(phone[known], label[known], reduction="sum") / num_known
        is_voiced = f0 > 0
        melody_loss = (melody - relative_log_f0(f0)).abs()[is_voiced].sum() / is_voiced.sum().clamp(min=1)
        voicing_loss = F.binary_cross_entropy_with_logits(voicing[is_real], is_voiced[is_real].float())
        correct = (phone.argmax(-1) == label)[known].sum() / num_known
        mel_loss, movement_loss = mel_distance([clip.mel.float().to(device) for clip in clips], drawn)
        # the engines' voices differ in how far their pitch moves: a tone must be told whatever the range
        wanted_tone = torch.stack([tone_labels(clip.clip, tone.shape[1]) for clip in clips]).to(device)
        num_toned = (wanted_tone >= 0).sum().clamp(min=1)
        tone_loss = (
            F.cross_entropy(tone.flatten(0, 1), wanted_tone.flatten(), ignore_index=-1, reduction="sum") / num_toned
        )
        tone_correct = ((tone.argmax(-1) == wanted_tone) & (wanted_tone >= 0)).sum() / num_toned
        loss = phone_loss + _MELODY_WEIGHT * melody_loss + _VOICING_WEIGHT * voicing_loss + _MEL_WEIGHT * mel_loss
        loss = loss + _TONE_WEIGHT * tone_loss + _MOVEMENT_WEIGHT * movement_loss + _AGREEMENT_WEIGHT * disagreement
        return loss, {
            "phone": phone_loss,
            "correct": correct,
            "melody": melody_loss,
            "mel": mel_loss,
            "movement": movement_loss,
            "tone": tone_correct,
            "disagreement": disagreement,
        }

    def _disagreement(self, hidden: Tensor, hidden_len: Tensor) -> Tensor:
        """How far both hearings of every clip are apart, a mean over digits that lie in (-1, 1); 0 for a single hearing."""
        if self.num_hearings == 1:
            return hidden.new_zeros(())
        first, second = self.tokenizer.squeezed(hidden).chunk(2)
        is_real = torch.arange(first.shape[1], device=hidden.device) < hidden_len[: len(first), None]
        return (first - second).abs().mean(-1)[is_real].mean()


def tone_labels(clip: Clip, num_frames: int) -> Tensor:
    """The tone, 0 to 4 (neutral), of the final at the centre of every 20 ms frame; -1 elsewhere. Returns int64 (num_frames,)."""
    label = torch.full((num_frames,), -1, dtype=torch.long)
    if clip.units:
        ends = torch.tensor([end for _, end in clip.units], dtype=torch.float64)
        tones = torch.tensor([int(name[-1]) - 1 if name[-1].isdigit() else -1 for name, _ in clip.units])
        index = torch.searchsorted(ends, (torch.arange(num_frames, dtype=torch.float64) + 0.5) / 50.0, right=True)
        inside = index < len(ends)
        label[inside] = tones[index[inside]]
    return label


def num_speakers(clips: list[PreparedClip]) -> int:
    """How many speakers a corpus has, held-out sentences included."""
    return len({clip.clip.speaker for clip in clips})


def _targets(clips: list[PreparedClip], num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Phone index or -1, pitch in Hz or 0, and which frames exist, each (B, num_frames)."""
    label = torch.full((len(clips), num_frames), -1, dtype=torch.long)
    f0 = torch.zeros(len(clips), num_frames)
    is_real = torch.zeros(len(clips), num_frames, dtype=torch.bool)
    for row, clip in enumerate(clips):
        count = min(num_frames, len(clip.label))
        label[row, :count] = clip.label[:count].long()
        f0[row, :count] = clip.f0[:count]
        is_real[row, :count] = True
    return label, f0, is_real


def mel_distance(mels: list[Tensor], drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute error to the clips' own mels, each clip's level apart, and that of their change over one and two frames.

    Shapes: mels each (F, 80), drawn (B, 2S, 80) -> (), ()
    """
    total, moved, count = drawn.new_zeros(()), drawn.new_zeros(()), 0
    for row, mel in enumerate(mels):
        num_frames = min(drawn.shape[1], len(mel))
        known = mel[:num_frames]
        error = drawn[row, :num_frames] - (known - known.mean())
        total = total + error.abs().sum()
        moved = moved + (error[1:] - error[:-1]).abs().sum() / 2 + (error[2:] - error[:-2]).abs().sum() / 2
        count += num_frames * _MEL_BINS
    return total / count, moved / count
