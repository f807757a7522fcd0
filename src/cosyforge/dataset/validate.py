"""Every rule of the product document on an unpacked package -> one report listing all problems, and the usable clips.

Errors stop a job: the document forbids them, or nothing could be learned. Warnings are logged and training goes on.
Source: product document, "Prepare the training dataset"
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from cosyforge.dataset.manifest import Sample, read_manifest
from cosyforge.dataset.package import CLIP_FOLDER, unpack
from cosyforge.dataset.report import ERROR, WARNING, Problem, Report, report_of
from cosyforge.errors import InvalidDataset

MIN_SAMPLE_RATE_HZ = 16_000
MIN_CLIP_S = 1.0
RECOMMENDED_CLIP_S = (2.0, 30.0)
MAX_CLIP_S = 60.0
"""Ours. The document sets no maximum, but past a minute the speech tokenizer has lost its window (30 s), one clip fills
whole batches, and the voice is never asked for a sentence that long: cutting the clip is the only useful answer."""
RECOMMENDED_CLIPS = 150
RECOMMENDED_TOTAL_S = (3600.0, 36_000.0)

_SILENT_PEAK = 10 ** (-50 / 20)
_CLIPPED_LEVEL = 0.999
_CLIPPED_PART = 1e-3
_PLAUSIBLE_PACE = (0.25, 3.0)
"""How much faster or slower than usual a transcript may be spoken before text and audio look mismatched."""


@dataclass(frozen=True)
class Clip:
    """One recording to learn from."""

    line: int
    wav_fn: str
    text: str
    path: Path
    duration_s: float
    sample_rate_hz: int


def check_package(package: Path) -> Report:
    """Judge a zip without keeping anything: what cannot be unpacked is in the report like everything else."""
    with tempfile.TemporaryDirectory(prefix="cosyforge-") as temporary:
        try:
            root = unpack(package, Path(temporary) / "data")
        except InvalidDataset as error:
            return report_of(error)
        return inspect_package(root)[1]


def validate(root: Path) -> tuple[list[Clip], Report]:
    """The clips of an unpacked package in the order of data.jsonl, and the report, warnings included.

    Raises: InvalidDataset carrying the whole report when any rule is broken
    """
    clips, report = inspect_package(root)
    report.raise_if_invalid()
    return clips, report


def inspect_package(root: Path) -> tuple[list[Clip], Report]:
    """Apply every rule; clips with an error of their own are left out."""
    samples, problems = read_manifest(root)
    files_by_lower_name = {str(path.relative_to(root)).lower(): path for path in _files(root)}
    clips: list[Clip] = []
    # a clip listed in many lines is decoded once
    checked: dict[Path, tuple[Clip | None, list[Problem]]] = {}
    for sample in samples:
        if sample.path not in checked:
            checked[sample.path] = _check_clip(sample, files_by_lower_name, root)
            problems += checked[sample.path][1]
        clip = checked[sample.path][0]
        if clip is not None:
            clip = Clip(sample.line, sample.wav_fn, sample.text, sample.path, clip.duration_s, clip.sample_rate_hz)
            problems += _pace_problems(clip)
            clips.append(clip)
    problems += _unreferenced(root, {sample.path for sample in samples})
    total_seconds = sum(clip.duration_s for clip in clips)
    problems += volume_problems(len(clips), total_seconds)
    problems.sort(key=lambda problem: (problem.line is None, problem.line or 0))
    return clips, Report(tuple(problems), len(clips), total_seconds)


def _files(root: Path) -> Iterator[Path]:
    return (path for path in sorted((root / CLIP_FOLDER).rglob("*")) if path.is_file())


# --- one clip ---------------------------------------------------------------------------------------------------------


def _check_clip(sample: Sample, files_by_lower_name: dict[str, Path], root: Path) -> tuple[Clip | None, list[Problem]]:
    def problem(severity: str, rule: str, found: str, advice: str) -> Problem:
        return Problem(severity, rule, found, advice, sample.line, sample.wav_fn)

    if not sample.path.is_file():
        near = files_by_lower_name.get(sample.wav_fn.lower())
        advice = (
            f"the zip has {near.relative_to(root)}: use that spelling" if near else "add the file, or drop the line"
        )
        return None, [problem(ERROR, "missing-file", "the file is not in the zip", advice)]
    try:
        info = soundfile.info(sample.path)
        # a clip that is too long is refused by its header: decoding hours of it could fill the memory
        num_frames = -1 if info.frames <= MAX_CLIP_S * info.samplerate else 0
        samples, sample_rate_hz = soundfile.read(sample.path, num_frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        found = f"cannot be read as WAV ({error.error_string.rstrip('.')})"
        return None, [problem(ERROR, "unreadable-audio", found, "export it again as PCM WAV")]
    if info.format not in ("WAV", "WAVEX", "RF64"):
        found = f"is {info.format} under the name .wav"
        return None, [problem(ERROR, "not-wav", found, "convert it to WAV, not only rename it")]
    duration_s = info.frames / sample_rate_hz
    problems = [problem(WARNING, *finding) for finding in _truncation(sample.path)]
    problems += [problem(*finding) for finding in _audio_problems(samples, sample_rate_hz, duration_s)]
    if any(problem.severity == ERROR for problem in problems):
        return None, problems
    clip = Clip(sample.line, sample.wav_fn, sample.text, sample.path, duration_s, int(sample_rate_hz))
    return clip, problems


_Finding = tuple[str, str, str, str]


def _truncation(path: Path) -> Iterator[tuple[str, str, str]]:
    """libsndfile reads what is there of a file that was cut off; its text would still be the whole one."""
    with path.open("rb") as file:
        header = file.read(8)
    promised = int.from_bytes(header[4:8], "little") + 8
    actual = path.stat().st_size
    # programs that write into a pipe leave a size of 0 or of 2 GiB and more
    if header[:4] == b"RIFF" and actual < promised < 2**31:
        yield "truncated", f"has {actual} of {promised} bytes", "copy or export it again; its end is missing"


def _audio_problems(samples: npt.NDArray[np.float32], rate_hz: int, duration_s: float) -> Iterator[_Finding]:
    """Findings (severity, rule, found, advice). Shapes: samples (L, channels)"""
    if rate_hz < MIN_SAMPLE_RATE_HZ:
        found = f"has a sample rate of {rate_hz} Hz, below {MIN_SAMPLE_RATE_HZ} Hz"
        yield ERROR, "low-sample-rate", found, "record or export at 16 kHz or more; resampling up does not help"
    yield from duration_findings(duration_s)
    if not len(samples):
        return
    if not np.isfinite(samples).all():
        yield ERROR, "not-finite", "holds samples that are no numbers", "export it again as 16-bit PCM"
        return
    if samples.shape[1] > 1:
        yield WARNING, "not-mono", f"has {samples.shape[1]} channels", "they are mixed into one; export mono to be sure"
    level = np.abs(samples)
    peak = float(level.max())
    clipped = float((level >= _CLIPPED_LEVEL).mean())
    if peak < _SILENT_PEAK:
        found = f"is silent (peak {_decibel(peak)})"
        yield WARNING, "silent", found, "check the recording; silence under a text is learned as its sound"
    elif clipped > _CLIPPED_PART:
        found = f"is clipped ({clipped:.1%} of the samples at full scale)"
        yield WARNING, "clipped", found, "record it again at a lower level; the distortion is learned"


def duration_findings(duration_s: float) -> Iterator[_Finding]:
    shortest_s, longest_s = RECOMMENDED_CLIP_S
    if duration_s < MIN_CLIP_S:
        yield ERROR, "too-short", f"lasts {duration_s:.2f} s, less than {MIN_CLIP_S:g} s", "join it with the next clip"
    elif duration_s < shortest_s:
        found = f"lasts {duration_s:.2f} s; {shortest_s:g} to {longest_s:g} s are recommended"
        yield WARNING, "short", found, "join it with the next clip if you can"
    elif duration_s > MAX_CLIP_S:
        found = f"lasts {duration_s:.1f} s, more than {MAX_CLIP_S:g} s"
        yield ERROR, "too-long", found, "cut it at sentence ends; so long a clip cannot be learned from"
    elif duration_s > longest_s:
        found = f"lasts {duration_s:.1f} s; {shortest_s:g} to {longest_s:g} s are recommended"
        yield WARNING, "long", found, "cut it at sentence ends if you can"


def _decibel(level: float) -> str:
    return f"{20 * np.log10(level):.0f} dBFS" if level > 0 else "digital silence"


def _pace_problems(clip: Clip) -> Iterator[Problem]:
    expected_s = _usual_duration_s(clip.text)
    pace = expected_s / clip.duration_s
    if not _PLAUSIBLE_PACE[0] <= pace <= _PLAUSIBLE_PACE[1]:
        found = f"lasts {clip.duration_s:.1f} s, but its text usually takes about {expected_s:.1f} s"
        advice = "check that text and clip belong together, and cut long pauses"
        yield Problem(WARNING, "implausible-pace", found, advice, clip.line, clip.wav_fn)


def _usual_duration_s(text: str) -> float:
    """A rough guess for any script: ideographs and kana are syllables, letters of alphabets are parts of one."""
    seconds = 0.0
    for char in text:
        if unicodedata.category(char)[0] == "N":
            seconds += 0.3
        elif unicodedata.category(char)[0] == "L":
            seconds += 0.22 if unicodedata.east_asian_width(char) in "WF" else 0.07
    return seconds


# --- the whole package ------------------------------------------------------------------------------------------------


def _unreferenced(root: Path, used: set[Path]) -> Iterator[Problem]:
    for path in _files(root):
        if path.suffix.lower() == ".wav" and path not in used:
            name = str(path.relative_to(root))
            found = "is in the zip but in no usable line of data.jsonl"
            yield Problem(WARNING, "unreferenced", found, "add a line for it, or leave it out", file=name)


def volume_problems(num_clips: int, total_seconds: float) -> Iterator[Problem]:
    least_s, most_s = RECOMMENDED_TOTAL_S
    if num_clips < RECOMMENDED_CLIPS:
        found = f"holds {num_clips} usable clips; at least {RECOMMENDED_CLIPS} are recommended"
        yield Problem(WARNING, "few-clips", found, "add recordings for a stable result")
    if total_seconds < least_s:
        hours = f"{least_s / 3600:g} to {most_s / 3600:g} h"
        found = f"holds {total_seconds / 60:.1f} minutes of audio; {hours} are recommended"
        yield Problem(WARNING, "little-audio", found, "add recordings for a better voice")
    if total_seconds > most_s:
        found = f"holds {total_seconds / 3600:.1f} hours of audio; past {most_s / 3600:g} h more brings little"
        yield Problem(WARNING, "much-audio", found, "leave some out to save time and tokens")
