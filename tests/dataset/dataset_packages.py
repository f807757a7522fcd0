"""Training packages for tests: tones as clips, rows as given, zipped or laid out in a folder."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]


def tone(duration_s: float = 3.0, sample_rate_hz: int = 24_000, *, level: float = 0.3, f0_hz: float = 150.0) -> Samples:
    """A hummed note that swells and fades, so that it has loud and quiet frames like speech."""
    time_s = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    note = sum(np.sin(2 * np.pi * f0_hz * harmonic * time_s) / harmonic for harmonic in range(1, 6))
    envelope = 0.55 - 0.45 * np.cos(2 * np.pi * 2 * time_s)
    return np.asarray(level * envelope * note / 2, dtype=np.float32)


def wav_bytes(samples: Samples, sample_rate_hz: int = 24_000, *, container: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate_hz, format=container)
    return buffer.getvalue()


def rows(*pairs: tuple[str, str]) -> bytes:
    lines = (json.dumps({"wav_fn": wav_fn, "text": text}, ensure_ascii=False) for wav_fn, text in pairs)
    return ("\n".join(lines) + "\n").encode()


def lay_out(root: Path, manifest: bytes, clips: Mapping[str, bytes]) -> Path:
    """An unpacked package; clips by their path below the root."""
    for name, content in {"data.jsonl": manifest, **clips}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (root / "train").mkdir(exist_ok=True)
    return root


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path
