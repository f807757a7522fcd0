"""The synthetic corpus as training features, computed once per shard and held in memory as memory-mapped tensors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cosyforge.audio.mel import kaldi_fbank, mel_spectrogram, whisper_mel
from cosyforge.audio.pitch import estimate_f0
from cosyforge.audio.resample import resample
from cosyforge.dataset.synthetic import PHONES, SAMPLE_RATE_HZ, Clip, read_shard, shard_listings

T = TypeVar("T")

PHONE_NAMES = PHONES
_PHONE_INDEX = {name: index for index, name in enumerate(PHONE_NAMES)}
_FEATURES = ("mel", "whisper", "fbank", "f0", "label")


@dataclass(frozen=True)
class PreparedClip:
    """One utterance ready to train on.

    Shapes: mel (F, 80), whisper (T, 128), fbank (T', 80) mean over time removed, f0 (F,) Hz or 0, label (F,) phone index or -1
    Units: F at 50 Hz, T at 100 Hz; stored as float16
    """

    clip: Clip
    mel: Tensor
    whisper: Tensor
    fbank: Tensor
    f0: Tensor
    label: Tensor

    @property
    def is_labelled(self) -> bool:
        return bool(self.clip.phones)


def prepare_corpus(
    corpus: Path,
    directory: Path,
    *,
    num_processes: int = 2,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[PreparedClip]:
    """Compute what is missing, then map everything.

    Raises: FileNotFoundError when the corpus is empty
    """
    listings = shard_listings(corpus)
    if not listings:
        raise FileNotFoundError(f"{corpus} holds no corpus: run the corpus stage first")
    directory.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(num_processes) as pool:
        work = partial(_prepare_shard, directory)
        for number, _ in enumerate(pool.map(work, listings)):
            on_progress((number + 1) / len(listings))
    return [clip for listing in listings for clip in _load_shard(directory, listing)]


def _prepare_shard(directory: Path, listing: Path) -> None:
    target = directory / f"{listing.stem}.safetensors"
    if target.exists():
        return
    torch.set_num_threads(1)
    columns: dict[str, list[Tensor]] = {name: [] for name in _FEATURES}
    for clip, samples in read_shard(listing):
        for name, value in _features(clip, samples).items():
            columns[name].append(value)
    tensors = {name: torch.cat(values) for name, values in columns.items()}
    for name, values in columns.items():
        tensors[f"{name}_end"] = torch.tensor([len(v) for v in values]).cumsum(0)
    save_file(tensors, target.with_suffix(".part"))
    target.with_suffix(".part").replace(target)


def _features(clip: Clip, samples: np.ndarray) -> dict[str, Tensor]:
    at_16k = torch.from_numpy(samples)
    mel = mel_spectrogram(torch.from_numpy(resample(samples, SAMPLE_RATE_HZ, 24_000))[None])[0].T
    fbank = kaldi_fbank(at_16k)
    f0 = torch.from_numpy(estimate_f0(samples, SAMPLE_RATE_HZ))
    num_frames = min(len(mel), len(f0))
    return {
        "mel": mel[:num_frames].half(),
        "whisper": whisper_mel(at_16k).T.contiguous().half(),
        "fbank": (fbank - fbank.mean(0)).half(),
        "f0": f0[:num_frames],
        "label": frame_labels(clip, num_frames),
    }


def frame_labels(clip: Clip, num_frames: int) -> Tensor:
    """The phone at the centre of every 20 ms frame; -1 throughout when the clip has no labels. Returns int16 (F,)."""
    if not clip.phones:
        return torch.full((num_frames,), -1, dtype=torch.int16)
    ends = np.array([end for _, end in clip.phones])
    names = [_PHONE_INDEX[name] for name, _ in clip.phones]
    index = np.searchsorted(ends, (np.arange(num_frames) + 0.5) / 50.0, side="right")
    return torch.tensor([names[min(i, len(names) - 1)] for i in index], dtype=torch.int16)


def _load_shard(directory: Path, listing: Path) -> list[PreparedClip]:
    with safe_open(directory / f"{listing.stem}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    clips = [clip for clip, _ in read_shard(listing)]
    pieces = {name: torch.tensor_split(tensors[name], tensors[f"{name}_end"][:-1].tolist()) for name in _FEATURES}
    return [PreparedClip(clip, *(pieces[name][index] for name in _FEATURES)) for index, clip in enumerate(clips)]


def split_held_out(items: list[T], share: int = 50) -> tuple[list[T], list[T]]:
    """Training items and held-out items (every `share`-th); clips' sentences are distinct, so held-out ones were never read."""
    return (
        [item for index, item in enumerate(items) if index % share],
        [item for index, item in enumerate(items) if index % share == 0],
    )
