"""Recordings that a voice is compared with, read from a zip or a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from cosyforge.audio.wav import read_wav
from cosyforge.dataset.manifest import read_manifest
from cosyforge.dataset.package import MANIFEST_NAME, unpack
from cosyforge.dataset.report import ERROR, refuse
from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.scorecard import Recording

T = TypeVar("T")


def read_references(path: Path, most: int | None = None) -> dict[str, list[Recording]]:
    """Read recordings by speaker: one speaker under the name of the path, or several under the names of its parts.

    A path is a zip or a folder in the layout of training packages (data.jsonl, train/*.wav), a folder of such zips or
    folders, each named like the voice that should be like it, or a folder of WAV files, whose words are then not known.
    most: of each speaker so many recordings are taken, spread over all

    Raises: InvalidDataset when a package breaks its rules; InvalidParameter when there is nothing of the kind
    """
    if _is_package(path):
        return {path.stem: _recordings(path, most)}
    parts = sorted(part for part in path.iterdir() if _is_package(part)) if path.is_dir() else []
    if parts:
        return {part.stem: _recordings(part, most) for part in parts}
    wavs = sorted(path.glob("*.wav")) if path.is_dir() else []
    if not wavs:
        raise InvalidParameter(
            f"{path}: holds no recordings; give a zip or folder with data.jsonl and train/*.wav, a folder of such ones "
            "named like the voices, or a folder of WAV files"
        )
    return {path.name: [Recording(*read_wav(wav)) for wav in spread(wavs, most)]}


def spread(items: Sequence[T], most: int | None) -> list[T]:
    """Up to `most` items, from the whole length of the row."""
    count = len(items) if most is None else min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _is_package(path: Path) -> bool:
    return (path.suffix == ".zip" and path.is_file()) or (path / MANIFEST_NAME).is_file()


def _recordings(path: Path, most: int | None) -> list[Recording]:
    if path.is_dir():
        return _in_folder(path, most)
    with tempfile.TemporaryDirectory(prefix="cosyforge-evaluate-") as folder:
        return _in_folder(unpack(path, Path(folder, "package")), most)


def _in_folder(root: Path, most: int | None) -> list[Recording]:
    samples, problems = read_manifest(root)
    if any(problem.severity == ERROR for problem in problems):
        raise refuse(problems)
    return [Recording(*read_wav(sample.path), sample.text) for sample in spread(samples, most)]
