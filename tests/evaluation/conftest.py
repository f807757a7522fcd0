"""Clips to judge: sentences spoken by flite where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from evaluation_clips import Say

from cosyforge.audio.wav import read_wav
from cosyforge.evaluation.scorecard import Recording


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def say(tmp_path_factory: pytest.TempPathFactory) -> Say:
    """say(voice, text): a sentence of a flite voice."""
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed (apt-get install flite); it speaks the clips that these tests judge")
    folder = tmp_path_factory.mktemp("flite")

    def speak(voice: str, text: str) -> Recording:
        path = Path(folder, f"{voice}-{len(list(folder.iterdir()))}.wav")
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True, capture_output=True)
        return Recording(*read_wav(path), text)

    return speak
