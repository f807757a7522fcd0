"""Speaker vectors: shapes for any configuration, training from nothing, and the official file's adapter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx_file import write_speaker_file

from cosyforge.cosyvoice.config import NANO, OFFICIAL, SpeakerEncoderConfig
from cosyforge.cosyvoice.onnx_networks import OnnxSpeakerEncoder
from cosyforge.cosyvoice.speaker_encoder import SpeakerEncoder
from cosyforge.errors import InvalidParameter

torch.set_num_threads(1)
TINY = SpeakerEncoderConfig(growth_rate=4, init_channels=8, embedding_size=16, blocks=(1, 2))


@pytest.mark.parametrize("blocks", [(1,), (2, 3), (1, 1, 1), (1, 1, 1, 1)])
@torch.no_grad()
def test_any_number_of_blocks_gives_a_vector(blocks: tuple[int, ...]) -> None:
    network = SpeakerEncoder(
        SpeakerEncoderConfig(growth_rate=4, init_channels=8, embedding_size=5, blocks=blocks)
    ).eval()
    assert network(torch.randn(2, 50, 80)).shape == (2, 5)


def test_the_official_size_has_about_seven_million_parameters() -> None:
    assert OFFICIAL.speaker_encoder is not None
    with torch.device("meta"):
        network = SpeakerEncoder(OFFICIAL.speaker_encoder)
    assert 6.5e6 < sum(parameter.numel() for parameter in network.parameters()) < 7.5e6


@pytest.mark.parametrize("num_frames", [3, 4, 99, 200, 201, 350])
@torch.no_grad()
def test_clips_of_any_length_from_three_frames_on_are_served(num_frames: int) -> None:
    vector = SpeakerEncoder(TINY).eval()(torch.randn(1, num_frames, 80))
    assert bool(vector.isfinite().all())


@torch.no_grad()
def test_a_batch_equals_its_clips() -> None:
    torch.manual_seed(1)
    network = SpeakerEncoder(TINY).eval()
    fbank = torch.randn(3, 230, 80)
    alone = torch.cat([network(fbank[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(network(fbank), alone, atol=1e-5, rtol=1e-5)


def test_it_learns_to_tell_two_timbres_apart_from_nothing() -> None:
    torch.manual_seed(1)
    network = SpeakerEncoder(TINY).train()
    classifier = torch.nn.Linear(16, 2)
    tilt = torch.linspace(-1, 1, 80)
    label = torch.tensor([0, 1] * 4)
    optimizer = torch.optim.Adam([*network.parameters(), *classifier.parameters()], lr=3e-3)
    losses = []
    for _ in range(12):
        fbank = torch.randn(8, 12, 80) + torch.where(label[:, None, None] == 0, tilt, -tilt)
        loss = torch.nn.functional.cross_entropy(classifier(network(fbank)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    running = {name: buffer for name, buffer in network.named_buffers() if name.endswith("num_batches_tracked")}
    assert all(int(count) == 12 for count in running.values())


def test_every_parameter_of_the_built_in_size_gets_a_gradient() -> None:
    assert NANO.speaker_encoder is not None
    network = SpeakerEncoder(NANO.speaker_encoder).train()
    network(torch.randn(2, 40, 80)).square().sum().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 50, 64), r"takes fbank \(batch, frames, 80\)"), ((1, 2, 80), "at least 3 frames, got 2")],
)
def test_input_it_cannot_use_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeakerEncoder(TINY)(torch.zeros(shape))


class StubSession:
    """Answers with the clip's mean over time."""

    def __init__(self, num_inputs: int = 1) -> None:
        self.num_inputs = num_inputs
        self.shapes: list[tuple[int, ...]] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=f"input{index}") for index in range(self.num_inputs)]

    def run(self, output_names: list[str] | None, feeds: dict[str, np.ndarray]) -> list[Any]:
        self.shapes.append(feeds["input0"].shape)
        return [feeds["input0"].mean(axis=1)]


def test_the_adapter_feeds_the_official_file_one_clip_at_a_time() -> None:
    session = StubSession()
    fbank = torch.randn(3, 50, 80)
    torch.testing.assert_close(OnnxSpeakerEncoder(session)(fbank), fbank.mean(dim=1))
    assert session.shapes == [(1, 50, 80)] * 3
    with pytest.raises(InvalidParameter, match="must have 1 inputs"):
        OnnxSpeakerEncoder(StubSession(2))


def test_a_real_onnx_file_is_opened_and_run(tmp_path: Path) -> None:
    write_speaker_file(tmp_path / "mean.onnx")
    fbank = torch.randn(2, 20, 80)
    torch.testing.assert_close(OnnxSpeakerEncoder.open(tmp_path / "mean.onnx")(fbank), fbank.mean(dim=1))
