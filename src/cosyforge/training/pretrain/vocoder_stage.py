"""Teach the vocoder to turn mel spectrograms back into samples: pitch predictor and generator together.

Spectral losses at several resolutions; the phase is free. What comes out must be read like the recording by a reader of mels, as the flow's
mels must: of words that a recogniser found hard the trained vocoder lost .36, after 2,000 more steps with it .35, the recordings
themselves lose .33. The pitch predictor learns from an estimator, the generator is driven by the estimated pitch so that it never waits for
the predictor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cosyforge.audio.mel import mel_spectrogram
from cosyforge.audio.resample import resample
from cosyforge.cosyvoice.hift import HiFT
from cosyforge.dataset.synthetic import SAMPLE_RATE_HZ
from cosyforge.training.batches import device_of, mixed_precision
from cosyforge.training.pretrain.corpus import PreparedClip
from cosyforge.training.pretrain.mel_reader_stage import LIKENESS_WEIGHT, PHONE_WEIGHT, MelReader, reading_distance

_HOP = 480
_CROP_FRAMES = 40
_EDGE_FRAMES = 4
"""The generator looks four frames ahead: the last ones of a crop lack their future and are not judged."""
_RESOLUTIONS = ((2048, 480), (1024, 240), (512, 120), (256, 60))
_MEL_WEIGHT = 1.0
_PITCH_WEIGHT = 0.1


class VocoderLoss:
    """Random crops at 24 kHz; `read_samples(index)` gives a clip's samples (L,) at 16 kHz.

    reader: judges what is made, and learns nothing here
    """

    def __init__(
        self,
        hift: HiFT,
        clips: list[PreparedClip],
        read_samples: Callable[[int], npt.NDArray[np.float32]],
        reader: MelReader,
        batch_size: int = 8,
    ) -> None:
        self.reader = reader.eval().requires_grad_(False)
        self.hift, self.clips, self.read_samples, self.batch_size = hift, clips, read_samples, batch_size
        self.long_enough = [i for i, clip in enumerate(clips) if len(clip.mel) > _CROP_FRAMES + 2]

    def __call__(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        crops = [self._crop(generator) for _ in range(self.batch_size)]
        device = device_of(self.hift)
        mel, wav, f0, label = (torch.stack(parts).to(device) for parts in zip(*crops, strict=True))
        with mixed_precision(device):
            made = self.hift(mel, f0=f0).float()
        end = (_CROP_FRAMES - _EDGE_FRAMES) * _HOP
        made, wav = made[:, :end], wav[:, :end]
        spectral = spectral_distance(made, wav)
        made_mel, wanted_mel = mel_spectrogram(made), mel_spectrogram(wav)
        mel_distance = (made_mel - wanted_mel).abs().mean()
        pitch_distance = self._pitch_distance(mel, f0)
        num_frames = torch.full((len(made),), made_mel.shape[2], device=device)
        phone, likeness = reading_distance(self.reader, made_mel, wanted_mel, num_frames, list(label))
        loss = spectral + _MEL_WEIGHT * mel_distance + _PITCH_WEIGHT * pitch_distance
        loss = loss + PHONE_WEIGHT * phone + LIKENESS_WEIGHT * likeness
        return loss, {
            "spectral": spectral,
            "mel": mel_distance,
            "pitch": pitch_distance,
            "phone": phone,
            "likeness": likeness,
        }

    def _crop(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """mel (80, F), samples (L,), pitch (F,) and phones (F,) of a crop."""
        pick, place, gain = torch.rand(3, generator=generator).tolist()
        index = self.long_enough[int(pick * len(self.long_enough))]
        clip = self.clips[index]
        start = int(place * (len(clip.mel) - _CROP_FRAMES - 1))
        # half a frame of margin on both sides keeps the resampler's edges out of the crop
        low, high = max(0, start * 320 - 640), (start + _CROP_FRAMES) * 320 + 640
        samples = resample(self.read_samples(index)[low:high], SAMPLE_RATE_HZ, 24_000)
        offset = (start * 320 - low) * 3 // 2
        wav = torch.from_numpy(samples[offset : offset + _CROP_FRAMES * _HOP])
        wav = F.pad(wav, (0, _CROP_FRAMES * _HOP - len(wav)))
        # loudness varies: mel is a logarithm, so a gain is an addition (the floor stays)
        decibels = (gain - 0.5) * 12.0
        factor = 10 ** (decibels / 20)
        crop = slice(start, start + _CROP_FRAMES)
        mel = (clip.mel[crop].float().T + float(np.log(factor))).clamp(min=float(np.log(1e-5)))
        return mel, wav * factor, clip.f0[crop], clip.label[crop].long()

    def _pitch_distance(self, mel: Tensor, f0: Tensor) -> Tensor:
        """In units of 20 Hz; the last frames lack the predictor's look-ahead."""
        predicted = self.hift.f0_predictor(mel)
        return F.smooth_l1_loss(predicted[:, :-_EDGE_FRAMES] / 20.0, f0[:, :-_EDGE_FRAMES] / 20.0)


def spectral_distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean over resolutions of log-magnitude L1 and spectral convergence. Shapes: (B, L), (B, L) -> ()."""
    total = made.new_zeros(())
    for size, hop in _RESOLUTIONS:
        window = torch.hann_window(size, device=made.device)
        first = _magnitude(made, size, hop, window)
        second = _magnitude(wanted, size, hop, window)
        total = total + (first.log() - second.log()).abs().mean()
        total = total + torch.linalg.norm(first - second) / torch.linalg.norm(second)
    return total / len(_RESOLUTIONS)


def _magnitude(wav: Tensor, size: int, hop: int, window: Tensor) -> Tensor:
    spectrum = torch.stft(wav, size, hop, window=window, return_complex=True)
    return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-5)
