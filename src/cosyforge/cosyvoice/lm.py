"""The speech language model: text and prompt in, scores of the next speech token out; its training layout and loss.

Every sequence is `sos | instruct | text | task_id | speech`, or in bistream layout text and speech in turns of
`mix_ratio` (5 : 15), so that speaking can begin before the text is complete. Text rows come from the decoder's table;
sos, task_id and speech from `speech_embedding`. Which token is drawn is decided in `sampling.py`.

Shapes: B batch, T text tokens, I instruct tokens, S speech tokens, L positions, D width, R rows of scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosyforge.cosyvoice.config import LMConfig, SamplingConfig
from cosyforge.cosyvoice.packed import Packable
from cosyforge.cosyvoice.sampling import ras_sample
from cosyforge.cosyvoice.transformer import Cache, Decoder, KVCache

IGNORE = -1
"""Target of a position that predicts nothing."""

PADDING_VALUE = -1.0
"""What stands in the embeddings behind the end of a sequence; no real position ever sees it."""


@dataclass(frozen=True)
class LMBatch:
    """One training batch, right-padded."""

    embeds: Tensor
    """(B, L, D) input embeddings."""
    lengths: Tensor
    """(B,) int64 positions that are no padding."""
    target: Tensor
    """(B, L) int64 row each position has to predict, IGNORE where none."""
    text_index: Tensor
    """(B, L) int64 which token of the sample's own text is the input here, -1 where it is something else."""
    speech_index: Tensor
    """(B, L) int64 which of the sample's speech tokens is the input here, -1 where it is something else."""


@dataclass(frozen=True)
class LMLoss:
    loss: Tensor
    """() mean over the predicted positions of the whole batch."""
    accuracy: Tensor
    """() share of the predicted positions whose best row is the target."""
    logits: Tensor
    """(P, R) scores of the predicted positions, in the order of `target[target != IGNORE]`."""
    attention: Tensor | None
    """(B, L, L) probabilities of the head that was asked for."""


