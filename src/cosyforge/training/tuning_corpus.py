"""A package of recordings as the networks see it: unpacked, checked, read, measured; and the voice that it gives.

Each part is kept in the run's work directory, so that what was done once is not done again after a stop.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from cosyforge.audio.wav import read_wav
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.dataset.features import FeatureExtractor, Features
from cosyforge.dataset.package import unpack
from cosyforge.dataset.report import ERROR, WARNING, Problem, Report, report_of
from cosyforge.dataset.validate import Clip, validate
from cosyforge.errors import InvalidDataset, InvalidParameter
from cosyforge.text.frontend import Frontend
from cosyforge.training.flow_stage import mean_speaker_embedding
from cosyforge.training.run_reporter import RunReporter
from cosyforge.training.voice import choose_prompt, measure_prompt, odd_voices, prompt_candidates
from cosyforge.training.work import WorkDirectory

MIN_CLIPS_FOR_VALIDATION = 20
VALIDATION_SHARE = 0.05
MAX_VALIDATION_CLIPS = 40
"""More would cost time every epoch and tell nothing new."""

DATA_END, FEATURES_END = 0.03, 0.15
"""Where taking in and preparing end on a run's progress from 0 to 1."""

_MAX_LOGGED_WARNINGS = 100


@dataclass(frozen=True)
class TuningCorpus:
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


def take_in(package: Path, work: WorkDirectory, part: str, run: RunReporter) -> tuple[list[Clip], Report]:
    """Unpack (once) and validate, and say what was found.

    part: "data" or "validation", the folder's name in the work directory
    Raises: InvalidDataset carrying the report; TrainingStopped
    """
    run.check_stop("unpacking")
    of_what = "training" if part == "data" else "validation"
    try:
        if not work.is_settled(part):
            unpack(package, work.path / part)
            work.settle(part)
        run.progress("data", DATA_END / 2)
        run.check_stop("checking the data")
        clips, report = validate(work.path / part)
    except InvalidDataset as error:
        _log_report(report_of(error), of_what, run)
        raise
    _log_report(report, of_what, run)
    return clips, report


def take_in_validation(package: Path | None, work: WorkDirectory, run: RunReporter) -> list[Clip] | None:
    """The clips of a validation package, None without one. Raises: InvalidDataset saying of which package it speaks"""
    if package is None:
        return None
    try:
        return take_in(package, work, "validation", run)[0]
    except InvalidDataset as error:
        raise InvalidDataset(f"The validation package: {error.message}", **error.fields) from error


def _log_report(report: Report, of_what: str, run: RunReporter) -> None:
    run.log("data", f"The {of_what} package holds {report.summary}.")
    for problem in report.errors:
        run.log("data", f"error [{problem.rule}] {problem}")
    for problem in report.warnings[:_MAX_LOGGED_WARNINGS]:
        run.log("data", f"warning [{problem.rule}] {problem}")
    if len(report.warnings) > _MAX_LOGGED_WARNINGS:
        run.log("data", f"and {len(report.warnings) - _MAX_LOGGED_WARNINGS} more warnings")


def prepare(
    own_clips: Sequence[Clip],
    validation_clips: Sequence[Clip] | None,
    model: CosyVoice,
    work: WorkDirectory,
    seed: int,
    run: RunReporter,
) -> TuningCorpus:
    """Read texts and measure sounds, set the held-out clips aside, and say what was found.

    validation_clips: held out instead of some of the package's own; they have no say in what the voice is
    Raises: InvalidDataset naming every transcript that the base model cannot speak; TrainingStopped
    """
    clips = [*own_clips, *(validation_clips or [])]
    text_tokens = _encode_texts(own_clips, "training", model, run)
    text_tokens += _encode_texts(validation_clips or [], "validation", model, run)
    features = _extract_features(clips, model, work.path / "features", run.within(DATA_END, FEATURES_END))
    work.settle("features")
    if validation_clips is None:
        held_out, source = _held_out(len(clips), seed), "of the package that are held out"
    else:
        held_out, source = frozenset(range(len(own_clips), len(clips))), "of the validation package"
    own_features = features[: len(own_clips)]
    speaker_embedding = mean_speaker_embedding([feature.speaker_embedding for feature in own_features])
    corpus = TuningCorpus(clips, text_tokens, features, speaker_embedding, held_out, len(own_clips))
    run.log(
        "features",
        f"Data are ready: training on {len(corpus.trained_on)} clips ({corpus.speech_min:.1f} minutes), "
        f"validating on {len(held_out)} clips {source}.",
    )
    _log_odd_voices(own_clips, own_features, speaker_embedding, run)
    return corpus


def _encode_texts(clips: Sequence[Clip], of_what: str, model: CosyVoice, run: RunReporter) -> list[list[int]]:
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


def _extract_features(clips: Sequence[Clip], model: CosyVoice, cache: Path, run: RunReporter) -> list[Features]:
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
    clips: Sequence[Clip], features: Sequence[Features], speaker_embedding: torch.Tensor, run: RunReporter
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


def make_voice(model: CosyVoice, corpus: TuningCorpus, run: RunReporter) -> Voice:
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
