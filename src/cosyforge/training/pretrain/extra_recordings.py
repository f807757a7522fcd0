"""Recordings that a person has, whatever layout they lie in: where they are, what is said, who speaks.

Known are training packages (`data.jsonl` and `train/`, a folder or a zip) and LibriTTS (`SPEAKER/CHAPTER/UTTERANCE.wav` with its text
beside it), any number of either below one folder. Knows no samples: what a recording is worth is for extra_corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cosyforge.dataset.manifest import read_manifest
from cosyforge.dataset.package import CLIP_FOLDER, MANIFEST_NAME, opened, unpack
from cosyforge.errors import InvalidDataset, InvalidParameter
from cosyforge.text.language import LanguageFinder

_LANGUAGES = ("zh", "en")
_SOUND_FILES = (".wav", ".flac")
_TEXT_FILES = (".normalized.txt", ".original.txt")
"""What LibriTTS has beside every utterance; numbers are words already in the first."""
_LAYOUTS = f"data.jsonl beside {CLIP_FOLDER}/, a zip of the two, or SPEAKER/CHAPTER/UTTERANCE.wav with UTTERANCE.normalized.txt"


@dataclass(frozen=True)
class ExtraRecording:
    """One recording and what is said in it.

    text: as it was written down; language: "zh" or "en", by the letters of the text
    """

    path: Path
    text: str
    speaker: str
    language: str


@dataclass(frozen=True)
class Collection:
    """Recordings that are taken in as a whole: one package, or the chapters of one LibriTTS speaker."""

    name: str
    kind: Literal["folder", "zip", "libritts"]
    paths: tuple[Path, ...]

    def fingerprint(self) -> str:
        """Digest of what it holds: a zip's bytes; names, sizes and times of a folder's files."""
        digest = hashlib.sha256(self.kind.encode())
        if self.kind == "zip":
            with self.paths[0].open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
            return digest.hexdigest()
        for folder in self.paths:
            for path in _files(folder):
                status = path.stat()
                digest.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    @contextmanager
    def opened(self, temporary: Path) -> Iterator[tuple[list[ExtraRecording], Counter[str]]]:
        """The recordings, and how many lines or files cannot be used by the rule that they break.

        temporary: an existing folder; a zip lies unpacked in it until the end of the context
        Raises: InvalidDataset naming the zip when it cannot be unpacked
        """
        if self.kind == "libritts":
            yield _utterances(self.paths, self.name)
        elif self.kind == "folder":
            yield _package(self.paths[0], self.name)
        else:
            root = temporary / "package"
            try:
                yield _package(_unpacked(self.paths[0], root), self.name)
            finally:
                shutil.rmtree(root, ignore_errors=True)


def find_collections(source: Path) -> list[Collection]:
    """Everything below a folder, or the one zip, in the order of names; every zip is judged by its listing.

    Raises: InvalidParameter when there is nothing in a known layout; InvalidDataset naming the first zip that is unsafe
    """
    if not source.exists():
        raise InvalidParameter(f"{source}: no such folder or zip; give recordings as {_LAYOUTS}")
    is_zip = source.is_file()
    collections = [Collection(source.resolve().stem, "zip", (source,))] if is_zip else list(_below(source))
    if not collections:
        raise InvalidParameter(f"{source}: holds no recordings in a known layout; lay them out as {_LAYOUTS}")
    for collection in collections:
        if collection.kind == "zip":
            with _naming(collection.paths[0]), opened(collection.paths[0]):
                pass
    return collections


def find_recordings(source: Path, temporary: Path | None = None) -> Iterator[ExtraRecording]:
    """Every recording that has a text, one collection after the other.

    A recording out of a zip is on disk until the next collection begins; zips are unpacked below `temporary` one at a time.
    Raises: as find_collections, before the first recording
    """
    collections = find_collections(source)
    with tempfile.TemporaryDirectory(prefix="cosyforge-", dir=temporary) as folder:
        for collection in collections:
            with collection.opened(Path(folder)) as (recordings, _):
                yield from recordings


def _below(source: Path) -> Iterator[Collection]:
    chapters: dict[Path, list[Path]] = {}
    for folder_name, folders, files in os.walk(source):
        folder = Path(folder_name)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        if MANIFEST_NAME in files:
            folders.clear()
            yield Collection(_name(folder, source), "folder", (folder,))
            continue
        if any(name.endswith(_TEXT_FILES) for name in files):
            chapters.setdefault(folder.parent, []).append(folder)
        for name in sorted(files):
            if name.lower().endswith(".zip") and not name.startswith("."):
                yield Collection(_name(folder / name, source), "zip", (folder / name,))
    for speaker, folders_of_speaker in chapters.items():
        yield Collection(f"libritts-{speaker.resolve().name}", "libritts", tuple(folders_of_speaker))


def _name(path: Path, source: Path) -> str:
    """A package is named after its place below the source, which is the name of its speaker, too."""
    if path == source:
        return path.resolve().name
    relative = path.relative_to(source)
    return str(relative.with_suffix("") if path.is_file() else relative)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def _naming(package: Path) -> Iterator[None]:
    """Among many zips an error must say which one is meant."""
    try:
        yield
    except InvalidDataset as error:
        raise InvalidDataset(f"{package}: {error.message}") from error


def _unpacked(package: Path, root: Path) -> Path:
    with _naming(package):
        return unpack(package, root)


def _package(root: Path, name: str) -> tuple[list[ExtraRecording], Counter[str]]:
    samples, problems = read_manifest(root)
    speakers = _named_speakers(root)
    # a line with several errors is one recording lost
    rule_by_line = {problem.line: problem.rule for problem in reversed(problems) if problem.severity == "error"}
    unusable = Counter(rule_by_line.values())
    recordings: list[ExtraRecording] = []
    seen: set[Path] = set()
    for sample in samples:
        if sample.path in seen or not sample.path.is_file():
            unusable["duplicate" if sample.path in seen else "missing-file"] += 1
            continue
        seen.add(sample.path)
        speaker = speakers.get(sample.line, name)
        recordings.append(ExtraRecording(sample.path, sample.text, speaker, language_of(sample.text)))
    return recordings, unusable


def _named_speakers(root: Path) -> dict[int, str]:
    """The speakers of lines that name one; the rules for packages know one speaker and pass over the key."""
    named: dict[int, str] = {}
    for line, row in enumerate((root / MANIFEST_NAME).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if b'"speaker"' not in row:
            continue
        try:
            speaker = json.loads(row)["speaker"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # read_manifest has said what is wrong with the line
        if isinstance(speaker, str) and speaker.strip():
            named[line] = speaker.strip()
    return named


def _utterances(chapters: tuple[Path, ...], speaker: str) -> tuple[list[ExtraRecording], Counter[str]]:
    recordings: list[ExtraRecording] = []
    unusable: Counter[str] = Counter()
    for chapter in chapters:
        sounds = {path.stem: path for path in sorted(chapter.iterdir()) if path.suffix.lower() in _SOUND_FILES}
        texts = {path.name.removesuffix(end) for end in _TEXT_FILES for path in chapter.glob(f"*{end}")}
        unusable["missing-file"] += len(texts - sounds.keys())
        for path in sounds.values():
            text = _text_beside(path)
            if text is None:
                unusable["no-text"] += 1
            else:
                recordings.append(ExtraRecording(path, text, speaker, language_of(text)))
    return recordings, +unusable


def _text_beside(path: Path) -> str | None:
    for ending in _TEXT_FILES:
        beside = path.with_name(path.stem + ending)
        if beside.is_file():
            return beside.read_text(encoding="utf-8", errors="replace").strip() or None
    return None


def language_of(text: str) -> str:
    """Chinese characters make a text Mandarin unless Latin words outnumber them; everything else counts as English."""
    return LanguageFinder(_LANGUAGES).find(text)
