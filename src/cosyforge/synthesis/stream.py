"""From text tokens to samples: language model, flow and vocoder in line, for one sentence.

Two ways lead to the same samples. Streaming gives them out in chunks that grow from one second to four; at once
computes the mel of the whole sentence in one go. Both use the flow's block mask, so the last chunk fits the earlier
ones, and both are iterators that stop after every slice of work, so that requests can take turns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosyforge.cosyvoice.config import SamplingConfig
from cosyforge.cosyvoice.flow import FlowStream
from cosyforge.cosyvoice.hift import HiFTStream
from cosyforge.cosyvoice.lm import generate
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.synthesis.sequence import Sequence

Samples = npt.NDArray[np.float32]

logger = logging.getLogger(__name__)

OFFICIAL_SILENT_TOKENS = frozenset({1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323})
"""Silence and breath of the official tokenizer (6561 tokens). Source: the CosyVoice 3 reference"""

_OFFICIAL_NUM_TOKENS = 6561
_LONGEST_SILENCE = 5
_FIRST_HOP, _LONGEST_HOP = 25, 100
_SLICE = 25
"""Tokens that a request may draw in one turn."""

_LOOP_TOKENS, _LOOP_PERIOD, _LOOP_DISTINCT = 75, 15, 3
"""The model is lost when three seconds repeat one short pattern, or hold hardly any different tokens."""

_KEPT_PROMPT_BYTES = 256 * 2**20
"""A voice's worked-through prompt is kept between sentences up to this size."""


@dataclass(frozen=True)
class LengthRule:
    """How many speech tokens a number of text tokens may take: the model must not stop early or run on."""

    min_ratio: float
    max_ratio: float
    extra: int

    def limits(self, num_text: int) -> tuple[int, int]:
        return int(self.min_ratio * num_text), int(self.max_ratio * num_text) + self.extra


LENGTH_RULES = {
    "text": LengthRule(2.0, 20.0, 0),  # the reference's rule, for BPE tokens
    "phones": LengthRule(0.6, 6.0, 12),  # a phone takes about two tokens; spaces and marks count as text, too
}


class PreparedVoice:
    """A voice on the model's device, with the part of the work that is the same for all its sentences."""

    def __init__(self, model: CosyVoice, voice: Voice, prompt_text_token: list[int]) -> None:
        """prompt_text_token: the transcript of the prompt, without the prefix"""
        device = model.lm.device
        self.speaker_embedding = voice.speaker_embedding[None].to(device)
        self.prompt_token = _row(voice.prompt_token, device)
        self.prompt_mel = None if voice.prompt_mel is None else voice.prompt_mel[None].to(device)
        # the LM continues a clip only when it knows what was said in it
        self.prompt_text_token = prompt_text_token if self.prompt_token is not None else []
        self._model = model
        self._prompt_stream: FlowStream | None = None

    def lm_prompt(self) -> Tensor:
        """Speech tokens that the LM continues. Shapes: (S,), empty without a transcript"""
        if self.prompt_token is None or not self.prompt_text_token:
            return torch.zeros(0, dtype=torch.int64, device=self.speaker_embedding.device)
        return self.prompt_token[0]

    def flow_stream(self) -> FlowStream:
        """A stream that has the prompt behind it."""
        if self._prompt_stream is not None:
            return self._prompt_stream.fork()
        stream = FlowStream(self._model.flow, self.prompt_token, self.prompt_mel, self.speaker_embedding)
        if stream.cache_bytes > _KEPT_PROMPT_BYTES:
            return stream
        self._prompt_stream = stream
        return stream.fork()


def _row(token: Tensor | None, device: torch.device) -> Tensor | None:
    return None if token is None else token[None].to(device=device, dtype=torch.int64)


def silent_tokens(model: CosyVoice) -> frozenset[int]:
    """Name the tokens of silence: those of the manifest (`training.silent_tokens`), else the official tokenizer's."""
    named = model.manifest.training.get("silent_tokens")
    if named is not None:
        return frozenset(int(token) for token in named)
    is_official = model.config.lm.speech_token_size == _OFFICIAL_NUM_TOKENS
    return OFFICIAL_SILENT_TOKENS if is_official else frozenset()


