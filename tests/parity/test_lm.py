"""The speech LM against the reference: training layout, scores, loss, gradients, optimiser steps, decoding."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from cosyforge.cosyvoice.config import LMConfig, SamplingConfig
from cosyforge.cosyvoice.lm import LMBatch, SpeechLM, generate, generate_bistream, smoothed_cross_entropy

from .conftest import LoadJson, LoadTensors

TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-6
GRADIENT_TOLERANCE = 1e-4  # relative

GREEDY = SamplingConfig(top_k=1)


@pytest.fixture(scope="module")
def facts(load_json: LoadJson) -> dict[str, Any]:
    return load_json("lm")


@pytest.fixture(scope="module")
def tensors(load_tensors: LoadTensors) -> dict[str, Tensor]:
    return load_tensors("lm.io")


@pytest.fixture
def lm(facts: dict[str, Any], load_tensors: LoadTensors) -> SpeechLM:
    config = facts["config"]
    lm = SpeechLM(
        LMConfig(
            text_vocab_size=config["vocab"],
            hidden_size=config["hidden"],
            num_layers=config["layers"],
            num_heads=config["heads"],
            num_kv_heads=config["kv"],
            head_dim=config["head_dim"],
            intermediate_size=config["inter"],
            rope_theta=config["rope_theta"],
            rms_norm_eps=config["rms_norm_eps"],
            speech_token_size=config["speech"],
            num_special_rows=config["output_rows"] - config["speech"],
            mix_ratio=tuple(config["mix_ratio"]),
        )
    )
    state = load_tensors("lm.state")
    state.pop("llm.model.lm_head.weight", None)  # the text head, which is left out
    lm.load_state_dict(state, strict=True)
    return lm.eval()


def test_special_ids_stand_where_the_reference_has_them(lm: SpeechLM, facts: dict[str, Any]) -> None:
    for name in ("sos", "eos", "task_id", "fill"):
        assert getattr(lm.config, name) == facts["config"][name]


@pytest.mark.parametrize("layout", ["uni", "bi"])
def test_training_batch_is_the_references(lm: SpeechLM, tensors: dict[str, Tensor], layout: str) -> None:
    batch = _batch(lm, tensors, layout)
    assert torch.equal(batch.target, tensors[f"{layout}.target"])
    assert torch.equal(batch.lengths, tensors[f"{layout}.input_len"].long())
    assert torch.equal(batch.embeds, tensors[f"{layout}.input"])


@pytest.mark.parametrize("layout", ["uni", "bi"])
def test_training_scores_are_the_references(lm: SpeechLM, tensors: dict[str, Tensor], layout: str) -> None:
    lengths = tensors[f"{layout}.input_len"]
    hidden, _ = lm(tensors[f"{layout}.input"], lengths)
    difference = (lm.logits(hidden) - tensors[f"{layout}.logits"]).abs().amax(dim=-1)
    real = torch.arange(difference.shape[1]) < lengths[:, None]
    assert _report(f"{layout} logits", difference[real].max()) < TOLERANCE


@pytest.mark.parametrize("layout", ["uni", "bi"])
def test_loss_accuracy_and_gradients_are_the_references(
    lm: SpeechLM, tensors: dict[str, Tensor], facts: dict[str, Any], layout: str
) -> None:
    result = lm.loss(_batch(lm, tensors, layout))
    assert _report(f"{layout} loss", (result.loss - tensors[f"{layout}.loss"]).abs()) < LOSS_TOLERANCE
    assert float(result.accuracy) == pytest.approx(float(tensors[f"{layout}.acc"]), abs=1e-6)
    result.loss.backward()
    expected = facts[f"{layout}.grad_l2"]
    norms = {name: float(parameter.grad.norm()) for name, parameter in lm.named_parameters()}
    assert norms.keys() == expected.keys()
    worst = max(abs(norms[name] - value) / value for name, value in expected.items())
    assert _report(f"{layout} gradient norm, relative", worst) < GRADIENT_TOLERANCE


def test_five_adam_steps_give_the_references_losses(
    lm: SpeechLM, tensors: dict[str, Tensor], facts: dict[str, Any]
) -> None:
    lm.train()
    optimizer = torch.optim.Adam(lm.parameters(), lr=1e-3)
    losses = []
    for _ in facts["adam_lr_1e-3_clip_5_losses"]:
        loss = lm.loss(_batch(lm, tensors, "uni")).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 5.0)
        optimizer.step()
    expected = facts["adam_lr_1e-3_clip_5_losses"]
    worst = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
    assert _report("losses of five Adam steps", worst) < 1e-4


@pytest.mark.parametrize("smoothing", ["0.1", "0.0"])
def test_label_smoothing_is_the_references(tensors: dict[str, Tensor], smoothing: str) -> None:
    target = tensors["smooth.target"]
    predicts = target != -1
    loss = smoothed_cross_entropy(tensors["smooth.logits"][predicts], target[predicts], float(smoothing))
    difference = (loss - tensors[f"smooth.loss_{smoothing}"]).abs()
    assert _report(f"loss with smoothing {smoothing}", difference) < LOSS_TOLERANCE


@pytest.mark.parametrize("mode", ["zero_shot", "instruct2"])
def test_decoding_is_the_references(
    lm: SpeechLM, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    log_probs, _ = _record_steps(lm, monkeypatch)
    expected, expected_log_probs = tensors[f"{mode}.tokens"].tolist(), tensors[f"{mode}.logp"]
    num_steps = expected_log_probs.shape[0]  # one more than tokens: the last gave the forced end
    spoken = generate(
        lm,
        tensors[f"{mode}.text"][0],
        tensors[f"{mode}.prompt_text"][0],
        tensors[f"{mode}.prompt_speech"][0],
        sampling=GREEDY,
        min_len=num_steps,
        max_len=num_steps,
    )
    assert list(spoken)[: len(expected)] == expected
    difference = torch.stack(log_probs) - expected_log_probs
    assert _report(f"{mode} log probabilities", difference.abs().max()) < TOLERANCE


@pytest.mark.parametrize("mode", ["zero_shot", "instruct2"])
def test_minimum_length_fault_masks_the_references_column(
    lm: SpeechLM, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    masked: list[list[int]] = []

    def greedy(log_probs: Tensor, *_: object) -> int:
        masked.append(log_probs.isneginf().nonzero()[:, 0].tolist())
        return int(log_probs[: lm.config.speech_token_size].argmax())

    monkeypatch.setattr("cosyforge.cosyvoice.lm.ras_sample", greedy)
    tokens = [tensors[f"{mode}.{name}"][0] for name in ("text", "prompt_text", "prompt_speech")]
    faulty = {"sampling": GREEDY, "min_len": 3, "max_len": 4, "reference_min_len_fault": True}
    assert len(list(generate(lm, *tokens, **faulty))) == 4
    assert masked[0] == tensors[f"{mode}.masked_column_first_step"].tolist()
    assert masked[3] == tensors[f"{mode}.masked_column_last_step"].tolist()


def test_bistream_decoding_is_the_references(
    lm: SpeechLM, tensors: dict[str, Tensor], facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log_probs, lengths = _record_steps(lm, monkeypatch)
    expected, expected_log_probs = tensors["bistream.tokens"].tolist(), tensors["bistream.logp"]
    spoken = _speak_bistream(lm, tensors, facts, reference_repeat_fault=True)
    assert list(islice(spoken, len(expected) + 1))[: len(expected)] == expected
    assert lengths == tensors["bistream.input_lengths"].tolist()
    difference = torch.stack(log_probs) - expected_log_probs
    assert _report("bistream log probabilities", difference.abs().max()) < TOLERANCE


def test_bistream_decoding_without_the_repeat_differs_only_after_the_last_turn(
    lm: SpeechLM, tensors: dict[str, Tensor], facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log_probs, lengths = _record_steps(lm, monkeypatch)
    expected_lengths = tensors["bistream.input_lengths"].tolist()
    last = max(index for index, length in enumerate(expected_lengths) if length > 1)
    list(islice(_speak_bistream(lm, tensors, facts, reference_repeat_fault=False), last))
    assert lengths[:last] == expected_lengths[:last]
    assert lengths[last] == expected_lengths[last] - 1
    difference = torch.stack(log_probs[:last]) - tensors["bistream.logp"][:last]
    assert float(difference.abs().max()) < TOLERANCE


def _batch(lm: SpeechLM, tensors: dict[str, Tensor], layout: str) -> LMBatch:
    names = ("text_token", "text_token_len", "speech_token", "speech_token_len", "instruct_token", "instruct_token_len")
    parts = {name: tensors[f"batch.{name}"] for name in names}
    bistream = None
    if layout == "bi":
        bistream = lm.draw_bistream(parts["text_token_len"], parts["speech_token_len"], probability=1.0)
    return lm.training_batch(*parts.values(), bistream)


def _record_steps(lm: SpeechLM, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[int]]:
    """Keep the scores and the number of new positions of every step from here on."""
    log_probs: list[Tensor] = []
    lengths: list[int] = []
    step = lm.step

    def recorded(embeds: Tensor, cache: Any) -> Tensor:
        scores = step(embeds, cache)
        log_probs.append(scores[0].clone())  # before anything is masked
        lengths.append(embeds.shape[1])
        return scores

    monkeypatch.setattr(lm, "step", recorded)
    return log_probs, lengths


def _speak_bistream(lm: SpeechLM, tensors: dict[str, Tensor], facts: dict[str, Any], **options: Any) -> Any:
    names = sorted((name for name in tensors if name.startswith("bistream.piece")), key=lambda name: int(name[14:]))
    return generate_bistream(
        lm,
        [tensors[name][0] for name in names],
        tensors["bistream.prompt_text"][0],
        tensors["bistream.prompt_speech"][0],
        endofprompt_id=facts["config"]["endofprompt_id_in_this_model"],
        sampling=GREEDY,
        min_ratio=20.0,  # stop ids stay forbidden, as in the vectors
        **options,
    )


def _report(what: str, difference: Tensor | float) -> float:
    difference = float(difference.detach()) if isinstance(difference, Tensor) else difference
    print(f"{what}: max difference {difference:.1e}")
    return difference
