"""Acoustic features: samples in, mel features out, float32 torch throughout; knows no file and no network.

Three kinds, one per consumer: `mel_spectrogram` for flow and vocoder, `whisper_mel` for the speech tokenizer,
`kaldi_fbank` for the speaker encoder. Each is defined by what the released weights were trained on.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

MEL_SAMPLE_RATE_HZ = 24000
MEL_HOP = 480
MEL_BINS = 80
_MEL_N_FFT = 1920
_MEL_PAD = (_MEL_N_FFT - MEL_HOP) // 2

TOKENIZER_SAMPLE_RATE_HZ = 16000
WHISPER_HOP = 160
WHISPER_BINS = 128
_WHISPER_N_FFT = 400

FBANK_BINS = 80
_FBANK_FRAME = 400
_FBANK_HOP = 160
_FBANK_N_FFT = 512
_FBANK_LOW_HZ = 20.0
_FBANK_PREEMPHASIS = 0.97


def mel_spectrogram(wav: Tensor) -> Tensor:
    """Log-mel amplitude as the flow predicts it and the vocoder reads it.

    Shapes: wav (B, L) -> (B, 80, F) with F = L // 480
    Units: wav at 24 kHz in [-1, 1]; mel in natural-log amplitude, floor 1e-5
    Raises: ValueError when a clip is shorter than 721 samples (30 ms), which reflect padding cannot serve
    Source: Kong et al., HiFi-GAN; 80 Slaney bins up to 12 kHz as CosyVoice 3 uses them
    """
    if wav.ndim != 2:
        raise ValueError(f"mel_spectrogram takes (batch, samples), got shape {tuple(wav.shape)}")
    if wav.shape[1] <= _MEL_PAD:
        raise ValueError(
            f"a clip of {wav.shape[1]} samples at 24 kHz is too short for a mel; give more than {_MEL_PAD}"
        )
    wav = wav.to(torch.float32)
    padded = F.pad(wav[:, None], (_MEL_PAD, _MEL_PAD), mode="reflect")[:, 0]
    window = _hann_window(_MEL_N_FFT, wav.device)
    spectrum = torch.stft(padded, _MEL_N_FFT, MEL_HOP, window=window, center=False, return_complex=True)
    # the 1e-9 belongs to the definition: it lifts silence before the logarithm
    magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)
    filters = _slaney_filters(MEL_SAMPLE_RATE_HZ, _MEL_N_FFT, MEL_BINS, wav.device)
    return torch.matmul(filters, magnitude).clamp(min=1e-5).log()


def whisper_mel(wav: Tensor) -> Tensor:
    """Log-mel power as the speech tokenizer reads it; the floor hangs on the loudest value of the whole clip.

    Shapes: wav (L,) -> (128, T) with T = L // 160
    Units: wav at 16 kHz in [-1, 1]; T at 100 Hz; log10 power, scaled by (x + 4) / 4
    Raises: ValueError when the clip is shorter than 201 samples
    Source: Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision; 128 bins, not padded to 30 s
    """
    if wav.ndim != 1:
        raise ValueError(f"whisper_mel takes one clip (samples,), got shape {tuple(wav.shape)}")
    if wav.shape[0] <= _WHISPER_N_FFT // 2:
        raise ValueError(f"a clip of {wav.shape[0]} samples at 16 kHz is too short for a mel; give more than 200")
    wav = wav.to(torch.float32)
    window = _hann_window(_WHISPER_N_FFT, wav.device)
    spectrum = torch.stft(wav, _WHISPER_N_FFT, WHISPER_HOP, window=window, center=True, return_complex=True)
    power = spectrum[:, :-1].abs().square()
    filters = _slaney_filters(TOKENIZER_SAMPLE_RATE_HZ, _WHISPER_N_FFT, WHISPER_BINS, wav.device)
    log_mel = torch.matmul(filters, power).clamp(min=1e-10).log10()
    log_mel = torch.maximum(log_mel, log_mel.max() - 8.0)
    return (log_mel + 4.0) / 4.0


def kaldi_fbank(wav: Tensor) -> Tensor:
    """Log filter-bank energies as the speaker encoder reads them (before the mean over time is taken off).

    Shapes: wav (L,) -> (T, 80) with T = 1 + (L - 400) // 160
    Units: wav at 16 kHz in [-1, 1]; T at 100 Hz; natural-log power
    Raises: ValueError when the clip is shorter than one frame of 400 samples
    Source: Kaldi compute-fbank-feats: 25/10 ms, povey window, pre-emphasis, DC removed, no dither, edges snipped
    """
    if wav.ndim != 1:
        raise ValueError(f"kaldi_fbank takes one clip (samples,), got shape {tuple(wav.shape)}")
    if wav.shape[0] < _FBANK_FRAME:
        raise ValueError(f"a clip of {wav.shape[0]} samples at 16 kHz is too short; one frame needs {_FBANK_FRAME}")
    frames = wav.to(torch.float32).unfold(0, _FBANK_FRAME, _FBANK_HOP)  # (T, 400)
    frames = frames - frames.mean(dim=1, keepdim=True)
    # the sample before a frame is taken to equal its first one
    previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - _FBANK_PREEMPHASIS * previous) * _povey_window(wav.device)
    power = torch.fft.rfft(frames, n=_FBANK_N_FFT).abs().square()  # (T, 257)
    energies: Tensor = power @ _kaldi_filters(wav.device)
    return energies.clamp(min=torch.finfo(torch.float32).eps).log()


# The cached constants are made outside inference mode: a vocoder loss must be able to differentiate through them later.


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _hann_window(length: int, device: torch.device) -> Tensor:
    return torch.hann_window(length, device=device)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _povey_window(device: torch.device) -> Tensor:
    return torch.hann_window(_FBANK_FRAME, periodic=False, dtype=torch.float64).pow(0.85).to(device, torch.float32)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _slaney_filters(sample_rate_hz: int, n_fft: int, num_bins: int, device: torch.device) -> Tensor:
    """Triangles of equal area, 0 Hz to Nyquist, on the mel scale of Slaney's Auditory Toolbox: (bins, n_fft//2 + 1)."""
    fft_hz = torch.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1, dtype=torch.float64)
    top_mel = _hz_to_slaney(sample_rate_hz / 2)
    edges_hz = _slaney_to_hz(torch.linspace(0, top_mel, num_bins + 2, dtype=torch.float64))
    low, centre, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (fft_hz - low) / (centre - low)
    falling = (high - fft_hz) / (high - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2.0 / (high - low)).to(device, torch.float32)


