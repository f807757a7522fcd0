"""Ears: samples in, the words that were heard out. Knows no model of ours, so its verdict is independent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cosyforge.audio.resample import resample

_EAR_RATE_HZ = 16000
_MARGIN_S = 0.25
"""Silence added at both ends: the recogniser's endpoints want some, and synthesized clips begin at once."""

_SILENT_PEAK = 1e-3
"""Below it (-60 dB) there is nothing to hear; asked all the same, the recogniser makes up a word."""


class Transcriber(Protocol):
    """Anything that writes down speech."""

    def transcribe(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> str:
        """Write down one clip; an empty string when nothing was understood."""
        ...


class PocketsphinxTranscriber:
    """The small English recogniser inside the package pocketsphinx: a smoke test, deaf to much that people understand.

    Its word error rate on clean recordings is the floor to compare a voice with, never zero.
    """

    def __init__(self) -> None:
        """Load the acoustic model, language model and dictionary (half a second).

        Raises: ModuleNotFoundError when pocketsphinx is not installed
        """
        from pocketsphinx import Decoder, get_model_path

        model = Path(get_model_path(), "en-us")
        self._decoder = Decoder(
            samprate=float(_EAR_RATE_HZ),
            hmm=str(model / "en-us"),
            lm=str(model / "en-us.lm.bin"),
            dict=str(model / "cmudict-en-us.dict"),
            # "batch" takes the cepstral mean from the clip itself: no clip hears the one before it
            cmn="batch",
            logfn=os.devnull,
        )

    def transcribe(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> str:
        """Write down one clip; the same clip gives the same words, whatever was heard before.

        Shapes: samples (L,)
        """
        if np.abs(samples).max(initial=0.0) < _SILENT_PEAK:
            return ""
        margin = np.zeros(int(_MARGIN_S * _EAR_RATE_HZ), dtype=np.float32)
        clip = np.concatenate([margin, resample(samples, sample_rate_hz, _EAR_RATE_HZ), margin])
        pcm = np.round(np.clip(clip, -1.0, 1.0) * 32767.0).astype("<i2")
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.tobytes(), no_search=False, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return "" if hypothesis is None else str(hypothesis.hypstr)
