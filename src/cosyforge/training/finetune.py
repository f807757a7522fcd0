"""A zip of recordings and a base model to checkpoints of one tuned voice: the whole run, top to bottom.

Knows directories and events; no database, no HTTP. Everything slow is kept in the work directory, so a run that was
stopped or killed goes on where it was, and ends with the same weights. What a run keeps there is in `work.py`, what
becomes of the recordings before training in `tuning_corpus.py`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cosyforge.cosyvoice.devices import usable_device
from cosyforge.cosyvoice.manifest import file_digest, manifest_digest, read_manifest
from cosyforge.cosyvoice.model import CosyVoice
from cosyforge.cosyvoice.weights import load_model
from cosyforge.errors import InvalidParameter
from cosyforge.training.checkpoints import billed_tokens, plan_checkpoints, saved_epochs
from cosyforge.training.combine import Checkpoint, RunFacts, combine
from cosyforge.training.events import TrainingEvent
from cosyforge.training.flow_stage import FlowSample, FlowTask
from cosyforge.training.hyper_parameters import HyperParameters, StageConfig
from cosyforge.training.lm_stage import LMSample, LMTask
from cosyforge.training.loop import (
    Metrics,
    Objective,
    StateReport,
    StepReport,
    derived_seed,
    never,
    train,
)
from cosyforge.training.lora import Trainables, make_trainable, trainable_state
from cosyforge.training.run_reporter import RunReporter
from cosyforge.training.state import save_atomically
from cosyforge.training.tuning_corpus import (
    DATA_END,
    FEATURES_END,
    TuningCorpus,
    make_voice,
    prepare,
    take_in,
    take_in_validation,
)
from cosyforge.training.work import WorkDirectory, work_directory_of

_TRAINING_END = 0.98
"""Where training ends on a run's progress from 0 to 1; LM and flow share what is behind the features by their work."""


@dataclass(frozen=True)
class FinetuneResult:
    """checkpoints in rank order, the first is the job's result; tokens are what is billed.

    Units: duration_s is the audio of all rows of data.jsonl
    """

    checkpoints: list[Checkpoint]
    tokens: int
    duration_s: float


def finetune(
    package: Path,
    base_directory: Path,
    out_directory: Path,
    hyper_parameters: HyperParameters,
    *,
    on_event: Callable[[TrainingEvent], None],
    should_stop: Callable[[], bool] = never,
    work_directory: Path | None = None,
    seed: int = 1986,
    device: str | None = None,
    validation_package: Path | None = None,
    checkpoint_interval_s: float = 60.0,
) -> FinetuneResult:
    """Fine-tune the base model to the one speaker of a package; write a model directory per checkpoint.

    work_directory: keeps the state to resume from, also between calls; None forgets it at the end
    device: a torch device; None takes a CUDA device when there is one
    validation_package: clips that judge every epoch and are not trained on; None sets some of the package's aside
    checkpoint_interval_s: so often the state to resume from is written
    Raises: InvalidDataset carrying the report; InvalidParameter for a base that is itself tuned or a device that is not
        there; TrainingStopped soon after should_stop says so; Internal when training diverges; OutOfSpace
    """
    run = RunReporter(on_event, should_stop)
    if read_manifest(base_directory).base is not None:
        raise InvalidParameter(f"{base_directory}: is a tuned model; tune the base model anew with all recordings")
    identity = _identity(package, base_directory, hyper_parameters, seed, validation_package)
    with work_directory_of(work_directory, identity) as work:
        _log_resume(work, run)
        clips, report = take_in(package, work, "data", run)
        validation_clips = take_in_validation(validation_package, work, run)
        # what a run that is cancelled later is billed by
        run.progress("data", DATA_END, metrics={"audio_s": report.total_seconds})
        model = _load(base_directory, device)
        corpus = prepare(clips, validation_clips, model, work, seed, run)
        tokens = billed_tokens(report.total_seconds, hyper_parameters)
        facts = RunFacts(hyper_parameters, len(clips), report.total_seconds, identity)
        work.keep_voice(make_voice(model, corpus, run), facts)
        lm, flow = _lm_stage(model, corpus, hyper_parameters, seed), _flow_stage(model, corpus, hyper_parameters, seed)
        lm_work = FEATURES_END + (_TRAINING_END - FEATURES_END) * lm.cost / (lm.cost + flow.cost)
        lm_epochs, fm_epochs = saved_epochs(hyper_parameters)
        _train(lm, lm_epochs, work, run.within(FEATURES_END, lm_work), seed, checkpoint_interval_s)
        _train(flow, fm_epochs, work, run.within(lm_work, _TRAINING_END), seed, checkpoint_interval_s)
        candidates = plan_checkpoints(hyper_parameters)
        checkpoints = combine(candidates, facts, tokens, work, base_directory, out_directory, on_event)
        run.progress("combine", 1.0)
    run.log("combine", f"Actual number of consumed tokens is {tokens}!")
    return FinetuneResult(checkpoints, tokens, report.total_seconds)


