"""Ears: samples in, the words or phones that were heard out. Knows no model of ours, so its verdict is independent."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cosyforge.audio.resample import resample
from cosyforge.errors import InvalidParameter
from cosyforge.text.lexicon import PHONES

_EAR_RATE_HZ = 16000
_MARGIN_S = 0.25
"""Silence added at both ends: the recogniser's endpoints want some, and synthesized clips begin at once."""

_SILENT_PEAK = 1e-3
"""Below it (-60 dB) there is nothing to hear; asked all the same, the recogniser makes up a word."""

_PHONE_WEIGHT = 1.0
"""Weight of the phone language model, far below that for words: of 0.5 to 6.5 it had the fewest errors on recordings."""
_PHONE_BEAM = 1e-20


class Transcriber(Protocol):
    """Anything that writes down speech."""

    def transcribe(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> str:
        """Write down one clip; an empty string when nothing was understood."""
        ...


class PhoneTranscriber(Protocol):
    """Anything that writes down the phones of English speech."""

    def phones(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> list[str]:
        """CMU phones without stress, pauses and noises left out."""
        ...


class SyllableTranscriber(Protocol):
    """Anything that writes down Mandarin as pinyin."""

    def syllables(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> list[str]:
        """Syllables with tone digits, such as ["ni3", "hao3"]."""
        ...


@dataclass(frozen=True)
class RecogniserFiles:
    """The parts of a recogniser in the layout of pocketsphinx.

    phone_lm: language model over phones; None when it has none, and then it cannot be asked for phones
    """

    hmm: Path
    lm: Path
    dictionary: Path
    phone_lm: Path | None

    @classmethod
    def builtin(cls) -> RecogniserFiles:
        """The small English recogniser inside the package pocketsphinx.

        Raises: ModuleNotFoundError when pocketsphinx is not installed
        """
        from pocketsphinx import get_model_path

        folder = Path(get_model_path(), "en-us")
        return cls(
            folder / "en-us", folder / "en-us.lm.bin", folder / "cmudict-en-us.dict", folder / "en-us-phone.lm.bin"
        )

    @classmethod
    def in_directory(cls, directory: Path) -> RecogniserFiles:
        """Find the parts of a larger recogniser: an acoustic model (a folder with `mdef`), one language model
        (`*.lm`, `*.lm.bin` or `*.lm.gz`), one dictionary (`*.dict` or `*.dic`), perhaps `*phone.lm.bin`.

        Raises: InvalidParameter saying what is missing or there twice
        """
        files = files_below(directory)
        models = [path for path in files if path.name.endswith((".lm", ".lm.bin", ".lm.gz"))]
        of_phones = [path for path in models if "phone" in path.name]
        of_words = [path for path in models if path not in of_phones]
        return cls(
            hmm=_only(
                [path for path in files if path.name == "mdef"], directory, "acoustic model (a folder with mdef)"
            ).parent,
            lm=_only(of_words, directory, "language model (*.lm, *.lm.bin)"),
            dictionary=_only(
                [path for path in files if path.suffix in (".dict", ".dic")], directory, "dictionary (*.dict)"
            ),
            phone_lm=of_phones[0] if of_phones else None,
        )


def files_below(directory: Path) -> list[Path]:
    """All files of a folder in order; folders that are links are entered, because large models lie elsewhere."""
    return sorted(Path(root, name) for root, _, names in os.walk(directory, followlinks=True) for name in names)


def _only(found: list[Path], directory: Path, what: str) -> Path:
    if len(found) != 1:
        count = "no" if not found else f"{len(found)} times a"
        raise InvalidParameter(f"{directory}: holds {count} {what}; a recogniser needs exactly one")
    return found[0]


class PocketsphinxTranscriber:
    """A pocketsphinx recogniser; by default the small one inside the package, deaf to much that people understand.

    Its word error rate on clean recordings is the floor to compare a voice with, never zero.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Load the acoustic model, language model and dictionary (half a second for the small one).

        directory: a larger recogniser, as RecogniserFiles.in_directory reads it
        Raises: ModuleNotFoundError when pocketsphinx is not installed; InvalidParameter when the directory is no recogniser
        """
        self._files = RecogniserFiles.builtin() if directory is None else RecogniserFiles.in_directory(directory)
        self._decoder = self._loaded(lm=str(self._files.lm), dict=str(self._files.dictionary))
        self._phone_decoder: Any = None

    @property
    def hears_phones(self) -> bool:
        return self._files.phone_lm is not None

    def transcribe(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> str:
        """Write down one clip; the same clip gives the same words, whatever was heard before.

        Shapes: samples (L,)
        """
        if not self._decode(self._decoder, samples, sample_rate_hz):
            return ""
        hypothesis = self._decoder.hyp()
        return "" if hypothesis is None else str(hypothesis.hypstr)

    def phones(self, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> list[str]:
        """Write down the phones of one clip, with no dictionary to lean on.

        Shapes: samples (L,)
        Raises: InvalidParameter when this recogniser has no language model of phones
        """
        if self._phone_decoder is None:
            if self._files.phone_lm is None:
                raise InvalidParameter(
                    f"{self._files.hmm}: this recogniser has no *phone.lm.bin, so it hears no phones"
                )
            self._phone_decoder = self._loaded(
                allphone=str(self._files.phone_lm), lm=None, lw=_PHONE_WEIGHT, beam=_PHONE_BEAM, pbeam=_PHONE_BEAM
            )
        if not self._decode(self._phone_decoder, samples, sample_rate_hz):
            return []
        return [segment.word for segment in self._phone_decoder.seg() or () if segment.word in PHONES]

    def _loaded(self, **parts: Any) -> Any:
        from pocketsphinx import Decoder

        try:
            return Decoder(
                samprate=float(_EAR_RATE_HZ),
                hmm=str(self._files.hmm),
                # "batch" takes the cepstral mean from the clip itself: no clip hears the one before it
                cmn="batch",
                logfn=os.devnull,
                **parts,
            )
        except RuntimeError as error:
            raise InvalidParameter(f"{self._files.hmm}: cannot be loaded as a recogniser ({error})") from error

    def _decode(self, decoder: Any, samples: npt.NDArray[np.float32], sample_rate_hz: int) -> bool:
        """Let a decoder hear one clip; False when there is nothing to hear."""
        if np.abs(samples).max(initial=0.0) < _SILENT_PEAK:
            return False
        margin = np.zeros(int(_MARGIN_S * _EAR_RATE_HZ), dtype=np.float32)
        clip = np.concatenate([margin, resample(samples, sample_rate_hz, _EAR_RATE_HZ), margin])
        pcm = np.round(np.clip(clip, -1.0, 1.0) * 32767.0).astype("<i2")
        decoder.start_utt()
        decoder.process_raw(pcm.tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        return True
