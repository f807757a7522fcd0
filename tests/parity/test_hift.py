"""The vocoder against the reference: pitch, source, decoder, whole waveform, unfinished beginnings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cosyforge.cosyvoice.config import HiFTConfig
from cosyforge.cosyvoice.hift import HiFT, HiFTStream

from .conftest import LoadJson, LoadTensors

F0_RELATIVE_TOLERANCE = 1e-9
F0_FLOAT32_TOLERANCE_HZ = 1e-3
SAMPLE_TOLERANCE = 1e-4
MIN_CORRELATION = 0.9999
SINE_SPACING = 16
"""Every how many samples the stored sines were kept."""


def build_hift(facts: dict[str, Any], state: dict[str, Tensor]) -> HiFT:
    config = facts["config"]
    hift = HiFT(
        HiFTConfig(
            base_channels=config["base"],
            f0_channels=config["cond"],
            upsample_rates=tuple(config["upsample_rates"]),
            upsample_kernel_sizes=tuple(config["upsample_kernel_sizes"]),
            istft_n_fft=config["n_fft"],
            istft_hop=config["hop"],
            resblock_kernel_sizes=tuple(config["resblock_kernels"]),
            resblock_dilations=tuple(config["dilations"]),
            source_resblock_kernel_sizes=tuple(config["source_resblock_kernels"]),
            num_harmonics=config["nb_harmonics"],
            sine_amplitude=config["nsf_alpha"],
            noise_sigma=config["nsf_sigma"],
            voiced_threshold_hz=config["voiced_threshold"],
            conv_pre_look_right=config["conv_pre_look_right"],
            f0_look_right=config["f0_look_right"],
            lrelu_slope=config["lrelu_slope"],
            audio_limit=config["audio_limit"],
        )
    )
    hift.load_state_dict(state, strict=True)
    return hift.eval()


@pytest.fixture(scope="module")
def facts(load_json: LoadJson) -> dict[str, Any]:
    return load_json("hift")


@pytest.fixture(scope="module")
def tensors(load_tensors: LoadTensors) -> dict[str, Tensor]:
    return load_tensors("hift.io")


@pytest.fixture
def hift(facts: dict[str, Any], load_tensors: LoadTensors) -> HiFT:
    return build_hift(facts, load_tensors("hift.state"))


def _relative(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float(((actual - expected).abs() / expected.abs().clamp(min=1.0)).max())


def _assert_samples_agree(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=SAMPLE_TOLERANCE)
    assert torch.corrcoef(torch.stack([actual.flatten(), expected.flatten()]))[0, 1] > MIN_CORRELATION


def test_the_state_dict_has_exactly_the_official_keys(hift: HiFT, load_tensors: LoadTensors) -> None:
    stored = load_tensors("hift.state")
    assert {key: value.shape for key, value in hift.state_dict().items()} == {k: v.shape for k, v in stored.items()}


@torch.no_grad()
def test_the_pitch_is_that_of_the_reference(hift: HiFT, tensors: dict[str, Tensor]) -> None:
    f0 = hift.f0(tensors["mel"])
    assert f0.dtype == torch.float64
    assert _relative(f0, tensors["f0_float64"]) < F0_RELATIVE_TOLERANCE
    rough = hift.f0_predictor(tensors["mel"])
    torch.testing.assert_close(rough, tensors["f0_float32"], rtol=0, atol=F0_FLOAT32_TOLERANCE_HZ)


@torch.no_grad()
def test_the_pitch_of_an_unfinished_mel_leaves_out_the_look_ahead(hift: HiFT, tensors: dict[str, Tensor]) -> None:
    f0 = hift.f0_predictor(tensors["mel"], final=False)
    torch.testing.assert_close(f0, tensors["f0_partial_float32"], rtol=0, atol=F0_FLOAT32_TOLERANCE_HZ)


@torch.no_grad()
def test_sines_and_noise_are_those_of_the_reference(hift: HiFT, tensors: dict[str, Tensor]) -> None:
    f0, source = tensors["source.f0"], hift.m_source
    excitation = source.sines(f0, source.start(f0)) + source.noise(f0, 0, tensors["noise_period"])
    kept = excitation.transpose(1, 2)[:, ::SINE_SPACING]
    torch.testing.assert_close(kept, tensors["source.sine_every_16th"], rtol=0, atol=SAMPLE_TOLERANCE)


@torch.no_grad()
def test_voiced_frames_are_those_of_the_reference(hift: HiFT, tensors: dict[str, Tensor]) -> None:
    sines = hift.m_source.sines(tensors["source.f0"], hift.m_source.start(tensors["source.f0"]))
    sounding = sines.abs().amax(dim=1)[:, :: hift.config.hop] > 0  # (B, F)
    assert torch.equal(sounding.float().unsqueeze(-1), tensors["source.uv_per_frame"])


@torch.no_grad()
def test_the_mixed_source_is_that_of_the_reference(hift: HiFT, tensors: dict[str, Tensor]) -> None:
    source = hift.m_source(tensors["source.f0"], noise_period=tensors["noise_period"])
    _assert_samples_agree(source, tensors["source.out"])


@torch.no_grad()
def test_the_source_of_the_predicted_pitch_is_that_of_the_reference(hift: HiFT, tensors: dict[str, Tensor]) -> None:
    source = hift.m_source(hift.f0(tensors["mel"]), noise_period=tensors["noise_period"])
    _assert_samples_agree(source, tensors["inf.source"])


@torch.no_grad()
def test_the_decoder_is_that_of_the_reference(hift: HiFT, tensors: dict[str, Tensor]) -> None:
    _assert_samples_agree(hift.decode(tensors["mel"], tensors["source.out"]), tensors["decode.out"])


@torch.no_grad()
@pytest.mark.parametrize("is_fused", [False, True])
def test_the_waveform_is_that_of_the_reference(hift: HiFT, tensors: dict[str, Tensor], is_fused: bool) -> None:
    if is_fused:
        hift.fuse()
    _assert_samples_agree(hift(tensors["mel"], noise_period=tensors["noise_period"]), tensors["inf.wav"])


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [16, 28])
def test_an_unfinished_beginning_is_that_of_the_reference(
    hift: HiFT, tensors: dict[str, Tensor], num_frames: int
) -> None:
    wav = hift(tensors["mel"][..., :num_frames], final=False, noise_period=tensors["noise_period"])
    _assert_samples_agree(wav, tensors[f"inf.wav_first{num_frames}_not_final"])


def test_the_stream_releases_what_the_reference_releases(hift: HiFT, tensors: dict[str, Tensor]) -> None:
    stream, mel = HiFTStream(hift.fuse(), noise_period=tensors["noise_period"]), tensors["mel"]
    first = stream.push(mel[..., :16], False)
    second = stream.push(mel[..., 16:28], False)
    last = stream.push(mel[..., 28:], True)
    _assert_samples_agree(first, tensors["inf.wav_first16_not_final"])
    _assert_samples_agree(torch.cat([first, second], dim=1), tensors["inf.wav_first28_not_final"])
    _assert_samples_agree(torch.cat([first, second, last], dim=1), tensors["inf.wav"])
