"""A zip of recordings and a base model to checkpoints of one tuned voice: the whole run, top to bottom.

Knows directories and events; no database, no HTTP. Everything slow is kept in the work directory, so a run that was
stopped or killed goes on where it was, and ends with the same weights. What a run keeps there is in `work.py`.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from cosyforge.audio.wav import read_wav
from cosyforge.cosyvoice.manifest import file_digest, manifest_digest, read_manifest
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.weights import load_model
from cosyforge.dataset.features import FeatureExtractor, Features
from cosyforge.dataset.package import unpack
from cosyforge.dataset.report import ERROR, WARNING, Problem, Report, report_of
from cosyforge.dataset.validate import Clip, validate
from cosyforge.errors import InvalidDataset, InvalidParameter
from cosyforge.text.frontend import Frontend
from cosyforge.training.checkpoints import billed_tokens, plan_checkpoints, saved_epochs
from cosyforge.training.combine import Checkpoint, RunFacts, combine
from cosyforge.training.events import TrainingEvent, TrainingStopped
from cosyforge.training.flow_stage import FlowSample, FlowTask, mean_speaker_embedding
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
from cosyforge.training.state import save_atomically
from cosyforge.training.voice import choose_prompt, measure_prompt, odd_voices, prompt_candidates
from cosyforge.training.work import WorkDirectory, work_directory_of

MIN_CLIPS_FOR_VALIDATION = 20
VALIDATION_SHARE = 0.05
MAX_VALIDATION_CLIPS = 40
"""More would cost time every epoch and tell nothing new."""

_MAX_LOGGED_WARNINGS = 100
_DATA_END, _FEATURES_END, _TRAINING_END = 0.03, 0.15, 0.98
"""Where the parts of a run end on its progress from 0 to 1; LM and flow share the middle by their work."""


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
    Raises: InvalidDataset carrying the report; InvalidParameter for a base that is itself tuned; TrainingStopped soon
        after should_stop says so; Internal when training diverges; OutOfSpace
    """
    run = _Run(on_event, should_stop)
    if read_manifest(base_directory).base is not None:
        raise InvalidParameter(f"{base_directory}: is a tuned model; tune the base model anew with all recordings")
    identity = _identity(package, base_directory, hyper_parameters, seed, validation_package)
    with work_directory_of(work_directory, identity) as work:
        _log_resume(work, run)
        clips, report = _take_in(package, work, "data", run)
        validation_clips = _take_in_validation(validation_package, work, run)
        # what a run that is cancelled later is billed by
        run.progress("data", _DATA_END, metrics={"audio_s": report.total_seconds})
        model = _load(base_directory, device)
        corpus = _prepare(clips, validation_clips, model, work, seed, run)
        tokens = billed_tokens(report.total_seconds, hyper_parameters)
        facts = RunFacts(hyper_parameters, len(clips), report.total_seconds, identity)
        work.keep_voice(_make_voice(model, corpus, run), facts)
        lm, flow = _lm_stage(model, corpus, hyper_parameters, seed), _flow_stage(model, corpus, hyper_parameters, seed)
        lm_work = _FEATURES_END + (_TRAINING_END - _FEATURES_END) * lm.cost / (lm.cost + flow.cost)
        lm_epochs, fm_epochs = saved_epochs(hyper_parameters)
        _train(lm, lm_epochs, work, run.within(_FEATURES_END, lm_work), seed, checkpoint_interval_s)
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


# --- what a run reports -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """The way out for events and in for the wish to stop; progress is scaled to the part of the run it is within."""

    on_event: Callable[[TrainingEvent], None]
    should_stop: Callable[[], bool]
    start: float = 0.0
    end: float = 1.0

    def within(self, start: float, end: float) -> _Run:
        return _Run(self.on_event, self.should_stop, start, end)

    def log(self, stage: str, message: str) -> None:
        self.on_event(TrainingEvent("log", stage, message))

    def progress(
        self,
        stage: str,
        part: float,
        *,
        epoch: int = 0,
        max_epoch: int = 0,
        step: int = 0,
        metrics: Metrics | None = None,
    ) -> None:
        progress = self.start + (self.end - self.start) * part
        self.on_event(
            TrainingEvent("progress", stage, "", epoch, max_epoch, step, round(progress, 6), dict(metrics or {}))
        )

    def state(self, stage: str, report: StateReport, max_epoch: int) -> None:
        self.on_event(TrainingEvent("state", stage, "", report.epoch, max_epoch, report.step))

    def resumed(self, stage: str, message: str) -> None:
        self.on_event(TrainingEvent("resume", stage, message))

    def check_stop(self, where: str) -> None:
        if self.should_stop():
            raise TrainingStopped(f"stopped while {where}")


# --- data -------------------------------------------------------------------------------------------------------------


