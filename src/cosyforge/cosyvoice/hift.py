"""The vocoder: pitch -> harmonic source; mel and source -> causal upsampling network -> inverse STFT -> waveform.

Holds the network and its exact incremental form; knows nothing of speech tokens or files. Parameter names are those of
the published weights. Rates: mel frames at 50 Hz, `hop` samples each; prod(upsample_rates) STFT frames per mel frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosyforge.cosyvoice.config import HiFTConfig
from cosyforge.cosyvoice.f0 import CausalConv1d, ConvState, F0Predictor, channels_last, normed

_NOISE_SEED = 1986
_NOISE_ROWS = 48_000
"""Two seconds: shorter periods can be heard as a rhythm in long fricatives."""
_FRAMES_AT_ONCE = 200
_MAX_LOG_MAGNITUDE = math.log(100.0)
_FIRST_LOG_MAGNITUDE = -3.0
"""Bias a new network starts its log magnitudes from: about the level of speech instead of that of clipped noise."""


class _SnakeFunction(torch.autograd.Function):
    """x + sin(a x)^2 / a with a hand-written derivative: one sine each way and few temporaries."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor) -> Tensor:
        alpha = alpha.to(x.dtype)[:, None, None]
        y = _snake(x, alpha)
        ctx.save_for_backward(x, y, alpha)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        grad = grads[0]
        x, y, alpha = ctx.saved_tensors
        inverse = 1.0 / (alpha + 1e-9)
        slope = torch.mul(x, 2.0 * alpha).sin_().mul_(grad)
        # d/da = (x sin(2 a x) - sin(a x)^2 / a) / a
        grad_alpha = ((slope * x) - (y - x).mul_(grad)).sum((0, 2, 3))
        grad_x = slope.mul_(alpha * inverse).add_(grad)
        return grad_x, grad_alpha * inverse.flatten().float()


