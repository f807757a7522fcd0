"""The vocoder: streaming equals offline, fused equals unfused, the source sounds as asked, everything learns."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cosyforge.cosyvoice.config import NANO, HiFTConfig
from cosyforge.cosyvoice.f0 import CausalConv1d
from cosyforge.cosyvoice.hift import HarmonicSource, HiFT, HiFTStream, Snake, Spectrum, UpsampleConv1d, _SnakeFunction

SMALL = HiFTConfig(
    mel_bins=20, base_channels=16, f0_channels=12, resblock_kernel_sizes=(3, 7), resblock_dilations=(1, 3)
)
CONFIGS = {
    "staircase": SMALL,
    "sine": dataclasses.replace(SMALL, source="sine"),
    "two stages": dataclasses.replace(
        SMALL, source="sine", upsample_rates=(8, 6), upsample_kernel_sizes=(16, 13), istft_n_fft=40, istft_hop=10,
        source_resblock_kernel_sizes=(3, 5), resblock_kernel_sizes=(3,),
    ),
    "filter head": dataclasses.replace(
        SMALL, source="sine", head="filter", upsample_rates=(4,), upsample_kernel_sizes=(8,), istft_n_fft=480,
        istft_hop=120, source_resblock_kernel_sizes=(7,), num_harmonics=20,
    ),
}  # fmt: skip
SAMPLE_TOLERANCE = 1e-4
EXACT = 1e-5
"""What reordered float32 sums may differ by where the numbers are around one."""


def build(config: HiFTConfig, *, pitch_hz: float = 120.0) -> HiFT:
    """Random weights whose pitch moves around pitch_hz with unvoiced frames in between, and whose output is audible."""
    torch.manual_seed(7)
    hift = HiFT(config).eval()
    with torch.no_grad():
        hift.f0_predictor.classifier.weight.mul_(4000.0)
        hift.f0_predictor.classifier.bias.fill_(pitch_hz)
        assert hift.conv_post.bias is not None
        hift.conv_post.bias[: config.istft_n_fft // 2 + 1] += 2.0 if config.head == "filter" else 5.0
    return hift


def random_mel(num_frames: int, config: HiFTConfig = SMALL, batch_size: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(num_frames)
    return torch.randn(batch_size, config.mel_bins, num_frames, generator=generator)


def push_all(stream: HiFTStream, mel: Tensor, sizes: list[int]) -> list[Tensor]:
    assert sum(sizes) == mel.shape[2]
    pieces = mel.split(sizes, dim=2)
    return [stream.push(piece, index == len(sizes) - 1) for index, piece in enumerate(pieces)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stream_of_any_piece_sizes_equals_the_offline_waveform(name: str) -> None:
    hift, mel = build(CONFIGS[name]).fuse(), random_mel(67)
    f0 = hift.f0(mel)
    assert 0 < int((f0 > 10).sum()) <= f0.numel()
    with torch.no_grad():
        offline = hift(mel)
    assert offline.std() > 0.02
    sizes_of = random.Random(name)
    for _ in range(4):
        sizes, left = [], mel.shape[2]
        while left:
            sizes.append(min(left, sizes_of.choice((1, 2, 3, 8, 13, 30))))
            left -= sizes[-1]
        streamed = push_all(HiFTStream(hift), mel, sizes)
        torch.testing.assert_close(torch.cat(streamed, dim=1), offline, rtol=0, atol=SAMPLE_TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 7, 8, 9])
def test_a_stream_of_one_short_piece_equals_the_offline_waveform(name: str, num_frames: int) -> None:
    hift, mel = build(CONFIGS[name]).fuse(), random_mel(num_frames)
    with torch.no_grad():
        offline = hift(mel)
    assert offline.shape == (1, num_frames * SMALL.hop)
    streamed = HiFTStream(hift).push(mel, True)
    torch.testing.assert_close(streamed, offline, rtol=0, atol=SAMPLE_TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unfinished_mel_gives_the_beginning_of_the_finished_one_and_so_does_the_stream(name: str) -> None:
    hift, mel = build(CONFIGS[name]).fuse(), random_mel(40)
    stream = HiFTStream(hift)
    with torch.no_grad():
        whole, beginning = hift(mel), hift(mel[..., :25], final=False)
    assert beginning.shape == (1, (25 - 8) * SMALL.hop)
    torch.testing.assert_close(beginning, whole[:, : beginning.shape[1]], rtol=0, atol=SAMPLE_TOLERANCE)
    assert [stream.push(mel[..., i : i + 1], False).shape[1] for i in range(9)] == [0] * 8 + [SMALL.hop]
    assert stream.push(mel[..., 9:25], False).shape[1] == 16 * SMALL.hop


def test_a_stream_that_ends_with_an_empty_piece_releases_its_look_ahead() -> None:
    hift, mel = build(CONFIGS["sine"]).fuse(), random_mel(20)
    with torch.no_grad():
        offline = hift(mel)
    stream = HiFTStream(hift)
    first, last = stream.push(mel, False), stream.push(mel[..., :0], True)
    assert (first.shape[1], last.shape[1]) == (12 * SMALL.hop, 8 * SMALL.hop)
    torch.testing.assert_close(torch.cat([first, last], dim=1), offline, rtol=0, atol=SAMPLE_TOLERANCE)


def test_a_stream_of_nothing_is_silent_and_an_ended_one_refuses_more() -> None:
    stream = HiFTStream(build(SMALL))
    assert stream.push(random_mel(1)[..., :0], True).shape == (1, 0)
    with pytest.raises(ValueError, match="make a new HiFTStream"):
        stream.push(random_mel(1), False)


def test_a_stream_carries_no_more_after_a_long_signal_than_after_a_short_one() -> None:
    hift = build(CONFIGS["sine"]).fuse()
    stream, mel = HiFTStream(hift), random_mel(10)

    def carried() -> int:
        tensors = [value for value in vars(stream).values() if isinstance(value, Tensor)]
        return sum(t.numel() for t in [*tensors, *stream._convs._context_by_conv.values()])

    stream.push(random_mel(20), False)
    after_short = carried()
    for _ in range(5):
        stream.push(mel, False)
    assert carried() == after_short


def test_two_streams_of_one_network_do_not_disturb_each_other() -> None:
    hift = build(CONFIGS["sine"]).fuse()
    mels = [random_mel(30), random_mel(31)[..., :30]]
    streams = [HiFTStream(hift) for _ in mels]
    pieces: list[list[Tensor]] = [[], []]
    for start in range(0, 30, 10):
        for stream, mel, out in zip(streams, mels, pieces, strict=True):
            out.append(stream.push(mel[..., start : start + 10], start == 20))
    for mel, out in zip(mels, pieces, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(torch.cat(out, dim=1), hift(mel), rtol=0, atol=SAMPLE_TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_equals_its_items(name: str) -> None:
    hift, mel = build(CONFIGS[name]).fuse(), random_mel(12, batch_size=3)
    with torch.no_grad():
        together, alone = hift(mel), torch.cat([hift(item) for item in mel.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=SAMPLE_TOLERANCE)


@torch.no_grad()
def test_fused_weights_change_nothing_and_are_dropped_when_the_weights_change() -> None:
    hift, mel = build(CONFIGS["sine"]), random_mel(15)
    before = hift(mel)
    keys = list(hift.state_dict())
    torch.testing.assert_close(hift.fuse()(mel), before, rtol=0, atol=EXACT)
    assert list(hift.state_dict()) == keys
    other = build(CONFIGS["sine"], pitch_hz=200.0)
    other.conv_pre.bias.add_(0.3)
    other.conv_pre.parametrizations.weight.original0.mul_(1.5)
    hift.load_state_dict(other.state_dict())
    torch.testing.assert_close(hift(mel), other(mel), rtol=0, atol=EXACT)


@torch.no_grad()
def test_training_after_fusing_sees_the_live_weights() -> None:
    hift = build(CONFIGS["sine"]).fuse().train()
    assert all(module._fused is None for module in hift.modules() if isinstance(module, CausalConv1d))


@pytest.mark.parametrize(("kernel", "rate"), [(16, 8), (11, 5), (7, 3), (8, 4), (5, 5), (13, 6)])
@torch.no_grad()
def test_the_upsampling_convolution_equals_repeating_then_convolving(kernel: int, rate: int) -> None:
    conv = UpsampleConv1d(6, 4, kernel, rate)
    x = torch.randn(2, 6, 9)
    repeated = functional.pad(x.repeat_interleave(rate, dim=-1), (kernel - 1, 0))
    expected = functional.conv1d(repeated, conv.weight, conv.bias)
    torch.testing.assert_close(conv(x.unsqueeze(2)).squeeze(2), expected, rtol=0, atol=EXACT)


@torch.no_grad()
def test_the_spectrum_and_its_inverse_are_those_of_torch() -> None:
    for n_fft, hop in ((16, 4), (40, 10), (480, 120)):
        spectrum, wav = Spectrum(n_fft, hop), torch.randn(2, 40 * hop)
        window = torch.hann_window(n_fft)
        expected = torch.stft(wav, n_fft, hop, window=window, return_complex=True).transpose(1, 2)
        padded = functional.pad(wav.unsqueeze(1), (n_fft // 2, n_fft // 2), mode="reflect").squeeze(1)
        frames = spectrum.frames(padded)
        torch.testing.assert_close(frames, torch.cat([expected.real, expected.imag], -1), rtol=0, atol=1e-4)
        changed = frames * torch.rand_like(frames)
        real, imaginary = changed.chunk(2, dim=-1)
        whole = torch.istft(torch.complex(real, imaginary).transpose(1, 2), n_fft, hop, window=window)
        edge = n_fft // 2
        ours = (spectrum.overlap_add(changed) / spectrum.envelope(41))[:, edge:-edge]
        torch.testing.assert_close(ours, whole, rtol=0, atol=1e-4)


def test_the_derivative_of_snake_is_that_of_its_formula() -> None:
    x = torch.randn(2, 3, 1, 5, dtype=torch.float64, requires_grad=True)
    alpha = (torch.rand(3, dtype=torch.float64) + 0.5).requires_grad_()
    formula = x + torch.sin(alpha[:, None, None] * x).square() / (alpha[:, None, None] + 1e-9)
    ours = _SnakeFunction.apply(x, alpha)
    torch.testing.assert_close(ours, formula)
    weight = torch.randn_like(x)
    expected = torch.autograd.grad((formula * weight).sum(), (x, alpha))
    torch.testing.assert_close(torch.autograd.grad((ours * weight).sum(), (x, alpha)), expected)
    snake = Snake(3).double()
    snake.alpha.data.copy_(alpha)
    with torch.no_grad():
        torch.testing.assert_close(snake(x), formula)


@pytest.mark.parametrize("pitch_hz", [100.0, 237.5])
def test_the_oscillator_sounds_at_the_pitch_asked_and_its_multiples(pitch_hz: float) -> None:
    source = HarmonicSource(CONFIGS["sine"]).eval()
    f0 = torch.full((1, 50), pitch_hz)  # one second: spectrum bins one hertz apart
    sines = source.sines(f0, source.start(f0))[0]
    spectrum = torch.fft.rfft(sines * torch.hann_window(sines.shape[1])).abs()
    for index, peak in enumerate(spectrum.argmax(dim=1).tolist()):
        assert abs(peak - pitch_hz * (index + 1)) <= 1.0
    torch.testing.assert_close(sines.abs().amax(1), torch.full((9,), 0.1), rtol=0.01, atol=0)


def test_the_oscillator_follows_a_glide_without_a_jump() -> None:
    source = HarmonicSource(CONFIGS["sine"]).eval()
    f0 = torch.linspace(100, 300, 50).unsqueeze(0)
    fundamental = source.sines(f0, source.start(f0))[0, 0]
    steepest = 0.1 * 2 * torch.pi * 300 / 24000
    assert fundamental.diff().abs().max() < steepest * 1.01


def test_harmonics_above_half_the_sample_rate_are_muted() -> None:
    source = HarmonicSource(CONFIGS["sine"]).eval()
    f0 = torch.full((1, 10), 2500.0)  # the fifth harmonic would be at 12 500 Hz
    loudest = source.sines(f0, source.start(f0))[0].abs().amax(dim=1)
    assert (loudest[:4] > 0.09).all()
    assert (loudest[4:] == 0).all()


@pytest.mark.parametrize("name", ["staircase", "sine"])
def test_unvoiced_frames_have_noise_instead_of_sines(name: str) -> None:
    source = HarmonicSource(CONFIGS[name]).eval()
    f0 = torch.tensor([[155.0] * 5 + [0.0] * 5 + [9.0] * 5 + [210.0] * 5])
    sines = source.sines(f0, source.start(f0)).unflatten(-1, (20, SMALL.hop))
    noise = source.noise(f0, 0).unflatten(-1, (20, SMALL.hop))
    assert (sines[:, :, 5:15] == 0).all()
    assert sines[:, :, :5].abs().amax() > 0.09
    assert sines[:, :, 15:].abs().amax() > 0.09
    assert noise[:, :, 5:15].std() > 5 * noise[:, :, :5].std() > 0


def test_the_noise_of_the_oscillator_has_no_offset_and_the_strength_of_its_training() -> None:
    source, f0 = HarmonicSource(CONFIGS["sine"]), torch.zeros(1, 100)
    fixed, fresh = source.eval().noise(f0, 0), source.train().noise(f0, 0)
    assert abs(float(fixed.mean())) < 0.02 * float(fixed.std())
    assert float(fixed.std()) == pytest.approx(float(fresh.std()), rel=0.02)


@pytest.mark.parametrize("name", ["staircase", "sine"])
def test_the_source_made_in_pieces_equals_the_source_made_at_once(name: str) -> None:
    source = HarmonicSource(CONFIGS[name]).eval()
    f0 = torch.rand(2, 450) * 300
    with torch.no_grad():
        whole = source(f0)
        state = source.start(f0)
        parts = [source(f0[:, a:b], state=state, next_f0=f0[:, b : b + 1] if b < 450 else None)
                 for a, b in ((0, 1), (1, 130), (130, 450))]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole, rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", CONFIGS)
def test_inference_repeats_itself_and_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    source = HarmonicSource(CONFIGS[name])
    hift, mel = build(CONFIGS[name]).fuse(), random_mel(12)
    torch.manual_seed(1)
    with torch.no_grad():
        first, second = hift(mel), hift(mel)
    HiFTStream(hift).push(mel, True)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)
    assert torch.equal(source.noise_period, hift.m_source.noise_period)


def test_training_draws_fresh_noise() -> None:
    hift, mel = build(CONFIGS["sine"]).train(), random_mel(10)
    f0 = torch.full((1, 10), 130.0)
    assert not torch.equal(hift(mel, f0=f0), hift(mel, f0=f0))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_learns(name: str) -> None:
    hift, mel = build(CONFIGS[name]).train(), random_mel(12, batch_size=2)
    f0 = torch.full((2, 12), 130.0)
    loss = hift(mel, f0=f0).square().mean() + (hift.f0_predictor(mel) - f0).abs().mean()
    loss.backward()
    still = [key for key, p in hift.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []
    assert {p.dtype for p in hift.parameters()} == {torch.float32}


def test_training_runs_under_bfloat16_autocast_close_to_float32() -> None:
    hift, mel = build(CONFIGS["filter head"]), random_mel(12)
    with torch.no_grad():
        expected = hift(mel)
        with torch.autocast("cpu", torch.bfloat16):
            rough = hift(mel)
    assert rough.dtype == torch.float32
    assert (rough - expected).std() < 0.05 * expected.std()


def test_pitch_inference_is_float64_and_leaves_the_weights_float32() -> None:
    hift, mel = build(SMALL), random_mel(12)
    fine, coarse = hift.f0(mel), hift.f0_predictor(mel)
    assert (fine.dtype, coarse.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(fine.float(), coarse.detach(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(hift.fuse().f0(mel), fine, rtol=1e-12, atol=1e-9)
    assert {p.dtype for p in hift.parameters()} == {torch.float32}
    torch.testing.assert_close(hift.f0(mel, final=False), fine[:, :-3], rtol=1e-12, atol=1e-9)


def test_a_given_pitch_replaces_the_predicted_one() -> None:
    hift, mel = build(CONFIGS["filter head"]).fuse(), random_mel(50)
    with torch.no_grad():
        wav = hift(mel, f0=hift.f0(mel))
        torch.testing.assert_close(wav, hift(mel), rtol=0, atol=EXACT)
        assert (hift(mel, f0=torch.full((1, 50), 300.0)) - wav).abs().max() > 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsample_rates": (8, 5, 4)}, "must be hop = 480, is 640"),
        ({"upsample_rates": (8, 15)}, "one entry per stage"),
        ({"base_channels": 20}, "multiple of 8"),
        ({"source": "saw"}, '"staircase" or "sine"'),
        ({"head": "neck"}, '"absolute" or "filter"'),
        ({"istft_n_fft": 20}, "even multiple of istft_hop"),
        ({"istft_n_fft": 1200, "istft_hop": 4}, "reaches further"),
        ({"resblock_kernel_sizes": ()}, "must not be empty"),
    ],
)
def test_a_configuration_that_does_not_fit_together_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HiFT(dataclasses.replace(SMALL, **changes))


def test_input_of_the_wrong_shape_is_refused() -> None:
    hift = build(SMALL)
    with pytest.raises(ValueError, match=r"mel must be \(batch, 20, frames\), got \(1, 80, 10\)"):
        hift(torch.zeros(1, 80, 10))
    with pytest.raises(ValueError, match="at least 8 are needed"):
        hift(random_mel(7), final=False)
    with pytest.raises(ValueError, match="f0 has 9 frames, mel 10"):
        hift(random_mel(10), f0=torch.zeros(1, 9))
    with pytest.raises(ValueError, match=r"noise_period must be \(rows, 9\)"):
        hift(random_mel(10), noise_period=torch.zeros(10, 1))
    with pytest.raises(ValueError, match="mel must be"):
        HiFTStream(hift).push(torch.zeros(20, 5), False)
    with pytest.raises(ValueError, match="inference mode"):
        HiFTStream(hift.train())


def test_the_built_in_model_has_a_valid_vocoder() -> None:
    hift = HiFT(NANO.hift).fuse()
    with torch.no_grad():
        assert hift(torch.zeros(1, NANO.hift.mel_bins, 10)).shape == (1, 4800)
