"""Speech tokens to waveform in chunks, through flow and vocoder, against the reference's own streaming loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cosyforge.cosyvoice.flow import Flow
from cosyforge.cosyvoice.flow_stream import FlowStream
from cosyforge.cosyvoice.hift import HiFT

from .conftest import LoadJson, LoadTensors
from .test_flow import build_flow
from .test_hift import build_hift

MIN_CORRELATION = 0.9999
MAX_RELATIVE_DIFFERENCE = 0.01
"""Root mean square of the difference by that of the signal (measured: 0.006). The vocoder's phase is a large float32
number: a mel moved by 1e-6, the rounding of the flow, moves the waveform by up to two per cent within four seconds."""

FIRST_HOP = 25
MAX_HOP = 100
LOOK_AHEAD = 3


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())


@pytest.fixture(scope="module")
def facts(load_json: LoadJson) -> dict[str, Any]:
    return load_json("e2e")


@pytest.fixture(scope="module")
def tensors(load_tensors: LoadTensors) -> dict[str, Tensor]:
    return load_tensors("e2e.io")


@pytest.fixture(scope="module")
def flow(load_json: LoadJson, load_tensors: LoadTensors) -> Flow:
    return build_flow(load_json("flow"), load_tensors("flow.state"))


@pytest.fixture(scope="module")
def hift(load_json: LoadJson, load_tensors: LoadTensors) -> HiFT:
    return build_hift(load_json("hift"), load_tensors("hift.state"))


@pytest.fixture(scope="module")
def noise_period(load_tensors: LoadTensors) -> Tensor:
    return load_tensors("hift.io")["noise_period"]


def _prompt(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return tensors["prompt_token"], tensors["prompt_feat"].mT, tensors["embedding"]


def _assert_same_sound(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert relative_difference(ours, theirs) < MAX_RELATIVE_DIFFERENCE
    assert float(torch.corrcoef(torch.cat((ours, theirs)))[0, 1]) > MIN_CORRELATION


@torch.no_grad()
def test_a_whole_utterance_is_the_references(
    flow: Flow, hift: HiFT, tensors: dict[str, Tensor], noise_period: Tensor, facts: dict[str, Any]
) -> None:
    mel = flow.sample(tensors["source_token"], *_prompt(tensors))
    wav = hift(mel, noise_period=noise_period)
    _assert_same_sound(wav, tensors["full.chunk0"])
    assert facts["chunk_samples_full"] == [wav.shape[1]]


def _reference_hops(num_prompt: int, num_tokens: int) -> list[int]:
    """Tokens in each chunk of the reference's loop: the first ends on a block border, then the hop doubles."""
    hops: list[int] = []
    hop, pad = FIRST_HOP, -num_prompt % FIRST_HOP
    while sum(hops) + hop + pad + LOOK_AHEAD <= num_tokens:
        hops.append(hop + pad)
        hop, pad = min(hop * 2, MAX_HOP), 0
    return [*hops, num_tokens - sum(hops)]


@torch.no_grad()
def _streamed(stream: FlowStream, hift: HiFT, noise_period: Tensor, token: Tensor, hops: list[int]) -> list[Tensor]:
    """The chunks of sound, the vocoder run over all mel so far as in the reference."""
    mel = torch.zeros(1, hift.config.mel_bins, 0)
    chunks: list[Tensor] = []
    num_pushed = num_samples = 0
    for index in range(len(hops)):
        final = index == len(hops) - 1
        end = len(token) if final else sum(hops[: index + 1]) + LOOK_AHEAD
        mel = torch.cat((mel, stream.push(token[num_pushed:end], final=final)), dim=2)
        wav = hift(mel, final=final, noise_period=noise_period)
        chunks.append(wav[:, num_samples:])
        num_pushed, num_samples = end, wav.shape[1]
    return chunks


@pytest.mark.parametrize("as_reference", [True, False])
def test_chunks_are_the_references(
    flow: Flow, hift: HiFT, tensors: dict[str, Tensor], noise_period: Tensor, facts: dict[str, Any], as_reference: bool
) -> None:
    stream = FlowStream(flow, *_prompt(tensors), reference_last_chunk_full_mask=as_reference)
    token = tensors["source_token"][0]
    hops = _reference_hops(tensors["prompt_token"].shape[1], len(token))
    chunks = _streamed(stream, hift, noise_period, token, hops)
    assert [chunk.shape[1] for chunk in chunks] == facts["chunk_samples_stream"]
    # without the switch the last chunk keeps the block mask and fits the others, which the reference's does not
    for index in range(len(chunks) if as_reference else len(chunks) - 1):
        _assert_same_sound(chunks[index], tensors[f"stream.chunk{index}"])


@torch.no_grad()
def test_our_stream_keeps_the_block_mask_to_its_end(
    flow: Flow, hift: HiFT, tensors: dict[str, Tensor], noise_period: Tensor
) -> None:
    token = tensors["source_token"]
    hops = _reference_hops(tensors["prompt_token"].shape[1], token.shape[1])
    chunks = _streamed(FlowStream(flow, *_prompt(tensors)), hift, noise_period, token[0], hops)
    whole = hift(flow.sample(token, *_prompt(tensors), streaming=True), noise_period=noise_period)
    _assert_same_sound(torch.cat(chunks, dim=1), whole)
    last = tensors[f"stream.chunk{len(chunks) - 1}"]
    assert relative_difference(chunks[-1], last) > 10 * MAX_RELATIVE_DIFFERENCE


@torch.no_grad()
def test_a_quicker_utterance_is_the_references(
    flow: Flow, hift: HiFT, tensors: dict[str, Tensor], noise_period: Tensor
) -> None:
    speed, num_tokens = 1.3, 30
    mel = flow.sample(tensors["source_token"][:, :num_tokens], *_prompt(tensors))
    mel = F.interpolate(mel, size=int(mel.shape[2] / speed), mode="linear")
    _assert_same_sound(hift(mel, noise_period=noise_period), tensors["speed_1.3_first_30_tokens"])
