"""Several ways to go on speaking, drawn side by side, so that the best of them can be taken.

A step of a small network costs little more for six rows than for one. All rows read the same text; each has its own
random numbers. `choose` lets one row's tokens stand: it is what every row goes on from.

Shapes: B rows, T text tokens, C positions in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cosyforge.cosyvoice.config import SamplingConfig
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.sampling import ras_sample_rows
from cosyforge.cosyvoice.transformer import Branches, Cache

REACH_BACK, REACH_AHEAD = 4, 5
"""Text tokens that the alignment head of a row which is held to its place may see behind and ahead of it: less than a word is
skipped or said again. Always held, 40 sentences of some 20 words are understood as well as otherwise (words wrong .34 and .35);
with all heads held it is .60."""


class Candidates:
    """One sentence being drawn in several rows.

    chosen: the tokens that stand; drawn: those of each row since the last choice; has_ended: the row says no more,
    has_stopped: because the model itself was done
    """

    @torch.inference_mode()
    def __init__(
        self,
        lm: SpeechLM,
        text_token: Sequence[int],
        prompt_text_token: Sequence[int],
        prompt_speech_token: Sequence[int],
        *,
        num_rows: int,
        sampling: SamplingConfig,
        min_len: int,
        max_len: int,
    ) -> None:
        """Layout and lengths as of `lm.generate`; the prompt is read once for all rows."""
        self.num_rows = num_rows
        self.num_text = len(text_token)
        self.chosen: list[int] = []
        self.drawn: list[list[int]] = []
        self.has_ended: list[bool] = []
        self.has_stopped: list[bool] = []
        self._lm = lm
        self._sampling = sampling
        self._min_len, self._max_len = min_len, max_len
        text_begin = 1 + len(prompt_text_token)
        self._text_positions = slice(text_begin, text_begin + len(text_token))
        config = lm.config
        prompt = torch.cat(
            [
                self._speech([[config.sos]]),
                lm.embed_text(self._ids([[*prompt_text_token, *text_token]])),
                self._speech([[config.task_id, *prompt_speech_token]]),
            ],
            dim=1,
        )
        cache = lm.new_cache(1, prompt.shape[1] + max_len + 1)
        log_probs, attention = self._step(prompt, cache)
        self._cache = cache.branched(num_rows)
        # what follows the last choice, one row; every attempt begins with it
        self._first = (log_probs, attention)
        self._next = self._first
        self._generators: list[torch.Generator] = []
        self._start_length = self._cache.length
        self._held_to: Tensor | None = None

    @torch.inference_mode()
    def begin(self, seeds: Sequence[int], place: int | None = None) -> None:
        """Start an attempt from the last choice: one seed for each row, what was drawn since is forgotten.

        place: the text token that was spoken last. Every row is then held to its place: the alignment head sees no more of
        the text than is near what it looked at last, and can neither jump nor lose its way. None: it sees all
        """
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._held_to = None
        if isinstance(self._cache, Branches):
            self._cache.narrow(self._text_positions, None)
            if place is not None:
                self._hold(self._cache, place)
        log_probs, attention = self._first
        self._next = log_probs.expand(self.num_rows, -1), attention.expand(self.num_rows, -1)
        self._cache.rewind(self._start_length)
        self.drawn = [[] for _ in range(self.num_rows)]
        self.has_ended = [False] * self.num_rows
        self.has_stopped = [False] * self.num_rows

    @torch.inference_mode()
    def draw(self) -> Tensor:
        """Draw one more token in every row that has not ended; -> where each row looked for it: (B, T).

        Without an alignment head the attention is all zeros.
        """
        log_probs, attention = self._next
        stops = self._lm.config.speech_token_size
        length = len(self.chosen) + max(len(row) for row in self.drawn)
        if length < self._min_len:
            log_probs = log_probs.clone()
            log_probs[:, stops:] = float("-inf")
        histories = [self._history(row) for row in range(self.num_rows)]
        tokens = ras_sample_rows(log_probs, histories, self._sampling, self._generators)
        fed = []
        for row, token in enumerate(tokens):
            if not self.has_ended[row] and token >= stops:
                self.has_ended[row] = self.has_stopped[row] = True
            if not self.has_ended[row]:
                self.drawn[row].append(token)
                self.has_ended[row] = len(self.chosen) + len(self.drawn[row]) >= self._max_len
            fed.append([min(token, stops - 1)])
        if not all(self.has_ended):
            if self._held_to is not None:
                self._show_near(attention.argmax(dim=1) if length > len(self.chosen) else self._held_to)
            self._next = self._step(self._speech(fed), self._cache)
        return attention

    def stop(self, row: int, num_tokens: int) -> None:
        """Let a row end behind so many of the tokens that were drawn in it."""
        self.drawn[row] = self.drawn[row][:num_tokens]
        self.has_ended[row] = self.has_stopped[row] = True

    @torch.inference_mode()
    def choose(self, row: int) -> list[int]:
        """Let a row's tokens stand and give them; the next attempt goes on from there."""
        tokens = self.drawn[row]
        self.chosen = [*self.chosen, *tokens]
        self._start_length += len(tokens)
        if not self.has_ended[row]:
            self._cache.keep(row, self._start_length)
            log_probs, attention = self._next
            self._first = log_probs[row : row + 1], attention[row : row + 1]
        self.drawn = []
        return tokens

    def _hold(self, cache: Branches, place: int) -> None:
        """Hold every row to a place; what the last choice looked at for the next token, it looks at again."""
        self._held_to = torch.full((self.num_rows,), place)
        if self.chosen and self._first[0].shape[0] == 1:
            # the jump may have come with the last token that stands
            cache.forget_last()
            self._show_near(self._held_to)
            self._first = self._step(self._speech([[self.chosen[-1]]] * self.num_rows), cache)

    def _show_near(self, places: Tensor) -> None:
        """Hide from each row's alignment head the text that is not within reach of its place. Shapes: places (B,)"""
        assert isinstance(self._cache, Branches)
        distance = torch.arange(self.num_text) - places[:, None]
        is_far = (distance < -REACH_BACK) | (distance > REACH_AHEAD)
        mask = torch.zeros(is_far.shape, device=self._lm.device).masked_fill(is_far.to(self._lm.device), float("-inf"))
        self._cache.narrow(self._text_positions, mask)

    def _history(self, row: int) -> list[int]:
        recent = self._sampling.window
        return [*self.chosen, *self.drawn[row]][-recent:] if recent else []

    def _step(self, embeds: Tensor, cache: Cache) -> tuple[Tensor, Tensor]:
        """Shapes: -> log probabilities (B, R), attention to the text (B, T)"""
        head = self._lm.config.alignment_head
        if head is None:
            return self._lm.step(embeds, cache), torch.zeros(embeds.shape[0], self.num_text)
        log_probs, attention = self._lm.step_looking(embeds, cache, head)
        return log_probs, attention[:, self._text_positions].cpu()

    def _speech(self, token: list[list[int]]) -> Tensor:
        return self._lm.embed_speech(self._ids(token))

    def _ids(self, token: list[list[int]]) -> Tensor:
        return torch.tensor(token, dtype=torch.int64, device=self._lm.device)