# Slaney's scale: linear below 1 kHz, then 27 steps for each factor of 6.4
_SLANEY_LINEAR_HZ = 200.0 / 3
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = _SLANEY_BREAK_HZ / _SLANEY_LINEAR_HZ
_SLANEY_LOG_STEP = math.log(6.4) / 27


def _hz_to_slaney(hz: float) -> float:
    if hz < _SLANEY_BREAK_HZ:
        return hz / _SLANEY_LINEAR_HZ
    return _SLANEY_BREAK_MEL + math.log(hz / _SLANEY_BREAK_HZ) / _SLANEY_LOG_STEP


def _slaney_to_hz(mel: Tensor) -> Tensor:
    linear = mel * _SLANEY_LINEAR_HZ
    logarithmic = _SLANEY_BREAK_HZ * torch.exp((mel - _SLANEY_BREAK_MEL) * _SLANEY_LOG_STEP)
    return torch.where(mel < _SLANEY_BREAK_MEL, linear, logarithmic)


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def _kaldi_filters(device: torch.device) -> Tensor:
    """Triangles in the mel domain (1127 ln(1 + f / 700)), heights not normalised, Nyquist left out: (257, 80)."""
    nyquist_hz = TOKENIZER_SAMPLE_RATE_HZ / 2
    fft_mel = _hz_to_kaldi(torch.linspace(0, nyquist_hz, _FBANK_N_FFT // 2 + 1, dtype=torch.float64))
    low_mel, high_mel = _hz_to_kaldi(torch.tensor([_FBANK_LOW_HZ, nyquist_hz], dtype=torch.float64)).tolist()
    edges = torch.linspace(low_mel, high_mel, FBANK_BINS + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (fft_mel[:, None] - left) / (centre - left)
    falling = (right - fft_mel[:, None]) / (right - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    triangles[-1] = 0
    return triangles.to(device, torch.float32)


def _hz_to_kaldi(hz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hz / 700.0)
