"""Clips become aligned tokens, mel and speaker vector; windows, batches and the cache change nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cosyforge.audio.mel import kaldi_fbank, mel_spectrogram
from cosyforge.audio.resample import resample
from cosyforge.cosyvoice.config import SpeakerEncoderConfig, SpeechTokenizerConfig
from cosyforge.cosyvoice.speaker_encoder import SpeakerEncoder
from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
from cosyforge.dataset.features import FeatureExtractor, Features, merge_windows, peak_limited, tokenize
from cosyforge.errors import InvalidParameter

torch.set_num_threads(1)


def make_model() -> Any:
    """As much of a model as features need."""
    torch.manual_seed(1)
    encoder = SpeakerEncoderConfig(growth_rate=4, init_channels=8, embedding_size=16, blocks=(1, 1))
    return SimpleNamespace(
        speech_tokenizer=SpeechTokenizer(
            SpeechTokenizerConfig(hidden_size=32, num_heads=2, num_layers=1, fsq_dim=3)
        ).eval(),
        speaker_encoder=SpeakerEncoder(encoder).eval(),
    )


def clip(duration_s: float, sample_rate_hz: int = 24000, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    envelope = np.abs(np.sin(np.arange(int(duration_s * sample_rate_hz)) / sample_rate_hz * 7))
    return (0.2 * envelope * generator.standard_normal(envelope.shape[0])).astype(np.float32)


def same(first: Features, second: Features) -> bool:
    return all(torch.equal(one, vars(second)[name]) for name, one in vars(first).items())


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    return FeatureExtractor(make_model())


@pytest.mark.parametrize("num_samples", [2400, 24000, 24001, 24479, 24480, 25439, 36123])
@pytest.mark.parametrize("sample_rate_hz", [16000, 24000, 44100])
def test_two_mel_frames_stand_beside_every_token(
    extractor: FeatureExtractor, num_samples: int, sample_rate_hz: int
) -> None:
    samples = clip(2)[: int(num_samples / 24000 * sample_rate_hz)]
    samples = np.resize(samples, int(num_samples / 24000 * sample_rate_hz))
    features = extractor.extract(samples, sample_rate_hz)
    num_tokens = features.speech_token.shape[0]
    assert features.mel.shape == (80, 2 * num_tokens)
    assert features.speech_token.dtype == torch.int64
    assert features.speaker_embedding.shape == (16,)
    # 25 tokens a second, a rest of less than one of them cut off
    assert num_tokens == pytest.approx(num_samples / 960, abs=1)


def test_features_are_those_of_the_two_rates(extractor: FeatureExtractor) -> None:
    samples = clip(1.3, 44100)
    features = extractor.extract(samples, 44100)
    mel = mel_spectrogram(torch.from_numpy(resample(samples, 44100, 24000))[None])[0]
    assert torch.equal(features.mel, mel[:, : features.mel.shape[1]])
    fbank = kaldi_fbank(torch.from_numpy(resample(samples, 44100, 16000)))
    with torch.no_grad():
        vector = make_model().speaker_encoder((fbank - fbank.mean(dim=0))[None])[0]
    torch.testing.assert_close(features.speaker_embedding, vector)


def test_a_batch_equals_its_clips_in_order(extractor: FeatureExtractor) -> None:
    clips = [(clip(duration_s, 24000, seed), 24000) for seed, duration_s in enumerate([1.7, 0.4, 3.1, 0.9])]
    for features, one in zip(extractor.extract_batch(clips), clips, strict=True):
        alone = extractor.extract(*one)
        assert torch.equal(features.mel, alone.mel)
        assert torch.equal(features.speaker_embedding, alone.speaker_embedding)
        # padding changes sums in the last bit, and a number on a border may then round the other way
        assert (features.speech_token != alone.speech_token).sum() <= 1


def test_features_can_be_trained_on(extractor: FeatureExtractor) -> None:
    features = extractor.extract(clip(0.5), 24000)
    weight = torch.zeros(80, requires_grad=True)
    (features.mel * weight[:, None]).sum().backward()
    assert weight.grad is not None


def test_loud_clips_are_scaled_to_a_peak_of_one_and_others_left_alone(extractor: FeatureExtractor) -> None:
    quiet = clip(0.5)
    assert peak_limited(quiet) is quiet
    full = quiet / np.abs(quiet).max()
    assert np.abs(peak_limited(full * 3)).max() == pytest.approx(1)
    torch.testing.assert_close(
        extractor.extract(full * 3, 24000).mel, extractor.extract(full, 24000).mel, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("samples", "sample_rate_hz", "message"),
    [
        (clip(0.5, 8000), 8000, "clip 1: sample rate 8000 Hz is below 16000 Hz"),
        (clip(0.09), 24000, r"clip 1: 0\.090 s is shorter than 0\.1 s"),
        (np.zeros((2, 24000), np.float32), 24000, "clip 1: must be one channel"),
    ],
)
def test_clips_that_cannot_be_used_are_named(
    extractor: FeatureExtractor, samples: np.ndarray, sample_rate_hz: int, message: str
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        extractor.extract_batch([(clip(0.5), 24000), (samples, sample_rate_hz)])


# --- long clips ---


class Clock:
    """A tokenizer whose token says which frame it stands for; the first row of the mel counts the frames."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, mel: Tensor, mel_len: Tensor) -> tuple[Tensor, Tensor]:
        self.lengths += mel_len.tolist()
        return mel[:, 0, ::4].long(), (mel_len + 3) // 4


