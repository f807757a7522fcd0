"""Acoustic features against the reference's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cosyforge.audio.mel import kaldi_fbank, mel_spectrogram, whisper_mel

from .conftest import LoadTensors


@pytest.fixture(scope="module")
def io(load_tensors: LoadTensors) -> dict[str, Tensor]:
    return load_tensors("features.io")


def test_mel_matches(io: dict[str, Tensor]) -> None:
    torch.testing.assert_close(mel_spectrogram(io["wav24"]), io["mel24"], atol=1e-5, rtol=0)


def test_whisper_mel_matches(io: dict[str, Tensor]) -> None:
    torch.testing.assert_close(whisper_mel(io["wav16"][0]), io["whisper128"], atol=1e-5, rtol=0)


def test_fbank_matches(io: dict[str, Tensor]) -> None:
    fbank = kaldi_fbank(io["wav16"][0])
    torch.testing.assert_close(fbank, io["fbank80"], atol=1e-3, rtol=0)
    torch.testing.assert_close(fbank - fbank.mean(dim=0), io["fbank80_minus_mean"], atol=1e-3, rtol=0)
