"""The commands that make sound, as a person calls them: the built-in model, no server."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cosyforge.audio.wav import read_wav
from cosyforge.cosyvoice.manifest import builtin_model_directory
from cosyforge.demo_recordings import demo_recordings, pack

needs_nano = pytest.mark.skipif(
    not (builtin_model_directory() / "model.json").is_file(), reason="this checkout has no built-in base model"
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cosyforge.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@needs_nano
def test_synthesize_writes_the_same_speech_streaming_or_not(tmp_path: Path) -> None:
    for name, switch in (("whole", "--no-streaming"), ("pieces", "--streaming")):
        done = run("synthesize", "--text", "Good morning. It is five o'clock.", switch, "-o", tmp_path / f"{name}.wav")
        assert done.returncode == 0, done.stderr
    whole, rate_hz = read_wav(tmp_path / "whole.wav")
    pieces, _ = read_wav(tmp_path / "pieces.wav")
    assert 1.5 < len(whole) / rate_hz < 8
    assert len(whole) == len(pieces)
    assert np.abs(whole - pieces).max() < 2e-3


@needs_nano
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--text", "...", "-o", "out.wav"), "Please ensure input text is valid"),
        (("--text", "Hello.", "--voice", "nobody", "-o", "out.wav"), "418"),
        (("--text", "Hello.", "-o", "out.doc"), "the ending must be one of"),
        (("--text", "Hello.", "--model", "not-there", "-o", "out.wav"), "does not exist"),
    ],
)
def test_what_cannot_be_spoken_is_one_clear_line_and_leaves_nothing(
    arguments: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    # a folder of its own for what would be written
    done = run("synthesize", *(tmp_path / a if a.startswith("out.") else a for a in arguments))
    assert done.returncode != 0
    assert reason in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@needs_nano
def test_finetune_makes_a_model_that_synthesize_takes(tmp_path: Path) -> None:
    pack(demo_recordings("train")[:4], tmp_path / "data.zip")
    one = [f"--{network}-{what}=1" for network in ("lm", "fm") for what in ("max-epoch", "step", "num")]
    done = run("finetune", tmp_path / "data.zip", "--out", tmp_path / "voice", *one)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-00010001" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.zip", "voice"]
    model = tmp_path / "voice" / "checkpoint-00010001"
    done = run("synthesize", "--model", model, "--text", "Hello.", "-o", tmp_path / "hello.mp3")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hello.mp3").stat().st_size > 1000


@needs_nano
def test_finetune_lists_what_is_wrong_with_a_package_and_leaves_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("data.jsonl", '{"wav_fn": "a.wav", "text": "Hello."}\n{"wav_fn": "train/b.wav"}\n')
    done = run("finetune", tmp_path / "bad.zip", "--out", tmp_path / "voice")
    assert done.returncode == 1
    assert "line 1" in done.stderr
    assert "line 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]
