"""The training zip onto disk, safely. Knows archives; what data.jsonl and the clips hold is for manifest and validate.

A zip is input from anyone: every entry is judged from the listing before a byte is written, sizes are enforced again
while reading, and the target appears complete or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cosyforge.dataset.report import ERROR, Problem, refuse
from cosyforge.errors import Internal

MANIFEST_NAME = "data.jsonl"
DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What reading a damaged or unusual entry of a zip raises."""
CLIP_FOLDER = "train"

_LAYOUT = "pack data.jsonl and the folder train/ at the top of the zip or in one folder"


@dataclass(frozen=True)
class PackageLimits:
    """What a package may cost before it counts as an attack; far above ten hours of 48 kHz stereo."""

    max_entries: int = 200_000
    max_total_bytes: int = 32 * 2**30
    max_manifest_bytes: int = 256 * 2**20
    max_ratio: float = 100.0
    """Recordings shrink two- to tenfold; only silence and bombs shrink a hundredfold."""
    ratio_free_bytes: int = 64 * 2**20
    """Below this total the ratio does not matter: a few silent clips are no bomb."""


@dataclass(frozen=True)
class _Entry:
    info: zipfile.ZipInfo
    path: PurePosixPath


def unpack(package: Path, directory: Path, limits: PackageLimits | None = None) -> Path:
    """Extract data.jsonl and train/ into the new folder `directory`, dropping the folders above them in the zip.

    Other entries (read-me files, `__MACOSX`, `.DS_Store`) are judged and left in the zip. File names become NFC.

    Raises: InvalidDataset with every bad entry; FileExistsError when `directory` exists; Internal when the disk is full
    """
    limits = limits or PackageLimits()
    if directory.exists():
        raise FileExistsError(f"{directory} exists already; unpack into a new folder")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        with _open(package) as archive:
            entries = _wanted_entries(archive, package.stat().st_size, limits)
            _check_disk(partial, entries)
            for entry in entries:
                _extract(archive, entry, partial)
        (partial / CLIP_FOLDER).mkdir(exist_ok=True)
        os.replace(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return directory


@contextlib.contextmanager
def opened(
    package: Path, limits: PackageLimits | None = None
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
    """The archive, and the entries that `unpack` would extract by the path that they would get; nothing is written.

    Raises: InvalidDataset with every bad entry
    """
    with _open(package) as archive:
        entries = _wanted_entries(archive, package.stat().st_size, limits or PackageLimits())
        yield archive, {str(entry.path): entry.info for entry in entries}


def _open(package: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(package)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, NotImplementedError) as error:
        advice = "upload a .zip archive (not rar, 7z or tar), and check that the upload was complete"
        raise refuse([_error("zip-unreadable", f"is not a readable zip archive ({error})", advice)]) from error


def _wanted_entries(archive: zipfile.ZipFile, package_bytes: int, limits: PackageLimits) -> list[_Entry]:
    infos = archive.infolist()
    if len(infos) > limits.max_entries:
        found = f"holds {len(infos)} entries, more than {limits.max_entries}"
        raise refuse([_error("zip-too-many-entries", found, "split the recordings into fewer, longer clips")])
    encoding = _legacy_encoding(infos)
    problems: list[Problem] = []
    entries: list[_Entry] = []
    for info in infos:
        name = _name(info, encoding)
        problem = _entry_problem(info, name)
        if problem is not None:
            problems.append(problem)
        elif not name.endswith("/") and not _is_clutter(PurePosixPath(name)):
            entries.append(_Entry(info, PurePosixPath(name)))
    problems += _duplicates(entries)
    if problems:
        raise refuse(problems)
    wanted = _below_manifest(entries)
    _check_sizes(wanted, package_bytes, limits)
    return wanted


def _legacy_encoding(infos: list[zipfile.ZipInfo]) -> str:
    """How names without the UTF-8 flag were likely written: UTF-8 (older macOS), GB18030 (Chinese Windows), cp437."""
    raw_names = [info.filename.encode("cp437") for info in infos if not info.flag_bits & 0x800]
    for encoding in ("utf-8", "gb18030"):
        try:
            for raw_name in raw_names:
                raw_name.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "cp437"


def _name(info: zipfile.ZipInfo, legacy_encoding: str) -> str:
    is_utf8 = bool(info.flag_bits & 0x800)
    name = info.filename if is_utf8 else info.filename.encode("cp437").decode(legacy_encoding)
    # some Windows archivers write backslashes; as separators they are judged like any other path
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _entry_problem(info: zipfile.ZipInfo, name: str) -> Problem | None:
    mode = info.external_attr >> 16
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or (len(parts[0]) >= 2 and parts[0][1] == ":"):
        return _error("zip-absolute-path", "has an absolute path", "pack with relative paths", name)
    if ".." in parts:
        return _error("zip-path-traversal", "leaves its folder with '..'", "pack without '..' in paths", name)
    if any(part in ("", ".") or unicodedata.category(char) in ("Cc", "Cs") for part in parts for char in part or " "):
        return _error("zip-bad-name", "has an empty part, '.' or a control character in its name", "rename it", name)
    if any(len(part.encode()) > 255 for part in parts):
        return _error("zip-bad-name", "has a name of more than 255 bytes", "shorten it", name)
    if stat.S_ISLNK(mode):
        return _error("zip-symlink", "is a symbolic link", "pack the file itself", name)
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return _error("zip-special-file", "is neither a file nor a folder", "leave it out", name)
    if info.flag_bits & 0x1:
        return _error("zip-encrypted", "is encrypted", "pack without a password", name)
    return None


def _is_clutter(path: PurePosixPath) -> bool:
    return "__MACOSX" in path.parts or path.name in (".DS_Store", "Thumbs.db", "desktop.ini") or path.name[:2] == "._"


def _duplicates(entries: list[_Entry]) -> list[Problem]:
    counts = Counter(entry.path for entry in entries)
    return [
        _error("zip-duplicate-name", f"occurs {count} times", "keep one entry of each name", str(path))
        for path, count in counts.items()
        if count > 1
    ]


def _below_manifest(entries: list[_Entry]) -> list[_Entry]:
    """data.jsonl and the clips, their paths relative to the folder of the shallowest data.jsonl."""
    manifests = [entry.path for entry in entries if entry.path.name == MANIFEST_NAME]
    if not manifests:
        near = sorted(str(e.path) for e in entries if e.path.suffix.lower() in (".jsonl", ".json", ".txt", ".csv"))
        found = "holds no data.jsonl" + (f" (found {', '.join(near[:3])})" if near else "")
        raise refuse([_error("no-manifest", found, _LAYOUT)])
    depth = min(len(path.parts) for path in manifests)
    shallowest = [path for path in manifests if len(path.parts) == depth]
    if len(shallowest) > 1:
        found = f"holds several data.jsonl at the same depth: {', '.join(sorted(map(str, shallowest))[:5])}"
        raise refuse([_error("many-manifests", found, "keep one; training takes one speaker at a time")])
    root = shallowest[0].parent
    below = [_Entry(e.info, e.path.relative_to(root)) for e in entries if e.path.is_relative_to(root)]
    return [entry for entry in below if _is_manifest(entry) or _is_clip(entry)]


def _is_manifest(entry: _Entry) -> bool:
    return entry.path.parts == (MANIFEST_NAME,)


def _is_clip(entry: _Entry) -> bool:
    return len(entry.path.parts) > 1 and entry.path.parts[0] == CLIP_FOLDER


def _check_sizes(entries: list[_Entry], package_bytes: int, limits: PackageLimits) -> None:
    total = sum(entry.info.file_size for entry in entries)
    manifest = sum(entry.info.file_size for entry in entries if _is_manifest(entry))
    if total > limits.max_total_bytes:
        found = f"unpacks to {total} bytes, more than {limits.max_total_bytes}"
        raise refuse([_error("zip-too-large", found, "more than ten hours add little; leave recordings out")])
    if total > limits.ratio_free_bytes and total > limits.max_ratio * package_bytes:
        found = f"unpacks to {total / max(1, package_bytes):.0f} times its size"
        raise refuse([_error("zip-bomb", found, "pack real recordings; silence and padding teach nothing")])
    if manifest > limits.max_manifest_bytes:
        found = f"has {manifest} bytes, more than {limits.max_manifest_bytes}"
        raise refuse([_error("manifest-too-large", found, "keep one short line per clip", MANIFEST_NAME)])


def _check_disk(folder: Path, entries: list[_Entry]) -> None:
    needed, free = sum(entry.info.file_size for entry in entries), shutil.disk_usage(folder).free
    if needed > free:
        raise Internal(f"{folder.parent}: unpacking needs {needed} bytes and the disk has {free}; free some space")


def _extract(archive: zipfile.ZipFile, entry: _Entry, folder: Path) -> None:
    name = str(entry.path)
    target = folder / entry.path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # "x": on a file system that folds case two names can meet; the second must not overwrite the first
        with archive.open(entry.info) as source, target.open("xb") as sink:
            remaining = entry.info.file_size
            # the listing is the archive's own claim: stop at it, whatever the stream still holds
            while piece := source.read(min(2**20, remaining + 1)):
                remaining -= len(piece)
                if remaining < 0:
                    raise zipfile.BadZipFile("holds more than the listing says")
                sink.write(piece)
    except (FileExistsError, NotADirectoryError) as error:
        found = "meets another entry (a name that differs only in case, or a file where a folder is needed)"
        raise refuse([_error("zip-duplicate-name", found, "rename one of them", name)]) from error
    except DAMAGES as error:
        found, advice = f"cannot be unpacked ({error})", "pack again with the usual zip method, and upload again"
        raise refuse([_error("zip-damaged", found, advice, name)]) from error


def _error(rule: str, found: str, advice: str, file: str | None = None) -> Problem:
    return Problem(ERROR, rule, found, advice, file=file)