@pytest.mark.parametrize("num_frames", [3000, 3001, 3004, 5600, 5601, 8203, 20000])
def test_windows_of_thirty_seconds_join_without_gap_or_repeat(num_frames: int) -> None:
    clock = Clock()
    mel = torch.arange(num_frames, dtype=torch.float32).repeat(2, 1)
    (tokens,) = tokenize(clock, [mel])
    assert torch.equal(tokens, torch.arange(0, num_frames, 4))
    assert max(clock.lengths) <= 3000
    assert sum(clock.lengths) == num_frames + 400 * (len(clock.lengths) - 1)


def test_windows_are_cut_in_the_middle_of_their_overlap() -> None:
    joined = merge_windows([torch.zeros(750), torch.ones(750), torch.full((200,), 2.0)])
    assert joined.unique_consecutive(return_counts=True)[1].tolist() == [700, 650, 150]


def test_clips_of_all_lengths_keep_their_places() -> None:
    mels = [torch.arange(n, dtype=torch.float32).repeat(2, 1) + 4e4 * n for n in (50, 7000, 3, 400, 3001)]
    for mel, tokens in zip(mels, tokenize(Clock(), mels), strict=True):
        assert torch.equal(tokens, mel[0, ::4].long())


# --- cache ---


def test_the_cache_gives_back_what_was_computed(tmp_path: Path) -> None:
    model = make_model()
    first = FeatureExtractor(model, tmp_path).extract(clip(0.5), 24000)
    model.speech_tokenizer.forward = model.speaker_encoder.forward = None  # running them again would fail
    assert same(first, FeatureExtractor(model, tmp_path).extract(clip(0.5), 24000))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_another_clip_rate_or_network_is_another_entry(tmp_path: Path) -> None:
    model = make_model()
    FeatureExtractor(model, tmp_path).extract(clip(0.5), 24000)
    FeatureExtractor(model, tmp_path).extract(clip(0.5), 32000)
    FeatureExtractor(model, tmp_path).extract(clip(0.5, seed=1), 24000)
    with torch.no_grad():
        model.speaker_encoder.xvector.tdnn.linear.weight[0, 0, 0] += 1
    FeatureExtractor(model, tmp_path).extract(clip(0.5), 24000)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


@pytest.mark.parametrize("damage", ["cut", "noise", "other"])
def test_a_damaged_entry_is_computed_again_and_mended(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    extractor = FeatureExtractor(make_model(), tmp_path)
    first = extractor.extract(clip(0.5), 24000)
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "noise":
        path.write_bytes(b"\xff" * 100)
    else:
        from cosyforge.cosyvoice.weights import write_tensors

        write_tensors(path, vars(replace(first, mel=first.mel[:, :-1])))
    with caplog.at_level(logging.WARNING):
        assert same(first, extractor.extract(clip(0.5), 24000))
    assert "damaged" in caplog.text
    assert path.read_bytes() == whole


def test_a_batch_computes_only_what_the_cache_lacks(tmp_path: Path) -> None:
    model = make_model()
    extractor = FeatureExtractor(model, tmp_path)
    clips = [(clip(0.5, seed=seed), 24000) for seed in range(3)]
    known = extractor.extract(*clips[1])
    calls: list[int] = []
    model.speaker_encoder.register_forward_hook(lambda *_: calls.append(1))
    results = extractor.extract_batch(clips)
    assert len(calls) == 2
    assert same(results[1], known)
