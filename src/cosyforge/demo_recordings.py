"""The recordings that `make demo` trains on and compares with: the built-in speaker, or a person's own zip."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile

from cosyforge.audio.wav import read_wav
from cosyforge.dataset.manifest import read_manifest
from cosyforge.dataset.package import unpack
from cosyforge.evaluation.scorecard import Recording

T = TypeVar("T")

DEMO_FOLDER = Path(__file__).parent / "assets" / "demo"
_ROOT = "user_data"
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""One time stamp for all entries: the same recordings give the same zip, byte for byte."""


def demo_recordings(name: str) -> list[Recording]:
    """Read the built-in recordings: "train" to train on, "heldout" to compare with."""
    rows = [json.loads(line) for line in (DEMO_FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Recording(*read_wav(DEMO_FOLDER / row["flac"]), row["text"]) for row in rows]


def pack(recordings: Sequence[Recording], package: Path) -> None:
    """Write a training zip in the product document's layout: user_data/data.jsonl and user_data/train/*.wav."""
    names = [f"train/{100001 + i}.wav" for i in range(len(recordings))]
    rows = [{"wav_fn": name, "text": clip.text} for name, clip in zip(names, recordings, strict=True)]
    manifest = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with zipfile.ZipFile(package, "w") as archive:
        _add(archive, "data.jsonl", manifest.encode())
        for name, clip in zip(names, recordings, strict=True):
            _add(archive, name, _wav_bytes(clip))


def recordings_in(package: Path, most: int) -> list[Recording]:
    """Read up to `most` recordings out of a training zip, spread over all of it.

    Raises: InvalidDataset when it cannot be unpacked; InvalidParameter when a clip cannot be read
    """
    with tempfile.TemporaryDirectory(prefix="cosyforge-demo-") as folder:
        samples, _ = read_manifest(unpack(package, Path(folder, "dataset")))
        return [Recording(*read_wav(sample.path), sample.text) for sample in _spread(samples, most)]


def _spread(items: Sequence[T], most: int) -> Iterator[T]:
    count = min(most, len(items))
    return (items[i * len(items) // count] for i in range(count))


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(f"{_ROOT}/{name}", date_time=_ZIP_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def _wav_bytes(clip: Recording) -> bytes:
    stream = io.BytesIO()
    # by 32768, as it was read: the built-in recordings go into the zip sample for sample
    pcm = np.clip(np.round(clip.samples * 32768.0), -32768, 32767).astype("<i2")
    soundfile.write(stream, pcm, clip.sample_rate_hz, format="WAV", subtype="PCM_16")
    return stream.getvalue()