def _snake(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.mul(x, alpha).sin_().square_().mul_(1.0 / (alpha + 1e-9)).add_(x)


class Snake(nn.Module):
    """Periodic activation x + sin(alpha x)^2 / alpha, one alpha per channel.

    Source: Ziyin et al., Neural Networks Fail to Learn Periodic Functions and How to Fix It
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, 1, t) -> same."""
        if torch.is_grad_enabled():
            result: Tensor = _SnakeFunction.apply(x, self.alpha)  # type: ignore[no-untyped-call]
            return result
        return _snake(x, self.alpha.to(x.dtype)[:, None, None])


class ResBlock(nn.Module):
    """Residual pairs of a dilated and a plain causal convolution, snake before each."""

    def __init__(self, channels: int, kernel_size: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            normed(CausalConv1d(channels, channels, kernel_size, dilation=d)) for d in dilations
        )
        self.convs2 = nn.ModuleList(normed(CausalConv1d(channels, channels, kernel_size)) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor, state: ConvState | None = None) -> Tensor:
        """Shapes: (B, C, 1, t) -> same."""
        layers = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for activation1, conv1, activation2, conv2 in layers:
            x = x + conv2(activation2(conv1(activation1(x), state)), state)
        return x


class UpsampleConv1d(CausalConv1d):
    """Repeat every step `rate` times, then a causal convolution - computed without repeating.

    The taps that meet the same repeated step are added up beforehand: `rate` phases, each a convolution of about
    kernel / rate taps at the low rate, interleaved afterwards. Equal to the plain way up to rounding, with less work.
    """

    taps_by_phase: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, rate: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.rate = rate
        # tap j of phase p meets the input step (p - (kernel - 1) + j) // rate relative to the current one
        steps = torch.arange(rate)[:, None] - (kernel_size - 1) + torch.arange(kernel_size)
        steps = torch.div(steps, rate, rounding_mode="floor")
        self.left = self.keep = int(-steps.min())
        taps = functional.one_hot(steps + self.left, self.left + 1).float()  # (rate, kernel, left + 1)
        self.register_buffer("taps_by_phase", taps, persistent=False)

    def forward(self, x: Tensor, state: ConvState | None = None) -> Tensor:
        """Shapes: x (B, C, 1, t) -> (B, out_channels, 1, rate * t)."""
        batch, _, _, steps = x.shape
        x = state.join(self, x) if state is not None else functional.pad(x, (self.left, 0))
        weight = self._fused if self._fused is not None else self._polyphase(self.weight)
        assert self.bias is not None
        y = functional.conv2d(x, weight, self.bias.repeat(self.rate))  # (B, rate * out, 1, t)
        # time by time in memory, so the phases already stand in order and this is only another view
        y = y.permute(0, 2, 3, 1).reshape(batch, 1, steps * self.rate, self.out_channels)
        return y.permute(0, 3, 1, 2)

    def fuse(self, dtype: torch.dtype | None = None) -> None:
        """Keep the summed taps until the module is trained, loaded or moved."""
        with torch.no_grad():
            self._fused = self._polyphase(self._plain_weight(dtype or self._parameter_dtype()))

    def _polyphase(self, weight: Tensor) -> Tensor:
        summed = torch.einsum("oik,pkt->poit", weight, self.taps_by_phase.to(weight.dtype))
        return summed.flatten(0, 1).unsqueeze(2)


@dataclass
class SourceState:
    """Where the source of a stream stands: the running phase in cycles, the next frame, the pitch before it."""

    phase: Tensor
    frame_index: int = 0
    previous_f0: Tensor | None = None


class HarmonicSource(nn.Module):
    """Pitch -> excitation: sines at the harmonics where voiced, noise everywhere, mixed into one channel.

    The staircase mixes sines and noise harmonic by harmonic, as the released weights expect. The oscillator has one
    noise of the strength that many independent ones would mix to: the same distribution, far fewer random numbers.

    Source: Wang et al., Neural source-filter waveform models
    """

    noise_period: Tensor
    multiples: Tensor

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        if config.source not in ("staircase", "sine"):
            raise ValueError(f'HiFTConfig.source must be "staircase" or "sine" (got "{config.source}")')
        self.config = config
        self.l_linear = nn.Linear(config.num_harmonics + 1, 1)
        self.num_noises = config.num_harmonics + 1 if config.source == "staircase" else 1
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        self.register_buffer(
            "noise_period", torch.rand(_NOISE_ROWS, self.num_noises, generator=generator), persistent=False
        )
        multiples = torch.arange(1, config.num_harmonics + 2, dtype=torch.float32)
        self.register_buffer("multiples", multiples.unsqueeze(-1), persistent=False)

    def forward(
        self, f0: Tensor, *, noise_period: Tensor | None = None, state: SourceState | None = None,
        next_f0: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The excitation of these frames; a state is advanced by them.

        Shapes: f0 (B, F), noise_period (P, num_noises), next_f0 (B, 1) the pitch after the last frame -> (B, 1, L)
        Units: f0 in Hz; noise_period uniform in [0, 1), row n % P belongs to sample n
        Raises: ValueError when noise_period has the wrong number of columns
        """
        if noise_period is not None and noise_period.shape[-1] != self.num_noises:
            raise ValueError(f"noise_period must be (rows, {self.num_noises}), got {tuple(noise_period.shape)}")
        state = state or self.start(f0)
        if self.training:
            return self._piece(f0, noise_period, state, next_f0)
        # every harmonic of every sample is a number: a long signal is made piece by piece
        pieces = []
        for begin in range(0, f0.shape[1], _FRAMES_AT_ONCE):
            end = begin + _FRAMES_AT_ONCE
            after = f0[:, end : end + 1] if end < f0.shape[1] else next_f0
            pieces.append(self._piece(f0[:, begin:end], noise_period, state, after))
        return torch.cat(pieces, dim=-1)

    def start(self, f0: Tensor) -> SourceState:
        """A state at sample 0. In training the oscillator starts anywhere, in inference always at phase zero."""
        phase = torch.zeros(f0.shape[0], 1, dtype=torch.float64, device=f0.device)
        if self.config.source == "staircase":
            return SourceState(phase.unsqueeze(-1))
        return SourceState(torch.rand_like(phase) if self.training else phase)

    @torch.no_grad()
    def sines(self, f0: Tensor, state: SourceState, next_f0: Tensor | None = None) -> Tensor:
        """The harmonics, silent where unvoiced; advances the phase of the state.

        Shapes: f0 (B, F) -> (B, num_harmonics + 1, L)
        """
        waves = (
            self._staircase(f0, state) if self.config.source == "staircase" else self._oscillator(f0, state, next_f0)
        )
        return waves.mul_(self._voiced(f0))

    @torch.no_grad()
    def noise(self, f0: Tensor, frame_index: int, noise_period: Tensor | None = None) -> Tensor:
        """Weak noise in voiced frames and stronger in the others.

        Shapes: f0 (B, F) -> (B, num_noises, L)
        """
        config = self.config
        voiced = self._voiced(f0)
        gain = voiced * config.noise_sigma + (1 - voiced) * config.sine_amplitude / 3
        if self.training and noise_period is None:
            noise = torch.randn(f0.shape[0], self.num_noises, gain.shape[-1], device=f0.device)
        else:
            table = self.noise_period if noise_period is None else noise_period.to(gain)
            start = frame_index * config.hop
            noise = table[torch.arange(start, start + gain.shape[-1], device=f0.device) % table.shape[0]].T
            if config.source == "sine":
                noise = (noise - 0.5) * math.sqrt(12.0)  # to mean 0 and deviation 1, as in training
        return noise * gain

    def _piece(self, f0: Tensor, noise_period: Tensor | None, state: SourceState, next_f0: Tensor | None) -> Tensor:
        weight, bias = self.l_linear.weight, self.l_linear.bias
        mix = weight.expand(f0.shape[0], -1, -1)  # (B, 1, H): a batched product reads the sines in place
        sines = self.sines(f0, state, next_f0)
        noise = self.noise(f0, state.frame_index, noise_period)
        state.frame_index += f0.shape[1]
        state.previous_f0 = f0[:, -1:]
        if self.config.source == "staircase":
            return torch.tanh(torch.bmm(mix, sines + noise) + bias)
        return torch.tanh(torch.bmm(mix, sines) + torch.linalg.vector_norm(weight) * noise + bias)

    def _voiced(self, f0: Tensor) -> Tensor:
        """One where voiced, else zero: (B, F) -> (B, 1, L)."""
        voiced = (f0 > self.config.voiced_threshold_hz).float()
        return voiced.repeat_interleave(self.config.hop, dim=1).unsqueeze(1)

    def _staircase(self, f0: Tensor, state: SourceState) -> Tensor:
        """Sines of a phase that stands still within each frame: (B, F) -> (B, H, L).

        Float32 and this order of operations on purpose: the phase grows large, and the released weights learnt with its
        rounding. Only the running sum is kept in float64, so that it does not depend on the pieces of a stream.
        """
        config = self.config
        cycles = (f0.float().unsqueeze(1) * self.multiples / config.sample_rate_hz) % 1  # (B, H, F)
        total = cycles.double().cumsum(dim=-1) + state.phase
        state.phase = total[..., -1:]
        radians = total.float() * 2 * math.pi * config.hop
        return (torch.sin(radians) * config.sine_amplitude).repeat_interleave(config.hop, dim=-1)

    def _oscillator(self, f0: Tensor, state: SourceState, next_f0: Tensor | None) -> Tensor:
        """Sines that follow the pitch from frame centre to frame centre: (B, F) -> (B, H, L)."""
        config = self.config
        pitch = self._sample_pitch(f0.double(), state, next_f0)  # (B, L)
        total = (pitch / config.sample_rate_hz).cumsum(dim=1) + state.phase
        state.phase = total[:, -1:].remainder(1.0)
        radians = (total.remainder(1.0) * (2 * math.pi)).float().unsqueeze(1)
        waves = (radians * self.multiples).sin_().mul_(config.sine_amplitude)
        nyquist = config.sample_rate_hz / 2
        highest = float(pitch.max())
        for index in range(waves.shape[1]):
            if highest * (index + 1) >= nyquist:
                waves[:, index] *= pitch * (index + 1) < nyquist
        return waves

    def _sample_pitch(self, f0: Tensor, state: SourceState, next_f0: Tensor | None) -> Tensor:
        """Pitch per sample: (B, F) -> (B, L). Neighbours without pitch are ignored: no glide from zero."""
        threshold, hop = self.config.voiced_threshold_hz, self.config.hop
        first = f0[:, :1] if state.previous_f0 is None else state.previous_f0.double()
        last = f0[:, -1:] if next_f0 is None else next_f0.double()
        before, after = torch.cat([first, f0[:, :-1]], dim=1), torch.cat([f0[:, 1:], last], dim=1)
        before = torch.where(before > threshold, before, f0).unsqueeze(-1)
        after = torch.where(after > threshold, after, f0).unsqueeze(-1)
        # distance of every sample from the centre of its frame, in frames
        distance = (torch.arange(hop, device=f0.device, dtype=torch.float64) + 0.5) / hop - 0.5
        centre = f0.unsqueeze(-1)
        pitch = centre + (before - centre) * (-distance).clamp(min=0) + (after - centre) * distance.clamp(min=0)
        return pitch.flatten(1)


class Spectrum(nn.Module):
    """Short-time Fourier transform and its inverse, periodic Hann window; real and imaginary parts are channels."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        if n_fft % (2 * hop):
            raise ValueError(f"HiFTConfig: istft_n_fft must be an even multiple of istft_hop (got {n_fft} and {hop})")
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft, periodic=True), persistent=False)

    def frames(self, padded: Tensor) -> Tensor:
        """Transform every full window of a signal that is already padded.

        Shapes: (B, n_fft + hop * (t - 1)) -> (B, t, n_fft + 2), real parts first
        """
        pieces = self.n_fft // self.hop
        blocks = padded.reshape(padded.shape[0], -1, self.hop)
        steps = blocks.shape[1] - pieces + 1
        windows = torch.cat([blocks[:, piece : piece + steps] for piece in range(pieces)], dim=-1)
        spectrum = torch.fft.rfft(windows * self.window)
        return torch.cat([spectrum.real, spectrum.imag], dim=-1)

    def overlap_add(self, spectrum: Tensor) -> Tensor:
        """Sum of the windowed inverse transforms, not yet divided by the envelope.

        Shapes: (B, t, n_fft + 2) -> (B, n_fft + hop * (t - 1))
        """
        real, imaginary = spectrum.chunk(2, dim=-1)
        windows = torch.fft.irfft(torch.complex(real, imaginary), n=self.n_fft)
        return self._shift_add(windows * self.window)

    def envelope(self, num_frames: int) -> Tensor:
        """Overlap-added squared windows of that many frames: (n_fft + hop * (t - 1),)."""
        return self._shift_add(self.window.square().expand(1, num_frames, -1))[0]

    def _shift_add(self, frames: Tensor) -> Tensor:
        pieces = self.n_fft // self.hop
        blocks = frames.reshape(*frames.shape[:2], pieces, self.hop)
        padded = [functional.pad(blocks[:, :, piece], (0, 0, piece, pieces - 1 - piece)) for piece in range(pieces)]
        return torch.stack(padded).sum(0).flatten(1)


