"""The speech tokenizer (v3): Whisper-like encoder with a memory in every attention, then finite scalar quantisation.

Parameter names are those of the public torch port of the tokenizer, so its state dicts load as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyforge.cosyvoice.config import SpeechTokenizerConfig

_FSQ_LEVELS = 3
_ROPE_THETA = 1e4
# below one, so that tanh never reaches the border between two levels from outside
_FSQ_SQUEEZE = 0.9990000128746033


class SpeechTokenizer(nn.Module):
    """Mel at 100 Hz -> speech tokens at 25 Hz, ids 0 .. 3**fsq_dim - 1.

    Source: Du et al., CosyVoice 3; Mentzer et al., Finite Scalar Quantization; Zhang et al., DFSMN for the memory
    """

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.quantizer = _Quantizer(config)

    def forward(self, mel: Tensor, mel_len: Tensor) -> tuple[Tensor, Tensor]:
        """Speech tokens of a padded batch; positions from code_len on are meaningless.

        Shapes: mel (B, n_mels, T), mel_len (B,) -> code (B, S) int64, code_len (B,)
        """
        hidden, hidden_len = self.encode_hidden(mel, mel_len)
        code, _ = self.quantize(hidden)
        return code, hidden_len

    def encode_hidden(self, mel: Tensor, mel_len: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's view before quantisation; padding of the mel has no influence on the valid part.

        Shapes: mel (B, n_mels, T), mel_len (B,) -> hidden (B, S, D), hidden_len (B,); S = T / 4, rounded up
        Raises: ValueError when the mel has another number of bins than the configuration
        """
        if mel.ndim != 3 or mel.shape[1] != self.config.n_mels:
            raise ValueError(
                f"the speech tokenizer takes mel (batch, {self.config.n_mels}, frames), got {tuple(mel.shape)}"
            )
        hidden, hidden_len = self.encoder(mel, mel_len.to(mel.device))
        return hidden, hidden_len

    def quantize(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Round to levels and number them.

        Shapes: hidden (B, S, D) -> code (B, S) int64, levels (B, S, fsq_dim) in {-1, 0, 1}
        """
        levels = self.squeezed(hidden).round()
        return self.code(levels), levels

    def quantize_ste(self, hidden: Tensor) -> Tensor:
        """Levels for training: rounded forward, the gradient passes as if they were not (straight-through estimator).

        Shapes: hidden (B, S, D) -> levels (B, S, fsq_dim) in {-1, 0, 1}
        """
        squeezed = self.squeezed(hidden)
        return squeezed + (squeezed.round() - squeezed).detach()

    def squeezed(self, hidden: Tensor) -> Tensor:
        """Projection of the hidden vectors into the open cube (-1, 1) where rounding gives the levels.

        Shapes: hidden (B, S, D) -> (B, S, fsq_dim)
        """
        return torch.tanh(self.quantizer._codebook.project_down(hidden)) * _FSQ_SQUEEZE

    def code(self, levels: Tensor) -> Tensor:
        """Number of a level vector, first dimension least significant: sum (level + 1) * 3**i.

        Shapes: levels (..., fsq_dim) in {-1, 0, 1} -> (...) int64
        """
        powers = _FSQ_LEVELS ** torch.arange(self.config.fsq_dim, device=levels.device)
        return ((levels.to(torch.int64) + 1) * powers).sum(dim=-1)

    def levels_of(self, code: Tensor) -> Tensor:
        """The way back: level vectors of speech tokens.

        Shapes: code (...) int64 -> levels (..., fsq_dim) float32 in {-1, 0, 1}
        """
        powers = _FSQ_LEVELS ** torch.arange(self.config.fsq_dim, device=code.device)
        return ((code[..., None] // powers) % _FSQ_LEVELS - 1).to(torch.float32)


class _Codebook(nn.Module):
    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.project_down = nn.Linear(config.hidden_size, config.fsq_dim)


class _Quantizer(nn.Module):
    """Holds the projection under the name it has in published state dicts."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self._codebook = _Codebook(config)


class _Encoder(nn.Module):
    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_dim = width // config.num_heads
        self.conv1 = nn.Conv1d(config.n_mels, width, 3, stride=2, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))

    def forward(self, mel: Tensor, mel_len: Tensor) -> tuple[Tensor, Tensor]:
        x, length = _strided(self.conv1, mel, mel_len)
        x, length = _strided(self.conv2, x, length)
        x = x.transpose(1, 2)  # (B, S, D)
        valid = _valid(length, x.shape[1])
        everything_valid = bool(valid.all())
        rotary = _rotary_table(x.shape[1], self.head_dim, x.device)
        for block in self.blocks:
            x = block(x, None if everything_valid else valid, rotary)
        return x, length


def _strided(conv: nn.Conv1d, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """One halving convolution on (B, C, T) whose padding is zeroed first."""
    x = x * _valid(length, x.shape[2])[:, None]
    return F.gelu(conv(x)), (length - 1) // 2 + 1


def _valid(length: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=length.device) < length[:, None]  # (B, size)


class _Block(nn.Module):
    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attn = _MemoryAttention(config)
        self.attn_ln = nn.LayerNorm(width, eps=1e-5)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp_ln = nn.LayerNorm(width, eps=1e-5)

    def forward(self, x: Tensor, valid: Tensor | None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.attn_ln(x), valid, rotary)
        x = x + self.mlp(self.mlp_ln(x))
        return x


class _MemoryAttention(nn.Module):
    """Rotary attention plus a depth-wise convolution over the values (the FSMN memory)."""

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        # an even kernel would look one step further to the right
        self.look = ((config.fsmn_kernel - 1) // 2, config.fsmn_kernel // 2)
        self.fsmn_block = nn.Conv1d(width, width, config.fsmn_kernel, groups=width, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        q: Tensor = self.query(x)  # (B, S, D)
        k: Tensor = self.key(x)
        v: Tensor = self.value(x)
        q, k, heads = _rotated(self._heads(q), rotary), _rotated(self._heads(k), rotary), self._heads(v)  # (B, N, S, H)
        mask = None if valid is None else valid[:, None, None, :]
        attended: Tensor = F.scaled_dot_product_attention(q, k, heads, attn_mask=mask)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out + self._memory(v, valid)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.num_heads, -1).transpose(1, 2)

    def _memory(self, v: Tensor, valid: Tensor | None) -> Tensor:
        if valid is not None:
            v = v * valid[..., None]
        memory: Tensor = self.fsmn_block(F.pad(v.transpose(1, 2), self.look)).transpose(1, 2) + v
        return memory if valid is None else memory * valid[..., None]


def _rotary_table(size: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (S, H) for the half-split rotation."""
    rate = _ROPE_THETA ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(size, device=device, dtype=torch.float32)[:, None] * rate
    angle = torch.cat([angle, angle], dim=1)
    return angle.cos(), angle.sin()


def _rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
