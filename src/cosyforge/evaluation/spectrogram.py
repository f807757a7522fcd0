"""A picture to compare voices by eye: log-mel spectrograms of several clips, one above the other, on one time scale."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cosyforge.audio.mel import MEL_BINS, MEL_HOP, MEL_SAMPLE_RATE_HZ, mel_spectrogram
from cosyforge.audio.resample import resample
from cosyforge.text.mandarin import HAN, pinyin_of_each

WIDTH_PX = 1200
PANEL_HEIGHT_PX = 260
_DPI = 100
_RANGE = 8.0
"""Natural-log units shown below the loudest value, about 70 dB."""


@dataclass(frozen=True)
class Panel:
    """One clip and what stands above it."""

    title: str
    samples: npt.NDArray[np.float32]
    sample_rate_hz: int


def draw_spectrograms(path: Path, panels: Sequence[Panel]) -> None:
    """Write a PNG of 1200 by 260 x panels pixels; every panel has its own loudness scale.

    Raises: ValueError when there is no panel; ModuleNotFoundError saying what to install when matplotlib is missing
    """
    if not panels:
        raise ValueError("no clips to draw; give at least one")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the picture needs matplotlib: pip install 'cosyforge[eval]'") from error
    mels = [_log_mel(panel) for panel in panels]
    longest_s = max(mel.shape[1] for mel in mels) * MEL_HOP / MEL_SAMPLE_RATE_HZ
    # a canvas of its own: pyplot would keep global state and ask for a display
    figure = Figure(figsize=(WIDTH_PX / _DPI, len(panels) * PANEL_HEIGHT_PX / _DPI), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel, mel in zip(all_axes, panels, mels, strict=True):
        duration_s = mel.shape[1] * MEL_HOP / MEL_SAMPLE_RATE_HZ
        top = float(mel.max())
        axes.imshow(
            mel, origin="lower", aspect="auto", cmap="magma", vmin=top - _RANGE, vmax=top,
            extent=(0.0, duration_s, 0, MEL_BINS),
        )  # fmt: skip
        axes.set_title(_drawable(panel.title), loc="left", fontsize=10)
        axes.set_ylabel("mel bin")
        axes.set_xlim(0.0, longest_s)
        axes.set_facecolor("black")
    all_axes[-1].set_xlabel("seconds")
    figure.savefig(path, format="png", dpi=_DPI)


def _drawable(title: str) -> str:
    """Hanzi as pinyin: the drawing library's own font has none, and draws boxes."""
    if not HAN.search(title):
        return title
    read = zip(title, pinyin_of_each(title), strict=True)
    written = "".join(f" {syllable}" if syllable else char for char, syllable in read)
    # marks of full width become their narrow likes, too
    return unicodedata.normalize("NFKC", written.replace("。", "."))


def _log_mel(panel: Panel) -> npt.NDArray[np.float32]:
    """Shapes: -> (80, F)."""
    samples = resample(panel.samples, panel.sample_rate_hz, MEL_SAMPLE_RATE_HZ)
    return np.asarray(mel_spectrogram(torch.from_numpy(samples)[None])[0].numpy(), dtype=np.float32)
