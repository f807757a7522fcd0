"""A zip of recordings and a base model to checkpoints of one tuned voice: the whole run, top to bottom.

Knows directories and events; no database, no HTTP. Everything slow is kept in the work directory, so a run that was
stopped or killed goes on where it was, and ends with the same weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open

from cosyforge.audio.wav import read_wav
from cosyforge.cosyvoice.manifest import (
    FileEntry,
    Manifest,
    VoiceEntry,
    base_entry,
    file_digest,
    manifest_digest,
    read_manifest,
    replacing,
    write_manifest,
)
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.weights import load_model, write_voices
from cosyforge.dataset.features import FeatureExtractor, Features
from cosyforge.dataset.package import unpack
from cosyforge.dataset.report import ERROR, WARNING, Problem, Report, report_of
from cosyforge.dataset.validate import Clip, validate
from cosyforge.errors import InvalidDataset, InvalidParameter
from cosyforge.text.frontend import Frontend
from cosyforge.training.checkpoints import Candidate, billed_tokens, plan_checkpoints, saved_epochs
from cosyforge.training.events import TrainingEvent
from cosyforge.training.flow_stage import FlowSample, FlowTask, mean_speaker_embedding
from cosyforge.training.hyper_parameters import HyperParameters, StageConfig
from cosyforge.training.lm_stage import LMSample, LMTask
from cosyforge.training.loop import (
    Metrics,
    Objective,
    StepReport,
    TrainingStopped,
    derived_seed,
    never,
    save_atomically,
    train,
)
from cosyforge.training.lora import Trainables, make_trainable, trainable_state
from cosyforge.training.voice import choose_prompt, measure_prompt, odd_voices, prompt_candidates

VOICE = "default"
"""The only voice of a tuned model. Source: product document, "Fine-tuning output"."""

MIN_CLIPS_FOR_VALIDATION = 20
VALIDATION_SHARE = 0.05
MAX_VALIDATION_CLIPS = 40
"""More would cost time every epoch and tell nothing new."""

_MAX_LOGGED_WARNINGS = 100
_DATA_END, _FEATURES_END, _TRAINING_END = 0.03, 0.15, 0.98
"""Where the parts of a run end on its progress from 0 to 1; LM and flow share the middle by their work."""


@dataclass(frozen=True)
class Checkpoint:
    """One tuned model on disk."""

    name: str
    lm_epoch: int
    fm_epoch: int
    directory: Path


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
) -> FinetuneResult:
    """Fine-tune the base model to the one speaker of a package; write a model directory per checkpoint.

    work_directory: keeps the state to resume from, also between calls; None forgets it at the end
    device: a torch device; None takes a CUDA device when there is one
    Raises: InvalidDataset carrying the report; InvalidParameter for a base that is itself tuned; TrainingStopped soon
        after should_stop says so; Internal when training diverges
    """
    run = _Run(on_event, should_stop)
    if read_manifest(base_directory).base is not None:
        raise InvalidParameter(f"{base_directory}: is a tuned model; tune the base model anew with all recordings")
    identity = _identity(package, base_directory, hyper_parameters, seed)
    with _work_directory(work_directory, identity) as work:
        clips, report = _take_in(package, work, run)
        model = _load(base_directory, device)
        corpus = _prepare(clips, model, work, seed, run)
        voice = _make_voice(model, corpus, run)
        lm, flow = _lm_stage(model, corpus, hyper_parameters, seed), _flow_stage(model, corpus, hyper_parameters, seed)
        lm_work = _FEATURES_END + (_TRAINING_END - _FEATURES_END) * lm.cost / (lm.cost + flow.cost)
        lm_epochs, fm_epochs = saved_epochs(hyper_parameters)
        lm_figures = _train(lm, lm_epochs, work, run.within(_FEATURES_END, lm_work), seed)
        flow_figures = _train(flow, fm_epochs, work, run.within(lm_work, _TRAINING_END), seed)
        tokens = billed_tokens(report.total_seconds, hyper_parameters)
        facts = _Facts(clips, report, hyper_parameters, tokens, identity, lm_figures, flow_figures)
        checkpoints = _combine(work, base_directory, out_directory, voice, facts, run)
    run.log("combine", f"Actual number of consumed tokens is {tokens}!")
    return FinetuneResult(checkpoints, tokens, report.total_seconds)


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

    def check_stop(self, where: str) -> None:
        if self.should_stop():
            raise TrainingStopped(f"stopped while {where}")


# --- data -------------------------------------------------------------------------------------------------------------


def _identity(package: Path, base_directory: Path, hyper: HyperParameters, seed: int) -> str:
    """What decides the result: leftovers of a run with another identity are never used."""
    parts = [file_digest(package), manifest_digest(base_directory), hyper.to_json(), seed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _work_directory(directory: Path | None, identity: str) -> Iterator[Path]:
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="cosyforge-") as temporary:
            yield Path(temporary)
    else:
        work = directory / identity
        work.mkdir(parents=True, exist_ok=True)
        yield work


def _take_in(package: Path, work: Path, run: _Run) -> tuple[list[Clip], Report]:
    """Unpack (once) and validate, and say what was found."""
    run.check_stop("unpacking")
    data = work / "data"
    try:
        if not data.exists():
            unpack(package, data)
        run.progress("data", _DATA_END / 2)
        clips, report = validate(data)
    except InvalidDataset as error:
        _log_report(report_of(error), run)
        raise
    _log_report(report, run)
    # what a run that is cancelled later is billed by
    run.progress("data", _DATA_END, metrics={"audio_s": report.total_seconds})
    return clips, report


def _log_report(report: Report, run: _Run) -> None:
    run.log("data", f"The training package holds {report.summary}.")
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

    @property
    def trained_on(self) -> list[int]:
        return [index for index in range(len(self.clips)) if index not in self.held_out]


def _prepare(clips: Sequence[Clip], model: CosyVoice, work: Path, seed: int, run: _Run) -> _Corpus:
    text_tokens = _encode_texts(clips, model, run)
    features = _extract_features(clips, model, work / "features", run.within(_DATA_END, _FEATURES_END))
    held_out = _held_out(len(clips), seed)
    trained_s = sum(clip.duration_s for index, clip in enumerate(clips) if index not in held_out)
    run.log(
        "features",
        f"Data are ready: training on {len(clips) - len(held_out)} clips ({trained_s / 60:.1f} minutes), "
        f"validating on {len(held_out)}.",
    )
    speaker_embedding = mean_speaker_embedding([feature.speaker_embedding for feature in features])
    _log_odd_voices(clips, features, speaker_embedding, run)
    return _Corpus(clips, text_tokens, features, speaker_embedding, held_out)


def _encode_texts(clips: Sequence[Clip], model: CosyVoice, run: _Run) -> list[list[int]]:
    """Transcripts as the LM reads them, through the front end that also prepares every text to speak.

    Raises: InvalidDataset naming every transcript that the base model cannot speak
    """
    frontend = _frontend(model)
    text_tokens: list[list[int]] = []
    problems: list[Problem] = []
    for clip in clips:
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
        _log_report(report, run)
    report.raise_if_invalid()
    return text_tokens


def _frontend(model: CosyVoice) -> Frontend:
    entry = model.frontend
    return Frontend({"languages": entry.languages, "english": entry.english, "prefix": entry.prefix})


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
    indexes = prompt_candidates([clip.duration_s for clip in corpus.clips])
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
    config = hyper.lm_stage(num_parameters)
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
    config = hyper.flow_stage(num_parameters)
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


def _train(stage: _Stage, wanted_epochs: set[int], work: Path, run: _Run, seed: int) -> dict[int, Metrics]:
    """Train one network, keep the wanted epochs' deltas in the work directory; figures of these epochs."""
    directory = work / stage.name
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
            save_atomically(trainable_state(stage.trainables), directory / _epoch_file(epoch), metadata)

    run.log(
        stage.name,
        f"Training {stage.name}: {stage.trainables.num_trained} of "
        f"{stage.trainables.num_trained + stage.trainables.num_frozen} numbers, {max_epoch} epochs.",
    )
    train(
        stage.objective,
        stage.config,
        seed=seed,
        state_path=directory / "state.safetensors",
        on_step=on_step,
        on_epoch=on_epoch,
        should_stop=run.should_stop,
    )
    return {epoch: _figures(directory / _epoch_file(epoch)) for epoch in wanted_epochs}


