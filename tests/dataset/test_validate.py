"""A whole package against the document's rules: one report, all problems."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from dataset_packages import lay_out, rows, tone, wav_bytes, zipped

from cosyforge.dataset.report import report_of
from cosyforge.dataset.validate import check_package, inspect_package, validate
from cosyforge.errors import InvalidDataset, InvalidParameter

PACKAGE_RULES = {"few-clips", "little-audio"}


def inspect_clip(
    tmp_path: Path, content: bytes, text: str = "A sentence of usual length, spoken in peace."
) -> set[str]:
    """The rules that one clip breaks, each with its severity."""
    root = lay_out(tmp_path, rows(("train/1.wav", text)), {"train/1.wav": content})
    _, report = inspect_package(root)
    return {f"{problem.severity} {problem.rule}" for problem in report.problems if problem.rule not in PACKAGE_RULES}


def test_a_good_clip_breaks_no_rule(tmp_path: Path) -> None:
    assert inspect_clip(tmp_path, wav_bytes(tone())) == set()


@pytest.mark.parametrize(
    ("duration_s", "found"),
    [
        (0.9, {"error too-short"}),
        (1.0, {"warning short"}),
        (2.0, set()),
        (30.0, set()),
        (30.5, {"warning long"}),
        (60.5, {"error too-long"}),
    ],
)
def test_durations_follow_the_document(duration_s: float, found: set[str], tmp_path: Path) -> None:
    text = "word " * max(1, round(duration_s * 2))

    assert inspect_clip(tmp_path, wav_bytes(tone(duration_s, 16_000), 16_000), text) == found


def test_sixteen_kilohertz_is_enough_and_less_is_not(tmp_path: Path) -> None:
    assert inspect_clip(tmp_path, wav_bytes(tone(3, 16_000), 16_000)) == set()
    assert inspect_clip(tmp_path, wav_bytes(tone(3, 15_999), 15_999)) == {"error low-sample-rate"}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", {"error unreadable-audio"}),
        (b"no sound", {"error unreadable-audio"}),
        (wav_bytes(tone())[:44], {"error too-short", "warning truncated"}),
        (wav_bytes(tone(6))[:-150_000], {"warning truncated"}),
        (wav_bytes(tone(), container="FLAC"), {"error not-wav"}),
        (wav_bytes(np.zeros(72_000, np.float32)), {"warning silent"}),
        (wav_bytes(tone(level=0.0005)), {"warning silent"}),
        (wav_bytes(np.clip(tone(level=4.0), -1, 1)), {"warning clipped"}),
        (wav_bytes(np.stack([tone(), tone()], axis=1)), {"warning not-mono"}),
    ],
)
def test_what_a_recording_can_suffer_from(content: bytes, found: set[str], tmp_path: Path) -> None:
    assert inspect_clip(tmp_path, content) == found


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    samples = tone()
    samples[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 24_000, subtype="FLOAT")

    assert inspect_clip(tmp_path, (tmp_path / "nan.wav").read_bytes()) == {"error not-finite"}


def test_hours_of_audio_are_refused_without_being_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    real_read = soundfile.read

    def read(*arguments: object, **options: object) -> object:
        samples, rate_hz = real_read(*arguments, **options)
        decoded.append(len(samples))
        return samples, rate_hz

    monkeypatch.setattr(soundfile, "read", read)

    assert inspect_clip(tmp_path, wav_bytes(np.zeros(16_000 * 120, np.float32), 16_000)) == {"error too-long"}
    assert decoded == [0]


@pytest.mark.parametrize(
    ("text", "is_implausible"),
    [
        ("Good morning, how are you today?", False),
        ("今天天气很好，我们去公园吧。", False),
        ("No.", True),
        ("A very long text " * 20, True),
        ("很" * 60, True),
    ],
)
def test_text_and_duration_must_fit_together(text: str, is_implausible: bool, tmp_path: Path) -> None:
    found = inspect_clip(tmp_path, wav_bytes(tone(3.0)), text)

    assert found == ({"warning implausible-pace"} if is_implausible else set())


def test_missing_and_unreferenced_files_are_named(tmp_path: Path) -> None:
    manifest = rows(("train/a.wav", "Is not there at all."), ("train/b.wav", "Is there under another name."))
    root = lay_out(tmp_path, manifest, {"train/B.WAV": wav_bytes(tone()), "train/c.txt": b"notes"})

    clips, report = inspect_package(root)

    assert clips == []
    assert [(p.rule, p.line) for p in report.errors] == [("missing-file", 1), ("missing-file", 2)]
    assert "train/B.WAV" in report.errors[1].advice
    assert [p.file for p in report.warnings if p.rule == "unreferenced"] == ["train/B.WAV"]


def test_small_sets_are_warned_of_and_accepted(tmp_path: Path) -> None:
    root = lay_out(tmp_path, rows(("train/1.wav", "Good morning to you.")), {"train/1.wav": wav_bytes(tone())})

    clips, report = validate(root)

    assert [clip.duration_s for clip in clips] == [3.0]
    assert report.is_valid
    assert {problem.rule for problem in report.warnings} == PACKAGE_RULES


def test_a_clip_listed_twice_is_billed_twice(tmp_path: Path) -> None:
    manifest = rows(("train/1.wav", "Good morning to you."), ("train/1.wav", "Good morning to you."))
    root = lay_out(tmp_path, manifest, {"train/1.wav": wav_bytes(tone())})

    clips, report = validate(root)

    assert len(clips) == 2
    assert report.total_seconds == 6.0


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    manifest = rows(
        ("train/1.wav", "Good morning to you."),
        ("train/2.wav", "Not there."),
        ("wav/3.wav", "Wrong folder 😀."),
    )
    return lay_out(tmp_path, manifest, {"train/1.wav": wav_bytes(tone(0.5))})


def test_the_error_carries_the_whole_report(broken: Path) -> None:
    with pytest.raises(InvalidDataset) as caught:
        validate(broken)

    report = report_of(caught.value)
    assert isinstance(caught.value, InvalidParameter)
    assert [(p.line, p.rule) for p in report.errors] == [
        (1, "too-short"),
        (2, "missing-file"),
        (3, "not-in-train"),
        (3, "special-character"),
    ]
    assert "4 errors" in caught.value.message
    assert "data.jsonl line 3: wav_fn must start with train/" in caught.value.message


def test_the_report_reads_well_and_survives_json(broken: Path) -> None:
    _, report = inspect_package(broken)

    text, values = report.to_text(), json.loads(json.dumps(report.to_json()))

    assert text.splitlines()[0] == "0 clips, 0.0 minutes, 4 errors, 2 warnings"
    assert all(str(problem) in text for problem in report.problems)
    assert len(values["problems"]) == len(report.problems)
    assert values["counts"]["too-short"] == 1
    assert values["is_valid"] is False


def test_a_flood_of_errors_is_counted_in_the_message_and_complete_in_the_report(tmp_path: Path) -> None:
    root = lay_out(tmp_path, rows(*((f"train/{i}.wav", f"Number {i}.") for i in range(500))), {})

    with pytest.raises(InvalidDataset) as caught:
        validate(root)

    assert "500 errors" in caught.value.message
    assert caught.value.message.endswith("and 480 more")
    assert len(report_of(caught.value).errors) == 500


def test_a_zip_can_be_judged_without_a_job(tmp_path: Path) -> None:
    files = {"data.jsonl": rows(("train/1.wav", "Good morning to you.")), "train/1.wav": wav_bytes(tone(0.5))}
    (tmp_path / "broken.zip").write_bytes(b"nothing")

    judged = check_package(zipped(tmp_path / "p.zip", files))
    broken = check_package(tmp_path / "broken.zip")

    assert [problem.rule for problem in judged.errors] == ["too-short"]
    assert [problem.rule for problem in broken.errors] == ["zip-unreadable"]