def combine_finished(
    package: Path,
    base_directory: Path,
    out_directory: Path,
    hyper_parameters: HyperParameters,
    *,
    on_event: Callable[[TrainingEvent], None],
    work_directory: Path,
    seed: int = 1986,
    validation_package: Path | None = None,
) -> list[Checkpoint]:
    """The planned checkpoints that a run which was stopped for good had ready, in rank order; perhaps none.

    Loads no model: everything is in the work directory.
    """
    identity = _identity(package, base_directory, hyper_parameters, seed, validation_package)
    with work_directory_of(work_directory, identity) as work:
        facts = work.read_facts(hyper_parameters, identity)
        ready = [
            candidate
            for candidate in plan_checkpoints(hyper_parameters)
            if work.epoch_file("lm", candidate.lm_epoch).exists()
            and work.epoch_file("flow", candidate.fm_epoch).exists()
        ]
        if facts is None or not ready:
            return []
        return combine(ready, facts, None, work, base_directory, out_directory, on_event)


def _identity(
    package: Path, base_directory: Path, hyper: HyperParameters, seed: int, validation_package: Path | None
) -> str:
    """What decides the result: leftovers of a run with another identity are never used."""
    parts = [file_digest(package), manifest_digest(base_directory), hyper.to_json(), seed]
    if validation_package is not None:
        parts.append(file_digest(validation_package))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _log_resume(work: WorkDirectory, run: RunReporter) -> None:
    """Say from where a run that was begun before goes on."""
    for stage in ("flow", "lm"):
        if work.state(stage).exists():
            return  # the stage itself says it, when it has read its state
    if work.is_settled("features"):
        run.resumed("features", "Going on with the features of an earlier start.")
    elif work.is_settled("data"):
        num_ready = work.count_features()
        run.resumed("data", f"Going on with the unpacked package and {num_ready} clips' features of an earlier start.")


def _load(base_directory: Path, device: str | None) -> CosyVoice:
    networks = ("lm", "flow", "speech_tokenizer", "speaker_encoder")
    return load_model(base_directory, device=usable_device(device), networks=networks)


# --- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """One network's training: what to descend, how, and how to tell whether it helps."""

    name: str
    config: StageConfig
    objective: Objective[Any]
    trainables: Trainables
    validation: Callable[[], Metrics]
    cost: float
    """Work of the whole stage, in units that only compare stages."""


def _lm_stage(model: CosyVoice, corpus: TuningCorpus, hyper: HyperParameters, seed: int) -> _Stage:
    num_parameters = sum(parameter.numel() for parameter in model.lm.parameters())
    config = hyper.lm_stage(num_parameters, corpus.speech_min)
    trainables = make_trainable(model.lm, seed=derived_seed(seed, "lm factors"))
    instruct = torch.tensor(model.text_tokenizer.encode(model.frontend.prefix), dtype=torch.int64)
    task = LMTask(model.lm, instruct, config.batch_size, derived_seed(seed, "lm"))
    samples = [
        LMSample(torch.tensor(tokens, dtype=torch.int64), features.speech_token.long())
        for tokens, features in zip(corpus.text_tokens, corpus.features, strict=True)
    ]
    held_out = [samples[index] for index in sorted(corpus.held_out)]
    trained_on = [samples[index] for index in corpus.trained_on]
    positions = sum(len(sample.text_token) + len(sample.speech_token) for sample in trained_on)
    return _Stage(
        name="lm",
        config=config,
        objective=task.objective(trained_on, trainables),
        trainables=trainables,
        validation=lambda: task.validation(held_out) if held_out else {},
        cost=float(config.max_epoch * positions * num_parameters),
    )


