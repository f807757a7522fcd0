"""A small Mandarin recogniser, the judge of Mandarin speech: samples in, pinyin syllables with tone digits out.

It knows no words and no sentences: every legal syllable may follow every other, and the network sees half a second around
each frame, so what it writes down was in the sound and not guessed from what usually follows. The voices that taught it were
invented for it alone (`corpus.py`); it shares no feature and no weight with the model that it judges but the pitch tracker.
They speak the Mandarin of espeak-ng, so it is a judge for models that learned from that engine, and understands people badly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from cosyforge.audio.pitch import estimate_f0
from cosyforge.audio.resample import resample
from cosyforge.evaluation.mandarin_ear.decoding import AlignedSyllable, SyllableGraph, align
from cosyforge.evaluation.mandarin_ear.sounds import NUM_TONES, UNITS, sounds_of, split_tone
from cosyforge.evaluation.slaney import slaney_filters

DIRECTORY = Path(__file__).parents[2] / "assets" / "mandarin_ear"
WEIGHTS_NAME, CARD_NAME = "mandarin_ear.safetensors", "mandarin_ear.json"

RATE_HZ = 16_000
FRAME_HZ = 50
_N_FFT = 512
_WINDOW = 400
_HOP = 160
MEL_BINS = 64
_FLOOR = 12.0
"""Natural-log power under the clip's loudest frame that counts as silence, about 52 dB."""
_SILENT = 1e-4
"""A clip whose loudest sample is under this (-80 dB) holds nothing to hear."""
_PITCH_FEATURES = 3
NUM_FEATURES = 2 * MEL_BINS + _PITCH_FEATURES


@dataclass(frozen=True)
class EarConfig:
    """Sizes of the network."""

    width: int = 192
    hidden: int = 352
    num_blocks: int = 6
    kernel: int = 5


class _Block(nn.Module):
    """Depthwise convolution over time, then two layers for each frame by itself. Source: Liu et al., ConvNeXt"""

    def __init__(self, config: EarConfig) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(
            config.width, config.width, config.kernel, padding=config.kernel // 2, groups=config.width
        )
        self.norm = nn.LayerNorm(config.width)
        self.widen = nn.Linear(config.width, config.hidden)
        self.narrow = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.over_time(x.transpose(1, 2)).transpose(1, 2)
        deeper: Tensor = self.narrow(F.gelu(self.widen(self.norm(mixed))))
        return x + deeper