def _epoch_file(epoch: int) -> str:
    return f"epoch-{epoch:04d}.safetensors"


def _figures(path: Path) -> Metrics:
    with safe_open(path, framework="pt") as file:
        figures: Metrics = json.loads(file.metadata()["figures"])
    return figures


# --- checkpoints ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """What the manifest of a checkpoint tells about its making."""

    clips: Sequence[Clip]
    report: Report
    hyper: HyperParameters
    tokens: int
    identity: str
    lm_figures: Mapping[int, Metrics]
    flow_figures: Mapping[int, Metrics]

    def training(self, candidate: Candidate) -> dict[str, object]:
        return {
            "hyper_parameters": self.hyper.to_json(),
            "lm_epoch": candidate.lm_epoch,
            "fm_epoch": candidate.fm_epoch,
            "clips": len(self.clips),
            "duration_s": round(self.report.total_seconds, 3),
            "tokens": self.tokens,
            "run": self.identity,
        }

    def figures(self, candidate: Candidate) -> dict[str, float]:
        lm, flow = self.lm_figures[candidate.lm_epoch], self.flow_figures[candidate.fm_epoch]
        return {**{f"lm_{k}": v for k, v in lm.items()}, **{f"flow_{k}": v for k, v in flow.items()}}


def _combine(
    work: Path, base_directory: Path, out_directory: Path, voice: Voice, facts: _Facts, run: _Run
) -> list[Checkpoint]:
    """Shared weights once, then one manifest per checkpoint: a checkpoint is there when its model.json is."""
    weights = out_directory / "weights"
    candidates = plan_checkpoints(facts.hyper)
    lm_files = {epoch: _share(work / "lm", weights, "lm", epoch) for epoch in {c.lm_epoch for c in candidates}}
    flow_files = {epoch: _share(work / "flow", weights, "flow", epoch) for epoch in {c.fm_epoch for c in candidates}}
    voices = FileEntry("../weights/voices.safetensors", write_voices(weights / "voices.safetensors", {VOICE: voice}))
    base = base_entry(base_directory)
    minutes = facts.report.total_seconds / 60
    description = f"Tuned on {len(facts.clips)} clips, {minutes:.1f} minutes of one speaker"
    checkpoints = []
    for candidate in candidates:
        directory = out_directory / candidate.name
        manifest = Manifest(
            name=candidate.name,
            files={
                "lm_delta": lm_files[candidate.lm_epoch],
                "flow_delta": flow_files[candidate.fm_epoch],
                "voices": voices,
            },
            voices={VOICE: VoiceEntry(description=description, prompt_text=voice.prompt_text)},
            base=base,
            training=facts.training(candidate),
            figures=facts.figures(candidate),
            licence=read_manifest(base_directory).licence,
        )
        directory.mkdir(parents=True, exist_ok=True)
        write_manifest(directory, manifest)
        checkpoints.append(Checkpoint(candidate.name, candidate.lm_epoch, candidate.fm_epoch, directory))
        run.on_event(TrainingEvent("checkpoint", "combine", candidate.name, metrics=facts.figures(candidate)))
    run.progress("combine", 1.0)
    return checkpoints


def _share(source: Path, weights: Path, name: str, epoch: int) -> FileEntry:
    """Copy an epoch's delta to the weights that checkpoints share."""
    target = weights / f"{name}-{epoch:04d}.safetensors"
    with replacing(target) as temporary:
        temporary.write_bytes((source / _epoch_file(epoch)).read_bytes())
        digest = file_digest(temporary)
    return FileEntry(f"../weights/{target.name}", digest)
