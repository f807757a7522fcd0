"""The Qwen2 decoder: norm, rotary positions, grouped-query attention, SwiGLU, and the cache that makes decoding cheap.

Knows nothing of text or speech: embeddings in, hidden states out.
Shapes: B batch, L new positions, C positions in the cache, N heads, K key/value heads, H head width, D width.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosyforge.cosyvoice.config import LMConfig


class KVCache:
    """Keys and values of every layer for the positions decoded so far; all rows of the batch have the same length."""

    def __init__(
        self, config: LMConfig, batch_size: int, capacity: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_layers, batch_size, config.num_kv_heads, max(capacity, 1), config.head_dim)
        self.length = 0
        self._key = torch.empty(shape, dtype=dtype, device=device)
        self._value = torch.empty(shape, dtype=dtype, device=device)

    @property
    def batch_size(self) -> int:
        return self._key.shape[1]

    @property
    def capacity(self) -> int:
        return self._key.shape[3]

    def reserve(self, num_positions: int) -> None:
        """Make room for that many more positions, at least doubling when the store is too small."""
        needed = self.length + num_positions
        if needed > self.capacity:
            capacity = max(needed, 2 * self.capacity)
            self._key = self._grown(self._key, capacity)
            self._value = self._grown(self._value, capacity)

    def append(self, layer_index: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new positions; call `advance` once all layers have done so.

        Shapes: key, value (B, K, L, H) -> all keys, all values (B, K, length + L, H), views into the store
        """
        end = self.length + key.shape[2]
        self._key[layer_index, :, :, self.length : end] = key
        self._value[layer_index, :, :, self.length : end] = value
        return self._key[layer_index, :, :, :end], self._value[layer_index, :, :, :end]

    def advance(self, num_positions: int) -> None:
        self.length += num_positions

    def widened(self, batch_size: int) -> KVCache:
        """A cache of that many rows, each a copy of the only row of this one.

        Raises: ValueError when there is not exactly one row
        """
        if self.batch_size != 1:
            raise ValueError(f"only a cache with one row can be widened, this one has {self.batch_size}")
        other = copy.copy(self)
        other._key = self._key.repeat(1, batch_size, 1, 1, 1)
        other._value = self._value.repeat(1, batch_size, 1, 1, 1)
        return other

    def take_row(self, row: int, length: int) -> None:
        """Let every row be a copy of that one, cut after so many positions."""
        if self.batch_size > 1:
            for store in (self._key, self._value):
                store[:, :, :, :length] = store[:, row : row + 1, :, :length].clone()
        self.length = length

    def _grown(self, store: Tensor, capacity: int) -> Tensor:
        shape = list(store.shape)
        shape[3] = capacity
        grown = store.new_empty(shape)
        grown[:, :, :, : self.length] = store[:, :, :, : self.length]
        return grown


class Rotary:
    """Cosines and sines of the rotary angles; the table is kept and grows with the longest position asked for.

    Not a buffer: it is no weight, and it must exist after a network was built on the meta device.
    Source: Su et al., RoFormer; the two halves of a head are the real and the imaginary parts
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        self.head_dim = head_dim
        self.theta = theta
        self._table: Tensor | None = None

    def __call__(self, start: int, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Shapes: -> cos, sin (end - start, H) float32"""
        table = self._table
        if table is None or table.shape[1] < end or table.device != device:
            # a table made in inference mode could not take part in training later
            with torch.inference_mode(False):
                table = self._table = self._build(_next_power_of_two(max(end, 256)), device)
        cos, sin = table[:, start:end]
        return cos, sin

    def _build(self, length: int, device: torch.device) -> Tensor:
        exponent = torch.arange(0, self.head_dim, 2, device=device).float() / self.head_dim
        frequency = 1.0 / (self.theta**exponent)
        angle = torch.arange(length, device=device).float()[:, None] * frequency  # (length, H / 2)
        angle = torch.cat((angle, angle), dim=-1)
        return torch.stack((angle.cos(), angle.sin()))


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every pair by its angle, in float32 whatever the precision of x.

    Shapes: x (B, N, L, H), cos, sin (L, H) -> (B, N, L, H)
    """
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention in which several query heads share one key/value head."""

    def __init__(self, config: LMConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_heads * config.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, config.num_kv_heads * config.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, config.num_kv_heads * config.head_dim)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None, head: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Shapes: x (B, L, D) -> (B, L, D) and, when a head is named, its probabilities (B, L, C)"""
        query = rotate(self._split(self.q_proj(x), self.num_heads), cos, sin)
        key = rotate(self._split(self.k_proj(x), self.num_kv_heads), cos, sin)
        value = self._split(self.v_proj(x), self.num_kv_heads)
        if cache is not None:
            key, value = cache.append(self.layer_index, key, value)
        probabilities = None if head is None else self._head_probabilities(query, key, head)
        out = _causal_attention(query, key, value)
        return self.o_proj(out.transpose(1, 2).flatten(2)), probabilities

    def _split(self, x: Tensor, num_heads: int) -> Tensor:
        return x.view(*x.shape[:2], num_heads, self.head_dim).transpose(1, 2)

    def _head_probabilities(self, query: Tensor, key: Tensor, head: int) -> Tensor:
        """The attention of one query head written out; the fused kernel does not show it."""
        kv_head = head // (self.num_heads // self.num_kv_heads)
        score = query[:, head] @ key[:, kv_head].transpose(1, 2) * self.head_dim**-0.5  # (B, L, C)
        num_new, num_all = score.shape[-2:]
        future = torch.ones(num_new, num_all, dtype=torch.bool, device=score.device).triu(1 + num_all - num_new)
        probabilities: Tensor = score.float().masked_fill(future, float("-inf")).softmax(dim=-1)
        return probabilities


def _causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The queries are the last L of the C positions; each sees itself and what came before.

    Shapes: query (B, N, L, H), key, value (B, K, C, H) -> (B, N, L, H)
    """
    num_new, num_all = query.shape[2], key.shape[2]
    if num_new == num_all:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    if num_new == 1:
        return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    visible = torch.ones(num_new, num_all, dtype=torch.bool, device=query.device).tril(num_all - num_new)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible, enable_gqa=True)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP, each added to the stream."""

    def __init__(self, config: LMConfig, layer_index: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer_index)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None, head: int | None
    ) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.self_attn(self.input_layernorm(x), cos, sin, cache, head)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), probabilities


class Decoder(nn.Module):
    """The stack with its text embedding table and final norm."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.text_vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.num_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._rotary = Rotary(config.head_dim, config.rope_theta)

    def forward(
        self, embeds: Tensor, cache: KVCache | None = None, attention_head: tuple[int, int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Hidden states after the final norm; with a cache the positions continue where it ends.

        Shapes: embeds (B, L, D) -> (B, L, D), and (B, L, C) probabilities of `attention_head` = (layer, head) or None
        """
        num_new = embeds.shape[1]
        start = 0
        if cache is not None:
            cache.reserve(num_new)
            start = cache.length
        cos, sin = self._rotary(start, start + num_new, embeds.device)
        layer_wanted, head_wanted = attention_head if attention_head is not None else (None, None)
        x, probabilities = embeds, None
        for index, layer in enumerate(self.layers):
            x, seen = layer(x, cos, sin, cache, head_wanted if index == layer_wanted else None)
            probabilities = seen if seen is not None else probabilities
        if cache is not None:
            cache.advance(num_new)
        return self.norm(x), probabilities
