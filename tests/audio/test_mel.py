"""Features follow their definitions: lengths, floors, and an independent implementation where there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cosyforge.audio.mel import kaldi_fbank, mel_spectrogram, whisper_mel

torch.set_num_threads(1)


def noise(num_samples: int, seed: int = 0) -> Tensor:
    return torch.randn(num_samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def tone(hz: float, sample_rate_hz: int, num_samples: int) -> Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(num_samples) / sample_rate_hz)


def test_fbank_agrees_with_kaldi_native_fbank() -> None:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = 16000
    options.mel_opts.num_bins = 80
    wav = torch.cat([noise(8000), torch.zeros(3000), tone(440, 16000, 7123) * 0.5 + noise(7123) * 0.1])
    theirs = knf.OnlineFbank(options)
    theirs.accept_waveform(16000, wav.tolist())
    theirs.input_finished()
    wanted = torch.from_numpy(np.stack([theirs.get_frame(i) for i in range(theirs.num_frames_ready)]))
    torch.testing.assert_close(kaldi_fbank(wav), wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("num_samples", [721, 959, 960, 961, 24000, 24479])
def test_mel_has_a_frame_for_each_whole_hop(num_samples: int) -> None:
    assert mel_spectrogram(noise(num_samples)[None]).shape == (1, 80, num_samples // 480)


@pytest.mark.parametrize("num_samples", [201, 320, 16000, 16159])
def test_whisper_mel_has_a_frame_for_each_whole_hop(num_samples: int) -> None:
    assert whisper_mel(noise(num_samples)).shape == (128, num_samples // 160)


@pytest.mark.parametrize(("num_samples", "num_frames"), [(400, 1), (559, 1), (560, 2), (16000, 98)])
def test_fbank_counts_whole_frames_only(num_samples: int, num_frames: int) -> None:
    assert kaldi_fbank(noise(num_samples)).shape == (num_frames, 80)


def test_a_batch_equals_its_clips() -> None:
    clips = torch.stack([noise(5000, seed) for seed in range(3)])
    mel = mel_spectrogram(clips)
    for index in range(3):
        torch.testing.assert_close(mel[index], mel_spectrogram(clips[index : index + 1])[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("hz", [300.0, 3000.0, 11000.0])
def test_a_tone_is_loudest_in_the_bin_that_covers_it(hz: float) -> None:
    mel = mel_spectrogram(tone(hz, 24000, 24000)[None])[0]
    # centres of 80 Slaney bins up to 12 kHz, worked out from the scale's definition: linear to 1 kHz, then logarithmic
    top = 15 + 27 * math.log(12000 / 1000) / math.log(6.4)
    position = hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)
    assert abs(int(mel[:, 25].argmax()) + 1 - position / top * 81) <= 1


def test_silence_sits_on_the_floors() -> None:
    # sqrt(1e-9) through the filters lies below the floor of 1e-5 only above the widest bins, never under it
    assert mel_spectrogram(torch.zeros(1, 2400)).min() >= math.log(1e-5)
    assert whisper_mel(torch.zeros(1600)).unique().tolist() == [(-10 + 4) / 4]
    torch.testing.assert_close(kaldi_fbank(torch.zeros(1600)), torch.full((8, 80), math.log(2.0**-23)))


def test_whisper_mel_spans_eight_decades_below_its_peak() -> None:
    mel = whisper_mel(torch.cat([tone(1000, 16000, 8000), torch.zeros(8000)]))
    torch.testing.assert_close(mel.max() - mel.min(), torch.tensor(2.0))


def test_doubling_the_level_shifts_the_logarithms() -> None:
    wav = noise(8000)
    shift = kaldi_fbank(2 * wav) - kaldi_fbank(wav)
    torch.testing.assert_close(shift, torch.full_like(shift, math.log(4)), atol=1e-4, rtol=0)
    shift = mel_spectrogram(2 * wav[None]) - mel_spectrogram(wav[None])
    torch.testing.assert_close(shift, torch.full_like(shift, math.log(2)), atol=1e-3, rtol=0)


def test_gradients_pass_after_a_first_call_in_inference_mode() -> None:
    with torch.inference_mode():
        mel_spectrogram(noise(1441)[None])
    wav = noise(1441)[None].requires_grad_()
    mel_spectrogram(wav).sum().backward()
    assert wav.grad is not None
    assert bool(wav.grad.isfinite().all())


@pytest.mark.parametrize(
    ("feature", "wav", "message"),
    [
        (mel_spectrogram, torch.zeros(1, 720), "720 samples at 24 kHz is too short"),
        (mel_spectrogram, torch.zeros(2400), r"takes \(batch, samples\)"),
        (whisper_mel, torch.zeros(200), "200 samples at 16 kHz is too short"),
        (whisper_mel, torch.zeros(1, 1600), "takes one clip"),
        (kaldi_fbank, torch.zeros(399), "399 samples at 16 kHz is too short"),
        (kaldi_fbank, torch.zeros(1, 1600), "takes one clip"),
    ],
)
def test_clips_that_cannot_be_served_are_refused(feature, wav: Tensor, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        feature(wav)