def _identity(
    package: Path, base_directory: Path, hyper: HyperParameters, seed: int, validation_package: Path | None
) -> str:
    """What decides the result: leftovers of a run with another identity are never used."""
    parts = [file_digest(package), manifest_digest(base_directory), hyper.to_json(), seed]
    if validation_package is not None:
        parts.append(file_digest(validation_package))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _log_resume(work: WorkDirectory, run: _Run) -> None:
    """Say from where a run that was begun before goes on."""
    for stage in ("flow", "lm"):
        if work.state(stage).exists():
            return  # the stage itself says it, when it has read its state
    if work.is_settled("features"):
        run.resumed("features", "Going on with the features of an earlier start.")
    elif work.is_settled("data"):
        num_ready = work.count_features()
        run.resumed("data", f"Going on with the unpacked package and {num_ready} clips' features of an earlier start.")


def _take_in(package: Path, work: WorkDirectory, part: str, run: _Run) -> tuple[list[Clip], Report]:
    """Unpack (once) and validate, and say what was found."""
    run.check_stop("unpacking")
    of_what = "training" if part == "data" else "validation"
    try:
        if not work.is_settled(part):
            unpack(package, work.path / part)
            work.settle(part)
        run.progress("data", _DATA_END / 2)
        run.check_stop("checking the data")
        clips, report = validate(work.path / part)
    except InvalidDataset as error:
        _log_report(report_of(error), of_what, run)
        raise
    _log_report(report, of_what, run)
    return clips, report


def _take_in_validation(package: Path | None, work: WorkDirectory, run: _Run) -> list[Clip] | None:
    if package is None:
        return None
    try:
        return _take_in(package, work, "validation", run)[0]
    except InvalidDataset as error:
        raise InvalidDataset(f"The validation package: {error.message}", **error.fields) from error


def _log_report(report: Report, of_what: str, run: _Run) -> None:
    run.log("data", f"The {of_what} package holds {report.summary}.")
    for problem in report.errors:
        run.log("data", f"error [{problem.rule}] {problem}")
    for problem in report.warnings[:_MAX_LOGGED_WARNINGS]:
        run.log("data", f"warning [{problem.rule}] {problem}")
    if len(report.warnings) > _MAX_LOGGED_WARNINGS:
        run.log("data", f"and {len(report.warnings) - _MAX_LOGGED_WARNINGS} more warnings")


def _load(base_directory: Path, device: str | None) -> CosyVoice:
    networks = ("lm", "flow", "speech_tokenizer", "speaker_encoder")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return load_model(base_directory, device=device, networks=networks)


@dataclass(frozen=True)
class _Corpus:
    """All clips as the networks see them, the held-out ones by index."""

    clips: Sequence[Clip]
    text_tokens: Sequence[list[int]]
    features: Sequence[Features]
    speaker_embedding: torch.Tensor
    held_out: frozenset[int]
    num_own: int
    """Clips of the training package; those after them are of the validation package."""

    @property
    def trained_on(self) -> list[int]:
        return [index for index in range(len(self.clips)) if index not in self.held_out]

    @property
    def speech_min(self) -> float:
        """Minutes that are trained on."""
        return sum(self.clips[index].duration_s for index in self.trained_on) / 60


def _prepare(
    own_clips: Sequence[Clip],
    validation_clips: Sequence[Clip] | None,
    model: CosyVoice,
    work: WorkDirectory,
    seed: int,
    run: _Run,
) -> _Corpus:
    """validation_clips: held out instead of some of the package's own; they have no say in what the voice is"""
    clips = [*own_clips, *(validation_clips or [])]
    text_tokens = _encode_texts(own_clips, "training", model, run)
    text_tokens += _encode_texts(validation_clips or [], "validation", model, run)
    features = _extract_features(clips, model, work.path / "features", run.within(_DATA_END, _FEATURES_END))
    work.settle("features")
    if validation_clips is None:
        held_out, source = _held_out(len(clips), seed), "of the package that are held out"
    else:
        held_out, source = frozenset(range(len(own_clips), len(clips))), "of the validation package"
    own_features = features[: len(own_clips)]
    speaker_embedding = mean_speaker_embedding([feature.speaker_embedding for feature in own_features])
    corpus = _Corpus(clips, text_tokens, features, speaker_embedding, held_out, len(own_clips))
    run.log(
        "features",
        f"Data are ready: training on {len(corpus.trained_on)} clips ({corpus.speech_min:.1f} minutes), "
        f"validating on {len(held_out)} clips {source}.",
    )
    _log_odd_voices(own_clips, own_features, speaker_embedding, run)
    return corpus


