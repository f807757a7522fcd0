"""Clips already made and measured, in a folder, so that an evaluation that was stopped goes on where it was.

A clip is kept under a key of everything that it hangs on: the model, the text, the voice, the stage, the ears.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from cosyforge.audio.wav import read_wav
from cosyforge.cosyvoice.manifest import replacing
from cosyforge.evaluation.delivery import Followed, Heard
from cosyforge.evaluation.figures import ClipFigures
from cosyforge.evaluation.signal import SignalFigures
from cosyforge.evaluation.wer import WordErrors

Samples = npt.NDArray[np.float32]

STORE_VERSION = 2
"""Part of every key: raise it when a figure changes its meaning."""


@dataclass(frozen=True)
class Clip:
    """One clip of one voice at one stage, measured.

    embedding: the outside encoder's vector, None when it heard nothing or is not installed
    followed: the model's own alignment, of clips that the whole model spoke
    instruction: how it was told to speak, "" for plainly
    """

    voice: str
    stage: str
    samples: Samples
    sample_rate_hz: int
    figures: ClipFigures
    embedding: npt.NDArray[np.float32] | None = None
    followed: Followed | None = None
    instruction: str = ""


class ClipStore:
    """A folder of clips: KEY.flac and KEY.json each. The JSON is written last, so that what has one is whole."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def key(self, parts: Mapping[str, Any]) -> str:
        """The name under which a clip is kept that hangs on these parts."""
        content = json.dumps({"version": STORE_VERSION, **parts}, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def read(self, key: str) -> Clip | None:
        """Give a clip that was kept, None when there is none or it cannot be read."""
        path = self._directory / f"{key}.json"
        if not path.is_file():
            return None
        try:
            return _from_json(json.loads(path.read_text(encoding="utf-8")), *read_wav(self._directory / f"{key}.flac"))
        except (ValueError, KeyError, TypeError, OSError):
            # a file from a disk that was full or a version that was another: it is made again
            return None

    def write(self, key: str, clip: Clip) -> None:
        """Keep a clip; its samples become 16 bits."""
        with replacing(self._directory / f"{key}.flac") as temporary:
            soundfile.write(temporary, clip.samples, clip.sample_rate_hz, format="FLAC", subtype="PCM_16")
        with replacing(self._directory / f"{key}.json") as temporary:
            temporary.write_text(json.dumps(_to_json(clip), ensure_ascii=False), encoding="utf-8")


def as_kept(samples: Samples) -> Samples:
    """What a clip's samples are after they were kept: 16 bits, nothing beyond full scale.

    Figures are taken of these, so that they are the same whether a clip was just made or read again
    """
    return (np.round(np.clip(samples, -1.0, 32767 / 32768) * 32768.0) / 32768.0).astype(np.float32)


def _to_json(clip: Clip) -> dict[str, Any]:
    return {
        "voice": clip.voice,
        "stage": clip.stage,
        "figures": asdict(clip.figures),
        "embedding": None if clip.embedding is None else [float(value) for value in clip.embedding],
        "followed": None if clip.followed is None else asdict(clip.followed),
        "instruction": clip.instruction,
    }


def _from_json(values: dict[str, Any], samples: Samples, sample_rate_hz: int) -> Clip:
    figures, followed = values["figures"], values["followed"]
    counts = {
        name: None if figures[name] is None else WordErrors(**figures[name])
        for name in ("words", "phones", "syllables", "tones")
    }
    delivery = figures["delivery"]
    heard = Heard(tuple(delivery["swallowed"]), tuple(delivery["repeated"]), delivery["is_runaway"])
    return Clip(
        voice=values["voice"],
        stage=values["stage"],
        samples=samples,
        sample_rate_hz=sample_rate_hz,
        figures=ClipFigures(**{**figures, **counts, "signal": SignalFigures(**figures["signal"]), "delivery": heard}),
        embedding=None if values["embedding"] is None else np.asarray(values["embedding"], dtype=np.float32),
        followed=None
        if followed is None
        else Followed(tuple(followed["failed_checks"]), tuple(followed["unspoken"]), followed["num_resampled"]),
        instruction=values["instruction"],
    )