def speech_tokens(
    model: CosyVoice,
    voice: PreparedVoice,
    prefix: list[int],
    text: list[int],
    *,
    sampling: SamplingConfig,
    length_rule: LengthRule,
    generator: torch.Generator,
    continue_prompt: bool = True,
) -> Iterator[int]:
    """Speak one sentence as speech tokens.

    With a transcribed prompt the LM continues it; without, or with continue_prompt False, it starts afresh after the
    prefix and only the flow hears the prompt.
    """
    min_len, max_len = length_rule.limits(len(text))
    continues = continue_prompt and len(voice.prompt_text_token) > 0
    prompt_text = prefix + (voice.prompt_text_token if continues else [])
    prompt_speech = voice.lm_prompt()
    return generate(
        model.lm,
        torch.tensor(text, dtype=torch.int64),
        torch.tensor(prompt_text, dtype=torch.int64),
        prompt_speech if continues else prompt_speech[:0],
        sampling=sampling,
        min_len=min_len,
        max_len=max_len,
        generator=generator,
    )


def until_lost(tokens: Iterable[int], label: str = "") -> Iterator[int]:
    """End a sentence in which the model loops; the log says so."""
    recent: list[int] = []
    for token in tokens:
        recent = [*recent[-_LOOP_TOKENS + 1 :], token]
        if len(recent) == _LOOP_TOKENS and _is_loop(recent):
            logger.warning("request %s: the model repeats itself, the sentence is ended", label)
            return
        yield token


def _is_loop(recent: list[int]) -> bool:
    if len(set(recent)) <= _LOOP_DISTINCT:
        return True
    return any(recent[period:] == recent[:-period] for period in range(1, _LOOP_PERIOD + 1))


def without_long_silence(tokens: Iterable[int], silent: frozenset[int]) -> Iterator[int]:
    """Drop silent tokens after five in a row; the LM has seen them, the flow does not."""
    run = 0
    for token in tokens:
        run = run + 1 if token in silent else 0
        if run <= _LONGEST_SILENCE:
            yield token


def stream_samples(
    model: CosyVoice, voice: PreparedVoice, tokens: Iterable[int], sequence: Sequence
) -> Iterator[Samples]:
    """Turn tokens into samples while they come; a piece may be empty.

    The first chunk waits for one block of the flow, each next one for twice as many tokens up to a hundred, whatever an
    earlier request did.
    """
    with sequence.measured("flow"):
        flow = voice.flow_stream()
    vocoder = HiFTStream(model.hift)
    hop, block = _FIRST_HOP, _block_tokens(model)
    pending: list[int] = []
    wanted = flow.tokens_until_next_block
    drawn = iter(tokens)
    while part := _draw(drawn, wanted - len(pending), sequence):
        pending += part
        if len(pending) < wanted:
            yield _nothing()
            continue
        yield _push(flow, vocoder, pending, sequence, final=False)
        pending = []
        hop = min(2 * hop, _LONGEST_HOP)
        wanted = flow.tokens_until_next_block + (hop - 1) // block * block
    yield _push(flow, vocoder, pending, sequence, final=True)


def samples_at_once(
    model: CosyVoice, voice: PreparedVoice, tokens: Iterable[int], sequence: Sequence
) -> Iterator[Samples]:
    """Turn tokens into samples when all are there; the pieces before the last are empty."""
    spoken: list[int] = []
    drawn = iter(tokens)
    while part := _draw(drawn, _SLICE, sequence):
        spoken += part
        yield _nothing()
    if not spoken:
        return
    token = torch.tensor([spoken], dtype=torch.int64, device=voice.speaker_embedding.device)
    with sequence.measured("flow"):
        mel = model.flow.sample(token, voice.prompt_token, voice.prompt_mel, voice.speaker_embedding, streaming=True)
    with sequence.measured("vocoder"), torch.inference_mode():
        wav = model.hift(mel)
    yield _to_numpy(wav)


def _draw(drawn: Iterator[int], num_wanted: int, sequence: Sequence) -> list[int]:
    """Draw the next tokens, at most a turn's worth; none when the sentence has ended."""
    part = []
    with sequence.measured("lm"):
        for token in islice(drawn, min(num_wanted, _SLICE)):
            sequence.note_token()
            part.append(token)
    return part


def _push(flow: FlowStream, vocoder: HiFTStream, pending: list[int], sequence: Sequence, *, final: bool) -> Samples:
    with sequence.measured("flow"):
        mel = flow.push(torch.tensor(pending, dtype=torch.int64), final)
    with sequence.measured("vocoder"):
        return _to_numpy(vocoder.push(mel, final))


def _block_tokens(model: CosyVoice) -> int:
    return model.config.flow.chunk_frames // model.config.flow.frames_per_token


def _nothing() -> Samples:
    return np.zeros(0, dtype=np.float32)


def _to_numpy(wav: Tensor) -> Samples:
    return np.ascontiguousarray(wav[0].float().cpu().numpy())
