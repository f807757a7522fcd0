"""Flow matching from speech tokens to mel: token side, Euler sampler and the training loss.

`flow_stream.py` is the sampler while tokens arrive.

It refuses to know where tokens come from and what becomes of the mel.

Units: tokens at 25 Hz, mel frames at 50 Hz in natural-log amplitude.
Source: Lipman et al., Flow Matching for Generative Modeling; the CosyVoice 2 and 3 reports (look-ahead, block mask)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosyforge.cosyvoice.config import FlowConfig
from cosyforge.cosyvoice.dit import DiT, DiTState, Modulation, attention_mask
from cosyforge.errors import InvalidParameter

MAX_FRAMES = 15000
"""Frames of fixed noise, prompt included: 300 s."""

NOISE_SEED = 0
COND_PROBABILITY = 0.5
MAX_COND_SHARE = 0.3
_FIRST_STEP_SHARE = 0.65
"""Of the times that are the sampler's: the sentence is decided in its first step."""


@functools.cache
def fixed_noise(mel_bins: int) -> Tensor:
    """The starting noise of every utterance, (1, M, MAX_FRAMES); one for all, so more tokens only continue the mel."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    return torch.randn(1, mel_bins, MAX_FRAMES, generator=generator)


def time_grid(num_steps: int) -> Tensor:
    """Times of the Euler steps, (num_steps + 1,) from 0 to 1, dense near 0 where the direction is decided."""
    return 1 - torch.cos(torch.linspace(0, 1, num_steps + 1) * 0.5 * math.pi)


def euler_schedule(num_steps: int) -> tuple[Tensor, Tensor]:
    """Start time and width of each step, both (num_steps,).

    The time is advanced by adding widths, as the reference does, not read from the grid: in float32 the two differ.
    """
    grid = time_grid(num_steps)
    times, widths = [], []
    t = grid[0]
    for k in range(num_steps):
        width = grid[k + 1] - t
        times.append(t)
        widths.append(width)
        t = t + width
    return torch.stack(times), torch.stack(widths)


@dataclass(frozen=True)
class FlowBatch:
    """A training batch, right-padded.

    Shapes: token (B, S), token_len (B,), mel (B, M, F), mel_len (B,), speaker_embedding (B, 192)
    """

    token: Tensor
    token_len: Tensor
    mel: Tensor
    mel_len: Tensor
    speaker_embedding: Tensor


@dataclass(frozen=True)
class FlowLoss:
    """loss is what to descend: mse + prior_weight * prior_loss. pred (B, M, F) is the velocity found, clean (B, M, F) the mel
    that it leads to in one step, mu (B, M, F) what the token side gave; all with their gradients."""

    loss: Tensor
    pred: Tensor
    clean: Tensor
    mu: Tensor
    mse: Tensor
    prior_loss: Tensor


@dataclass(frozen=True)
class Sampling:
    """The sampler's settings, checked, with what depends on them alone."""

    num_steps: int
    guidance: float
    temperature: float
    modulation: Modulation
    widths: Tensor

    @property
    def batch_size(self) -> int:
        """Two while guided: the second half walks without mu, speaker and prompt."""
        return 2 if self.guidance > 0 else 1


def check_length(num_frames: int) -> None:
    """Raises: InvalidParameter when there is no noise for so many frames"""
    if num_frames > MAX_FRAMES:
        raise InvalidParameter(
            f"prompt and speech together need {num_frames} mel frames ({num_frames / 50:.1f} s); one piece may have at "
            f"most {MAX_FRAMES} ({MAX_FRAMES // 50} s): split the text or shorten the prompt"
        )


