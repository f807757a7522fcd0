"""What the speech LM can learn from recordings whose phone times nobody knows: the text as the front end writes it, and no alignment.

The LM still reads and speaks them; only the head that is shown where in the text it is gets no lesson (see `alignment_loss`).
"""

from __future__ import annotations

import random
import re

from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.text.frontend import Frontend
from cosyforge.text.lexicon import fold_latin
from cosyforge.text.segment import Segment

UNKNOWN = -1
"""Stands for the text token that a speech token is spoken from when that is not known."""

_LATIN_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*")


def write_unaligned(
    text: str, language: str, tokenizer: TextTokenizer, frontend: Frontend, spelled: frozenset[int] = frozenset()
) -> list[int]:
    """The text tokens of a recording, exactly what the engine would read for the same text.

    frontend: the one that the model's manifest will name; spelled: which of its Latin words, counted from 0, are written in letters
    Raises: InvalidParameter when nothing of the text can be spoken
    """
    written = []
    first_word = 0
    for segment in frontend.segments(text, language):
        words = _latin_words(segment)
        chosen = [place for index, place in enumerate(words, start=first_word) if index in spelled]
        written.append(_in_letters(segment, chosen))
        first_word += len(words)
    return tokenizer.encode(" ".join(piece for piece in written if piece))


def unaligned_writings(
    text: str, language: str, num_speech_tokens: int, tokenizer: TextTokenizer, frontend: Frontend, seed: int
) -> list[tuple[list[int], list[int]]]:
    """Two writings as for aligned clips (by sounds; with some words in letters, in one text of four all), nothing aligned.

    Returns: (text tokens, per speech token the text token that it is spoken from, all UNKNOWN) of each writing
    """
    aligned = [UNKNOWN] * num_speech_tokens
    num_words = len(_LATIN_WORD.findall(text))
    rng = random.Random(seed)
    share = 1.0 if seed % 4 == 0 else 0.4
    spelled = frozenset(index for index in range(num_words) if rng.random() < share)
    return [(write_unaligned(text, language, tokenizer, frontend, words), aligned) for words in (frozenset(), spelled)]


def _latin_words(segment: Segment) -> list[tuple[str, int, int]]:
    """(written word, begin and end in what is spoken) of every Latin word of a segment."""
    places = [(segment.text[begin:end], said, said_end) for begin, end, said, said_end in segment.alignment]
    return [(fold_latin(word), begin, end) for word, begin, end in places if _LATIN_WORD.fullmatch(fold_latin(word))]


def _in_letters(segment: Segment, words: list[tuple[str, int, int]]) -> str:
    spoken = segment.spoken
    for word, begin, end in reversed(words):
        spoken = f"{spoken[:begin]}{word.lower().replace('-', ' ')}{spoken[end:]}"
    return spoken