class SpeechLM(Packable):
    """Qwen2-shaped decoder with a speech embedding and a speech head; the names are those of the released weights."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = config
        # the released names nest three times; the unused text head (`llm.model.lm_head`) is left out
        self.llm = nn.ModuleDict({"model": nn.ModuleDict({"model": Decoder(config)})})
        self.llm_decoder = nn.Linear(config.hidden_size, config.num_rows, bias=False)
        self.speech_embedding = nn.Embedding(config.num_rows, config.hidden_size)
        self.apply(_initialise)

    @property
    def decoder(self) -> Decoder:
        return cast(Decoder, cast(nn.ModuleDict, self.llm["model"])["model"])

    @property
    def device(self) -> torch.device:
        return self.speech_embedding.weight.device

    def forward(
        self, embeds: Tensor, lengths: Tensor | None = None, attention_head: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Causal hidden states of whole sequences; padding on the right is never seen and comes out as zeros.

        `attention_head` = (layer, head) also gives that head's attention probabilities, differentiable: row = the
        position that looks, column = the position it looks at. Negative numbers count from the end.
        Shapes: embeds (B, L, D), lengths (B,) -> hidden (B, L, D), probabilities (B, L, L) float32 or None
        Raises: ValueError when there is no such layer or head
        """
        if attention_head is not None:
            attention_head = self._checked_head(attention_head)
        hidden, attention = self.decoder(embeds, attention_head=attention_head)
        if lengths is not None:
            padding = torch.arange(embeds.shape[1], device=embeds.device) >= lengths.to(embeds.device)[:, None]
            hidden = hidden.masked_fill(padding[:, :, None], 0.0)
            attention = None if attention is None else attention.masked_fill(padding[:, :, None], 0.0)
        return hidden, attention

    def logits(self, hidden: Tensor) -> Tensor:
        """Shapes: (…, D) -> (…, R)"""
        packed = self.packed
        scores: Tensor = self.llm_decoder(hidden) if packed is None else packed["head"](hidden)
        return scores

    def packable(self) -> Mapping[str, Sequence[nn.Linear]]:
        return {"head": (self.llm_decoder,)}

    def embed_text(self, token: Tensor) -> Tensor:
        """Shapes: (…) -> (…, D)"""
        rows: Tensor = self.decoder.embed_tokens(token)
        return rows

    def embed_speech(self, token: Tensor) -> Tensor:
        """Rows of speech tokens and of the special ids behind them.

        Shapes: (…) -> (…, D)
        """
        rows: Tensor = self.speech_embedding(token)
        return rows

    def draw_bistream(
        self,
        text_len: Tensor,
        speech_len: Tensor,
        *,
        probability: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Which samples of a batch take the bistream layout: drawn, among those with speech enough for their text.

        Shapes: text_len, speech_len (B,) -> (B,) bool
        """
        num_text, num_speech = self.config.mix_ratio
        enough = speech_len.long() * num_text > text_len.long() * num_speech
        drawn = torch.rand(text_len.shape[0], generator=generator) < probability
        return drawn.to(enough.device) & enough

    def training_batch(
        self,
        text_token: Tensor,
        text_len: Tensor,
        speech_token: Tensor,
        speech_len: Tensor,
        instruct_token: Tensor,
        instruct_len: Tensor,
        bistream: Tensor | None = None,
    ) -> LMBatch:
        """Lay padded tokens out as inputs and targets.

        `bistream` (B,) bool names the samples in bistream layout, None means none; `draw_bistream` makes one.
        Shapes: text_token (B, T), speech_token (B, S), instruct_token (B, I), *_len (B,)
        Raises: ValueError when a sample has too little speech for the bistream layout
        """
        layout = _Layout.of(self.config, text_len.long(), speech_len.long(), instruct_len.long(), bistream)
        target = torch.full_like(layout.text_index, IGNORE)
        predicts = layout.target_index >= 0
        padded = F.pad(speech_token.long(), (0, 1))  # one more column, so that the end has an index
        target[predicts] = padded.gather(1, layout.target_index.clamp(min=0))[predicts]
        target[layout.target_index == speech_len.long()[:, None]] = self.config.eos
        target[layout.is_fill] = self.config.fill
        return LMBatch(
            embeds=self._embed_layout(layout, text_token.long(), speech_token.long(), instruct_token.long()),
            lengths=layout.lengths,
            target=target,
            text_index=layout.text_index,
            speech_index=layout.speech_index,
        )

    def loss(
        self, batch: LMBatch, label_smoothing: float = 0.0, attention_head: tuple[int, int] | None = None
    ) -> LMLoss:
        """Cross entropy over the rows, summed over the batch and divided by its predicted positions."""
        hidden, attention = self(batch.embeds, batch.lengths, attention_head)
        predicts = batch.target != IGNORE
        target = batch.target[predicts]
        logits = self.logits(hidden[predicts])
        return LMLoss(
            loss=smoothed_cross_entropy(logits, target, label_smoothing),
            accuracy=(logits.detach().argmax(dim=-1) == target).float().mean(),
            logits=logits,
            attention=attention,
        )

    def new_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache with room for `max_length` positions; it grows when more come."""
        weight = self.speech_embedding.weight
        return KVCache(self.config, batch_size, max_length, dtype=weight.dtype, device=weight.device)

    @torch.inference_mode()
    def step(self, embeds: Tensor, cache: Cache) -> Tensor:
        """Append positions to the cache and score what follows the last of them.

        Shapes: embeds (B, L, D) with any L >= 1 -> log probabilities (B, R) float32
        Raises: ValueError when the batch is not the cache's, or there is no position
        """
        return self._step(embeds, cache, None)[0]

    @torch.inference_mode()
    def step_looking(self, embeds: Tensor, cache: Cache, attention_head: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The same, and where the last position looks: probabilities of one head over everything so far.

        Shapes: embeds (B, L, D) -> log probabilities (B, R), attention (B, C), both float32
        Raises: as step; ValueError when there is no such head
        """
        log_probs, attention = self._step(embeds, cache, self._checked_head(attention_head))
        assert attention is not None
        return log_probs, attention[:, -1]

    def _step(
        self, embeds: Tensor, cache: Cache, attention_head: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        if embeds.shape[0] != cache.batch_size or embeds.shape[1] == 0:
            raise ValueError(
                f"step needs embeds ({cache.batch_size}, L >= 1, {self.config.hidden_size}) for this cache, "
                f"got {tuple(embeds.shape)}"
            )
        hidden, attention = self.decoder(embeds, cache, attention_head)
        return self.logits(hidden[:, -1]).float().log_softmax(dim=-1), attention

    def _embed_layout(self, layout: _Layout, text: Tensor, speech: Tensor, instruct: Tensor) -> Tensor:
        text_id = torch.where(
            layout.text_index >= 0,
            _gather_or_zero(text, layout.text_index),
            _gather_or_zero(instruct, layout.instruct_index),
        )
        speech_id = _gather_or_zero(speech, layout.speech_index)
        speech_id[:, 0] = self.config.sos
        speech_id[layout.is_task] = self.config.task_id
        is_text = (layout.text_index >= 0) | (layout.instruct_index >= 0)
        is_speech = ~is_text & (layout.position < layout.lengths[:, None])
        embeds = self.speech_embedding.weight.new_full((*is_text.shape, self.config.hidden_size), PADDING_VALUE)
        embeds[is_text] = self.embed_text(text_id[is_text])
        embeds[is_speech] = self.embed_speech(speech_id[is_speech])
        return embeds

    def _checked_head(self, attention_head: tuple[int, int]) -> tuple[int, int]:
        layer, head = attention_head
        num_layers, num_heads = self.config.num_layers, self.config.num_heads
        if not (-num_layers <= layer < num_layers and -num_heads <= head < num_heads):
            raise ValueError(
                f"attention_head {attention_head} does not exist; this model has {num_layers} layers, {num_heads} heads"
            )
        return layer % num_layers, head % num_heads


@dataclass(frozen=True)
class _Layout:
    """What stands at every position of a batch, as indices into the samples' own tokens; all (B, L) but `lengths`."""

    position: Tensor
    lengths: Tensor
    instruct_index: Tensor
    text_index: Tensor
    speech_index: Tensor
    target_index: Tensor
    """Index of the speech token to predict; the number of speech tokens means eos; -1 where none."""
    is_task: Tensor
    is_fill: Tensor
    """Where the target is fill: the last speech token of a full turn."""

    @classmethod
    def of(
        cls, config: LMConfig, text_len: Tensor, speech_len: Tensor, instruct_len: Tensor, bistream: Tensor | None
    ) -> _Layout:
        """Both layouts are one: some full turns (none in unistream), then rest of text, task_id, rest of speech."""
        turn_text, turn_speech = config.mix_ratio
        num_turns = _full_turns(config, text_len, speech_len, bistream)[:, None]
        text_len, speech_len, instruct_len = text_len[:, None], speech_len[:, None], instruct_len[:, None]
        lengths = 2 + instruct_len + text_len + speech_len
        position = torch.arange(int(lengths.max()), device=lengths.device).expand(lengths.shape[0], -1)

        body = position - 1 - instruct_len  # counts from the first text token
        turn, place = body.div(turn_text + turn_speech, rounding_mode="floor"), body % (turn_text + turn_speech)
        in_turns = (body >= 0) & (turn < num_turns)
        rest_text = text_len - num_turns * turn_text
        rest = body - num_turns * (turn_text + turn_speech)  # counts from the first position after the full turns
        after = (rest >= 0) & (position < lengths)

        none = torch.full_like(position, -1)
        text_in_turn = torch.where(in_turns & (place < turn_text), turn * turn_text + place, none)
        speech_in_turn = torch.where(in_turns & (place >= turn_text), turn * turn_speech + place - turn_text, none)
        # a position predicts the speech token that comes one place later
        target_in_turn = torch.where(
            in_turns & (place >= turn_text - 1) & (place < turn_text + turn_speech - 1),
            turn * turn_speech + place - (turn_text - 1),
            none,
        )
        target_after = num_turns * turn_speech + rest - rest_text
        return cls(
            position=position,
            lengths=lengths[:, 0],
            instruct_index=torch.where((position >= 1) & (body < 0), position - 1, none),
            text_index=torch.where(after & (rest < rest_text), num_turns * turn_text + rest, text_in_turn),
            speech_index=torch.where(after & (rest > rest_text), target_after - 1, speech_in_turn),
            target_index=torch.where(after & (rest >= rest_text), target_after, target_in_turn),
            is_task=after & (rest == rest_text),
            is_fill=in_turns & (place == turn_text + turn_speech - 1),
        )


def _full_turns(config: LMConfig, text_len: Tensor, speech_len: Tensor, bistream: Tensor | None) -> Tensor:
    """How many full turns of text and speech each sample has before its rest; zero in unistream layout."""
    if bistream is None:
        return torch.zeros_like(text_len)
    turn_text, turn_speech = config.mix_ratio
    # the last group is never full: five text tokens are one full turn and an empty rest
    turns = (text_len + 1 + turn_text - 1).div(turn_text, rounding_mode="floor") - 1
    turns = torch.where(bistream.to(text_len.device), turns, torch.zeros_like(turns))
    short = (turns * turn_speech > speech_len).nonzero()
    if len(short):
        index = int(short[0, 0])
        raise ValueError(
            f"sample {index} of the batch: {int(text_len[index])} text tokens need at least "
            f"{int(turns[index]) * turn_speech} speech tokens in bistream layout, it has {int(speech_len[index])}; "
            "choose the samples with draw_bistream"
        )
    return turns


def _gather_or_zero(token: Tensor, index: Tensor) -> Tensor:
    """Shapes: token (B, T), index (B, L) with -1 for none -> (B, L)"""
    if token.shape[1] == 0:
        return torch.zeros_like(index)
    return token.gather(1, index.clamp(min=0))


def smoothed_cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Kullback-Leibler divergence from the smoothed target to the scores, mean over the positions.

    The target row gets 1 - smoothing, every other row an equal part of the rest; without smoothing it is cross entropy.
    Shapes: logits (P, R), target (P,) -> ()
    """
    log_probs = logits.float().log_softmax(dim=-1)
    on_target = log_probs.gather(-1, target[:, None]).squeeze(-1)
    if smoothing == 0.0:
        return -on_target.mean()
    share = smoothing / (logits.shape[-1] - 1)
    elsewhere = log_probs.sum(dim=-1) - on_target
    negative_entropy = (1 - smoothing) * math.log(1 - smoothing) + smoothing * math.log(share)
    return (negative_entropy - (1 - smoothing) * on_target - share * elsewhere).mean()


def _initialise(module: nn.Module) -> None:
    """Normal with 0.02, the Qwen2 default; norms keep their ones."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.inference_mode()
def generate(
    lm: SpeechLM,
    text_token: Tensor,
    prompt_text_token: Tensor,
    prompt_speech_token: Tensor,
    *,
    sampling: SamplingConfig,
    min_len: int,
    max_len: int,
    generator: torch.Generator | None = None,
    reference_min_len_fault: bool = False,
) -> Iterator[int]:
    """Speak a complete text: yield its speech tokens one by one, never a stop id.

    No stop id can be drawn before `min_len` tokens. `reference_min_len_fault` does what the public reference does
    instead - it masks the sos row, so that the minimum has no effect - and is only for comparison with it.
    Shapes: text_token (T,), prompt_text_token (T',) (instruct, end of prompt, transcript), prompt_speech_token (S',)
    """
    text, prompt_text, prompt_speech = _ids(text_token), _ids(prompt_text_token), _ids(prompt_speech_token)
    decoding = _Decoding(lm, sampling, generator, 2 + len(prompt_text) + len(text) + len(prompt_speech) + max_len)
    decoding.feed_speech([lm.config.sos])
    decoding.feed_text(prompt_text + text)
    decoding.feed_speech([lm.config.task_id, *prompt_speech])
    below_minimum = slice(lm.config.sos, lm.config.sos + 1) if reference_min_len_fault else decoding.stop_rows
    yield from decoding.finish(min_len, max_len, below_minimum)


@torch.inference_mode()
def generate_bistream(
    lm: SpeechLM,
    text_pieces: Iterable[Tensor],
    prompt_text_token: Tensor,
    prompt_speech_token: Tensor,
    *,
    endofprompt_id: int,
    sampling: SamplingConfig,
    min_ratio: float = 2.0,
    max_ratio: float = 20.0,
    generator: torch.Generator | None = None,
    reference_repeat_fault: bool = False,
) -> Iterator[int]:
    """Speak a text while it arrives: yield its speech tokens one by one, never fill or a stop id.

    Exactly the layout of training: after the instruct, turns of 5 text and 15 speech tokens, the speech taken from the
    prompt as long as there is any; then, the text being complete, its rest, task_id, and speech to the end. Between the
    turns nothing is drawn: fill is what the model must say there, and the next turn waits for its text. The number of
    speech tokens lies between `min_ratio` and `max_ratio` times the text tokens that came in pieces.
    `reference_repeat_fault` feeds the last speech token twice before the rest of the text, as the public reference
    does, and is only for comparison with it.
    Shapes: text_pieces each (t,), prompt_text_token (T',) (instruct, end of prompt, transcript),
        prompt_speech_token (S',)
    Raises: ValueError when the prompt text does not contain `endofprompt_id`
    """
    num_text, num_speech = lm.config.mix_ratio
    instruct, waiting = _split_prompt(_ids(prompt_text_token), endofprompt_id)
    prompt_speech = _ids(prompt_speech_token)
    decoding = _Decoding(lm, sampling, generator, 256)
    decoding.feed_speech([lm.config.sos])
    decoding.feed_text(instruct)
    num_spoken_text = 0
    for piece in text_pieces:
        waiting += _ids(piece)
        num_spoken_text += piece.shape[0]
        while len(waiting) >= num_text:
            decoding.feed_text(waiting[:num_text])
            decoding.feed_speech(prompt_speech[:num_speech])
            to_say = num_speech - len(prompt_speech[:num_speech])
            waiting, prompt_speech = waiting[num_text:], prompt_speech[num_speech:]
            yield from decoding.turn(to_say)
    if reference_repeat_fault:
        decoding.feed_speech(decoding.history[-1:])
    decoding.feed_text(waiting)
    decoding.feed_speech([lm.config.task_id, *prompt_speech])
    min_len, max_len = int(min_ratio * num_spoken_text), int(max_ratio * num_spoken_text)
    yield from decoding.finish(min_len, max_len, decoding.stop_rows)


class _Decoding:
    """One sequence on its way: what was fed but not yet computed, the cache behind it, the tokens said so far."""

    def __init__(
        self, lm: SpeechLM, sampling: SamplingConfig, generator: torch.Generator | None, capacity: int
    ) -> None:
        self.stop_rows = slice(lm.config.speech_token_size, None)
        self.history: list[int] = []
        self._lm = lm
        self._sampling = sampling
        self._generator = generator
        self._cache = lm.new_cache(1, capacity)
        self._pending: list[Tensor] = []

    def feed_text(self, token: list[int]) -> None:
        self._pending.append(self._lm.embed_text(self._row(token)))

    def feed_speech(self, token: list[int]) -> None:
        self._pending.append(self._lm.embed_speech(self._row(token)))

    def turn(self, num_tokens: int) -> Iterator[int]:
        """Say exactly that many tokens, and take the last one in while the next text is awaited."""
        for _ in range(num_tokens):
            yield self._draw(self.stop_rows)
        if num_tokens:
            self._advance()

    def finish(self, min_len: int, max_len: int, below_minimum: slice) -> Iterator[int]:
        """Speak until a stop id or `max_len` tokens in all; until `min_len` the rows `below_minimum` are forbidden."""
        while len(self.history) < max_len:
            token = self._draw(below_minimum if len(self.history) < min_len else None)
            if token >= self.stop_rows.start:
                return
            yield token

    def _draw(self, forbidden: slice | None) -> int:
        log_probs = self._advance()
        if forbidden is not None:
            log_probs[forbidden] = float("-inf")
        token = ras_sample(log_probs, self.history, self._sampling, self._generator)
        if token < self.stop_rows.start:
            self.history.append(token)
            self.feed_speech([token])
        return token

    def _advance(self) -> Tensor:
        """Shapes: -> (R,) log probabilities of what follows everything fed so far"""
        embeds = torch.cat(self._pending, dim=1)
        self._pending = []
        return self._lm.step(embeds, self._cache)[0]

    def _row(self, token: list[int]) -> Tensor:
        return torch.tensor([token], dtype=torch.int64, device=self._lm.device)


def _ids(token: Tensor) -> list[int]:
    if token.dim() != 1:
        raise ValueError(f"token sequences must have one dimension, got shape {tuple(token.shape)}")
    ids: list[int] = token.tolist()
    return ids


def _split_prompt(prompt_text: list[int], endofprompt_id: int) -> tuple[list[int], list[int]]:
    """-> instruct with the end-of-prompt token, transcript of the prompt"""
    if endofprompt_id not in prompt_text:
        raise ValueError(
            f"the prompt text must contain the end-of-prompt token {endofprompt_id}; put the instruct text before it"
        )
    end = prompt_text.index(endofprompt_id) + 1
    return prompt_text[:end], prompt_text[end:]
