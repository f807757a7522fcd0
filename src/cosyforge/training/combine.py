"""Trained epochs to tuned models: shared weights once, and per checkpoint one manifest that names them.

Reads the work directory alone, so that it can be done without a model in memory, also long after the training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from cosyforge.cosyvoice.manifest import (
    FileEntry,
    Manifest,
    VoiceEntry,
    base_entry,
    file_digest,
    read_manifest,
    replacing,
    write_manifest,
)
from cosyforge.training.checkpoints import Candidate
from cosyforge.training.events import TrainingEvent
from cosyforge.training.hyper_parameters import HyperParameters
from cosyforge.training.state import explained_write, sync_file_system

if TYPE_CHECKING:
    from cosyforge.training.work import WorkDirectory

VOICE = "default"
"""The only voice of a tuned model. Source: product document, "Fine-tuning output"."""

Metrics = dict[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """One tuned model on disk."""

    name: str
    lm_epoch: int
    fm_epoch: int
    directory: Path


@dataclass(frozen=True)
class RunFacts:
    """What the manifest of a checkpoint tells about its making.

    Units: total_seconds is the audio of all rows of data.jsonl
    """

    hyper: HyperParameters
    num_clips: int
    total_seconds: float
    identity: str


def combine(
    candidates: Sequence[Candidate],
    facts: RunFacts,
    tokens: int | None,
    work: WorkDirectory,
    base_directory: Path,
    out_directory: Path,
    on_event: Callable[[TrainingEvent], None],
) -> list[Checkpoint]:
    """Write a model directory per candidate; a checkpoint is there when its model.json is.

    tokens: the bill of the whole run; None when it did not come to its end

    Raises: OutOfSpace, Internal
    """
    weights = out_directory / "weights"
    with explained_write(out_directory):
        _clear_halves(out_directory)
        lm_epochs, fm_epochs = {c.lm_epoch for c in candidates}, {c.fm_epoch for c in candidates}
        lm_files = {epoch: _share(work.epoch_file("lm", epoch), weights, f"lm-{epoch:04d}") for epoch in lm_epochs}
        flow_files = {
            epoch: _share(work.epoch_file("flow", epoch), weights, f"flow-{epoch:04d}") for epoch in fm_epochs
        }
        voices = _share(work.voice, weights, "voices")
        checkpoints = []
        for candidate in candidates:
            figures = _figures(work, candidate)
            files = {
                "lm_delta": lm_files[candidate.lm_epoch],
                "flow_delta": flow_files[candidate.fm_epoch],
                "voices": voices,
            }
            manifest = _manifest(candidate, files, figures, facts, tokens, work.read_prompt_text(), base_directory)
            directory = out_directory / candidate.name
            directory.mkdir(parents=True, exist_ok=True)
            write_manifest(directory, manifest)
            checkpoints.append(Checkpoint(candidate.name, candidate.lm_epoch, candidate.fm_epoch, directory))
            on_event(TrainingEvent("checkpoint", "combine", candidate.name, metrics=figures))
        # only then may anybody be told that they are there
        sync_file_system(out_directory)
    return checkpoints


def _manifest(
    candidate: Candidate,
    files: dict[str, FileEntry],
    figures: Metrics,
    facts: RunFacts,
    tokens: int | None,
    prompt_text: str | None,
    base_directory: Path,
) -> Manifest:
    minutes = facts.total_seconds / 60
    description = f"Tuned on {facts.num_clips} clips, {minutes:.1f} minutes of one speaker"
    training: dict[str, object] = {
        "hyper_parameters": facts.hyper.to_json(),
        "lm_epoch": candidate.lm_epoch,
        "fm_epoch": candidate.fm_epoch,
        "clips": facts.num_clips,
        "duration_s": round(facts.total_seconds, 3),
        "run": facts.identity,
    }
    if tokens is not None:
        training["tokens"] = tokens
    return Manifest(
        name=candidate.name,
        files=files,
        voices={VOICE: VoiceEntry(description=description, prompt_text=prompt_text)},
        base=base_entry(base_directory),
        training=training,
        figures=figures,
        licence=read_manifest(base_directory).licence,
    )


def _figures(work: WorkDirectory, candidate: Candidate) -> Metrics:
    figures: Metrics = {}
    for stage, epoch in (("lm", candidate.lm_epoch), ("flow", candidate.fm_epoch)):
        with safe_open(work.epoch_file(stage, epoch), framework="pt") as file:
            of_epoch: Metrics = json.loads(file.metadata()["figures"])
        figures |= {f"{stage}_{name}": value for name, value in of_epoch.items()}
    return figures


def _share(source: Path, weights: Path, name: str) -> FileEntry:
    """Copy a file of the work directory to the weights that checkpoints share."""
    target = weights / f"{name}.safetensors"
    with replacing(target) as temporary:
        temporary.write_bytes(source.read_bytes())
        digest = file_digest(temporary)
    return FileEntry(f"../weights/{target.name}", digest)


def _clear_halves(out_directory: Path) -> None:
    """Remove what an earlier attempt that was killed left here under a temporary name."""
    for pattern in ("weights/.*.safetensors.*", "checkpoint-*/.model.json.*"):
        for leftover in out_directory.glob(pattern):
            leftover.unlink()