def _flow_stage(model: CosyVoice, corpus: TuningCorpus, hyper: HyperParameters, seed: int) -> _Stage:
    num_parameters = sum(parameter.numel() for parameter in model.flow.parameters())
    config = hyper.flow_stage(num_parameters, corpus.speech_min)
    trainables = make_trainable(model.flow, seed=derived_seed(seed, "flow factors"))
    # a base model says in its manifest what its flow was trained with besides the official loss
    options = model.manifest.training.get("flow_loss", {})
    seed_of_stage = derived_seed(seed, "flow")
    task = FlowTask(model.flow, corpus.speaker_embedding, config.batch_size, seed_of_stage, **options)
    samples = [FlowSample(features.speech_token.long(), features.mel) for features in corpus.features]
    held_out = [samples[index] for index in sorted(corpus.held_out)]
    trained_on = [samples[index] for index in corpus.trained_on]
    return _Stage(
        name="flow",
        config=config,
        objective=task.objective(trained_on, trainables),
        trainables=trainables,
        validation=lambda: task.validation(held_out) if held_out else {},
        cost=float(config.max_epoch * sum(sample.mel.shape[1] for sample in trained_on) * num_parameters),
    )


def _train(
    stage: _Stage,
    wanted_epochs: set[int],
    work: WorkDirectory,
    run: RunReporter,
    seed: int,
    checkpoint_interval_s: float,
) -> None:
    """Train one network, keep the wanted epochs' deltas in the work directory, each with its figures."""
    max_epoch = stage.config.max_epoch
    reported_at = time.monotonic()

    def on_step(report: StepReport) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= 1.0:
            run.progress(
                stage.name,
                report.progress,
                epoch=report.epoch,
                max_epoch=max_epoch,
                step=report.step,
                metrics=report.metrics,
            )
            reported_at = time.monotonic()

    def on_epoch(epoch: int, metrics: Metrics) -> None:
        figures = {**metrics, **{f"validation_{name}": value for name, value in stage.validation().items()}}
        run.progress(stage.name, epoch / max_epoch, epoch=epoch, max_epoch=max_epoch, metrics=figures)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        run.log(stage.name, f"{stage.name} epoch {epoch}/{max_epoch}: {shown}")
        if epoch in wanted_epochs:
            metadata = {"figures": json.dumps(figures)}
            save_atomically(trainable_state(stage.trainables), work.epoch_file(stage.name, epoch), metadata)

    def on_restored(report: StateReport) -> None:
        for path in report.damaged:
            run.resumed(stage.name, f"The state {path.name} of {stage.name} is damaged and is not used.")
        if report.epoch > max_epoch:
            run.resumed(stage.name, f"The training of {stage.name} was done already.")
        elif (report.epoch, report.step) == (1, 0):
            run.resumed(stage.name, f"The training of {stage.name} begins anew.")
        else:
            where = f"after step {report.step} of epoch {report.epoch}" if report.step else f"at epoch {report.epoch}"
            run.resumed(stage.name, f"Going on with {stage.name} {where}, from the saved state.")

    run.log(
        stage.name,
        f"Training {stage.name}: {stage.trainables.num_trained} of "
        f"{stage.trainables.num_trained + stage.trainables.num_frozen} numbers, {max_epoch} epochs.",
    )
    train(
        stage.objective,
        stage.config,
        seed=seed,
        state_path=work.state(stage.name),
        save_interval_s=checkpoint_interval_s,
        on_step=on_step,
        on_epoch=on_epoch,
        on_restored=on_restored,
        on_saved=lambda report: run.state(stage.name, report, max_epoch),
        should_stop=run.should_stop,
    )
