"""The velocity estimator of the flow: a diffusion transformer over mel frames, causal enough to be run block by block.

It knows one evaluation of the velocity and the state that lets the next block of frames go on from there. It knows
nothing of speech tokens, noise, Euler steps or guidance: those are `flow.py`.

Module names are the official checkpoint's names. Shapes: B batch, F frames, M mel bins, D width, N heads, H head width.
Source: Peebles and Xie, Scalable Diffusion Models with Transformers (AdaLN-Zero); F5-TTS (input and position embedding)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyforge.cosyvoice.config import FlowConfig
from cosyforge.cosyvoice.packed import Packable

TIME_FEATURES = 256
TIME_SCALE = 1000.0
LAYER_NORM_EPS = 1e-6
ROTARY_THETA = 1e4
PLAIN_ATTENTION_FRAMES = 1500
"""Longer sequences keep to the kernel that never holds all scores."""

Rotary = tuple[Tensor, Tensor]
"""cos and sin, (F, H / 2) each, float32."""


@dataclass(frozen=True)
class Modulation:
    """Every scale, shift and gate of one evaluation; depends on the time alone, so a sampler makes all steps' at once.

    Shapes: blocks: depth of (R, 6, 1, D); final (R, 2, 1, D); R rows are either the batch or the steps
    """

    blocks: tuple[Tensor, ...]
    final: Tensor

    def row(self, index: int) -> Modulation:
        """The modulation of one row, kept as a batch of one that broadcasts."""
        return Modulation(tuple(block[index : index + 1] for block in self.blocks), self.final[index : index + 1])


class KeyValueBuffer:
    """Keys and values of the frames so far; forks share memory until one of them grows."""

    def __init__(self, storage: Tensor | None = None, length: int = 0, is_shared: bool = False) -> None:
        self._storage = storage  # (2, B, N, capacity, H)
        self.length = length
        self._is_shared = is_shared

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add new frames behind the old ones and give back all.

        Shapes: key, value (B, N, f, H) -> (B, N, length, H) twice
        """
        end = self.length + key.shape[2]
        if self._storage is None or self._is_shared or end > self._storage.shape[3]:
            self._grow(key, end)
        assert self._storage is not None
        self._storage[0, :, :, self.length : end] = key
        self._storage[1, :, :, self.length : end] = value
        self.length = end
        return self._storage[0, :, :, :end], self._storage[1, :, :, :end]

    def _grow(self, like: Tensor, needed: int) -> None:
        batch, heads, _, width = like.shape
        # half as much again: copying stays linear in the length, waste stays below a third
        storage = like.new_empty(2, batch, heads, max(needed, needed * 3 // 2), width)
        if self._storage is not None:
            storage[:, :, :, : self.length] = self._storage[:, :, :, : self.length]
        self._storage, self._is_shared = storage, False

    def fork(self) -> KeyValueBuffer:
        """A second buffer with the same past; costs nothing until either side appends."""
        self._is_shared = True
        return KeyValueBuffer(self._storage, self.length, is_shared=True)

    @property
    def num_bytes(self) -> int:
        return 0 if self._storage is None else self._storage.nbytes


@dataclass
class DiTState:
    """What the estimator remembers of finished frames, for one Euler step.

    Shapes: conv1, conv2 (B, D, kernel - 1): the last inputs of the position convolutions; blocks: one buffer per layer
    """

    conv1: Tensor
    conv2: Tensor
    blocks: list[KeyValueBuffer]

    @property
    def num_frames(self) -> int:
        return self.blocks[0].length

    def fork(self) -> DiTState:
        # the convolution contexts are replaced, never written into, so they can be shared
        return DiTState(self.conv1, self.conv2, [block.fork() for block in self.blocks])


class TimeEmbedding(nn.Module):
    """Sinusoids of the time through two linear layers: (B,) in 0..1 -> (B, D)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(TIME_FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        half = TIME_FEATURES // 2
        index = torch.arange(half, device=t.device, dtype=torch.float32)
        frequency = torch.exp(index * -(math.log(1e4) / (half - 1)))
        angle = TIME_SCALE * t.float()[:, None] * frequency[None, :]  # (B, 128)
        embedded: Tensor = self.time_mlp(torch.cat((angle.sin(), angle.cos()), dim=-1))
        return embedded


class CausalConvPosition(nn.Module):
    """Two grouped convolutions that look back only; they tell a frame where it stands among its neighbours."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.context = kernel - 1
        self.conv1 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=groups), nn.Mish())
        self.conv2 = nn.Sequential(nn.Conv1d(dim, dim, kernel, groups=groups), nn.Mish())

    def forward(self, x: Tensor, state: DiTState | None = None) -> Tensor:
        """(B, F, D) -> (B, F, D); with a state, x goes on where the state ends and the state moves along."""
        x = x.transpose(1, 2)
        first = F.pad(x, (self.context, 0)) if state is None else torch.cat((state.conv1, x), dim=2)
        hidden = self.conv1(first)
        second = F.pad(hidden, (self.context, 0)) if state is None else torch.cat((state.conv2, hidden), dim=2)
        if state is not None:
            # clone: a view would keep the whole block alive
            state.conv1 = first[:, :, first.shape[2] - self.context :].clone()
            state.conv2 = second[:, :, second.shape[2] - self.context :].clone()
        out: Tensor = self.conv2(second)
        return out.transpose(1, 2)


