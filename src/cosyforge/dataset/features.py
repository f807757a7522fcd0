"""A clip -> what training and voices are made of: speech tokens, mel, speaker embedding; aligned, cached if asked.

Knows no package and no text. What goes in is samples; the answer hangs on them, the rate and the two networks alone.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cosyforge.audio.mel import (
    MEL_BINS,
    MEL_SAMPLE_RATE_HZ,
    TOKENIZER_SAMPLE_RATE_HZ,
    kaldi_fbank,
    mel_spectrogram,
    whisper_mel,
)
from cosyforge.audio.resample import resample
from cosyforge.cosyvoice.manifest import file_digest
from cosyforge.cosyvoice.model import CosyVoice
from cosyforge.cosyvoice.weights import write_tensors
from cosyforge.errors import InvalidParameter

logger = logging.getLogger(__name__)

FEATURES_VERSION = 1
"""Part of every cache key: raise it when the meaning of the features changes."""

MIN_DURATION_S = 0.1
MIN_SAMPLE_RATE_HZ = TOKENIZER_SAMPLE_RATE_HZ

WINDOW_FRAMES = 3000
"""The tokenizer has learnt on clips of up to 30 s; longer ones go through it in windows."""
OVERLAP_FRAMES = 400
FRAMES_PER_TOKEN = 4
_BATCH_FRAMES = 6000

Clip = tuple[npt.NDArray[np.float32], int]
"""Samples (L,) of one channel and their rate in Hz."""


@dataclass(frozen=True)
class Features:
    """What one clip became; two mel frames stand beside every speech token.

    Shapes: speech_token (S,) int64, mel (80, 2S), speaker_embedding (192,)
    """

    speech_token: Tensor
    mel: Tensor
    speaker_embedding: Tensor


class FeatureExtractor:
    """Runs the speech tokenizer and the speaker encoder of a model over clips.

    cache_directory: results are kept there, keyed by samples, rate and the weights of both networks; None keeps nothing
    """

    def __init__(self, model: CosyVoice, cache_directory: str | Path | None = None) -> None:
        self._speech_tokenizer: Any = model.speech_tokenizer
        self._speaker_encoder: Any = model.speaker_encoder
        self._cache = None if cache_directory is None else _Cache(Path(cache_directory), self.digest())

    def digest(self) -> str:
        """What the features depend on besides the clip: version and weights of both networks."""
        parts = [str(FEATURES_VERSION), network_digest(self._speech_tokenizer), network_digest(self._speaker_encoder)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def extract(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> Features:
        """Features of one clip.

        Raises: InvalidParameter when the clip is too short, its rate too low, or it is not one channel
        """
        return self.extract_batch([(samples, sample_rate_hz)])[0]

    def extract_batch(self, clips: Sequence[Clip]) -> list[Features]:
        """Features of many clips, in their order; the tokenizer takes clips of like length together.

        Raises: InvalidParameter naming the first clip (counted from 0) that cannot be used
        """
        for index, (samples, sample_rate_hz) in enumerate(clips):
            _check(samples, sample_rate_hz, index)
        found = [None if self._cache is None else self._cache.read(*clip) for clip in clips]
        missing = [index for index, features in enumerate(found) if features is None]
        for index, features in zip(missing, self._compute([clips[index] for index in missing]), strict=True):
            found[index] = features
            if self._cache is not None:
                self._cache.write(*clips[index], features)
        return [features for features in found if features is not None]

    # no_grad, not inference mode: what comes out is trained on, and autograd must be able to keep it
    @torch.no_grad()
    def _compute(self, clips: list[Clip]) -> list[Features]:
        wavs_16k, wavs_24k = [], []
        for samples, sample_rate_hz in clips:
            limited = peak_limited(samples)
            wavs_16k.append(torch.from_numpy(resample(limited, sample_rate_hz, TOKENIZER_SAMPLE_RATE_HZ)))
            wavs_24k.append(torch.from_numpy(resample(limited, sample_rate_hz, MEL_SAMPLE_RATE_HZ)))
        tokens = tokenize(self._speech_tokenizer, [whisper_mel(wav) for wav in wavs_16k])
        return [
            _aligned(token, mel_spectrogram(wav_24k[None])[0], self._embedding(wav_16k))
            for token, wav_16k, wav_24k in zip(tokens, wavs_16k, wavs_24k, strict=True)
        ]

    def _embedding(self, wav_16k: Tensor) -> Tensor:
        # one clip at a time: the encoder pools over time and knows no padding
        fbank = kaldi_fbank(wav_16k)
        fbank = fbank - fbank.mean(dim=0)
        vector: Tensor = self._speaker_encoder(fbank[None].to(_device(self._speaker_encoder)))[0]
        return vector.to("cpu", torch.float32)


def peak_limited(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The clip itself, or scaled down to a peak of 1 where it exceeds that."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples if peak <= 1.0 else (samples / peak).astype(np.float32)


def tokenize(speech_tokenizer: Any, mels: Sequence[Tensor]) -> list[Tensor]:
    """Speech tokens of clips of any length.

    Those over 30 s go in windows that overlap by 4 s and are cut in the middle of the overlap.

    Shapes: mels (128, T) each -> tokens (S,) int64 each, S = T / 4 rounded up
    """
    windows = [window for mel in mels for window in _windows(mel)]
    codes = _tokenize_windows(speech_tokenizer, windows)
    tokens, start = [], 0
    for mel in mels:
        count = _num_windows(mel.shape[1])
        tokens.append(merge_windows(codes[start : start + count]))
        start += count
    return tokens


def merge_windows(codes: Sequence[Tensor]) -> Tensor:
    """Join the tokens of overlapping windows; each window keeps what is farther from its cut ends.

    Shapes: codes (s,) each -> (S,)
    """
    half = OVERLAP_FRAMES // FRAMES_PER_TOKEN // 2
    last = len(codes) - 1
    return torch.cat(
        [
            code[(half if index > 0 else 0) : (code.shape[0] - half if index < last else code.shape[0])]
            for index, code in enumerate(codes)
        ]
    )


def network_digest(network: Any) -> str:
    """Digest of a network's weights: of its tensors, or of its file when it is an ONNX one."""
    if not isinstance(network, nn.Module):
        if network.path is None:
            raise ValueError("an ONNX network that was not opened from a file has no digest; extract without a cache")
        return file_digest(network.path)
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check(samples: npt.NDArray[np.float32], sample_rate_hz: int, index: int) -> None:
    if samples.ndim != 1:
        raise InvalidParameter(f"clip {index}: must be one channel (samples,), got shape {samples.shape}")
    if sample_rate_hz < MIN_SAMPLE_RATE_HZ:
        raise InvalidParameter(
            f"clip {index}: sample rate {sample_rate_hz} Hz is below {MIN_SAMPLE_RATE_HZ} Hz; record it at a higher one"
        )
    if samples.shape[0] < MIN_DURATION_S * sample_rate_hz:
        raise InvalidParameter(
            f"clip {index}: {samples.shape[0] / sample_rate_hz:.3f} s is shorter than {MIN_DURATION_S} s"
        )