class PreLookahead(nn.Module):
    """Lets each token see three tokens ahead and two back, as a residual."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.look_right = config.pre_lookahead
        self.conv1 = nn.Conv1d(config.mel_bins, config.pre_lookahead_channels, config.pre_lookahead + 1)
        self.conv2 = nn.Conv1d(config.pre_lookahead_channels, config.mel_bins, 3)
        self.look_left = 2

    def forward(self, x: Tensor, right: Tensor | None = None, left: Tensor | None = None) -> Tensor:
        """(B, M, S) -> (B, M, S)

        right (B, M, look_right) are the embeddings that follow x, None at the end of the utterance. left (B, M, up
        to 2) are those just before x, None at its beginning.
        """
        num_left = 0 if left is None else left.shape[2]
        right_padded = F.pad(x, (0, self.look_right)) if right is None else torch.cat((x, right), dim=2)
        hidden = right_padded if left is None else torch.cat((left, right_padded), dim=2)
        hidden = F.leaky_relu(self.conv1(hidden), 0.01)
        hidden = F.pad(hidden, (self.look_left - num_left, 0))
        out: Tensor = self.conv2(hidden)
        return out + x


class _Decoder(nn.Module):
    """Stands between flow and estimator only because the official key names do."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.estimator = DiT(config)


