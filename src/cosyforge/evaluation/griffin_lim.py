"""A mel back to sound without any trained network: what a vocoder should at least reach, whatever the mel came from.

Source: Griffin and Lim, Signal Estimation from Modified Short-Time Fourier Transform; Perraudin et al., A Fast
Griffin-Lim Algorithm, for the momentum
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosyforge.audio.mel import MEL_BINS, MEL_HOP, MEL_SAMPLE_RATE_HZ
from cosyforge.evaluation.slaney import slaney_filters

_N_FFT = 1920
_MOMENTUM = 0.99
_UNMIXING_STEPS = 40
_HALF_HOP = MEL_HOP // 2
"""The first frame of the mel is centred half a hop into the clip."""


@torch.inference_mode()
def griffin_lim(mel: Tensor, *, num_steps: int = 60, seed: int = 0) -> npt.NDArray[np.float32]:
    """Find a sound that has this mel.

    Shapes: mel (80, F) -> samples (480 F,)
    Units: mel in natural-log amplitude as `audio.mel.mel_spectrogram` gives it; samples at 24 kHz
    Raises: ValueError when the mel has other bins, or fewer than 4 frames
    """
    if mel.ndim != 2 or mel.shape[0] != MEL_BINS or mel.shape[1] < 4:
        raise ValueError(f"griffin_lim takes a mel (80, F) of at least 4 frames, got shape {tuple(mel.shape)}")
    magnitude = _magnitude(mel.to("cpu", torch.float32).exp())
    window = torch.hann_window(_N_FFT)
    length = MEL_HOP * (mel.shape[1] - 1)
    angle = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(seed)) * (2 * torch.pi)
    phases = torch.polar(torch.ones_like(magnitude), angle)
    before = torch.zeros_like(phases)
    for _ in range(num_steps):
        wav = torch.istft(magnitude * phases, _N_FFT, MEL_HOP, window=window, length=length)
        rebuilt = torch.stft(wav, _N_FFT, MEL_HOP, window=window, return_complex=True)
        phases = rebuilt - _MOMENTUM / (1 + _MOMENTUM) * before
        phases = phases / phases.abs().clamp(min=1e-12)
        before = rebuilt
    wav = torch.istft(magnitude * phases, _N_FFT, MEL_HOP, window=window, length=length)
    return np.pad(wav.numpy(), _HALF_HOP)


def _magnitude(mel: Tensor) -> Tensor:
    """The least spectrum that the filters turn into this mel, none of it negative.

    Shapes: mel (80, F), amplitude -> (961, F)
    """
    filters = slaney_filters(MEL_SAMPLE_RATE_HZ, _N_FFT, MEL_BINS)  # (961, 80)
    gram = filters.T @ filters
    spectrum: Tensor = (filters @ torch.linalg.solve(gram, mel)).clamp(min=1e-7)
    target = filters @ mel
    for _ in range(_UNMIXING_STEPS):
        spectrum = spectrum * target / (filters @ (filters.T @ spectrum)).clamp(min=1e-9)
    return spectrum