class InputEmbedding(nn.Module):
    """Noisy mel, condition, mu and speaker of every frame -> width D, plus the convolutional position."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(4 * config.mel_bins, config.dim)
        self.conv_pos_embed = CausalConvPosition(config.dim, config.conv_pos_kernel, config.conv_pos_groups)

    def forward(self, x: Tensor, cond: Tensor, mu: Tensor, speaker: Tensor, state: DiTState | None = None) -> Tensor:
        """x, cond, mu (B, M, F), speaker (B, M) -> (B, F, D)"""
        speaker = speaker[:, :, None].expand(-1, -1, x.shape[2])
        hidden = self.proj(torch.cat((x, cond, mu, speaker), dim=1).transpose(1, 2))
        embedded: Tensor = hidden + self.conv_pos_embed(hidden, state)
        return embedded


class RotaryEmbedding(nn.Module):
    """Angles of the rotary position; the frequencies are a stored buffer because the checkpoint carries them."""

    inv_freq: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponent = torch.arange(0, head_dim, 2).float() / head_dim
        self.register_buffer("inv_freq", 1.0 / ROTARY_THETA**exponent)

    def forward(self, num_frames: int, first_frame: int = 0) -> Rotary:
        position = torch.arange(first_frame, first_frame + num_frames, device=self.inv_freq.device)
        angle = position.float()[:, None] * self.inv_freq.float()[None, :]  # (F, H / 2)
        return angle.cos(), angle.sin()


def rotate_first_head(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn the channel pairs (2i, 2i + 1) of head 0 and leave the other heads alone.

    The released weights were trained like this (the rotation is applied before the split into heads, with a table
    one head wide), so all heads but the first know positions only through the convolutions.

    Shapes: (B, F, N * H) -> the same
    """
    cos, sin = rotary
    width = 2 * cos.shape[-1]
    # one split, not two slices: its gradient is one concatenation
    first, others = torch.split(x, [width, x.shape[-1] - width], dim=-1)
    even, odd = first.reshape(*first.shape[:-1], -1, 2).unbind(-1)  # (B, F, H / 2) each
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((turned.to(x.dtype), others), dim=-1)