def _encode_texts(clips: Sequence[Clip], of_what: str, model: CosyVoice, run: _Run) -> list[list[int]]:
    """Transcripts as the LM reads them, through the front end that also prepares every text to speak.

    Raises: InvalidDataset naming every transcript that the base model cannot speak
    """
    frontend = _frontend(model)
    text_tokens: list[list[int]] = []
    problems: list[Problem] = []
    for clip in clips:
        run.check_stop("reading the texts")
        try:
            segments, warnings = frontend.plan(clip.text)
        except InvalidParameter as error:
            spoken = ", ".join(frontend.languages)
            advice = f"the base model speaks {spoken}; leave the clip out"
            found = f"the text cannot be spoken by the base model ({error.message})"
            problems.append(Problem(ERROR, "unsupported-text", found, advice, clip.line, clip.wav_fn))
            continue
        problems += [
            Problem(WARNING, "unspoken-text", warning, "write it as it is spoken", clip.line, clip.wav_fn)
            for warning in warnings
        ]
        text_tokens.append(model.text_tokenizer.encode(" ".join(s.spoken for s in segments if s.spoken)))
    report = Report(tuple(problems), len(clips), sum(clip.duration_s for clip in clips))
    if problems:
        _log_report(report, of_what, run)
    report.raise_if_invalid()
    return text_tokens


def _frontend(model: CosyVoice) -> Frontend:
    return Frontend(asdict(model.frontend))


def _extract_features(clips: Sequence[Clip], model: CosyVoice, cache: Path, run: _Run) -> list[Features]:
    extractor = FeatureExtractor(model, cache)
    features: list[Features] = []
    reported_at = time.monotonic()
    for number, clip in enumerate(clips, start=1):
        run.check_stop("extracting features")
        # one by one: in a batch, padding could move a token, and a resumed run batches otherwise
        features.append(extractor.extract(*read_wav(clip.path)))
        if number == len(clips) or time.monotonic() - reported_at >= 1.0:
            run.progress("features", number / len(clips), step=number, metrics={"clips": float(number)})
            reported_at = time.monotonic()
    return features


def _log_odd_voices(
    clips: Sequence[Clip], features: Sequence[Features], speaker_embedding: torch.Tensor, run: _Run
) -> None:
    likeness = [_likeness(feature, speaker_embedding) for feature in features]
    for index in odd_voices(likeness)[:_MAX_LOGGED_WARNINGS]:
        problem = Problem(
            WARNING,
            "odd-voice",
            f"sounds unlike the other clips (likeness {likeness[index]:.2f}, usually {median(likeness):.2f})",
            "check that it is the same speaker; two speakers give a voice in between",
            clips[index].line,
            clips[index].wav_fn,
        )
        run.log("features", f"warning [{problem.rule}] {problem}")


def _likeness(features: Features, speaker_embedding: torch.Tensor) -> float:
    """Cosine between a clip's voice and the mean one."""
    return float(F.cosine_similarity(features.speaker_embedding, speaker_embedding, dim=0))


def _held_out(num_clips: int, seed: int) -> frozenset[int]:
    if num_clips < MIN_CLIPS_FOR_VALIDATION:
        return frozenset()
    count = min(MAX_VALIDATION_CLIPS, max(2, round(num_clips * VALIDATION_SHARE)))
    return frozenset(random.Random(f"held out {seed}").sample(range(num_clips), count))


def _make_voice(model: CosyVoice, corpus: _Corpus, run: _Run) -> Voice:
    """The mean embedding, and the clip that stands before every sentence.

    A base that states `lm_prompt: false` (a small LM loses its place behind a transcript) gets a prompt without one:
    then only the flow hears it.
    """
    indexes = prompt_candidates([clip.duration_s for clip in corpus.clips[: corpus.num_own]])
    figures = []
    for index in indexes:
        run.check_stop("choosing the prompt")
        clip = corpus.clips[index]
        likeness = _likeness(corpus.features[index], corpus.speaker_embedding)
        figures.append(measure_prompt(*read_wav(clip.path), clip.text, likeness))
    best = choose_prompt(figures)
    clip, features = corpus.clips[indexes[best]], corpus.features[indexes[best]]
    run.log("features", f"Prompt of the voice: {clip.wav_fn} ({clip.duration_s:.1f} s).")
    prompt_text = clip.text if model.manifest.training.get("lm_prompt", True) else None
    return Voice(corpus.speaker_embedding, prompt_text, features.speech_token.long(), features.mel)


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


def _lm_stage(model: CosyVoice, corpus: _Corpus, hyper: HyperParameters, seed: int) -> _Stage:
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


def _flow_stage(model: CosyVoice, corpus: _Corpus, hyper: HyperParameters, seed: int) -> _Stage:
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
    stage: _Stage, wanted_epochs: set[int], work: WorkDirectory, run: _Run, seed: int, checkpoint_interval_s: float
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