def _aligned(token: Tensor, mel: Tensor, speaker_embedding: Tensor) -> Features:
    """Cut both to the shorter: the two are counted from audio of two rates and may differ by a frame or two."""
    num_tokens = min(token.shape[0], mel.shape[1] // 2)
    return Features(token[:num_tokens].clone(), mel[:, : 2 * num_tokens].clone(), speaker_embedding)


def _num_windows(num_frames: int) -> int:
    return 1 + max(0, -(-(num_frames - WINDOW_FRAMES) // (WINDOW_FRAMES - OVERLAP_FRAMES)))


def _windows(mel: Tensor) -> list[Tensor]:
    step = WINDOW_FRAMES - OVERLAP_FRAMES
    return [mel[:, i * step : i * step + WINDOW_FRAMES] for i in range(_num_windows(mel.shape[1]))]


def _tokenize_windows(speech_tokenizer: Any, windows: list[Tensor]) -> list[Tensor]:
    device = _device(speech_tokenizer)
    codes: list[Tensor] = [torch.empty(0, dtype=torch.int64)] * len(windows)
    for batch in _batches([window.shape[1] for window in windows]):
        mel_len = torch.tensor([windows[index].shape[1] for index in batch])
        padded = torch.zeros(len(batch), windows[batch[0]].shape[0], int(mel_len.max()))
        for row, index in enumerate(batch):
            padded[row, :, : windows[index].shape[1]] = windows[index]
        code, code_len = speech_tokenizer(padded.to(device), mel_len.to(device))
        for row, index in enumerate(batch):
            codes[index] = code[row, : int(code_len[row])].cpu()
    return codes


def _batches(lengths: list[int]) -> list[list[int]]:
    """Indices sorted by length, in groups of at most _BATCH_FRAMES frames with their padding."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and lengths[index] * (len(batches[-1]) + 1) <= _BATCH_FRAMES:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _device(network: Any) -> torch.device:
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


class _Cache:
    """One safetensors file per clip; an entry that cannot be read is as good as none."""

    def __init__(self, directory: Path, networks_digest: str) -> None:
        self._directory = directory
        self._networks_digest = networks_digest

    def read(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> Features | None:
        path = self._path(samples, sample_rate_hz)
        if not path.is_file():
            return None
        try:
            features = Features(**load_file(path))
            _check_cached(features)
        except (SafetensorError, TypeError, ValueError) as error:
            logger.warning("feature cache entry %s is damaged and will be computed again: %s", path, error)
            return None
        return features

    def write(self, samples: npt.NDArray[np.float32], sample_rate_hz: int, features: Features) -> None:
        write_tensors(self._path(samples, sample_rate_hz), vars(features))

    def _path(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> Path:
        digest = hashlib.sha256(f"{self._networks_digest} {sample_rate_hz} ".encode())
        digest.update(np.ascontiguousarray(samples, dtype=np.float32).tobytes())
        key = digest.hexdigest()
        return self._directory / key[:2] / f"{key}.safetensors"


def _check_cached(features: Features) -> None:
    shapes = features.speech_token.shape, features.mel.shape, features.speaker_embedding.shape
    if (
        features.speech_token.dtype != torch.int64
        or shapes[1] != (MEL_BINS, 2 * shapes[0].numel())
        or len(shapes[2]) != 1
    ):
        raise ValueError(f"unexpected shapes {shapes}")
