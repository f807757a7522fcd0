"""The flow's sampler while tokens arrive: an utterance in pieces, exactly as it comes out at once.

Units and source as of `flow.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cosyforge.cosyvoice.dit import attention_mask
from cosyforge.cosyvoice.flow import Flow, check_length

BLOCKS_AT_ONCE = 8
"""A stream works through more blocks than these in several goes, to bound the attention mask."""


class FlowStream:
    """Samples one utterance while its tokens arrive; the pieces equal `Flow.sample(streaming=True)` of all tokens.

    That is exact, not approximate: under the block mask no frame of a finished block of `chunk_frames` depends on
    later frames, the convolutions look back only, and the noise is fixed. So a block is sampled once, and of every
    Euler step only keys, values and the convolutions' last inputs are kept. A frame does see the rest of its own
    block: frames come out when their block is complete (blocks count from the start of the prompt) and the tokens it
    looks ahead to are there, or at the end.

    The constructor works through the prompt's finished blocks. Keep such a stream per voice and `fork()` it per
    request: forks share the prompt's memory until their first block.

    Memory: grows with the utterance, `bytes_per_frame` for each frame of prompt and speech (official network,
    guided, 10 steps, float32: 3.6 MB, or 180 MB per second), and half as much again while the buffers have room to
    grow. It ends with the 300 s of noise and is given back with the final tokens. Tokens and mel that are done are
    not kept.
    """

    @torch.no_grad()
    def __init__(
        self,
        flow: Flow,
        prompt_token: Tensor | None,
        prompt_mel: Tensor | None,
        speaker_embedding: Tensor,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        reference_last_chunk_full_mask: bool = False,
    ) -> None:
        """Arguments as of `Flow.sample`.

        reference_last_chunk_full_mask makes the last piece the way the reference does, from a whole computation
        without the block mask, which does not fit the earlier pieces. It is there to compare with stored outputs;
        it keeps all tokens.
        """
        prompt_token, prompt_mel = flow.checked_prompt(prompt_token, prompt_mel)
        self._flow = flow
        self._sampling = flow.sampling(num_steps, guidance, temperature)
        self._prompt_mel = prompt_mel
        self._speaker_embedding = speaker_embedding
        self._speaker = flow.speaker(speaker_embedding)
        self._states = [flow.estimator.new_state(self._sampling.batch_size) for _ in range(self._sampling.num_steps)]
        self._window = prompt_token  # tokens still needed: the unfinished ones and those that their mu looks back on
        self._window_start = 0
        self._num_finished = 0
        self._has_ended = False
        self._all_tokens = prompt_token if reference_last_chunk_full_mask else None
        self._num_prompt_tokens = prompt_token.shape[1]
        self._melody_range = 1.0
        self._advance(final=False)

    @property
    def melody_range(self) -> float:
        """How far the pitch moves, against what the tokens say; it counts from the next block on, and never for the prompt.

        Where the network has no bin for melody (`FlowConfig.melody_bin`) it stays as it is, whatever it is set to.
        """
        return self._melody_range

    @melody_range.setter
    def melody_range(self, factor: float) -> None:
        if not factor >= 0:
            raise ValueError(f"melody_range must be at least 0 (got {factor})")
        if self._flow.config.melody_bin is not None:
            self._melody_range = factor

    @torch.no_grad()
    def push(self, token: Tensor, final: bool, *, on_step: Callable[[], None] | None = None) -> Tensor:
        """Take the next tokens, any number of them, and give back the frames that are certain now.

        on_step is called before every Euler step; when it raises, the stream is of no use any more.

        Shapes: token (n,), n may be 0 -> (1, M, f), f may be 0
        Raises: ValueError after the end or for ids that do not exist; InvalidParameter when the utterance passes 300 s
        """
        if self._has_ended:
            raise ValueError("this stream has had its final tokens: fork a fresh one for the next utterance")
        if token.dim() != 1:
            raise ValueError(f"tokens to push must have shape (n,) (got {tuple(token.shape)})")
        token = token[None].to(self._window)
        self._flow.check_tokens(token)
        check_length((self._num_tokens + token.shape[1]) * self._flow.config.frames_per_token)
        self._window = torch.cat((self._window, token), dim=1)
        if self._all_tokens is not None:
            self._all_tokens = torch.cat((self._all_tokens, token), dim=1)
        if not final:
            return self._advance(final=False, on_step=on_step)
        mel = self._advance(final=True, on_step=on_step) if self._all_tokens is None else self._reference_rest()
        self._has_ended, self._states = True, []
        return mel

    def fork(self) -> FlowStream:
        """A stream that goes on from here on its own; neither notices the other."""
        other = copy.copy(self)  # every tensor is replaced, never written into; the states alone need care
        other._states = [state.fork() for state in self._states]
        return other

    @property
    def tokens_until_next_block(self) -> int:
        """How many tokens the next frames wait for: after exactly so many more, `push` gives out a whole block."""
        block = max(self._num_finished, self._num_prompt_tokens) // self._block_tokens
        needed = (block + 1) * self._block_tokens + self._flow.config.pre_lookahead
        return needed - self._num_tokens

    @property
    def bytes_per_frame(self) -> int:
        """Cache that each frame of prompt and speech costs."""
        config = self._flow.config
        width = config.num_heads * config.head_dim * self._speaker.element_size()
        return 2 * width * config.depth * self._sampling.num_steps * self._sampling.batch_size

    @property
    def cache_bytes(self) -> int:
        """Memory that keys and values occupy now, shared memory included."""
        return sum(block.num_bytes for state in self._states for block in state.blocks)

    @property
    def _num_tokens(self) -> int:
        return self._window_start + self._window.shape[1]

    @property
    def _block_tokens(self) -> int:
        return self._flow.config.chunk_frames // self._flow.config.frames_per_token

    def _advance(self, final: bool, on_step: Callable[[], None] | None = None) -> Tensor:
        """Sample all tokens whose blocks are complete, with final simply all: (1, M, f) without the prompt."""
        if final:
            goal = self._num_tokens
        else:
            known = max(0, self._num_tokens - self._flow.config.pre_lookahead)
            goal = known // self._block_tokens * self._block_tokens
        pieces = [self._prompt_mel[:, :, :0]]
        while self._num_finished < goal:
            end = min(goal, self._num_finished + BLOCKS_AT_ONCE * self._block_tokens)
            pieces.append(self._sample_until(end, final, on_step))
        return torch.cat(pieces, dim=2)

    def _sample_until(self, end: int, final: bool, on_step: Callable[[], None] | None) -> Tensor:
        """Sample tokens _num_finished..end, which starts on a block border, and remember them."""
        flow, per_token = self._flow, self._flow.config.frames_per_token
        first_frame, last_frame = self._num_finished * per_token, end * per_token
        num_frames = last_frame - first_frame
        mu = flow.mu_stream(
            self._window, self._num_finished - self._window_start, end - self._window_start, final=final
        )
        cond = self._prompt_mel[:, :, first_frame:last_frame]
        num_prompt = cond.shape[2]
        cond = F.pad(cond, (0, num_frames - num_prompt))
        if self._melody_range != 1.0:
            mu = mu.clone()
            mu[:, flow.config.melody_bin, num_prompt:] *= self._melody_range
        noise = flow.noise(first_frame, last_frame) * self._sampling.temperature
        mask = attention_mask(
            num_frames, chunk_frames=flow.config.chunk_frames, first_frame=first_frame, device=mu.device
        )
        mel = flow.integrate(noise, mu, self._speaker, cond, self._sampling, mask, self._states, on_step)
        self._num_finished = end
        keep_from = max(0, end - flow.pre_lookahead_layer.look_left)
        self._window = self._window[:, keep_from - self._window_start :]
        self._window_start = keep_from
        return mel[:, :, num_prompt:]

    def _reference_rest(self) -> Tensor:
        assert self._all_tokens is not None
        prompt_token, token = torch.split(
            self._all_tokens, [self._num_prompt_tokens, self._num_tokens - self._num_prompt_tokens], dim=1
        )
        mel = self._flow.sample(
            token,
            prompt_token,
            self._prompt_mel,
            self._speaker_embedding,
            num_steps=self._sampling.num_steps,
            guidance=self._sampling.guidance,
            temperature=self._sampling.temperature,
        )
        num_given_out = max(0, self._num_finished - self._num_prompt_tokens) * self._flow.config.frames_per_token
        return mel[:, :, num_given_out:]