def rotate_in_place(x: Tensor, rotary: Rotary) -> None:
    """The same for one head alone, as a product of complex numbers.

    Shapes: (B, F, n, H)
    """
    cos, sin = rotary
    torch.view_as_complex(x.view(*x.shape[:-1], -1, 2)).mul_(torch.complex(cos, sin)[:, None])


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention: query (B, N, F, H), key and value (B, N, K, H), mask True = visible."""
    is_bf16_training = query.dtype == torch.bfloat16 and query.requires_grad
    if is_bf16_training and query.device.type == "cpu" and key.shape[2] <= PLAIN_ATTENTION_FRAMES:
        # written out: the gradient of the library's bfloat16 kernel takes more than twice as long on CPU
        score = query @ key.mT * query.shape[-1] ** -0.5
        if mask is not None:
            score = score.masked_fill(~mask, -torch.inf)
        weight = score.softmax(-1, dtype=torch.float32).to(value.dtype)
        return torch.matmul(weight, value)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class Attention(Packable):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.num_heads = config.num_heads
        self.to_q = nn.Linear(config.dim, inner)
        self.to_k = nn.Linear(config.dim, inner)
        self.to_v = nn.Linear(config.dim, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, config.dim), nn.Dropout(config.dropout)])

    def packable(self) -> Mapping[str, Sequence[nn.Linear]]:
        out = self.to_out[0]
        assert isinstance(out, nn.Linear)
        return {"qkv": (self.to_q, self.to_k, self.to_v), "out": (out,)}

    def forward(
        self, x: Tensor, rotary: Rotary, mask: Tensor | None = None, cache: KeyValueBuffer | None = None
    ) -> Tensor:
        """(B, F, D) -> (B, F, D); with a cache the frames in it are seen as well, and x is added to it."""
        packed = self.packed
        if packed is None:
            query = self._split(rotate_first_head(self.to_q(x), rotary))  # (B, N, F, H)
            key = self._split(rotate_first_head(self.to_k(x), rotary))
            value = self._split(self.to_v(x))
        else:
            mixed = packed["qkv"](x).view(*x.shape[:2], 3, self.num_heads, -1)  # (B, F, 3, N, H)
            rotate_in_place(mixed[:, :, :2, 0], rotary)
            query, key, value = mixed.permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.append(key, value)
        out = attend(query, key, value, mask)
        merged = out.transpose(1, 2).flatten(2)  # (B, F, N * H)
        if packed is not None:
            return packed["out"](merged)
        for layer in self.to_out:
            merged = layer(merged)
        return merged

    def _split(self, x: Tensor) -> Tensor:
        batch, num_frames, _ = x.shape
        return x.reshape(batch, num_frames, self.num_heads, -1).transpose(1, 2)  # (B, N, F, H)


class AdaLayerNorm(nn.Module):
    """The linear layer from the time to `parts` vectors; zero at first, so that every block starts as identity."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, activated_time: Tensor) -> Tensor:
        """(R, D) -> (R, parts, 1, D)"""
        vectors: Tensor = self.linear(activated_time)
        return vectors.reshape(len(vectors), self.parts, 1, -1)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights of its own, then the time's scale and shift.

    Shapes: x (B, F, D), shift and scale (B or 1, 1, D) -> (B, F, D)
    """
    if len(scale) == 1 and not torch.is_grad_enabled():
        return F.layer_norm(x, x.shape[-1:], (1 + scale).flatten(), shift.flatten(), LAYER_NORM_EPS)
    return F.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS) * (1 + scale) + shift


def gelu_in_place(x: Tensor) -> Tensor:
    """GELU in its tanh form, written with the logistic function: the hyperbolic tangent takes three times as long."""
    twice = 2 * math.sqrt(2 / math.pi)
    inner = x.square().mul_(0.044715 * twice).add_(twice).mul_(x)
    return x.mul_(inner.sigmoid_())


class FeedForward(Packable):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        inner = config.dim * config.ff_mult
        widen = nn.Sequential(nn.Linear(config.dim, inner), nn.GELU(approximate="tanh"))
        self.ff = nn.Sequential(widen, nn.Dropout(config.dropout), nn.Linear(inner, config.dim))

    def packable(self) -> Mapping[str, Sequence[nn.Linear]]:
        widen, _, narrow = self.ff
        assert isinstance(widen, nn.Sequential)
        assert isinstance(widen[0], nn.Linear)
        assert isinstance(narrow, nn.Linear)
        return {"widen": (widen[0],), "narrow": (narrow,)}

    def forward(self, x: Tensor) -> Tensor:
        packed = self.packed
        if packed is not None:
            return packed["narrow"](gelu_in_place(packed["widen"](x)))
        out: Tensor = self.ff(x)
        return out


class DiTBlock(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.attn_norm = AdaLayerNorm(config.dim, 6)
        self.attn = Attention(config)
        self.ff = FeedForward(config)

    def forward(
        self, x: Tensor, modulation: Tensor, rotary: Rotary, mask: Tensor | None, cache: KeyValueBuffer | None
    ) -> Tensor:
        """x (B, F, D), modulation (B or 1, 6, 1, D) -> (B, F, D)"""
        attn_shift, attn_scale, attn_gate, ff_shift, ff_scale, ff_gate = modulation.unbind(1)
        attended: Tensor = self.attn(modulated_norm(x, attn_shift, attn_scale), rotary, mask, cache)
        x = x + attn_gate * attended
        fed: Tensor = self.ff(modulated_norm(x, ff_shift, ff_scale))
        return x + ff_gate * fed


class DiT(nn.Module):
    """Velocity of every mel frame, given the noisy frame, its condition, mu, the speaker and the time."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = TimeEmbedding(config.dim)
        self.input_embed = InputEmbedding(config)
        self.rotary_embed = RotaryEmbedding(config.head_dim)
        self.transformer_blocks = nn.ModuleList([DiTBlock(config) for _ in range(config.depth)])
        self.norm_out = AdaLayerNorm(config.dim, 2)
        self.proj_out = nn.Linear(config.dim, config.mel_bins)

    def forward(
        self, x: Tensor, mu: Tensor, t: Tensor, speaker: Tensor, cond: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The velocity of a batch of whole utterances.

        Shapes: x, mu, cond (B, M, F), t (B,), speaker (B, M), mask as `attention_mask` makes it -> (B, M, F)
        """
        return self.velocity(x, mu, speaker, cond, self.modulation(t), self.rotary_embed(x.shape[2]), mask)

    def modulation(self, t: Tensor) -> Modulation:
        """What the time does to every layer: t (R,) -> R rows."""
        activated = F.silu(self.time_embed(t))
        blocks = tuple(block.attn_norm(activated) for block in self.transformer_blocks)  # type: ignore[operator]
        return Modulation(blocks, self.norm_out(activated))

    def velocity(
        self,
        x: Tensor,
        mu: Tensor,
        speaker: Tensor,
        cond: Tensor,
        modulation: Modulation,
        rotary: Rotary,
        mask: Tensor | None = None,
        state: DiTState | None = None,
    ) -> Tensor:
        """The velocity with the time and the positions already worked out; with a state, of the frames that follow it.

        Shapes: x, mu, cond (B, M, F), speaker (B, M), modulation of B rows or one -> (B, M, F)
        """
        # float(): under autocast the residual stream would otherwise lose its small additions
        hidden = self.input_embed(x, cond, mu, speaker, state).float()
        for index, block in enumerate(self.transformer_blocks):
            cache = state.blocks[index] if state is not None else None
            hidden = block(hidden, modulation.blocks[index], rotary, mask, cache)
        scale, shift = modulation.final.unbind(1)  # this order is the reverse of the blocks'
        out: Tensor = self.proj_out(modulated_norm(hidden, shift, scale))
        return out.transpose(1, 2)

    def new_state(self, batch_size: int) -> DiTState:
        """The state before the first frame."""
        weight = self.proj_out.weight
        context = weight.new_zeros(batch_size, self.config.dim, self.config.conv_pos_kernel - 1)
        return DiTState(context, context, [KeyValueBuffer() for _ in range(self.config.depth)])


def attention_mask(
    num_frames: int,
    *,
    lengths: Tensor | None = None,
    chunk_frames: int | None = None,
    first_frame: int = 0,
    device: torch.device | None = None,
) -> Tensor | None:
    """Which key frames each query frame may see, or None when all of them: attention without a mask is faster.

    lengths hides the padding of shorter utterances. chunk_frames lets a frame see everything up to the end of its
    own block of that many frames. first_frame is the position of the first query; keys always start at 0.

    Padded query rows still see the real frames: their results are meaningless and nobody reads them.

    Shapes: lengths (B,) -> (B or 1, 1, num_frames, first_frame + num_frames), True = visible
    """
    end = first_frame + num_frames
    key = torch.arange(end, device=device)
    visible: Tensor | None = None
    if chunk_frames is not None and (first_frame // chunk_frames + 1) * chunk_frames < end:
        block_end = (key[first_frame:] // chunk_frames + 1) * chunk_frames  # (num_frames,)
        visible = (key[None, :] < block_end[:, None])[None, None]
    if lengths is not None and int(lengths.min()) < end:
        real = (key[None, :] < lengths.to(key.device)[:, None])[:, None, None, :]  # (B, 1, 1, end)
        visible = real.expand(-1, -1, num_frames, -1) if visible is None else visible & real
    return visible
