"""The stages of pretraining follow one another, on a corpus of minutes and a step or two each; the result speaks."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from cosyforge.synthesis.engine import Engine
from cosyforge.training.pretrain.run import STAGES, Workshop, run_stage
from pretend_cuda import pretended_cuda

TRAINED = ("speech_tokenizer", "mel_reader", "speaker", "vocoder", "flow", "lm")
MADE_BY_NETWORKS = ("codes.safetensors", "vectors.safetensors", "lm_examples.pt")

needs_engines = pytest.mark.skipif(
    shutil.which("flite") is None or shutil.which("espeak-ng") is None,
    reason="flite and espeak-ng are not installed (apt-get install -y flite espeak-ng)",
)


@dataclass(frozen=True)
class Begun:
    """Every stage done, with one step of training."""

    workshop: Workshop
    lines: list[str]

    def run(self, num_steps: int) -> None:
        for stage in STAGES:
            run_stage(self.workshop, stage, num_steps=num_steps, out=self.workshop.directory / "nano")

    def go_on(self, device: str) -> Workshop:
        """Another step of every training, in a copy, on that device; what networks made is made again."""
        workshop = replace(self.workshop, directory=self.workshop.directory.with_name(device), device=device)
        shutil.copytree(self.workshop.directory, workshop.directory)
        for name in MADE_BY_NETWORKS:
            (workshop.directory / "work" / name).unlink()
        replace(self, workshop=workshop).run(2)
        return workshop


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Begun:
    lines: list[str] = []
    directory = tmp_path_factory.mktemp("recipe") / "begun"
    begun = Begun(Workshop(directory, num_clips=24, num_processes=1, on_log=lines.append), lines)
    begun.run(1)
    return begun


@needs_engines
def test_the_recipe_runs_from_nothing_to_a_model_that_speaks(begun: Begun) -> None:
    for stage in TRAINED:
        assert any(line.startswith(f"{stage} 1/1") for line in begun.lines), stage
    engine = Engine(begun.workshop.directory / "nano")
    voice = next(iter(engine.voices()))
    samples, rate_hz = engine.speak("Hello.", voice, 0)
    assert rate_hz == 24000
    assert len(samples) > 0


@needs_engines
def test_a_recipe_that_was_begun_on_a_processor_goes_on_on_a_gpu(begun: Begun) -> None:
    with pretended_cuda():
        ours = begun.go_on("cuda")

    theirs = begun.go_on("cpu")
    for stage in TRAINED:
        work = [workshop.directory / "work" for workshop in (ours, theirs)]
        our_row, their_row = (json.loads((folder / f"{stage}.curve.json").read_text())[-1] for folder in work)
        assert our_row["step"] == their_row["step"] == 2.0
        # the processor's networks compute in bfloat16, the pretended device's in float32
        assert our_row["loss"] == pytest.approx(their_row["loss"], rel=0.02), stage
        facts = json.loads((work[0] / f"{stage}.facts.json").read_text())
        assert (facts["device"], facts["num_steps"], facts["num_runs"]) == ("cuda", 2, 2)
    clips = ours.clips()
    torch.testing.assert_close(ours.vectors(clips), theirs.vectors(clips), rtol=0, atol=0.02)
    engine = Engine(ours.directory / "nano")
    samples, _ = engine.speak("Hello.", next(iter(engine.voices())), 0)
    assert len(samples) > 0


def test_a_stage_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="polishing"):
        run_stage(Workshop(tmp_path), "polishing")


def test_a_stage_says_which_one_it_needs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="corpus stage first"):
        run_stage(Workshop(tmp_path), "lm")
