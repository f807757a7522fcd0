"""When each word of a sentence is spoken.

The model's alignment says which text token each speech token speaks; the front end says which characters of the text
tokenizer's input each written word became. Without an alignment head the speech is shared out by the number of text
tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cosyforge.synthesis.following import monotonic_path
from cosyforge.synthesis.request import Word

Alignment = Sequence[tuple[int, int, int, int]]
"""Per written word: begin and end in the sentence's text, begin and end in what the tokenizer gets."""

TOKEN_MS = 40
_AUDIBLE = 0.03
"""Quieter than this share of the sentence's loudest moment (-30 dB) is a pause."""


class Loudness:
    """Collects how loud the speech of each token is, while the samples come."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._per_token = sample_rate_hz * TOKEN_MS // 1000
        self._samples: list[npt.NDArray[np.float32]] = []

    def push(self, samples: npt.NDArray[np.float32]) -> None:
        self._samples.append(samples)

    def audible(self) -> list[bool]:
        """For each token whether anything is heard."""
        whole = np.abs(np.concatenate(self._samples)) if self._samples else np.zeros(0, dtype=np.float32)
        whole = np.pad(whole, (0, -whole.size % self._per_token))
        peaks = whole.reshape(-1, self._per_token).max(axis=1, initial=0.0)
        heard: list[bool] = (peaks > _AUDIBLE * peaks.max(initial=0.0)).tolist()
        return heard


def spoken_places(attention: Tensor, *, follows: bool) -> list[int]:
    """For each speech token the text token it speaks, never going back.

    follows: the attention is that of a head that was taught this; otherwise the text is shared out evenly
    Shapes: attention (S, T) -> S positions
    """
    num_speech, num_text = attention.shape
    if not num_speech or not num_text:
        return []
    if not follows:
        return [index * num_text // num_speech for index in range(num_speech)]
    taught = attention.clone()
    # the head was not taught where the first token comes from: from the beginning
    taught[0] = 0.0
    taught[0, 0] = 1.0
    return monotonic_path(taught)


def word_times(
    text: str,
    alignment: Alignment,
    token_spans: Sequence[tuple[int, int]],
    places: Sequence[int],
    *,
    begin_ms: float,
    end_ms: float,
    rate: float,
    audible: Sequence[bool] = (),
) -> tuple[Word, ...]:
    """Tell when the words are spoken, in order, inside the sentence.

    token_spans: the characters of each text token; places: per speech token the text token it speaks; audible: per
    speech token whether it is heard, so that no word begins or ends with a pause
    Units: begin_ms and end_ms are the sentence's own times in the audio; rate is how much faster than drawn it is spoken
    """
    words = []
    least = begin_ms
    for text_begin, text_end, spoken_begin, spoken_end in alignment:
        first = next((i for i, place in enumerate(places) if token_spans[place][1] > spoken_begin), len(places))
        after = next((i for i, place in enumerate(places) if token_spans[place][0] >= spoken_end), len(places))
        first, after = _heard(first, after, audible)
        begin = min(max(least, begin_ms + first * TOKEN_MS / rate), end_ms)
        end = min(max(begin, begin_ms + after * TOKEN_MS / rate), end_ms)
        words.append(Word(text[text_begin:text_end], text_begin, text_end, round(begin), round(end)))
        least = end
    return tuple(words)


def _heard(first: int, after: int, audible: Sequence[bool]) -> tuple[int, int]:
    """Leave silent tokens at both ends of a word out; a word of which nothing is heard stays as it is."""
    heard = [index for index in range(first, min(after, len(audible))) if audible[index]]
    return (heard[0], heard[-1] + 1) if heard else (first, after)
