"""The Qwen2 decoder: norm, rotary positions, grouped-query attention, SwiGLU, and the cache that makes decoding cheap.

Knows nothing of text or speech: embeddings in, hidden states out.
Shapes: B batch, L new positions, C positions in the cache, N heads, K key/value heads, H head width, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosyforge.cosyvoice.config import LMConfig
from cosyforge.cosyvoice.packed import Packable

_OWN_POSITIONS = 32
"""For so many positions behind the past branches make their mask at first."""


class KVCache:
    """Keys and values of every layer for the positions decoded so far; all rows of the batch have the same length."""

    def __init__(
        self, config: LMConfig, batch_size: int, capacity: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_layers, batch_size, config.num_kv_heads, max(capacity, 1), config.head_dim)
        self.length = 0
        self.group = config.num_heads // config.num_kv_heads
        self._key = torch.empty(shape, dtype=dtype, device=device)
        self._value = torch.empty(shape, dtype=dtype, device=device)

    @property
    def batch_size(self) -> int:
        return self._key.shape[1]

    @property
    def capacity(self) -> int:
        return self._key.shape[3]

    def scores(self, num_queries: int, num_positions: int) -> Tensor:
        """Zeros like scores of attention: the same precision, on the same device."""
        return self._key.new_zeros(num_queries, num_positions)

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

    def attend(
        self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, head: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Append, and look at everything so far.

        Shapes: query (B, N, L, H), key, value (B, K, L, H) -> (B, N, L, H), probabilities of `head` (B, L, C) or None
        """
        return attend(query, *self.append(layer_index, key, value), head)

    def advance(self, num_positions: int) -> None:
        self.length += num_positions

    def rewind(self, length: int) -> None:
        """Forget all positions but the first so many."""
        self.length = length

    def keep(self, row: int, length: int) -> None:
        """Go on from that row's first so many positions. Here there is only one row."""
        assert row == 0, "this cache has one row"
        self.rewind(length)

    def branched(self, num_rows: int) -> KVCache | Branches:
        """Several ways to go on from here; this cache belongs to them from now on.

        Raises: ValueError when there is not exactly one row
        """
        if self.batch_size != 1:
            raise ValueError(f"only a cache with one row can have branches, this one has {self.batch_size}")
        return self if num_rows == 1 else Branches(self, num_rows)

    def gather(self, first: int, stride: int, target: int, end: int) -> None:
        """Move every stride-th position from the first on to where target is, until end; the rest is forgotten."""
        for store in (self._key, self._value):
            picked = store[:, :, :, first::stride][:, :, :, : end - target]
            store[:, :, :, target:end] = picked.clone()
        self.length = end

    def _grown(self, store: Tensor, capacity: int) -> Tensor:
        shape = list(store.shape)
        shape[3] = capacity
        grown = store.new_empty(shape)
        grown[:, :, :, : self.length] = store[:, :, :, : self.length]
        return grown


