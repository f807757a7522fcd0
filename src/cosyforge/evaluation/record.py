"""An evaluation's averages in the model's own model.json, so that whoever has the weights has their figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cosyforge.cosyvoice.manifest import read_manifest, write_manifest
from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.instructed import InstructedFigures
from cosyforge.evaluation.report import Report

_KEPT = ("word_error_rate", "phone_error_rate", "syllable_error_rate", "tone_error_rate", "similarity")
_DIGITS = 3


def check_recordable(directory: Path) -> None:
    """Raises: InvalidParameter when the directory holds a tuned model, which deployments know by the digest of its model.json"""
    if read_manifest(directory).base is not None:
        raise InvalidParameter(
            f"{directory}: a tuned model is known by the digest of its model.json, which must not change; keep its figures with --out"
        )


def record_figures(directory: Path, report: Report) -> str:
    """Write the averages of each language that the report has; other languages' stay. The model gets a new digest.

    Returns: the new digest. Raises: InvalidParameter for a tuned model
    """
    check_recordable(directory)
    manifest = read_manifest(directory)
    figures = dict(manifest.figures)
    for language, stages in report.average.items():
        figures[language] = {
            "recogniser": report.recogniser,
            "voices": sorted(voice for voice, spoken in report.voices.items() if language in spoken),
            "stages": {stage: _rounded(values) for stage, values in stages.items()},
        }
        if told := report.instructed.get(language):
            figures[language]["instructed"] = {instruction: _changes(each) for instruction, each in told.items()}
        if stress := report.stress.get(language):
            figures[language]["stress"] = {
                "num_clips": stress.num_clips,
                "by_ear": {fault: len(texts) for fault, texts in stress.by_ear.items()},
                "by_alignment": {fault: len(texts) for fault, texts in stress.by_alignment.items()},
            }
    return write_manifest(directory, replace(manifest, figures=figures))


def _changes(figures: InstructedFigures) -> dict[str, Any]:
    """Only the qualities that were measured."""
    changes = {"length": figures.length, "pitch": figures.pitch, "pitch_range": figures.pitch_range}
    told = {name: {"mean": round(c.mean, _DIGITS), "up": round(c.up, _DIGITS)} for name, c in changes.items() if c}
    return {"num_clips": figures.num_clips, **told}


def _rounded(values: Mapping[str, float | None]) -> dict[str, Any]:
    kept: dict[str, Any] = {"num_clips": int(values.get("num_clips") or 0)}
    for name in _KEPT:
        value = values.get(name)
        if value is not None:
            kept[name] = round(value, _DIGITS)
    return kept
