"""The flow against the reference: token side, estimator, sampler, streaming, loss and gradients."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor

from cosyforge.cosyvoice.config import FlowConfig
from cosyforge.cosyvoice.dit import attention_mask
from cosyforge.cosyvoice.flow import Flow, FlowBatch, fixed_noise, time_grid
from cosyforge.cosyvoice.flow_stream import FlowStream

from .conftest import LoadJson, LoadTensors

TOKEN_SIDE_TOLERANCE = 1e-6
ESTIMATOR_TOLERANCE = 1e-5
MEL_TOLERANCE = 2e-5
LOSS_TOLERANCE = 1e-6
GRADIENT_TOLERANCE = 1e-4  # relative


def build_flow(facts: dict[str, Any], state: dict[str, Tensor]) -> Flow:
    config = facts["config"]
    flow = Flow(
        FlowConfig(
            speech_token_size=config["vocab"],
            mel_bins=config["mel"],
            speaker_dim=config["spk"],
            pre_lookahead=config["pre_lookahead"],
            pre_lookahead_channels=config["pre"],
            dim=config["dim"],
            depth=config["depth"],
            num_heads=config["heads"],
            head_dim=config["dim_head"],
            ff_mult=config["ff_mult"],
            chunk_frames=config["chunk"],
            frames_per_token=config["mel_per_token"],
            num_steps=config["n_timesteps"],
            guidance=config["inference_cfg_rate"],
            training_guidance_dropout=config["training_cfg_rate"],
            sigma_min=config["sigma_min"],
        )
    )
    flow.load_state_dict(state, strict=True)
    return flow.eval()


@pytest.fixture(scope="module")
def facts(load_json: LoadJson) -> dict[str, Any]:
    return load_json("flow")


@pytest.fixture(scope="module")
def tensors(load_tensors: LoadTensors) -> dict[str, Tensor]:
    return load_tensors("flow.io")


@pytest.fixture(scope="module")
def flow(facts: dict[str, Any], load_tensors: LoadTensors) -> Flow:
    return build_flow(facts, load_tensors("flow.state"))


def _gap(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max())


def test_the_state_dict_has_the_official_keys_and_no_others(flow: Flow, load_tensors: LoadTensors) -> None:
    assert set(flow.state_dict()) == set(load_tensors("flow.state"))


def test_fixed_noise_is_the_references(facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    noise = fixed_noise(facts["config"]["mel"])
    first = tensors["noise.first_frames"]
    assert torch.equal(noise[:, :, : first.shape[2]], first)
    assert list(noise.shape) == facts["noise"]["stats"]["shape"]
    assert hashlib.sha256(noise.numpy().tobytes()).hexdigest() == facts["noise"]["sha256"]


def test_time_grid_is_the_references(facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    assert _gap(time_grid(facts["config"]["n_timesteps"]), tensors["t_span"]) < TOKEN_SIDE_TOLERANCE


def test_mu_is_the_references(flow: Flow, tensors: dict[str, Tensor]) -> None:
    assert _gap(flow.mu(tensors["mu.token"]), tensors["mu.finalize"]) < TOKEN_SIDE_TOLERANCE
    assert _gap(flow.mu(tensors["mu.token"], final=False), tensors["mu.not_finalize"]) < TOKEN_SIDE_TOLERANCE


def test_speaker_is_the_references(flow: Flow, tensors: dict[str, Tensor]) -> None:
    assert _gap(flow.speaker(tensors["spk.in"]), tensors["spk.out"]) < TOKEN_SIDE_TOLERANCE


def test_embeddings_of_the_estimator_are_the_references(flow: Flow, tensors: dict[str, Tensor]) -> None:
    estimator = flow.estimator
    assert _gap(estimator.time_embed(tensors["est.t"]), tensors["est.time_embed"]) < TOKEN_SIDE_TOLERANCE
    embedded = estimator.input_embed(tensors["est.x"], tensors["est.cond"], tensors["est.mu"], tensors["est.spks"])
    assert _gap(embedded, tensors["est.input_embed"]) < ESTIMATOR_TOLERANCE


@pytest.mark.parametrize("mode", ["full", "stream"])
def test_velocity_is_the_references(flow: Flow, facts: dict[str, Any], tensors: dict[str, Tensor], mode: str) -> None:
    real = tensors["est.mask"]
    mask = attention_mask(
        real.shape[2],
        lengths=real.sum(dim=(1, 2)).long(),
        chunk_frames=facts["config"]["chunk"] if mode == "stream" else None,
    )
    inputs = [tensors[f"est.{name}"] for name in ("x", "mu", "t", "spks", "cond")]
    velocity = flow.estimator(*inputs, mask)
    assert _gap(velocity * real, tensors[f"est.out_{mode}"] * real) < ESTIMATOR_TOLERANCE


def _prompt(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return tensors["inf.prompt_token"], tensors["inf.prompt_feat"].mT, tensors["inf.embedding"]


@pytest.mark.parametrize(
    ("name", "num_tokens", "streaming", "final"),
    [
        ("full", None, False, True),
        ("stream_finalize", None, True, True),
        ("stream_tokens40", 40, True, False),
        ("stream_tokens90", 90, True, False),
    ],
)
def test_sampled_mel_is_the_references(
    flow: Flow, tensors: dict[str, Tensor], name: str, num_tokens: int | None, streaming: bool, final: bool
) -> None:
    token = tensors["inf.token"][:, :num_tokens]
    mel = flow.sample(token, *_prompt(tensors), streaming=streaming, final=final)
    assert _gap(mel, tensors[f"inf.{name}"]) < MEL_TOLERANCE


def test_mel_without_a_prompt_is_the_references(flow: Flow, tensors: dict[str, Tensor]) -> None:
    expected = tensors["inf.no_prompt"]
    num_tokens = expected.shape[2] // flow.config.frames_per_token
    mel = flow.sample(tensors["inf.token"][:, :num_tokens], None, None, tensors["inf.embedding"])
    assert _gap(mel, expected) < MEL_TOLERANCE


def test_a_stream_token_by_token_gives_the_references_mel(flow: Flow, tensors: dict[str, Tensor]) -> None:
    stream = FlowStream(flow, *_prompt(tensors))
    token = tensors["inf.token"][0]
    last = len(token) - 1
    pieces = [stream.push(token[i : i + 1], final=i == last) for i in range(len(token))]
    assert _gap(torch.cat(pieces, dim=2), tensors["inf.stream_finalize"]) < MEL_TOLERANCE


@pytest.mark.parametrize("mode", ["full", "stream"])
def test_loss_prediction_and_gradients_are_the_references(
    flow: Flow, facts: dict[str, Any], tensors: dict[str, Tensor], mode: str
) -> None:
    num_frames = tensors["train.speech_feat_len"]
    batch = FlowBatch(
        token=tensors["train.speech_token"],
        token_len=tensors["train.speech_token_len"],
        mel=tensors["train.speech_feat"].mT,
        mel_len=num_frames,
        speaker_embedding=tensors["train.embedding"],
    )
    flow.zero_grad()
    result = flow.loss(
        batch,
        streaming=mode == "stream",
        t=tensors["train.t"],
        z=tensors["train.z"],
        keep=tensors["train.keep"],
        cond_len=tensors["train.cond_len"],
    )
    torch.autograd.backward(result.loss)
    assert _gap(result.loss, tensors[f"train.loss_{mode}"]) < LOSS_TOLERANCE
    real = (torch.arange(result.pred.shape[2]) < num_frames[:, None])[:, None]
    assert _gap(result.pred * real, tensors[f"train.pred_{mode}"] * real) < ESTIMATOR_TOLERANCE
    expected = facts[f"train.grad_l2_{mode}"]
    norms = {
        name: float(parameter.grad.norm()) for name, parameter in flow.named_parameters() if parameter.grad is not None
    }
    assert norms == pytest.approx(expected, rel=GRADIENT_TOLERANCE)
