"""The state on disk: whole or noticed, whatever happens to the process, the machine or the disk."""

# ruff: noqa: F811 - fixtures of another file

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from dataset_packages import rows, tone, wav_bytes, zipped
from safetensors import SafetensorError
from test_finetune import HYPER, Run, assert_same_weights, finished, package, recordings  # noqa: F401

from cosyforge.cosyvoice.manifest import read_manifest
from cosyforge.errors import Internal, InvalidDataset, OutOfSpace
from cosyforge.training import state, work
from cosyforge.training.events import TrainingEvent, TrainingStopped
from cosyforge.training.finetune import combine_finished, finetune
from cosyforge.training.state import StatePosition, previous_path, read_newest_state, write_state
from cosyforge.training.work import work_directory_of


def position(step: int) -> StatePosition:
    return StatePosition("toy", 2, step, '{"loss": "0x1p-3"}')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two states, of steps 1 and 2."""
    for step in (1, 2):
        write_state(tmp_path / "state.safetensors", position(step), {"weight/a": torch.full((3,), float(step))})
    return tmp_path / "state.safetensors"


def newest(path: Path) -> tuple[int | None, list[str]]:
    found, damaged = read_newest_state(path)
    return found and found[0].step, [damaged_path.name for damaged_path in damaged]


def test_the_newest_state_comes_back_with_every_bit(path: Path) -> None:
    found, damaged = read_newest_state(path)

    assert found is not None
    assert found[0] == position(2)
    assert torch.equal(found[1]["weight/a"], torch.full((3,), 2.0))
    assert damaged == ()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "zeros"])
def test_a_damaged_state_is_noticed_and_the_one_before_is_taken(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
    changed = {"flip": content, "cut": content[:-4], "empty": b"", "zeros": bytes(len(content))}[damage]
    path.write_bytes(changed)

    assert newest(path) == (1, [path.name])


def test_without_a_whole_state_there_is_none(path: Path) -> None:
    for each in (path, previous_path(path)):
        each.write_bytes(each.read_bytes()[:-1])

    assert newest(path) == (None, ["state.safetensors", "state.previous.safetensors"])


def test_a_crash_between_the_two_renames_leaves_the_one_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = state.os.replace, []

    def fall(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(state.os, "replace", fall)
    with pytest.raises(KeyboardInterrupt):
        write_state(path, position(3), {"weight/a": torch.zeros(3)})
    monkeypatch.undo()

    assert newest(path) == (2, [])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_named_and_leaves_the_states_as_they_were(
    path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: object, partial: Path, metadata: object) -> None:
        partial.write_bytes(b"half")
        raise error

    monkeypatch.setattr(state, "save_file", fail)
    with pytest.raises(OutOfSpace, match=r"state\.safetensors: cannot be written, the disk is full; free some space"):
        write_state(path, position(3), {"weight/a": torch.zeros(3)})

    assert newest(path) == (2, [])
    assert sorted(file.name for file in path.parent.iterdir()) == ["state.previous.safetensors", "state.safetensors"]


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    state.save_atomically({"a": torch.ones(1)}, tmp_path / "state.safetensors")

    with pytest.raises(Internal, match="another training"):
        read_newest_state(tmp_path / "state.safetensors")


# --- the whole run ----------------------------------------------------------------------------------------------------


def stopped_run(base_directory: Path, package: Path, directory: Path, stage: str, epoch: int) -> Path:
    """A run that was stopped behind an epoch; where it keeps what it has."""
    seen: list[TrainingEvent] = []

    def is_over() -> bool:
        return any(e.stage == stage and e.epoch >= epoch and (e.kind, e.step) == ("progress", 0) for e in seen)

    def should_stop() -> bool:
        return is_over() if stage in ("lm", "flow") else any(e.stage == stage for e in seen)

    with pytest.raises(TrainingStopped):
        finetune(
            package,
            base_directory,
            directory / "out",
            HYPER,
            on_event=seen.append,
            should_stop=should_stop,
            work_directory=directory / "work",
            checkpoint_interval_s=1e-9,
        )
    (found,) = (directory / "work").iterdir()
    return found


@pytest.mark.parametrize("num_damaged", [1, 2])
def test_a_run_with_damaged_states_goes_on_from_an_older_one_to_the_same_weights(
    finished: Run,
    base_directory: Path,
    package: Path,
    tmp_path: Path,
    num_damaged: int,
) -> None:
    found = stopped_run(base_directory, package, tmp_path, "lm", 2)
    states = [found / "lm" / "state.safetensors", found / "lm" / "state.previous.safetensors"]
    for path in states[:num_damaged]:
        path.write_bytes(path.read_bytes()[:-7])
    events: list[TrainingEvent] = []

    finetune(package, base_directory, tmp_path / "out", HYPER, on_event=events.append, work_directory=tmp_path / "work")

    assert_same_weights(tmp_path / "out", finished[2])
    resumed = [event.message for event in events if event.kind == "resume"]
    assert resumed[0] == "The state state.safetensors of lm is damaged and is not used."
    assert len(resumed) == num_damaged + 1
    assert ("begins anew" in resumed[-1]) == (num_damaged == 2)


def test_halves_of_a_killed_run_are_removed_and_what_the_machine_lost_is_not_trusted(
    finished: Run,
    base_directory: Path,
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = stopped_run(base_directory, package, tmp_path, "features", 0)
    assert (found / "data.settled").exists()
    (found / "features.settled").unlink(missing_ok=True)
    (found / "data.settled").unlink()  # as if the machine had fallen while it was unpacked
    (found / "data" / "train" / "0.wav").write_bytes(b"")
    for name in (".data-abc/train", "lm", "features/aa"):
        (found / name).mkdir(parents=True, exist_ok=True)
    for name in (".data-abc/train/0.wav", "lm/.epoch.partial", "features/aa/.x.safetensors.tmp"):
        (found / name).write_text("half")
    (found / "features" / "aa" / "lost.safetensors").write_bytes(bytes(100))
    boot = tmp_path / "boot"
    boot.write_text("another start of the machine")
    monkeypatch.setattr(work, "_BOOT_ID", boot)

    with work_directory_of(tmp_path / "work", found.name):
        left = {str(path.relative_to(found)) for path in found.rglob("*") if path.is_file()}
    assert left == {"boot"}

    finetune(
        package, base_directory, tmp_path / "out", HYPER, on_event=lambda e: None, work_directory=tmp_path / "work"
    )
    assert_same_weights(tmp_path / "out", finished[2])


def test_features_are_kept_while_the_machine_runs(base_directory: Path, package: Path, tmp_path: Path) -> None:
    found = stopped_run(base_directory, package, tmp_path, "features", 0)
    num_features = len(list(found.glob("features/*/*.safetensors")))

    with work_directory_of(tmp_path / "work", found.name) as kept:
        assert kept.count_features() == num_features >= 1


# --- a run that is stopped for good -----------------------------------------------------------------------------------


def collected(base_directory: Path, package: Path, directory: Path) -> list[str]:
    checkpoints = combine_finished(
        package,
        base_directory,
        directory / "out",
        HYPER,
        on_event=lambda event: None,
        work_directory=directory / "work",
    )
    return [checkpoint.name for checkpoint in checkpoints]


def test_of_a_stopped_run_the_complete_pairs_can_be_had(
    finished: Run,
    base_directory: Path,
    package: Path,
    tmp_path: Path,
) -> None:
    stopped_run(base_directory, package, tmp_path, "flow", 1)

    assert collected(base_directory, package, tmp_path) == ["checkpoint-00030001", "checkpoint-00020001"]

    manifest = read_manifest(tmp_path / "out" / "checkpoint-00030001")
    whole = read_manifest(finished[2] / "checkpoint-00030001")
    assert manifest.files == whole.files
    assert manifest.voices == whole.voices
    assert manifest.figures == whole.figures
    assert "tokens" not in manifest.training


@pytest.mark.parametrize("stage", ["data", "features", "lm"])
def test_before_the_second_network_there_is_none(
    base_directory: Path,
    package: Path,
    tmp_path: Path,
    stage: str,
) -> None:
    stopped_run(base_directory, package, tmp_path, stage, 3 if stage == "lm" else 0)

    assert collected(base_directory, package, tmp_path) == []
    assert not (tmp_path / "out").exists()


# --- clips to judge by ------------------------------------------------------------------------------------------------


def test_a_validation_package_judges_every_epoch_and_is_not_trained_on(
    finished: Run,
    base_directory: Path,
    package: Path,
    tmp_path: Path,
) -> None:
    events: list[TrainingEvent] = []
    validation = recordings(tmp_path / "validation.zip", 2)

    result = finetune(
        package, base_directory, tmp_path / "out", HYPER, on_event=events.append, validation_package=validation
    )

    assert_same_weights(tmp_path / "out", finished[2])
    assert result.tokens == finished[0].tokens
    messages = [event.message for event in events]
    assert "The validation package holds 2 clips, 0.1 minutes, 0 errors, 4 warnings." in messages
    assert any("training on 5 clips" in m and "validating on 2 clips of the validation package" in m for m in messages)
    figures = read_manifest(result.checkpoints[0].directory).figures
    assert {"lm_validation_loss", "flow_validation_loss"} <= figures.keys()


def test_a_broken_validation_package_is_told_apart(base_directory: Path, package: Path, tmp_path: Path) -> None:
    clips = {"train/1.wav": wav_bytes(tone(0.5))}
    validation = zipped(tmp_path / "v.zip", {"data.jsonl": rows(("train/1.wav", "Too short.")), **clips})

    with pytest.raises(InvalidDataset, match=r"The validation package: .*lasts 0\.50 s"):
        finetune(
            package, base_directory, tmp_path / "out", HYPER, on_event=lambda e: None, validation_package=validation
        )


def test_a_dataset_with_many_faults_lists_the_first_twenty(base_directory: Path, tmp_path: Path) -> None:
    names = [f"train/{number}.wav" for number in range(25)]
    clips = {name: wav_bytes(tone(0.5)) for name in names}
    bad = zipped(tmp_path / "bad.zip", {"data.jsonl": rows(*((name, "Short.") for name in names)), **clips})
    events: list[TrainingEvent] = []

    with pytest.raises(InvalidDataset) as caught:
        finetune(bad, base_directory, tmp_path / "out", HYPER, on_event=events.append)

    assert "data.jsonl line 20 (train/19.wav)" in caught.value.message
    assert "line 21" not in caught.value.message
    assert caught.value.message.endswith("; and 5 more")
    assert sum(event.message.startswith("error [too-short] data.jsonl line") for event in events) == 25
    assert not (tmp_path / "out").exists()
    shutil.rmtree(tmp_path)
