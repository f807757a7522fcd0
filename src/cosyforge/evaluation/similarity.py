"""Speaker similarity by a judge that took no part in training: the Resemblyzer voice encoder, out of its package.

Only the weight file of that package is used. Its code is not imported, because it wants libraries that we do without;
the network and its features are rebuilt here, apart from `audio/mel.py`, so that a fault in our own features cannot
flatter our own voices.
Source: Wan et al., Generalized End-to-End Loss for Speaker Verification; weights trained on 16 kHz human speech
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cosyforge.audio.resample import resample
from cosyforge.evaluation.slaney import slaney_filters

Clip = tuple[npt.NDArray[np.float32], int]
"""Samples (L,) and their rate in Hz."""

_RATE_HZ = 16000
_N_FFT = 400
_HOP = 160
_BINS = 40
_WIDTH = 256
_LEVEL_DBFS = -30.0

_PART_FRAMES = 160
_PART_STEP_FRAMES = 77
"""1.6 s parts, 1.3 of them begin in every second."""
_LEAST_COVERAGE = 0.75
"""A last part with less speech than this share is left out, unless it is the only one."""

_GATE_FRAME = 480
_GATE_DB = 40.0
_GATE_KEEP_FRAMES = 4
"""30 ms frames more than 40 dB below the loud ones are silence; 4 of them are kept on each side of speech."""


class VoiceEncoder(nn.Module):
    """Three LSTM layers and a projection: a clip becomes one unit vector that says who speaks, not what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_BINS, _WIDTH, num_layers=3, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)

    @classmethod
    def load(cls, weights: Path | None = None) -> VoiceEncoder:
        """Read the trained weights, by default those inside the installed package resemblyzer.

        Raises: ModuleNotFoundError saying what to install; ValueError when the file holds another network
        """
        path = weights or _installed_weights()
        state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        # the checkpoint also keeps two scalars of its training loss
        wanted = {key: value for key, value in state.items() if key.startswith(("lstm.", "linear."))}
        encoder = cls()
        try:
            encoder.load_state_dict(wanted)
        except RuntimeError as error:
            raise ValueError(f"{path}: not the weights of the voice encoder ({error})") from error
        return encoder.eval()

    def forward(self, mel: Tensor) -> Tensor:
        """Shapes: mel (B, F, 40), power, not logarithmic -> unit vectors (B, 256), none negative."""
        _, (hidden, _) = self.lstm(mel)
        return nn.functional.normalize(torch.relu(self.linear(hidden[-1])), dim=-1)

    @torch.inference_mode()
    def embed(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> npt.NDArray[np.float32]:
        """Describe the voice of one clip.

        Shapes: samples (L,) -> unit vector (256,)
        Raises: ValueError when the clip holds no sound
        """
        speech = _without_silence(_levelled(resample(samples, sample_rate_hz, _RATE_HZ)))
        starts = _part_starts(len(speech))
        padding = max(0, (starts[-1] + _PART_FRAMES) * _HOP - len(speech))
        mel = _power_mel(torch.from_numpy(np.pad(speech, (0, padding))))  # (F, 40)
        parts = torch.stack([mel[start : start + _PART_FRAMES] for start in starts])
        return _unit(self(parts).mean(dim=0).numpy())

    def embed_speaker(self, clips: Sequence[Clip]) -> npt.NDArray[np.float32]:
        """Describe a voice by several of its clips, each with the same weight.

        Shapes: -> unit vector (256,)
        Raises: ValueError when there is no clip, or one without sound
        """
        if not clips:
            raise ValueError("no clips to describe a speaker by; give at least one recording")
        return _unit(np.mean([self.embed(samples, rate_hz) for samples, rate_hz in clips], axis=0))


def similarity(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Cosine of two voices, 0 .. 1. Clips of one speaker mostly exceed 0.85, two speakers mostly stay under 0.75."""
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def _installed_weights() -> Path:
    # find_spec locates the package without running it
    spec = find_spec("resemblyzer")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "pretrained.pt")
        if path.is_file():
            return path
    raise ModuleNotFoundError(
        "speaker similarity needs the voice encoder weights of the package resemblyzer; "
        "install them with: pip install --no-deps resemblyzer==0.1.4"
    )


def _levelled(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Lift quiet clips to the level that the encoder was trained at; loud ones stay."""
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if samples.size else 0.0
    if level == 0.0:
        raise ValueError("the clip holds no sound, so it has no voice to describe")
    return samples * np.float32(max(1.0, 10 ** (_LEVEL_DBFS / 20) / level))


def _without_silence(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Shorten pauses, which say nothing of the speaker and fill parts with nothing."""
    num_frames = len(samples) // _GATE_FRAME
    if num_frames < 2:
        return samples
    frames = samples[: num_frames * _GATE_FRAME].reshape(num_frames, _GATE_FRAME)
    level_db = 10 * np.log10(np.mean(np.square(frames, dtype=np.float64), axis=1) + 1e-12)
    is_loud = level_db > np.percentile(level_db, 95) - _GATE_DB
    is_kept = np.convolve(is_loud, np.ones(2 * _GATE_KEEP_FRAMES + 1), mode="same") > 0
    return np.ascontiguousarray(frames[is_kept].reshape(-1))


def _part_starts(num_samples: int) -> list[int]:
    """Say at which mel frames the parts begin."""
    num_frames = num_samples // _HOP + 1
    last = max(0, num_frames - _PART_FRAMES + _PART_STEP_FRAMES)
    starts = list(range(0, last + 1, _PART_STEP_FRAMES))
    covered = num_frames - starts[-1]
    return starts[:-1] if len(starts) > 1 and covered < _LEAST_COVERAGE * _PART_FRAMES else starts


def _power_mel(speech: Tensor) -> Tensor:
    """Shapes: speech (L,) at 16 kHz -> (L // 160 + 1, 40) power in Slaney mel bins."""
    window = torch.hann_window(_N_FFT)
    spectrum = torch.stft(speech, _N_FFT, _HOP, window=window, center=True, pad_mode="constant", return_complex=True)
    return spectrum.abs().square().T @ slaney_filters(_RATE_HZ, _N_FFT, _BINS)


def _unit(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