class Branches:
    """A cache whose rows have one past, which is kept and read once for all; behind it each row has its own positions.

    They are stepped one position at a time. All rows' new positions stand side by side in one store of one row, and a
    mask hides from each row what belongs to the others.
    """

    def __init__(self, store: KVCache, num_rows: int) -> None:
        """store: of one row, with the past; it belongs to the branches from now on"""
        self.batch_size = num_rows
        self._store = store
        self._group = store.group
        self._num_past = store.length
        self._hidden = self._masks(0)
        self._narrowed: tuple[slice, Tensor] | None = None

    @property
    def length(self) -> int:
        """Positions that each row sees."""
        return self._num_past + self._num_own

    @property
    def _num_own(self) -> int:
        return (self._store.length - self._num_past) // self.batch_size

    def reserve(self, num_positions: int) -> None:
        self._store.reserve(num_positions * self.batch_size)
        if self._store.length + num_positions * self.batch_size > self._hidden.shape[1]:
            self._hidden = self._masks(max(2 * self._num_own, _OWN_POSITIONS))

    def advance(self, num_positions: int) -> None:
        self._store.advance(num_positions * self.batch_size)

    def rewind(self, length: int) -> None:
        """Forget all positions but the first so many."""
        assert length >= self._num_past, "the past stands"
        self._store.rewind(self._num_past + (length - self._num_past) * self.batch_size)

    def keep(self, row: int, length: int) -> None:
        """Let every row go on from that row's first so many positions."""
        self._store.gather(self._num_past + row, self.batch_size, self._num_past, length)
        self._num_past = length
        self._hidden = self._masks(0)

    def forget_last(self) -> None:
        """Take back the last position of the past, and all that the rows have of their own."""
        self._num_past -= 1
        self._store.rewind(self._num_past)
        self._hidden = self._masks(0)

    def narrow(self, positions: slice, mask: Tensor | None) -> None:
        """From now on add this to what the head that is asked for scores these past positions; -inf hides one from a row.

        All other heads see as before: a network that learnt with the whole past speaks badly without it.

        Shapes: mask (B, positions), None to take it back
        """
        self._narrowed = None if mask is None else (positions, mask)

    def attend(
        self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, head: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """As of `KVCache`, L being 1; the probabilities also have columns, all zero, for what the others look at."""
        num_rows, num_heads, num_new, head_dim = query.shape
        assert num_new == 1, "branches are stepped one position at a time"
        # the rows become positions of one sequence
        key, value = (each[0] for each in self._store.append(layer_index, key.transpose(0, 2), value.transpose(0, 2)))
        num_kv_heads, num_all, _ = key.shape
        query = query.view(num_rows, num_kv_heads, -1, head_dim).transpose(0, 1).flatten(1, 2)  # (K, B G, H)
        # written out: for so few queries this is as fast as the fused kernel, and shows what it looks at
        score = torch.baddbmm(self._hidden[:, :num_all], query, key.mT, alpha=head_dim**-0.5)  # (K, B G, C)
        if head is not None and self._narrowed is not None:
            positions, mask = self._narrowed
            by_head = score.view(num_kv_heads, num_rows, self._group, num_all)
            by_head[head // self._group, :, head % self._group, positions] += mask
        share = score.softmax(dim=-1, dtype=torch.float32)
        out = (share.to(value.dtype) @ value).view(num_kv_heads, num_rows, -1, head_dim).transpose(0, 1)
        seen = None
        if head is not None:
            seen = share.view(num_kv_heads, num_rows, self._group, num_all)[
                head // self._group, :, head % self._group, None
            ]
        return out.reshape(num_rows, num_heads, 1, head_dim), seen

    def _masks(self, num_own: int) -> Tensor:
        """What is added to the scores, -inf where a row does not see. Shapes: -> (B G, past + num_own B)"""
        own = self._store.scores(self.batch_size, self.batch_size).fill_(float("-inf")).fill_diagonal_(0.0)
        past = self._store.scores(self.batch_size, self._num_past)
        return torch.cat((past, own.repeat(1, num_own)), dim=1).repeat_interleave(self._group, dim=0)


Cache = KVCache | Branches


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
        """The sines of the first half negative, as `rotate` needs them. Shapes: -> cos, sin (end - start, H) float32"""
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
        cos, sin = angle.cos(), angle.sin()
        return torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every pair by its angle, in float32 whatever the precision of x.

    Shapes: x (B, N, L, H), cos, sin (L, H) -> (B, N, L, H)
    """
    return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)


class Attention(Packable):
    """Causal self-attention in which several query heads share one key/value head."""

    def __init__(self, config: LMConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_heads * config.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, config.num_kv_heads * config.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, config.num_kv_heads * config.head_dim)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=False)

    def packable(self) -> Mapping[str, Sequence[nn.Linear]]:
        return {"qkv": (self.q_proj, self.k_proj, self.v_proj), "o": (self.o_proj,)}

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, head: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Shapes: x (B, L, D) -> (B, L, D) and, when a head is named, its probabilities (B, L, C)"""
        packed = self.packed
        if packed is None:
            query = rotate(self._split(self.q_proj(x), self.num_heads), cos, sin)
            key = rotate(self._split(self.k_proj(x), self.num_kv_heads), cos, sin)
            value = self._split(self.v_proj(x), self.num_kv_heads)
        else:
            num_turned = self.num_heads + self.num_kv_heads
            mixed = self._split(packed["qkv"](x), num_turned + self.num_kv_heads)
            turned, value = rotate(mixed[:, :num_turned], cos, sin), mixed[:, num_turned:]
            query, key = turned[:, : self.num_heads], turned[:, self.num_heads :]
        if cache is None:
            out, probabilities = attend(query, key, value, head)
        else:
            out, probabilities = cache.attend(self.layer_index, query, key, value, head)
        out = out.transpose(1, 2).flatten(2)
        return self.o_proj(out) if packed is None else packed["o"](out), probabilities

    def _split(self, x: Tensor, num_heads: int) -> Tensor:
        return x.view(*x.shape[:2], num_heads, self.head_dim).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, head: int | None) -> tuple[Tensor, Tensor | None]:
    """Causal attention: the queries are the last L of the C positions; each sees itself and what came before.

    The attention of one query head, if asked for, is written out: the fused kernel does not show it.

    Shapes: query (B, N, L, H), key, value (B, K, C, H) -> (B, N, L, H), probabilities (B, L, C) float32 or None
    """
    num_new, num_all = query.shape[2], key.shape[2]
    is_causal = num_new == num_all
    visible: Tensor | None = None
    if num_new > 1 and not is_causal:
        visible = torch.ones(num_new, num_all, dtype=torch.bool, device=query.device).tril(num_all - num_new)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, is_causal=is_causal, enable_gqa=True)
    return out, None if head is None else _head_probabilities(query, key, head)


def _head_probabilities(query: Tensor, key: Tensor, head: int) -> Tensor:
    kv_head = head // (query.shape[1] // key.shape[1])
    score = query[:, head] @ key[:, kv_head].mT * query.shape[-1] ** -0.5  # (B, L, C)
    num_new, num_all = score.shape[-2:]
    future = torch.ones(num_new, num_all, dtype=torch.bool, device=score.device).triu(1 + num_all - num_new)
    probabilities: Tensor = score.float().masked_fill(future, float("-inf")).softmax(dim=-1)
    return probabilities


class MLP(Packable):
    """SwiGLU."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def packable(self) -> Mapping[str, Sequence[nn.Linear]]:
        return {"gate_up": (self.gate_proj, self.up_proj), "down": (self.down_proj,)}

    def forward(self, x: Tensor) -> Tensor:
        packed = self.packed
        if packed is not None:
            gate, up = packed["gate_up"](x).chunk(2, dim=-1)
            return packed["down"](F.silu(gate).mul_(up))
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
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, head: int | None
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
        self, embeds: Tensor, cache: Cache | None = None, attention_head: tuple[int, int] | None = None
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