class HiFT(nn.Module):
    """Causal HiFT generator with its own pitch predictor."""

    def __init__(self, config: HiFTConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        rates, width = config.upsample_rates, config.base_channels
        self.frames_per_mel = math.prod(rates)
        self.f0_predictor = F0Predictor(config.mel_bins, config.f0_channels, config.f0_look_right)
        self.m_source = HarmonicSource(config)
        self.spectrum = Spectrum(config.istft_n_fft, config.istft_hop)
        self.conv_pre = normed(CausalConv1d(config.mel_bins, width, config.conv_pre_look_right + 1, left=0))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        self.source_downs, self.source_resblocks = nn.ModuleList(), nn.ModuleList()
        kernels = zip(rates, config.upsample_kernel_sizes, config.source_resblock_kernel_sizes, strict=True)
        for index, (rate, kernel, source_kernel) in enumerate(kernels):
            channels = width >> (index + 1)
            self.ups.append(normed(UpsampleConv1d(width >> index, channels, kernel, rate)))
            stride = math.prod(rates[index + 1 :])
            self.source_downs.append(_source_down(config.istft_n_fft + 2, channels, stride))
            self.source_resblocks.append(ResBlock(channels, source_kernel, config.resblock_dilations))
            for size in config.resblock_kernel_sizes:
                self.resblocks.append(ResBlock(channels, size, config.resblock_dilations))
        self.conv_post = normed(CausalConv1d(width >> len(rates), config.istft_n_fft + 2, 7))
        assert self.conv_post.bias is not None
        if config.head == "filter":
            # begin as the excitation itself, a pulse train: its harmonics in phase
            nn.init.zeros_(self.conv_post.bias)
            nn.init.constant_(self.m_source.l_linear.weight, 1.0)
            assert self.m_source.l_linear.bias is not None
            nn.init.zeros_(self.m_source.l_linear.bias)
        else:
            nn.init.constant_(self.conv_post.bias[: config.istft_n_fft // 2 + 1], _FIRST_LOG_MAGNITUDE)

    @torch.no_grad()
    def f0(self, mel: Tensor, *, final: bool = True) -> Tensor:
        """Pitch in float64, whatever the precision of the weights; train with `f0_predictor` itself.

        Shapes: mel (B, M, F) -> (B, F), or (B, F - f0_look_right) when not final
        Units: Hz
        """
        f0: Tensor = self.f0_predictor(mel.double(), final=final)
        return f0

    def forward(
        self, mel: Tensor, *, final: bool = True, f0: Tensor | None = None, noise_period: Tensor | None = None
    ) -> Tensor:
        """Mel spectrogram -> waveform.

        With final=False the last frames are context only: the result is that of any longer mel with this beginning.
        A given f0 (B, F) replaces the predicted one. In training the noise is drawn afresh from the global generator,
        and the waveform teaches the decoder, not the pitch predictor.

        Shapes: mel (B, M, F) -> (B, L), L = hop * F or hop * (F - 8)
        Units: mel in natural-log amplitude, waveform in [-audio_limit, audio_limit]
        Raises: ValueError when the mel has the wrong shape or is too short
        """
        self._check_mel(mel, final)
        look_right = 0 if final else self.config.f0_look_right
        if f0 is None:
            f0 = self.f0(mel, final=final)
        elif f0.shape[1] != mel.shape[2]:
            raise ValueError(f"f0 has {f0.shape[1]} frames, mel {mel.shape[2]}; give one value per frame")
        else:
            f0 = f0[:, : mel.shape[2] - look_right]
        with torch.autocast(mel.device.type, enabled=False):
            source = self.m_source(f0, noise_period=noise_period)
        return self.decode(mel[..., : mel.shape[2] - look_right], source, final=final)

    def decode(self, mel: Tensor, source: Tensor, *, final: bool = True) -> Tensor:
        """Mel and excitation -> waveform.

        Shapes: mel (B, M, F), source (B, 1, hop * F) -> (B, hop * F), or (B, hop * (F - 5)) when not final
        """
        config = self.config
        with torch.autocast(mel.device.type, enabled=False):
            edge = config.istft_n_fft // 2
            harmonics = self.spectrum.frames(functional.pad(source.float(), (edge, edge), mode="reflect").squeeze(1))
        if final:
            mel = functional.pad(mel, (0, config.conv_pre_look_right))
        else:
            harmonics = harmonics[:, : harmonics.shape[1] - self.frames_per_mel * config.conv_pre_look_right]
        output = self._network(mel, harmonics)
        with torch.autocast(mel.device.type, enabled=False):
            wav = self._waveform(self._spectrum_frames(output, harmonics))
        return wav if final else wav[:, : wav.shape[1] - config.hop]

    def fuse(self) -> HiFT:
        """Switch to inference and keep every plain convolution weight; training, loading or moving undoes it."""
        self.eval()
        for module in self.modules():
            if isinstance(module, CausalConv1d):
                module.fuse()
        for module in self.f0_predictor.modules():
            if isinstance(module, CausalConv1d):
                module.fuse(torch.float64)
        return self

    def _network(
        self, mel: Tensor, harmonics: Tensor, state: ConvState | None = None, *, is_first: bool = True
    ) -> Tensor:
        """What to say about every STFT bin: log magnitudes or gains, then angles.

        Shapes: mel (B, M, f + look right), harmonics (B, t, n_fft + 2) -> (B, t, n_fft + 2)
        """
        config = self.config
        num_kernels = len(config.resblock_kernel_sizes)
        excitation = harmonics.transpose(1, 2).unsqueeze(2)
        x = self.conv_pre(channels_last(mel))
        for index in range(len(self.ups)):
            x = self.ups[index](functional.leaky_relu(x, config.lrelu_slope), state)
            if is_first and index == len(self.ups) - 1:
                x = torch.cat(
                    [x[..., 1:2], x], dim=-1
                )  # one STFT frame more than prod(rates) * f: mirrored at the left
            x = x + self.source_resblocks[index](self.source_downs[index](excitation, state), state)
            blocks = self.resblocks[index * num_kernels : (index + 1) * num_kernels]
            total = blocks[0](x, state)
            for block in blocks[1:]:
                total = total + block(x, state)
            x = total / num_kernels
        x = self.conv_post(functional.leaky_relu(x), state)
        assert isinstance(x, Tensor)
        return x.squeeze(2).transpose(1, 2).float()

    def _spectrum_frames(self, network_output: Tensor, harmonics: Tensor) -> Tensor:
        """Real and imaginary parts of the output; all (B, t, n_fft + 2)."""
        log_magnitude, angle = network_output.chunk(2, dim=-1)
        magnitude = log_magnitude.clamp(max=_MAX_LOG_MAGNITUDE).exp()
        if self.config.head == "absolute":
            angle = torch.sin(angle)
        cosine, sine = magnitude * angle.cos(), magnitude * angle.sin()
        if self.config.head == "absolute":
            return torch.cat([cosine, sine], dim=-1)
        # every bin of the excitation amplified and turned
        real, imaginary = harmonics.chunk(2, dim=-1)
        return torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], dim=-1)

    def _waveform(self, frames: Tensor) -> Tensor:
        """Shapes: (B, t, n_fft + 2) -> (B, istft_hop * (t - 1))."""
        edge, limit = self.config.istft_n_fft // 2, self.config.audio_limit
        envelope = self.spectrum.envelope(frames.shape[1])[edge:-edge]
        total = self.spectrum.overlap_add(frames)[:, edge:-edge]
        wav = total / envelope
        limited = wav.clamp(-limit, limit)
        # a rail has no slope: a generator that starts too loud would never come back
        return limited + (wav - wav.detach()) if self.training else limited

    def _check_mel(self, mel: Tensor, final: bool) -> None:
        config = self.config
        if mel.dim() != 3 or mel.shape[1] != config.mel_bins:
            raise ValueError(f"mel must be (batch, {config.mel_bins}, frames), got {tuple(mel.shape)}")
        shortest = 1 if final else config.f0_look_right + config.conv_pre_look_right + 1
        if mel.shape[2] < shortest:
            raise ValueError(f"mel has {mel.shape[2]} frames; at least {shortest} are needed (final={final})")


class HiFTStream:
    """Exact incremental vocoding: pieces of mel in, all samples that can no longer change out.

    Everything a piece needs of the past is carried (left contexts of the convolutions, phase of the source, overlapping
    windows), so each frame is computed once. The samples so far are those of `forward(all mel so far, final=False)`;
    the last push releases the look-ahead.
    """

    def __init__(self, hift: HiFT, *, noise_period: Tensor | None = None) -> None:
        """noise_period replaces the built-in noise as in `HiFT.forward`.

        Raises: ValueError when the network is in training mode, where its noise is random
        """
        if hift.training:
            raise ValueError("HiFTStream needs the network in inference mode: call fuse() or eval() first")
        self.hift, self.config, self.noise_period = hift, hift.config, noise_period
        self._convs = ConvState()
        self._source_state: SourceState | None = None
        self._mel: Tensor | None = None  # frames from the first one not decoded yet
        self._f0: Tensor | None = None  # the newest pitch, kept until its right neighbour is known
        self._source: Tensor | None = None  # samples from the first one of the next STFT window
        self._overlap: Tensor | None = None  # numerator and envelope of the samples that later windows still add to
        self._ready: Tensor | None = None  # finished samples that are not released yet
        self._num_pushed = self._num_f0 = self._num_decoded = self._num_released = 0  # in frames
        self._is_finished = False

    @torch.no_grad()
    def push(self, mel: Tensor, final: bool) -> Tensor:
        """Add mel frames (none at all is allowed), get the samples that became certain.

        Shapes: mel (B, M, f) -> (B, L); in all hop * (F - 8) samples before the last push, hop * F after it
        Raises: ValueError when the mel has the wrong shape or the stream has ended
        """
        config = self.config
        if self._is_finished:
            raise ValueError("this stream has had its final piece; make a new HiFTStream")
        if mel.dim() != 3 or mel.shape[1] != config.mel_bins:
            raise ValueError(f"mel must be (batch, {config.mel_bins}, frames), got {tuple(mel.shape)}")
        self._is_finished = final
        self._mel = mel if self._mel is None else torch.cat([self._mel, mel], dim=-1)
        self._num_pushed += mel.shape[2]
        if self._num_pushed:
            self._extend_source(final)
            self._decode(final)
        return self._release(mel, final)

    def _extend_source(self, final: bool) -> None:
        """Predict the pitch as far as the look-ahead allows, then make the source up to the frame before."""
        hift, config = self.hift, self.config
        assert self._mel is not None
        reach = self._num_pushed - (0 if final else config.f0_look_right)
        if reach <= self._num_f0:
            return
        fresh = hift.f0_predictor(
            self._mel[..., self._num_f0 - self._num_decoded :].double(), final=final, state=self._convs
        )
        self._num_f0 = reach
        f0 = fresh if self._f0 is None else torch.cat([self._f0, fresh], dim=1)
        if not final:
            f0, self._f0 = f0[:, :-1], f0[:, -1:]
        if not f0.shape[1]:
            return
        if self._source_state is None:
            self._source_state = hift.m_source.start(f0)
        next_f0 = None if final else self._f0
        source = hift.m_source(f0, noise_period=self.noise_period, state=self._source_state, next_f0=next_f0).squeeze(1)
        self._source = source if self._source is None else torch.cat([self._source, source], dim=1)

    def _decode(self, final: bool) -> None:
        """Run the network over the frames whose look-ahead is there, and overlap-add what it says."""
        hift, config = self.hift, self.config
        assert self._mel is not None
        look_right = 0 if final else config.f0_look_right + config.conv_pre_look_right
        num_new = self._num_pushed - look_right - self._num_decoded
        if num_new <= 0:
            return
        is_first = self._num_decoded == 0
        harmonics = self._harmonics(num_new, is_first, final)
        mel = functional.pad(self._mel, (0, config.conv_pre_look_right)) if final else self._mel
        mel = mel[..., : num_new + config.conv_pre_look_right]
        self._mel = self._mel[..., num_new:]
        self._num_decoded += num_new
        output = hift._network(mel, harmonics, self._convs, is_first=is_first)
        self._overlap_add(hift._spectrum_frames(output, harmonics), is_first, final)

    def _harmonics(self, num_new: int, is_first: bool, final: bool) -> Tensor:
        """STFT of the source for these frames; mirrored at both ends of the signal as the offline form is."""
        assert self._source is not None
        edge, hop = self.config.istft_n_fft // 2, self.config.istft_hop
        if is_first:
            self._source = torch.cat([self._source[:, 1 : edge + 1].flip(1), self._source], dim=1)
        if final:
            self._source = torch.cat([self._source, self._source[:, -edge - 1 : -1].flip(1)], dim=1)
        num_windows = num_new * self.hift.frames_per_mel + is_first
        harmonics = self.hift.spectrum.frames(self._source[:, : (num_windows - 1) * hop + 2 * edge])
        self._source = self._source[:, num_windows * hop :]
        return harmonics

    def _overlap_add(self, frames: Tensor, is_first: bool, final: bool) -> None:
        """Add the windows to those before; what no later window reaches is ready."""
        hift, config = self.hift, self.config
        edge = config.istft_n_fft // 2
        total = hift.spectrum.overlap_add(frames)
        envelope = hift.spectrum.envelope(frames.shape[1]).expand(total.shape[0], -1)
        both = torch.stack([total, envelope])  # (2, B, samples)
        if self._overlap is not None:
            both[..., : self._overlap.shape[-1]] += self._overlap
        num_open = edge if final else config.istft_n_fft - config.istft_hop
        self._overlap = both[..., both.shape[-1] - num_open :]
        done = both[..., edge if is_first else 0 : both.shape[-1] - num_open]
        wav = (done[0] / done[1]).clamp(-config.audio_limit, config.audio_limit)
        self._ready = wav if self._ready is None else torch.cat([self._ready, wav], dim=1)

    def _release(self, mel: Tensor, final: bool) -> Tensor:
        config = self.config
        look_right = 0 if final else config.f0_look_right + config.conv_pre_look_right + 1
        num_new = max(0, self._num_pushed - look_right) - self._num_released
        if num_new <= 0:
            return mel.new_zeros(mel.shape[0], 0)
        assert self._ready is not None
        self._num_released += num_new
        wav, self._ready = self._ready[:, : num_new * config.hop], self._ready[:, num_new * config.hop :]
        return wav


def _source_down(in_channels: int, channels: int, stride: int) -> CausalConv1d:
    if stride == 1:
        return CausalConv1d(in_channels, channels, 1)
    return CausalConv1d(in_channels, channels, 2 * stride, stride=stride, left=stride - 1)


def _check(config: HiFTConfig) -> None:
    """Raises: ValueError naming the fields that do not fit together."""
    if config.head not in ("absolute", "filter"):
        raise ValueError(f'HiFTConfig.head must be "absolute" or "filter" (got "{config.head}")')
    stages = len(config.upsample_rates)
    if not stages == len(config.upsample_kernel_sizes) == len(config.source_resblock_kernel_sizes):
        raise ValueError(
            "HiFTConfig: upsample_rates, upsample_kernel_sizes and source_resblock_kernel_sizes need one entry per "
            f"stage, got {stages}, {len(config.upsample_kernel_sizes)} and {len(config.source_resblock_kernel_sizes)}"
        )
    samples = math.prod(config.upsample_rates) * config.istft_hop
    if samples != config.hop:
        raise ValueError(f"HiFTConfig: prod(upsample_rates) * istft_hop must be hop = {config.hop}, is {samples}")
    if config.istft_n_fft // 2 - config.istft_hop > config.hop:
        raise ValueError(
            f"HiFTConfig: istft_n_fft {config.istft_n_fft} reaches further than the look-ahead of one mel frame"
        )
    if config.base_channels % 2**stages:
        raise ValueError(f"HiFTConfig: base_channels {config.base_channels} must be a multiple of {2**stages}")
    if not config.resblock_kernel_sizes or not config.resblock_dilations:
        raise ValueError("HiFTConfig: resblock_kernel_sizes and resblock_dilations must not be empty")