class EarNetwork(nn.Module):
    """Features to scores of initials and finals, and of tones, for every frame; inside it has half as many frames."""

    def __init__(self, config: EarConfig) -> None:
        super().__init__()
        self.enter = nn.Conv1d(NUM_FEATURES, config.width, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.width)
        self.unit = nn.Linear(config.width, 2 * len(UNITS))
        self.tone = nn.Linear(config.width, 2 * NUM_TONES)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes: features (B, T, NUM_FEATURES), T even -> units (B, T, len(UNITS)), tones (B, T, 5), before softmax."""
        x = self.enter(features.transpose(1, 2)).transpose(1, 2)  # (B, T / 2, width)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.unit(x).unflatten(2, (2, -1)).flatten(1, 2), self.tone(x).unflatten(2, (2, -1)).flatten(1, 2)


def extract(samples: npt.NDArray[np.float32], warp: float = 1.0) -> npt.NDArray[np.float32]:
    """What the network hears of a clip at 16 kHz: two mel frames and the pitch, 50 times a second.

    The pitch is told as its distance from the clip's own middle in units of the clip's own spread, through unvoiced
    stretches as a line; beside it the same since the frame before, and whether the frame is voiced.
    warp: stretches the frequencies, as a shorter vocal tract does
    Shapes: samples (L,) -> (L // 320, NUM_FEATURES)
    """
    num_frames = len(samples) // (2 * _HOP)
    if num_frames == 0:
        return np.zeros((0, NUM_FEATURES), np.float32)
    padding = (_WINDOW - _HOP) // 2
    padded = np.pad(samples[: num_frames * 2 * _HOP], (padding, padding))
    frames = torch.from_numpy(padded).unfold(0, _WINDOW, _HOP) * torch.hann_window(_WINDOW)
    power = torch.fft.rfft(frames, n=_N_FFT).abs().square()  # (2T, 257)
    mel = (power @ _filters(warp)).clamp(min=1e-10).log()
    loudness = mel.logsumexp(dim=1)
    top = float(loudness.quantile(0.98))
    mel = mel.clamp(min=float(mel.max()) - _FLOOR - 4.0)
    is_sound = loudness > top - 7.0
    mel = (mel - mel[is_sound].mean(dim=0)) / 3.0
    features = torch.cat([mel.reshape(num_frames, 2 * MEL_BINS), torch.from_numpy(_pitch(samples, num_frames))], dim=1)
    return features.numpy()


def _filters(warp: float) -> Tensor:
    filters = slaney_filters(RATE_HZ, _N_FFT, MEL_BINS)
    if warp == 1.0:
        return filters
    source = np.clip(np.arange(len(filters)) * warp, 0, len(filters) - 1)
    low = source.astype(int)
    share = torch.from_numpy((source - low).astype(np.float32))[:, None]
    return filters[low] * (1 - share) + filters[np.minimum(low + 1, len(filters) - 1)] * share


def _pitch(samples: npt.NDArray[np.float32], num_frames: int) -> npt.NDArray[np.float32]:
    f0 = estimate_f0(samples, RATE_HZ)[:num_frames]
    is_voiced = f0 > 0
    result = np.zeros((num_frames, _PITCH_FEATURES), np.float32)
    if is_voiced.sum() < 3:
        return result
    log_f0 = np.log2(f0[is_voiced])
    middle = float(np.median(log_f0))
    spread = max(float(np.median(np.abs(log_f0 - middle))) * 1.5, 0.03)
    line = np.interp(np.arange(num_frames), np.flatnonzero(is_voiced), (log_f0 - middle) / spread).clip(-3, 3)
    result[:, 0] = line
    result[1:, 1] = np.diff(line)
    result[:, 2] = is_voiced
    return result


class MandarinEar:
    """The network with the syllables that it may write down."""

    def __init__(self, network: EarNetwork, graph: SyllableGraph, card: dict[str, Any]) -> None:
        self.network = network.eval()
        self.graph = graph
        self.card = card

    @classmethod
    def load(cls, path: Path | None = None) -> MandarinEar:
        """Read a folder with weights and card; by default the one that comes with the package.

        Raises: FileNotFoundError or ValueError naming the file that is missing or damaged
        """
        directory = path or DIRECTORY
        card_path, weights_path = directory / CARD_NAME, directory / WEIGHTS_NAME
        for needed in (card_path, weights_path):
            if not needed.is_file():
                raise FileNotFoundError(
                    f"{needed} is missing; make it with: python -m cosyforge.evaluation.mandarin_ear.training --out {directory}"
                )
        card = json.loads(card_path.read_text(encoding="utf-8"))
        network = EarNetwork(EarConfig(**card["network"]))
        try:
            network.load_state_dict({name: tensor.float() for name, tensor in load_file(weights_path).items()})
        except RuntimeError as error:
            raise ValueError(f"{weights_path} does not fit the network that {card_path} describes: {error}") from error
        return cls(network, SyllableGraph(card["syllables"], **card["decoding"]), card)

    def syllables(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> list[str]:
        """Write down what was said, pinyin with tone digits as they sound (ni3 hao3 is heard as ni2, hao3).

        Shapes: samples (L,)
        """
        if samples.size == 0 or np.abs(samples).max() < _SILENT:
            return []
        unit, tone = self.scores(samples, sample_rate_hz)
        return [piece.syllable for piece in self.graph.decode(unit, tone)]

    def align(
        self, samples: npt.NDArray[np.float32], sample_rate_hz: int, syllables: Sequence[str]
    ) -> list[AlignedSyllable]:
        """Find the given syllables in the sound, one after another, pauses between them or not.

        Raises: ValueError for no syllable, one that is none, or more than the clip has room for
        """
        if not syllables:
            raise ValueError("there is no syllable to align")
        sounds = []
        for syllable in syllables:
            base, tone_number = split_tone(syllable)
            found = sounds_of(base)
            if found is None:
                raise ValueError(f"{syllable!r} is no syllable that the Mandarin recogniser knows")
            sounds.append((syllable, found, tone_number))
        unit, tone = self.scores(samples, sample_rate_hz)
        return align(unit, tone, sounds)

    @torch.inference_mode()
    def scores(
        self, samples: npt.NDArray[np.float32], sample_rate_hz: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Shapes: samples (L,) -> log probabilities of units (T, len(UNITS)) and of tones (T, 5), 50 frames a second."""
        features = torch.from_numpy(extract(resample(samples, sample_rate_hz, RATE_HZ)))
        if len(features) == 0:
            return np.zeros((0, len(UNITS)), np.float32), np.zeros((0, NUM_TONES), np.float32)
        num_frames = len(features)
        unit, tone = self.network(F.pad(features, (0, 0, 0, num_frames % 2))[None])
        return unit[0, :num_frames].log_softmax(dim=-1).numpy(), tone[0, :num_frames].log_softmax(dim=-1).numpy()


def card_of(config: EarConfig, graph: SyllableGraph, **facts: Any) -> dict[str, Any]:
    """What stands beside the weights: how to build the network and the graph, and the facts given."""
    return {"network": asdict(config), "syllables": list(graph.bases), "decoding": graph.settings(), **facts}
