"""How much audio a package holds, from its listing and the headers of its clips: seconds, where training takes minutes.

What only the samples tell (silence, clipping) is for `validate`; durations agree with it to the last digit.
"""

from __future__ import annotations

import io
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import soundfile

from cosyforge.dataset.manifest import read_manifest
from cosyforge.dataset.package import DAMAGES, MANIFEST_NAME, opened
from cosyforge.dataset.report import ERROR, WARNING, Problem, Report, refuse
from cosyforge.dataset.validate import MIN_SAMPLE_RATE_HZ, duration_findings, volume_problems

_BYTES_PER_SAMPLE_KNOWN = (1, 3, 6, 7)
"""Formats of which every frame has the same size: PCM, float, A-law, mu-law."""
_EXTENSIBLE = 0xFFFE
_MAX_HEADER_BYTES = 1 << 20
_MAX_DECODED_BYTES = 256 << 20


@dataclass(frozen=True)
class _Header:
    """What a clip says about itself."""

    num_frames: int
    sample_rate_hz: int
    num_channels: int

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.sample_rate_hz


def survey(package: Path) -> Report:
    """The clips of a zip that can be used, their seconds as they are billed, and the problems that headers show.

    Raises: InvalidDataset when the zip itself cannot be used
    """
    with opened(package) as (archive, entries), tempfile.TemporaryDirectory(prefix="cosyforge-") as temporary:
        root = Path(temporary)
        (root / MANIFEST_NAME).write_bytes(_manifest(archive, entries[MANIFEST_NAME]))
        samples, problems = read_manifest(root)
        headers: dict[str, _Header | None] = {}
        durations: list[float] = []
        for sample in samples:
            if sample.wav_fn not in headers:
                headers[sample.wav_fn], found = _judge(archive, entries.get(sample.wav_fn))
                problems += [Problem(*finding, sample.line, sample.wav_fn) for finding in found]
            header = headers[sample.wav_fn]
            if header is not None:
                durations.append(header.duration_s)
    total_seconds = sum(durations)
    problems += volume_problems(len(durations), total_seconds)
    problems.sort(key=lambda problem: (problem.line is None, problem.line or 0))
    return Report(tuple(problems), len(durations), total_seconds)


_Finding = tuple[str, str, str, str]


def _judge(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None) -> tuple[_Header | None, list[_Finding]]:
    """The header of a clip that can be used, and what is wrong with it."""
    if info is None:
        return None, [(ERROR, "missing-file", "the file is not in the zip", "add the file, or drop the line")]
    try:
        header = _simple_header(archive, info) or _decoded_header(archive, info)
    except (soundfile.LibsndfileError, *DAMAGES) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        return None, [(ERROR, "unreadable-audio", f"cannot be read as WAV ({reason})", "export it again as PCM WAV")]
    findings = list(_header_findings(header))
    is_usable = not any(severity == ERROR for severity, *_ in findings)
    return (header if is_usable else None), findings


def _header_findings(header: _Header) -> Iterator[_Finding]:
    if header.sample_rate_hz < MIN_SAMPLE_RATE_HZ:
        found = f"has a sample rate of {header.sample_rate_hz} Hz, below {MIN_SAMPLE_RATE_HZ} Hz"
        yield ERROR, "low-sample-rate", found, "record or export at 16 kHz or more; resampling up does not help"
    yield from duration_findings(header.duration_s)
    if header.num_channels > 1:
        found = f"has {header.num_channels} channels"
        yield WARNING, "not-mono", found, "they are mixed into one; export mono to be sure"


def _manifest(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return _whole(archive, info)
    except DAMAGES as error:
        found, advice = f"cannot be unpacked ({error})", "pack again with the usual zip method, and upload again"
        raise refuse([Problem(ERROR, "zip-damaged", found, advice, file=MANIFEST_NAME)]) from error


def _whole(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """No more than the listing says, whatever the stream holds."""
    with archive.open(info) as file:
        return file.read(info.file_size)


def _simple_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Header | None:
    """From the chunks before the samples; None for everything out of the ordinary, which is decoded instead."""
    with archive.open(info) as file:
        top = file.read(12)
        if top[:4] != b"RIFF" or top[8:] != b"WAVE":
            return None
        layout: tuple[int, int, int] | None = None
        position = 12
        while position < _MAX_HEADER_BYTES and len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            position += 8
            if name == b"data":
                return _header(layout, size, info.file_size - position)
            body = file.read(size + size % 2) if size <= _MAX_HEADER_BYTES else b""
            position += len(body)
            if len(body) < size:
                return None
            if name == b"fmt ":
                layout = _layout(body)
    return None


def _layout(body: bytes) -> tuple[int, int, int] | None:
    """Channels, rate in Hz, bytes per frame; None when frames may differ in size."""
    if len(body) < 16:
        return None
    kind, channels, rate_hz, _, frame_bytes, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == _EXTENSIBLE and len(body) >= 26:
        (kind,) = struct.unpack("<H", body[24:26])
    is_plain = kind in _BYTES_PER_SAMPLE_KNOWN and channels and rate_hz and frame_bytes == channels * ((bits + 7) // 8)
    return (channels, rate_hz, frame_bytes) if is_plain and frame_bytes else None


def _header(layout: tuple[int, int, int] | None, data_bytes: int, bytes_left: int) -> _Header | None:
    if layout is None or not 0 < data_bytes <= bytes_left:
        return None
    channels, rate_hz, frame_bytes = layout
    return _Header(data_bytes // frame_bytes, rate_hz, channels)


def _decoded_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Header:
    if info.file_size > _MAX_DECODED_BYTES:
        raise EOFError("its header is unusual and the file too large to look further")
    described = soundfile.info(io.BytesIO(_whole(archive, info)))
    if described.format not in ("WAV", "WAVEX", "RF64"):
        raise EOFError(f"is {described.format} under the name .wav")
    return _Header(described.frames, described.samplerate, described.channels)
