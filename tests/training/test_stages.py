"""The two stages: what of the clips is seen, that both networks learn them, and that validation is no lottery."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_model import TINY

from cosyforge.cosyvoice.flow import Flow, FlowBatch, FlowLoss
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.training.flow_stage import FlowSample, FlowTask, mean_speaker_embedding
from cosyforge.training.hyper_parameters import HyperParameters
from cosyforge.training.lm_stage import LMSample, LMTask
from cosyforge.training.loop import train
from cosyforge.training.lora import make_trainable

INSTRUCT = torch.tensor([300, 301])


def lm_samples(count: int) -> list[LMSample]:
    """Text tokens that are all different, each spoken as five fixed speech tokens."""
    generator = torch.Generator().manual_seed(2)
    speech_of_text = torch.randint(0, 27, (250, 5), generator=generator)
    texts = torch.randperm(250, generator=generator)[: count * 6].split(6)
    return [LMSample(text, speech_of_text[text].flatten()) for text in texts]


def flow_samples(count: int) -> list[FlowSample]:
    """Every token has a mel of its own."""
    generator = torch.Generator().manual_seed(2)
    mel_of_token = 2 * torch.randn(27, 80, generator=generator)
    lengths = [12 + 3 * index for index in range(count)]
    tokens = [torch.randint(0, 27, (length,), generator=generator) for length in lengths]
    return [FlowSample(token, mel_of_token[token].repeat_interleave(2, dim=0).T.contiguous()) for token in tokens]


def lm_task(batch_positions: int = 200) -> LMTask:
    torch.manual_seed(0)
    return LMTask(SpeechLM(TINY.lm), INSTRUCT, batch_positions, seed=4)


def flow_task(batch_frames: int = 200) -> FlowTask:
    torch.manual_seed(0)
    return FlowTask(Flow(TINY.flow), torch.ones(192), batch_frames, seed=4)


def test_every_clip_is_seen_once_per_epoch_alone_or_joined() -> None:
    samples, task = lm_samples(40), lm_task()

    for epoch in (1, 2):
        batches = task.batches(samples, epoch)
        sequences = [sequence for batch in batches for sequence in batch]
        seen = torch.cat([sequence.text_token for sequence in sequences])
        assert sorted(seen.tolist()) == sorted(torch.cat([sample.text_token for sample in samples]).tolist())
        assert 20 < len(sequences) < 40
        for sequence in sequences:
            assert len(sequence.speech_token) == 5 * len(sequence.text_token)


def test_batches_keep_to_their_positions_padding_included() -> None:
    samples, task = lm_samples(40), lm_task(200)

    for batch in task.batches(samples, 1):
        longest = max(2 + 2 + len(s.text_token) + len(s.speech_token) for s in batch)
        assert len(batch) * longest <= 200


def test_a_clip_larger_than_the_budget_is_trained_alone() -> None:
    batches = lm_task(10).batches(lm_samples(4), 1)

    assert [len(batch) for batch in batches] == [1, 1, 1, 1]


def test_epochs_differ_and_repeat() -> None:
    samples, task = lm_samples(40), lm_task()

    def order(epoch: int) -> list[int]:
        return [int(s.text_token[0]) for batch in task.batches(samples, epoch) for s in batch]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_the_lm_overfits_a_few_clips() -> None:
    samples, task = lm_samples(4), lm_task(1000)
    hyper = HyperParameters(60, 1, 1, 1000, 1, 1, 1, 1)
    config = hyper.lm_stage(1, 8.0)
    losses: list[float] = []

    train(
        task.objective(samples, make_trainable(task.lm, seed=1)),
        replace(config, learning_rate=1e-2),
        seed=1,
        on_step=lambda report: losses.append(report.metrics["loss"]),
    )

    assert losses[0] > 4.5
    assert losses[-1] < 0.6
    assert task.validation(samples)["accuracy"] > 0.9


def test_the_flow_overfits_a_few_clips() -> None:
    samples, task = flow_samples(4), flow_task(1000)
    config = HyperParameters(1, 1, 1, 1, 80, 1, 1, 1000).flow_stage(1, 8.0)
    before = task.validation(samples)["loss"]

    train(
        task.objective(samples, make_trainable(task.flow, seed=1)),
        replace(config, learning_rate=5e-3),
        seed=1,
    )

    assert task.validation(samples)["loss"] < 0.6 * before


def test_both_masks_and_both_layouts_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, flow, masks, layouts = lm_task(1000), flow_task(1000), set(), set()
    real_flow_loss, real_layout = flow.flow.loss, lm.lm.training_batch

    def flow_loss(*arguments: object, **options: object) -> object:
        masks.add(options["streaming"])
        return real_flow_loss(*arguments, **options)  # type: ignore[arg-type]

    def layout(*arguments: object) -> object:
        layouts.update(arguments[-1].tolist())  # type: ignore[attr-defined]
        return real_layout(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(flow.flow, "loss", flow_loss)
    monkeypatch.setattr(lm.lm, "training_batch", layout)
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        flow.loss(flow_samples(2), generator)
        lm.loss(lm_samples(4), generator)

    assert masks == {True, False}
    assert layouts == {True, False}


def test_the_flow_is_trained_as_its_base_was(monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = replace(flow_task(), prior_weight=0.3, prior_from_bin=2, t_power=1.5, sampler_share=0.7), {}
    real_loss = task.flow.loss

    def loss(*arguments: object, **options: object) -> object:
        seen.update(options)
        return real_loss(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(task.flow, "loss", loss)
    descended, figures = task.loss(flow_samples(2), torch.Generator().manual_seed(0))

    assert (seen["prior_weight"], seen["prior_from_bin"], seen["t_power"], seen["sampler_share"]) == (0.3, 2, 1.5, 0.7)
    assert float(descended.detach()) > figures["mse"]


def test_clips_behind_another_one_are_given_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[int]] = []
    flow = Flow(TINY.flow)
    loss = flow.loss

    def listen(batch: FlowBatch, **options: Any) -> FlowLoss:
        given.append([int(frames) for frames in options["cond_len"]])
        return loss(batch, **options)

    monkeypatch.setattr(flow, "loss", listen)
    task = FlowTask(flow, torch.ones(192), 400, seed=4, pair_share=0.5)
    samples = flow_samples(24)
    batches = task.batches(samples, epoch=1)
    pairs = [sample for batch in batches for sample in batch if sample.num_prompt_frames >= 0]
    assert sum(len(batch) for batch in batches) == 24
    assert 6 <= len(pairs) <= 18
    for pair in pairs:
        prompt = pair.mel[:, : pair.num_prompt_frames]
        assert any(sample.mel.shape == prompt.shape and torch.equal(sample.mel, prompt) for sample in samples)
    assert all(sum(sample.mel.shape[1] for sample in batch) <= 400 for batch in batches)
    for batch in batches:
        task.loss(batch, torch.Generator().manual_seed(0))
    assert given == [[sample.num_prompt_frames for sample in batch] for batch in batches]


def test_validation_repeats_itself_and_changes_nothing() -> None:
    lm, flow = lm_task(), flow_task()
    before = {key: tensor.clone() for key, tensor in flow.flow.state_dict().items()}

    assert lm.validation(lm_samples(6)) == lm.validation(lm_samples(6))
    assert flow.validation(flow_samples(6)) == flow.validation(flow_samples(6))
    assert all(torch.equal(tensor, before[key]) for key, tensor in flow.flow.state_dict().items())


def test_the_validation_of_the_lm_does_not_depend_on_the_batching() -> None:
    samples = lm_samples(7)

    alone, together = lm_task(1).validation(samples), lm_task(2000).validation(samples)

    assert alone["loss"] == pytest.approx(together["loss"], rel=1e-4)


def test_no_clip_weighs_more_than_another_in_the_mean_voice() -> None:
    first, second = torch.zeros(192), torch.zeros(192)
    first[0], second[1] = 100.0, 0.01

    mean = mean_speaker_embedding([first, second])

    assert mean[:2].tolist() == [0.5, 0.5]
