"""The recipe of the built-in base model, every stage for one step: what it ends with is a model that speaks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from cosyforge.synthesis.engine import Engine
from cosyforge.training.pretrain.run import STAGES, Workshop, run_stage


@pytest.mark.skipif(
    shutil.which("flite") is None or shutil.which("espeak-ng") is None,
    reason="flite and espeak-ng are not installed (apt-get install -y flite espeak-ng)",
)
def test_the_recipe_runs_from_nothing_to_a_model_that_speaks(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    lines: list[str] = []
    workshop = Workshop(tmp_path, num_clips=24, num_processes=1, on_log=lines.append)
    for stage in STAGES:
        run_stage(workshop, stage, num_steps=1, out=tmp_path / "nano")
    for stage in ("speech_tokenizer", "mel_reader", "speaker", "vocoder", "flow", "lm"):
        assert any(line.startswith(f"{stage} 1/1") for line in lines), stage
    engine = Engine(tmp_path / "nano")
    voice = next(iter(engine.voices()))
    samples, rate_hz = engine.speak("Hello.", voice, 0)
    assert rate_hz == 24000
    assert len(samples) > 0


def test_a_stage_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="polishing"):
        run_stage(Workshop(tmp_path), "polishing")


def test_a_stage_says_which_one_it_needs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="corpus stage first"):
        run_stage(Workshop(tmp_path), "lm")