class Flow(nn.Module):
    """Speech tokens, a prompt and a speaker -> mel. One network for whole utterances and for streaming.

    Weights stay float32; autocast is the way to less.
    """

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        if config.chunk_frames % config.frames_per_token:
            raise ValueError(
                f"FlowConfig: chunk_frames ({config.chunk_frames}) must be a multiple of "
                f"frames_per_token ({config.frames_per_token})"
            )
        self.config = config
        self.input_embedding = nn.Embedding(config.speech_token_size, config.mel_bins)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_dim, config.mel_bins)
        self.pre_lookahead_layer = PreLookahead(config)
        self.decoder = _Decoder(config)

    @property
    def estimator(self) -> DiT:
        return self.decoder.estimator

    def mu(self, token: Tensor, *, final: bool = True) -> Tensor:
        """What the tokens say about each frame: (B, S) -> (B, M, 2S).

        Without final the last pre_lookahead tokens are context only: (B, S) -> (B, M, 2 (S - pre_lookahead)).
        """
        embedded = self._embed(token)
        if final:
            return self._frames(self.pre_lookahead_layer(embedded))
        known = max(0, token.shape[1] - self.config.pre_lookahead)
        if known == 0:
            return embedded[:, :, :0]
        return self._frames(self.pre_lookahead_layer(embedded[:, :, :known], embedded[:, :, known:]))

    def mu_stream(self, token: Tensor, start: int, end: int, *, final: bool) -> Tensor:
        """The piece of `mu` that belongs to token[start:end], worked out from these and the neighbours it looks at.

        token may be a window of the utterance if that begins at the utterance's start or at least two tokens before
        `start`. With final, nothing follows the last token.

        Shapes: (1, S) -> (1, M, 2 (end - start))
        """
        layer = self.pre_lookahead_layer
        first = max(0, start - layer.look_left)
        last = end + layer.look_right
        embedded = self._embed(token[:, first:last])
        left = embedded[:, :, : start - first] if start > first else None
        right = embedded[:, :, end - first :]
        if right.shape[2] < layer.look_right:
            assert final, f"tokens up to {last} are needed, {token.shape[1]} are there"
            right = F.pad(right, (0, layer.look_right - right.shape[2]))
        return self._frames(layer(embedded[:, :, start - first : end - first], right, left))

    def speaker(self, speaker_embedding: Tensor) -> Tensor:
        """(B, 192) of any length -> (B, M)"""
        out: Tensor = self.spk_embed_affine_layer(F.normalize(speaker_embedding, dim=1))
        return out

    def _embed(self, token: Tensor) -> Tensor:
        embedded: Tensor = self.input_embedding(token.clamp(min=0))
        return embedded.transpose(1, 2)  # (B, M, S)

    def _frames(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.config.frames_per_token, dim=2)

    @torch.no_grad()
    def sample(
        self,
        token: Tensor,
        prompt_token: Tensor | None,
        prompt_mel: Tensor | None,
        speaker_embedding: Tensor,
        *,
        streaming: bool = False,
        final: bool = True,
        num_steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
    ) -> Tensor:
        """The mel of one utterance, computed at once. The network should be in eval mode.

        streaming uses the block mask. Without final the last pre_lookahead tokens are context only. num_steps, guidance
        and temperature default to the config's; guidance 0 halves the work.

        Shapes: token (1, S), prompt_token (1, P) or None, prompt_mel (1, M, 2P) or None, speaker_embedding (1, 192)
            -> (1, M, F) without the prompt, F = 2S or 2 (S - pre_lookahead)
        Raises: ValueError for shapes or ids that do not fit; InvalidParameter when prompt and speech pass 300 s
        """
        prompt_token, prompt_mel = self.checked_prompt(prompt_token, prompt_mel)
        self.check_tokens(token)
        sampling = self.sampling(num_steps, guidance, temperature)
        mu = self.mu(torch.cat((prompt_token, token), dim=1), final=final)
        num_frames, num_prompt = mu.shape[2], prompt_mel.shape[2]
        if num_frames <= num_prompt:
            return mu[:, :, :0]
        cond = torch.cat((prompt_mel, mu.new_zeros(1, mu.shape[1], num_frames - num_prompt)), dim=2)
        noise = self.noise(0, num_frames) * sampling.temperature
        mask = attention_mask(
            num_frames, chunk_frames=self.config.chunk_frames if streaming else None, device=mu.device
        )
        mel = self.integrate(noise, mu, self.speaker(speaker_embedding), cond, sampling, mask)
        return mel[:, :, num_prompt:]

    def integrate(
        self,
        x: Tensor,
        mu: Tensor,
        speaker: Tensor,
        cond: Tensor,
        sampling: Sampling,
        mask: Tensor | None,
        states: list[DiTState] | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """Carry noise x to mel in Euler steps; with one state per step, of the frames that follow those states.

        Shapes: x, mu, cond (1, M, F), speaker (1, M) -> (1, M, F)
        """
        if sampling.guidance > 0:
            mu, speaker, cond = (torch.cat((part, torch.zeros_like(part))) for part in (mu, speaker, cond))
        first_frame = states[0].num_frames if states is not None else 0
        rotary = self.estimator.rotary_embed(x.shape[2], first_frame)
        for k in range(sampling.num_steps):
            if on_step is not None:
                on_step()
            state = states[k] if states is not None else None
            rows = x.expand(sampling.batch_size, -1, -1)
            velocity = self.estimator.velocity(rows, mu, speaker, cond, sampling.modulation.row(k), rotary, mask, state)
            if sampling.guidance > 0:
                guided, free = velocity.chunk(2)
                velocity = (1.0 + sampling.guidance) * guided - sampling.guidance * free
            x = x + sampling.widths[k] * velocity
        return x

    def sampling(self, num_steps: int | None, guidance: float | None, temperature: float | None) -> Sampling:
        """The sampler's settings, None standing for the config's. Raises: ValueError"""
        num_steps = self.config.num_steps if num_steps is None else num_steps
        guidance = self.config.guidance if guidance is None else guidance
        temperature = self.config.temperature if temperature is None else temperature
        if num_steps < 1 or guidance < 0 or temperature < 0:
            raise ValueError(
                f"num_steps must be at least 1, guidance and temperature at least 0 "
                f"(got {num_steps}, {guidance}, {temperature})"
            )
        times, widths = euler_schedule(num_steps)
        device = self.estimator.proj_out.weight.device
        modulation = self.estimator.modulation(times.to(device))
        return Sampling(num_steps, guidance, temperature, modulation, widths.to(device))

    def noise(self, start: int, end: int) -> Tensor:
        """That piece of the fixed noise, (1, M, end - start). Raises: InvalidParameter when it ends before"""
        check_length(end)
        return fixed_noise(self.config.mel_bins)[:, :, start:end].to(self.estimator.proj_out.weight.device)

    def check_tokens(self, token: Tensor) -> None:
        """Raises: ValueError for tokens that are not (1, S), or ids that do not exist"""
        if token.dim() != 2 or token.shape[0] != 1:
            raise ValueError(
                f"speech tokens must have shape (1, S) (got {tuple(token.shape)}); one utterance at a time"
            )
        if token.numel() and int(token.max()) >= self.config.speech_token_size:
            raise ValueError(
                f"speech token {int(token.max())} does not exist: ids end at {self.config.speech_token_size - 1}; "
                f"special ids must be taken out before the flow"
            )

    def checked_prompt(self, prompt_token: Tensor | None, prompt_mel: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens (1, P) and mel (1, M, 2P) of a prompt, empty where there is none. Raises: ValueError when they do not fit"""
        weight = self.estimator.proj_out.weight
        if prompt_token is None:
            prompt_token = torch.zeros(1, 0, dtype=torch.long, device=weight.device)
        if prompt_mel is None:
            prompt_mel = weight.new_zeros(1, self.config.mel_bins, 0)
        self.check_tokens(prompt_token)
        expected = (1, self.config.mel_bins, self.config.frames_per_token * prompt_token.shape[1])
        if tuple(prompt_mel.shape) != expected:
            raise ValueError(
                f"prompt_mel must have shape {expected} for {prompt_token.shape[1]} prompt tokens "
                f"(got {tuple(prompt_mel.shape)}); cut the longer one"
            )
        return prompt_token, prompt_mel

    def loss(
        self,
        batch: FlowBatch,
        *,
        streaming: bool,
        generator: torch.Generator | None = None,
        t: Tensor | None = None,
        z: Tensor | None = None,
        keep: Tensor | None = None,
        cond_len: Tensor | None = None,
        prior_weight: float = 0.0,
        prior_from_bin: int = 0,
        t_power: float = 1.0,
        sampler_share: float = 0.0,
    ) -> FlowLoss:
        """Mean squared error of the velocity at a random time, over the real frames.

        Tokens and mel of every sample are cut to what both have. What is not given is drawn: the time t = u **
        t_power with u uniform (t_power above 1 favours times near 0); noise z; keep (0 = mu, speaker and condition
        taken away, so that guidance can be learnt); cond_len, the leading frames of the target that are given as
        condition (a negative one is drawn).

        sampler_share: so many of the times are those at which the config's sampler stands, most of them its first one;
        there the noise, from which nothing can be learnt but how to ignore it, is of any strength up to its own.

        prior_weight > 0 adds that much L1 between mu itself and the mel, which teaches the token side to draw the
        mel; a small network gains much from it. Bins below prior_from_bin are left to say something else.

        Shapes: t, keep, cond_len (B,), z (B, M, F)
        Raises: ValueError for a sample without a single aligned token
        """
        token, mel, num_frames = self._aligned(batch)
        draw = _Draws(generator, mel.device)
        if t is None:
            t = draw.uniform(len(token)) ** t_power
            t = self._at_sampler_times(t, draw, sampler_share) if sampler_share > 0 else t
        if z is None:
            z = draw.normal(mel.shape)
            if sampler_share > 0:
                z = z * torch.where(t > 0, torch.ones_like(t), draw.uniform(len(token)))[:, None, None]
        else:
            z = z[:, :, : mel.shape[2]]
        if keep is None:
            keep = draw.uniform(len(token)) > self.config.training_guidance_dropout
        if cond_len is None:
            cond_len = draw.cond_len(num_frames)
        elif bool((cond_len < 0).any()):
            cond_len = torch.where(cond_len < 0, draw.cond_len(num_frames), cond_len)

        frame = torch.arange(mel.shape[2], device=mel.device)
        real = (frame[None] < num_frames[:, None])[:, None].float()  # (B, 1, F)
        mu = self._masked_mu(token, num_frames // self.config.frames_per_token)
        keep = keep.to(mel.dtype)[:, None]  # (B, 1)
        cond = mel * (frame[None] < cond_len[:, None])[:, None] * keep[:, None]
        remaining = 1 - (1 - self.config.sigma_min) * t[:, None, None]
        noisy = remaining * z + t[:, None, None] * mel
        target = mel - (1 - self.config.sigma_min) * z
        mask = attention_mask(
            mel.shape[2],
            lengths=num_frames,
            chunk_frames=self.config.chunk_frames if streaming else None,
            device=mel.device,
        )
        pred = self.estimator(
            noisy, mu * keep[:, None], t, self.speaker(batch.speaker_embedding) * keep, cond, mask
        ).float()

        count = real.sum() * mel.shape[1]
        mse = ((pred - target) * real).square().sum() / count
        with torch.set_grad_enabled(torch.is_grad_enabled() and prior_weight > 0):
            prior_loss = ((mu.float() - mel) * real)[:, prior_from_bin:].abs().sum() / count
        loss = mse + prior_weight * prior_loss if prior_weight > 0 else mse
        clean = noisy + (1 - t[:, None, None]) * pred
        return FlowLoss(loss, pred, clean, mu, mse.detach(), prior_loss.detach())

    def _aligned(self, batch: FlowBatch) -> tuple[Tensor, Tensor, Tensor]:
        """token (B, S), mel (B, M, 2S) and the frames of each sample (B,), the longer of both cut in every sample."""
        per_token = self.config.frames_per_token
        num_tokens = torch.minimum(batch.token_len, batch.mel_len // per_token)
        if int(num_tokens.min()) < 1:
            index = int(num_tokens.argmin())
            raise ValueError(
                f"sample {index} of the batch has {int(batch.token_len[index])} speech tokens and "
                f"{int(batch.mel_len[index])} mel frames; it needs at least 1 and {per_token}: leave it out"
            )
        longest = int(num_tokens.max())
        return batch.token[:, :longest], batch.mel[:, :, : longest * per_token], num_tokens * per_token

    def _at_sampler_times(self, t: Tensor, draw: _Draws, share: float) -> Tensor:
        """Move this share of the times (B,) to those of the sampler's steps, most of them to 0."""
        later = time_grid(self.config.num_steps)[1:-1].to(t)
        kind, place = draw.uniform(len(t)), draw.uniform(len(t))
        if len(later):
            t = torch.where(kind < share, later[(place * len(later)).long()], t)
        return torch.where(kind < share * (_FIRST_STEP_SHARE if len(later) else 1.0), torch.zeros_like(t), t)

    def _masked_mu(self, token: Tensor, num_tokens: Tensor) -> Tensor:
        """mu of a padded batch: behind the end the look-ahead must see zeros, as it does for a sample alone."""
        real = torch.arange(token.shape[1], device=token.device)[None] < num_tokens[:, None]
        return self._frames(self.pre_lookahead_layer(self._embed(token) * real[:, None]))


class _Draws:
    """Random numbers of the training loss, from one generator and on the generator's device."""

    def __init__(self, generator: torch.Generator | None, device: torch.device) -> None:
        self._generator = generator
        self._source = generator.device if generator is not None else device
        self._device = device

    def uniform(self, count: int) -> Tensor:
        return torch.rand(count, generator=self._generator, device=self._source).to(self._device)

    def normal(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._source).to(self._device)

    def cond_len(self, num_frames: Tensor) -> Tensor:
        """Half the samples get no condition, the others up to 30 % of their frames: (B,) -> (B,)."""
        longest = (num_frames * MAX_COND_SHARE).floor()
        length = (self.uniform(len(num_frames)) * (longest + 1)).floor().long()
        return torch.where(self.uniform(len(num_frames)) < COND_PROBABILITY, 0, length)
