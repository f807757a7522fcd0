"""From text tokens to samples: language model, flow and vocoder in line, for one sentence.

Samples come in chunks that grow from one second to four, and the iterator stops after every slice of work, so that
requests can take turns. Speech that is not streamed goes the same way, so its samples are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cosyforge.cosyvoice.candidates import Candidates
from cosyforge.cosyvoice.flow_stream import FlowStream
from cosyforge.cosyvoice.hift import HiFTStream
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.synthesis.reading import NUM_ROWS
from cosyforge.synthesis.sequence import Sequence

Samples = npt.NDArray[np.float32]

OFFICIAL_SILENT_TOKENS = frozenset({1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323})
"""Silence and breath of the official tokenizer (6561 tokens). Source: the CosyVoice 3 reference"""

_OFFICIAL_NUM_TOKENS = 6561
_TOKENS_PER_S = 25
_FIRST_HOP, _LONGEST_HOP = 25, 100
_VOCODER_FRAMES = 100
"""Frames (two seconds) between two looks at whether anybody still listens."""

_SLICE = 25
"""Tokens that a request may draw in one turn."""

_KEPT_PROMPT_BYTES = 256 * 2**20
"""A voice's worked-through prompt is kept between sentences up to this size."""


@dataclass(frozen=True)
class LengthRule:
    """How many speech tokens a number of text tokens may take: the model must not stop early or run on.

    plausible_ratio: a sentence that takes more is suspicious and drawn again
    """

    min_ratio: float
    max_ratio: float
    extra: int
    plausible_ratio: float

    def limits(self, num_text: int) -> tuple[int, int]:
        return int(self.min_ratio * num_text), int(self.max_ratio * num_text) + self.extra

    def plausible(self, num_text: int) -> int:
        return int(self.plausible_ratio * num_text) + _TOKENS_PER_S


LENGTH_RULES = {
    "text": LengthRule(2.0, 20.0, 0, 15.0),  # the reference's rule, for BPE tokens
    "phones": LengthRule(0.6, 6.0, 12, 4.0),  # a phone takes about two tokens; spaces and marks count as text, too
    # an initial and a final take about six tokens, a final alone (èr) not much less
    "pinyin": LengthRule(0.6, 9.0, 12, 6.0),
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


def candidates_for(
    model: CosyVoice,
    voice: PreparedVoice,
    prefix: list[int],
    text: list[int],
    *,
    length_rule: LengthRule,
    continue_prompt: bool = True,
) -> Candidates:
    """Make ready to speak one sentence as speech tokens.

    With a transcribed prompt the LM continues it; without, or with continue_prompt False, it starts afresh after the
    prefix and only the flow hears the prompt.
    """
    min_len, max_len = length_rule.limits(len(text))
    continues = continue_prompt and len(voice.prompt_text_token) > 0
    return Candidates(
        model.lm,
        text,
        prefix + (voice.prompt_text_token if continues else []),
        voice.lm_prompt().tolist() if continues else [],
        num_rows=1 if model.config.lm.alignment_head is None else NUM_ROWS,
        sampling=model.sampling,
        min_len=min_len,
        max_len=max_len,
    )


def stream_samples(
    model: CosyVoice,
    voice: PreparedVoice,
    tokens: Iterable[int],
    sequence: Sequence,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Samples]:
    """Turn tokens into samples while they come; a piece may be empty. What on_step raises ends the work.

    The first chunk waits for one block of the flow, each next one for twice as many tokens up to a hundred, whatever an
    earlier request did.
    """
    with sequence.measured("flow"):
        flow = voice.flow_stream()
        flow.melody_range = sequence.request.melody_range
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
        yield _push(flow, vocoder, pending, sequence, on_step, final=False)
        pending = []
        hop = min(2 * hop, _LONGEST_HOP)
        wanted = flow.tokens_until_next_block + (hop - 1) // block * block
    yield _push(flow, vocoder, pending, sequence, on_step, final=True)


def _draw(drawn: Iterator[int], num_wanted: int, sequence: Sequence) -> list[int]:
    """Draw the next tokens, at most a turn's worth; none when the sentence has ended."""
    part = []
    with sequence.measured("lm"):
        for token in islice(drawn, min(num_wanted, _SLICE)):
            sequence.note_token()
            part.append(token)
    return part


def _push(
    flow: FlowStream,
    vocoder: HiFTStream,
    pending: list[int],
    sequence: Sequence,
    on_step: Callable[[], None],
    *,
    final: bool,
) -> Samples:
    with sequence.measured("flow"):
        mel = flow.push(torch.tensor(pending, dtype=torch.int64), final, on_step=on_step)
    with sequence.measured("vocoder"):
        pieces = []
        for start in range(0, max(1, mel.shape[2]), _VOCODER_FRAMES):
            on_step()
            is_last = start + _VOCODER_FRAMES >= mel.shape[2]
            pieces.append(vocoder.push(mel[:, :, start : start + _VOCODER_FRAMES], final and is_last))
        return _to_numpy(torch.cat(pieces, dim=1))


def _block_tokens(model: CosyVoice) -> int:
    return model.config.flow.chunk_frames // model.config.flow.frames_per_token


def _nothing() -> Samples:
    return np.zeros(0, dtype=np.float32)


def _to_numpy(wav: Tensor) -> Samples:
    return np.ascontiguousarray(wav[0].float().cpu().numpy())
