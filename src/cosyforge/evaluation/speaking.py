"""Let a model speak a text and ask it, besides the sound, where it looked while it spoke."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cosyforge.evaluation.delivery import Followed
from cosyforge.evaluation.phones import count_phones
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest, Word

_FULL_SCALE = 32767.0
_FEWEST_PHONES = 3
"""Words of fewer phones may well be spoken within one speech token and show no time of their own."""


class SpeakingModel(Protocol):
    """What is needed of a model to be judged; `synthesis.engine.Engine` is one."""

    @property
    def sample_rate_hz(self) -> int: ...

    def voices(self) -> Mapping[str, Any]:
        """The names of its voices, and what it says of them (`.language`)."""
        ...

    def synthesize(self, request: SynthesisRequest, text: Iterable[str]) -> Iterator[AudioChunk]: ...


def speak(
    model: SpeakingModel, text: str, voice: str, seed: int, instruction: str = ""
) -> tuple[npt.NDArray[np.float32], int, Followed]:
    """Say a text, plainly or as told: samples (L,), their rate in Hz, and what the model's own alignment says of it.

    Raises: as the model's synthesize
    """
    rate_hz = model.sample_rate_hz
    request = SynthesisRequest(
        voice=voice,
        seed=seed,
        format="pcm",
        sample_rate_hz=rate_hz,
        word_timestamps=True,
        instruction=instruction or None,
    )
    chunks = list(model.synthesize(request, [text]))
    pcm = np.frombuffer(b"".join(chunk.audio for chunk in chunks), dtype="<i2")
    words = [word for chunk in chunks for word in chunk.words]
    report = next((chunk.report for chunk in reversed(chunks) if chunk.report), {})
    followed = Followed(
        failed_checks=tuple(report.get("failed_checks", ())),
        unspoken=tuple(word.text for word in words if _is_unspoken(word)),
        num_resampled=int(report.get("resampled", 0)),
    )
    return (pcm / _FULL_SCALE).astype(np.float32), rate_hz, followed


def _is_unspoken(word: Word) -> bool:
    """Whether a word that takes time got none."""
    num_phones = count_phones(word.text)
    return word.end_ms <= word.begin_ms and (num_phones is None or num_phones >= _FEWEST_PHONES)
