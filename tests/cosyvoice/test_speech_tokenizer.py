"""Speech tokens: numbering, padding, gradients, and the official file's adapter."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx_file import write_tokenizer_file

from cosyforge.cosyvoice.config import SpeechTokenizerConfig
from cosyforge.cosyvoice.onnx_networks import OnnxSpeechTokenizer
from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
from cosyforge.errors import InvalidParameter

torch.set_num_threads(1)
TINY = SpeechTokenizerConfig(n_mels=16, hidden_size=32, num_heads=2, num_layers=2, fsq_dim=3)


@pytest.fixture
def network() -> SpeechTokenizer:
    torch.manual_seed(1)
    return SpeechTokenizer(TINY).eval()


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 8, 9, 403])
@torch.no_grad()
def test_four_frames_make_a_token_and_a_rest_makes_one_more(network: SpeechTokenizer, num_frames: int) -> None:
    code, code_len = network(torch.randn(1, 16, num_frames), torch.tensor([num_frames]))
    assert code.shape == (1, -(-num_frames // 4))
    assert code_len.tolist() == [-(-num_frames // 4)]
    assert code.dtype == torch.int64


@torch.no_grad()
def test_a_padded_clip_equals_the_clip_alone_whatever_the_padding_holds(network: SpeechTokenizer) -> None:
    lengths = [61, 100, 37]
    clips = [torch.randn(16, length) for length in lengths]
    batch = torch.full((3, 16, 100), 1e3)
    for row, clip in enumerate(clips):
        batch[row, :, : clip.shape[1]] = clip
    hidden, hidden_len = network.encode_hidden(batch, torch.tensor(lengths))
    for row, clip in enumerate(clips):
        alone, _ = network.encode_hidden(clip[None], torch.tensor([clip.shape[1]]))
        torch.testing.assert_close(hidden[row, : hidden_len[row]], alone[0], atol=1e-5, rtol=1e-5)


def test_the_first_level_counts_least(network: SpeechTokenizer) -> None:
    levels = torch.tensor([[-1.0, -1, -1], [0, -1, -1], [1, -1, -1], [-1, 0, -1], [1, 1, 1]])
    assert network.code(levels).tolist() == [0, 1, 2, 3, 26]


def test_codes_and_levels_are_inverse_over_the_whole_vocabulary() -> None:
    network = SpeechTokenizer(SpeechTokenizerConfig(hidden_size=20, num_heads=1, num_layers=0, fsq_dim=8))
    codes = torch.arange(3**8)
    levels = network.levels_of(codes)
    assert torch.equal(network.code(levels), codes)
    assert torch.equal(network.code(levels.to(torch.bfloat16)), codes), "numbering must not run in 16 bits"


def test_straight_through_levels_are_whole_and_let_the_gradient_pass(network: SpeechTokenizer) -> None:
    mel = torch.randn(2, 16, 40)
    hidden, _ = network.encode_hidden(mel, torch.tensor([40, 40]))
    levels = network.quantize_ste(hidden)
    _, wanted = network.quantize(hidden)
    torch.testing.assert_close(levels, wanted, atol=1e-6, rtol=0)
    grad_ste = torch.autograd.grad(levels.sum(), hidden, retain_graph=True)[0]
    grad_smooth = torch.autograd.grad(network.squeezed(hidden).sum(), hidden)[0]
    torch.testing.assert_close(grad_ste, grad_smooth)
    assert grad_ste.abs().max() > 0


def test_every_parameter_gets_a_gradient(network: SpeechTokenizer) -> None:
    hidden, _ = network.encode_hidden(torch.randn(2, 16, 60), torch.tensor([60, 41]))
    network.quantize_ste(hidden).square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    assert not without


def test_a_mel_of_the_wrong_height_is_refused(network: SpeechTokenizer) -> None:
    with pytest.raises(ValueError, match=r"takes mel \(batch, 16, frames\), got \(1, 80, 10\)"):
        network(torch.zeros(1, 80, 10), torch.tensor([10]))


class StubSession:
    """Answers like the official file: one id for every four frames, here their rounded mean."""

    def __init__(self, names: tuple[str, ...] = ("feats", "feats_length")) -> None:
        self.names = names
        self.feeds: list[dict[str, np.ndarray]] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.names]

    def run(self, output_names: list[str] | None, feeds: dict[str, np.ndarray]) -> list[Any]:
        self.feeds.append(feeds)
        mel = feeds[self.names[0]]
        num_tokens = -(-mel.shape[2] // 4)
        return [np.array([[mel[0, 0, 4 * i] for i in range(num_tokens)]], dtype=np.int32)]


def test_the_adapter_feeds_the_official_file_one_clip_at_a_time() -> None:
    session = StubSession()
    mel = torch.arange(24.0).repeat(2, 128, 1)
    code, code_len = OnnxSpeechTokenizer(session)(mel, torch.tensor([24, 9]))
    assert code.tolist() == [[0, 4, 8, 12, 16, 20], [0, 4, 8, 0, 0, 0]]
    assert code_len.tolist() == [6, 3]
    assert code.dtype == torch.int64
    shapes = [(feeds["feats"].shape, feeds["feats_length"].tolist()) for feeds in session.feeds]
    assert shapes == [((1, 128, 24), [24]), ((1, 128, 9), [9])]
    assert {(feeds["feats"].dtype.name, feeds["feats_length"].dtype.name) for feeds in session.feeds} == {
        ("float32", "int32")
    }


def test_a_file_with_other_inputs_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="must have 2 inputs, this file has 1: x"):
        OnnxSpeechTokenizer(StubSession(("x",)))


def test_a_file_that_is_no_onnx_is_named(tmp_path: Any) -> None:
    with pytest.raises(InvalidParameter, match="no such ONNX file"):
        OnnxSpeechTokenizer.open(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"nothing of the kind")
    with pytest.raises(InvalidParameter, match=r"a\.onnx: ONNX Runtime cannot open it"):
        OnnxSpeechTokenizer.open(tmp_path / "a.onnx")


def test_a_real_onnx_file_is_opened_and_run(tmp_path: Any) -> None:
    write_tokenizer_file(tmp_path / "mean.onnx")
    tokenizer = OnnxSpeechTokenizer.open(tmp_path / "mean.onnx")
    code, code_len = tokenizer(torch.full((2, 128, 5), 7.4), torch.tensor([5, 3]))
    assert code.tolist() == [[7] * 5, [7, 7, 7, 0, 0]]
    assert code_len.tolist() == [5, 3]
