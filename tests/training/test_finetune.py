"""A zip of recordings to checkpoints: the whole run on a base model of random weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from dataset_packages import rows, tone, wav_bytes, zipped

from cosyforge.cosyvoice.manifest import read_manifest, write_manifest
from cosyforge.cosyvoice.weights import load_model, read_tensors
from cosyforge.dataset.report import report_of
from cosyforge.errors import InvalidDataset, InvalidParameter
from cosyforge.training.events import TrainingEvent, TrainingStopped
from cosyforge.training.finetune import FinetuneResult, finetune
from cosyforge.training.hyper_parameters import HyperParameters
from cosyforge.training.loop import never
from cosyforge.training.lora import make_trainable
from pretend_cuda import pretended_cuda

HYPER = HyperParameters(
    lm_max_epoch=3, lm_step=1, lm_num=2, lm_batch_size=300, fm_max_epoch=2, fm_step=1, fm_num=2, fm_batch_size=400
)


def recordings(path: Path, count: int) -> Path:
    names = [f"train/{number}.wav" for number in range(count)]
    manifest = rows(*((name, f"Sentence {number} is here.") for number, name in enumerate(names)))
    clips = {
        name: wav_bytes(tone(1.5 + 0.1 * (number % 7), 16_000, f0_hz=110 + 7 * number), 16_000)
        for number, name in enumerate(names)
    }
    return zipped(path, {"voice/data.jsonl": manifest, **{f"voice/{name}": clip for name, clip in clips.items()}})


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("package") / "small.zip", 5)


Run = tuple[FinetuneResult, list[TrainingEvent], Path]


@pytest.fixture(scope="session")
def finished(base_directory: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    events: list[TrainingEvent] = []
    out = tmp_path_factory.mktemp("finished") / "out"
    torch.set_num_threads(1)
    return finetune(package, base_directory, out, HYPER, on_event=events.append), events, out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.name}/{key}": tensor
        for path in sorted((out / "weights").iterdir())
        for key, tensor in read_tensors(path).items()
    }


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def test_the_checkpoints_are_the_documents_in_their_order(finished: Run) -> None:
    result, _, out = finished

    assert [checkpoint.name for checkpoint in result.checkpoints] == [
        "checkpoint-00030002",
        "checkpoint-00020002",
        "checkpoint-00030001",
        "checkpoint-00020001",
    ]
    assert result.checkpoints[0].directory == out / "checkpoint-00030002"
    assert (result.checkpoints[0].lm_epoch, result.checkpoints[0].fm_epoch) == (3, 2)


def test_weights_are_shared_and_nothing_else_is_left(finished: Run) -> None:
    result, _, out = finished

    assert sorted(path.name for path in (out / "weights").iterdir()) == [
        "flow-0001.safetensors",
        "flow-0002.safetensors",
        "lm-0002.safetensors",
        "lm-0003.safetensors",
        "voices.safetensors",
    ]
    for checkpoint in result.checkpoints:
        assert [path.name for path in checkpoint.directory.iterdir()] == ["model.json"]
    assert len(list(out.iterdir())) == 5


def test_every_checkpoint_loads_as_a_model_of_one_voice(finished: Run, base_directory: Path) -> None:
    result, _, _ = finished
    base = load_model(base_directory)

    models = [load_model(checkpoint.directory, base_directory=base_directory) for checkpoint in result.checkpoints]

    states = [(model.lm.llm_decoder.weight, model.flow.estimator.proj_out.weight) for model in models]
    assert not torch.equal(states[0][0], base.lm.llm_decoder.weight)
    assert not torch.equal(states[0][1], base.flow.estimator.proj_out.weight)
    assert not torch.equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])
    assert torch.equal(models[0].hift.conv_pre.bias, base.hift.conv_pre.bias)
    for model in models:
        voice = model.voices["default"]
        assert list(model.voices) == ["default"]
        assert voice.prompt_text is not None
        assert voice.prompt_text.startswith("Sentence ")
        assert voice.prompt_token is not None
        assert voice.prompt_mel is not None
        assert voice.prompt_mel.shape == (80, 2 * len(voice.prompt_token))
        assert voice.speaker_embedding.shape == (192,)


def test_the_manifest_tells_how_a_checkpoint_was_made(finished: Run) -> None:
    result, _, _ = finished

    manifest = read_manifest(result.checkpoints[1].directory)

    assert manifest.training["hyper_parameters"] == HYPER.to_json()
    assert (manifest.training["lm_epoch"], manifest.training["fm_epoch"]) == (2, 2)
    assert manifest.training["tokens"] == result.tokens
    assert {"lm_loss", "lm_accuracy", "flow_loss"} <= manifest.figures.keys()


def test_tokens_follow_the_documents_formula(finished: Run) -> None:
    result, events, _ = finished

    assert result.duration_s == pytest.approx(1.5 + 1.6 + 1.7 + 1.8 + 1.9)
    assert result.tokens == 1063  # 8.5 s x 25 x (3 + 2) = 1062.5, half up
    assert events[-1].message == "Actual number of consumed tokens is 1063!"


def test_progress_rises_from_start_to_end_through_all_stages(finished: Run) -> None:
    _, events, _ = finished

    progress = [event.progress for event in events if event.progress is not None]
    stages = list(dict.fromkeys(event.stage for event in events))
    assert progress == sorted(progress)
    assert progress[0] < 0.05
    assert progress[-1] == 1.0
    assert stages == ["data", "features", "lm", "flow", "combine"]
    assert next(event.message for event in events if event.kind == "checkpoint") == "checkpoint-00030002"
    assert all(json.dumps(event.to_json()) for event in events)


def test_the_length_of_the_audio_is_known_from_the_start_for_the_bill_of_a_cancelled_run(finished: Run) -> None:
    _, events, _ = finished

    told = [event for event in events if "audio_s" in event.metrics]
    assert [event.stage for event in told] == ["data"]
    assert told[0].metrics["audio_s"] == pytest.approx(8.5)


def test_every_epoch_reports_its_losses(finished: Run) -> None:
    _, events, _ = finished

    epochs = [
        (event.stage, event.epoch, event.max_epoch) for event in events if event.kind == "progress" and event.step == 0
    ]
    assert [epoch for epoch in epochs if epoch[1]] == [
        ("lm", 1, 3), ("lm", 2, 3), ("lm", 3, 3), ("flow", 1, 2), ("flow", 2, 2),
    ]  # fmt: skip
    assert all("loss" in event.metrics for event in events if event.stage == "lm" and event.kind == "progress")


def test_the_report_on_the_data_is_logged(finished: Run) -> None:
    _, events, _ = finished

    messages = [event.message for event in events if event.kind == "log" and event.stage == "data"]
    assert messages[0] == "The training package holds 5 clips, 0.1 minutes, 0 errors, 7 warnings."
    assert any("[few-clips]" in message for message in messages)


def test_with_enough_clips_some_are_held_out_and_judge_every_epoch(base_directory: Path, tmp_path: Path) -> None:
    events: list[TrainingEvent] = []
    hyper = HyperParameters(1, 1, 1, 1000, 1, 1, 1, 2000)

    result = finetune(
        recordings(tmp_path / "p.zip", 20), base_directory, tmp_path / "out", hyper, on_event=events.append
    )

    assert any("training on 18 clips" in event.message and "validating on 2" in event.message for event in events)
    figures = read_manifest(result.checkpoints[0].directory).figures
    assert {"lm_validation_loss", "lm_validation_accuracy", "flow_validation_loss"} <= figures.keys()
    # all rows are billed, the held-out ones too
    assert result.tokens == pytest.approx(result.duration_s * 25 * 2, abs=0.5)


def test_what_the_base_model_says_of_its_flow_is_heeded(
    finished: Run, base_directory: Path, package: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(base_directory, tmp_path / "base")
    training = {"flow_loss": {"prior_weight": 0.3, "prior_from_bin": 2, "t_power": 1.5}}
    write_manifest(base, replace(read_manifest(base), training=training))

    finetune(package, base, tmp_path / "out", HYPER, on_event=lambda event: None)

    ours, theirs = weights(tmp_path / "out"), weights(finished[2])
    differing = {key.split("-")[0] for key in ours if not torch.equal(ours[key], theirs[key])}
    assert differing == {"flow"}


# --- stopping, killing, going on --------------------------------------------------------------------------------------


def stop_at(stage: str, epoch: int) -> tuple[Callable[[TrainingEvent], None], Callable[[], bool]]:
    """Listens to events, and asks to stop once an epoch of a stage is over."""
    seen: list[bool] = []

    def on_event(event: TrainingEvent) -> None:
        if event.stage == stage and event.epoch >= epoch:
            seen.append(True)

    return on_event, lambda: bool(seen)


@pytest.mark.parametrize(("stage", "epoch"), [("data", 0), ("features", 0), ("lm", 1), ("flow", 1)])
def test_a_stopped_job_leaves_no_checkpoint_and_goes_on_to_the_same_weights(
    stage: str, epoch: int, finished: Run, base_directory: Path, package: Path, tmp_path: Path
) -> None:
    on_event, should_stop = stop_at(stage, epoch)
    out, work = tmp_path / "out", tmp_path / "work"

    with pytest.raises(TrainingStopped):
        finetune(package, base_directory, out, HYPER, on_event=on_event, should_stop=should_stop, work_directory=work)
    assert not out.exists()
    result = finetune(package, base_directory, out, HYPER, on_event=lambda event: None, work_directory=work)

    assert [c.name for c in result.checkpoints] == [c.name for c in finished[0].checkpoints]
    assert_same_weights(out, finished[2])


KILLED_RUN = """
import sys, torch
from pathlib import Path
from cosyforge.training.finetune import finetune
from cosyforge.training.hyper_parameters import HyperParameters
torch.set_num_threads(1)
package, base, out, work = map(Path, sys.argv[1:5])
hyper = HyperParameters(*map(int, sys.argv[5:]))
show = lambda event: print(event.stage, event.epoch, flush=True)
finetune(package, base, out, hyper, work_directory=work, on_event=show)
"""


def test_a_killed_job_goes_on_to_the_same_weights(
    finished: Run, base_directory: Path, package: Path, tmp_path: Path
) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    arguments = [str(path) for path in (package, base_directory, out, work)]
    numbers = [str(number) for number in vars(HYPER).values()]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, *arguments, *numbers], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("lm 2"):
                os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()

    finetune(package, base_directory, out, HYPER, on_event=lambda event: None, work_directory=work)

    assert_same_weights(out, finished[2])


def test_the_leftovers_of_another_job_are_not_used(
    finished: Run, base_directory: Path, package: Path, tmp_path: Path
) -> None:
    out, work = tmp_path / "out", tmp_path / "work"
    other = HyperParameters(**{**vars(HYPER), "lm_max_epoch": 9})
    on_event, should_stop = stop_at("lm", 1)
    with pytest.raises(TrainingStopped):
        finetune(package, base_directory, out, other, on_event=on_event, should_stop=should_stop, work_directory=work)

    finetune(package, base_directory, out, HYPER, on_event=lambda event: None, work_directory=work)

    assert_same_weights(out, finished[2])


def test_another_seed_gives_another_model(finished: Run, base_directory: Path, package: Path, tmp_path: Path) -> None:
    finetune(package, base_directory, tmp_path / "out", HYPER, on_event=lambda event: None, seed=7)

    ours, theirs = weights(tmp_path / "out"), weights(finished[2])
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours if key.startswith("lm-"))


@pytest.mark.parametrize("treatment", [{}, {"rank": 4, "whole_limit": 1000}], ids=["whole", "low-rank"])
def test_on_a_gpu_a_stopped_job_goes_on_to_the_weights_of_the_processor(
    base_directory: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, treatment: dict[str, int]
) -> None:
    monkeypatch.setattr("cosyforge.training.finetune.make_trainable", partial(make_trainable, **treatment))
    expected, out, work = tmp_path / "expected", tmp_path / "out", tmp_path / "work"
    finetune(package, base_directory, expected, HYPER, on_event=lambda event: None)
    on_event, should_stop = stop_at("flow", 1)

    with pretended_cuda():
        with pytest.raises(TrainingStopped):
            finetune(
                package, base_directory, out, HYPER, on_event=on_event, should_stop=should_stop, work_directory=work
            )
        finetune(package, base_directory, out, HYPER, on_event=lambda event: None, work_directory=work)

    ours, theirs = weights(out), weights(expected)
    assert any(key.endswith("lora_A") for key in ours) == bool(treatment)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(package: Path, base_directory: Path, out: Path) -> tuple[InvalidDataset, list[str]]:
    events: list[TrainingEvent] = []
    with pytest.raises(InvalidDataset) as caught:
        finetune(package, base_directory, out, HYPER, on_event=events.append, should_stop=never)
    assert not out.exists()
    return caught.value, [event.message for event in events if event.kind == "log"]


def test_a_broken_package_is_refused_with_every_problem_in_the_log(base_directory: Path, tmp_path: Path) -> None:
    manifest = rows(("train/1.wav", "Too short."), ("train/2.wav", "Missing."), ("x/3.wav", "Misplaced."))
    package = zipped(tmp_path / "p.zip", {"data.jsonl": manifest, "train/1.wav": wav_bytes(tone(0.5))})

    error, messages = refused(package, base_directory, tmp_path / "out")

    rules = [problem.rule for problem in report_of(error).errors]
    assert rules == ["too-short", "missing-file", "not-in-train"]
    for line, rule in enumerate(rules, start=1):
        assert any(f"[{rule}] data.jsonl line {line}" in message for message in messages)


def test_what_is_no_zip_is_refused(base_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "p.zip").write_bytes(b"nothing")

    error, messages = refused(tmp_path / "p.zip", base_directory, tmp_path / "out")

    assert "is not a readable zip archive" in error.message
    assert any("[zip-unreadable]" in message for message in messages)


def test_a_language_that_the_base_does_not_speak_is_refused_line_by_line(base_directory: Path, tmp_path: Path) -> None:
    manifest = rows(
        ("train/1.wav", "Good morning to you."), ("train/2.wav", "早上好，大家好"), ("train/3.wav", "再见，朋友们")
    )
    clips = {f"train/{number}.wav": wav_bytes(tone(2.0)) for number in (1, 2, 3)}
    package = zipped(tmp_path / "p.zip", {"data.jsonl": manifest, **clips})

    error, _ = refused(package, base_directory, tmp_path / "out")

    problems = report_of(error).errors
    assert [(problem.rule, problem.line) for problem in problems] == [("unsupported-text", 2), ("unsupported-text", 3)]
    assert "the base model speaks en" in error.message


def test_a_tuned_model_is_no_base(finished: Run, package: Path, tmp_path: Path) -> None:
    tuned = finished[0].checkpoints[0].directory

    with pytest.raises(InvalidParameter, match="is a tuned model"):
        finetune(package, tuned, tmp_path / "out", HYPER, on_event=lambda event: None)
