"""Killed workers, killed servers: jobs of the real trainer go on by themselves and end as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from dataset_packages import rows, tone, wav_bytes, zipped

from cosyforge.billing.tariff import training_tokens
from cosyforge.cosyvoice.manifest import read_manifest
from cosyforge.store.database import Database
from cosyforge.store.tables import job_events, usage_entries
from fakes import LiveServer, child_pids, command_line, database_url_for, output_of, wait_for

HYPER = {
    "lm_max_epoch": 6,
    "lm_step": 2,
    "lm_num": 3,
    "lm_batch_size": 150,
    "fm_max_epoch": 15,
    "fm_step": 3,
    "fm_num": 2,
    "fm_batch_size": 200,
}
NUM_WORKER_KILLS, NUM_SERVER_KILLS = 10, 5
SEED = 20261124


@pytest.fixture(scope="module")
def base_directory(tmp_path_factory):
    """A base model of random weights, small enough that a whole run takes seconds."""
    import torch
    from tiny_model import TINY

    from cosyforge.cosyvoice.manifest import FrontendEntry, Manifest
    from cosyforge.cosyvoice.model import CosyVoice
    from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
    from cosyforge.cosyvoice.weights import build_network, save_model

    torch.manual_seed(7)
    names = ("lm", "flow", "hift", "speech_tokenizer", "speaker_encoder")
    networks = {name: build_network(name, TINY) for name in names}
    frontend = FrontendEntry(("en",), "phones", "Say.<|endofprompt|>")
    manifest = Manifest(name="tiny", networks=TINY, frontend=frontend)
    directory = tmp_path_factory.mktemp("tiny")
    save_model(CosyVoice(networks, TextTokenizer.byte_level(), manifest, {}, TINY.sampling, TINY, frontend), directory)
    return directory


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return recordings(tmp_path_factory.mktemp("package") / "small.zip", 6)


def recordings(path, count, **broken):
    names = [f"train/{number}.wav" for number in range(count)]
    clips = {
        name: wav_bytes(tone(1.5 + 0.1 * number, 16_000, f0_hz=110 + 7 * number), 16_000)
        for number, name in enumerate(names)
    }
    manifest = rows(*((name, f"Sentence {number} is here.") for number, name in enumerate(names)))
    return zipped(path, {"data.jsonl": manifest, **clips, **broken})


class Training(LiveServer):
    """A live server with the real trainer on the tiny base."""

    def __init__(
        self, directory: Path, base_directory: Path, *, environment: dict[str, object] | None = None, **settings
    ):
        chosen = {
            "base_model_dir": base_directory,
            "trainer": "jobs.slow_trainer:finetune",
            "training_threads": 1,
            "checkpoint_interval_s": 0.05,
            "job_backoff_s": 0.01,
            "cancel_grace_s": 60,
        }
        super().__init__(directory, **{**chosen, **settings})
        self._environment |= {name: str(value) for name, value in (environment or {}).items()}

    def create(self, package: Path, **changes) -> str:
        with open(package, "rb") as file:
            answer = self.client.post("/api/v1/files", files={"files": (package.name, file)})
        file_id = answer.json()["data"]["uploaded_files"][0]["file_id"]
        return self.create_job(file_id, **{"hyper_parameters": HYPER, **changes})["job_id"]

    def log_of(self, job_id: str) -> list[str]:
        """Without the times."""
        lines = output_of(self.client.get(f"/api/v1/fine-tunes/{job_id}/logs?line=1000"))["logs"]
        return [line.split(" - ", 1)[1] for line in lines]

    def records_of(self, job_id: str) -> list[dict]:
        """The progress and the states that workers have told so far."""
        path = self.data_dir / "jobs" / job_id / "events.jsonl"
        if not path.exists():
            return []
        told = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return [record["event"] for record in told if record.get("event", {}).get("kind") in ("progress", "state")]

    def num_epochs_told(self, job_id: str) -> int:
        events = self.records_of(job_id)
        return sum(e["kind"] == "progress" and e["epoch"] > 0 and e["step"] == 0 for e in events)

    def worker_pids(self) -> list[int]:
        return [pid for pid in child_pids(self.process.pid) if "jobs.worker" in command_line(pid)]

    def wait_for_worker(self) -> int:
        wait_for(lambda: self.worker_pids() != [], 120, "a worker")
        return self.worker_pids()[0]

    def files_of(self, job_id: str) -> dict[str, str]:
        """Digest of every file of the job's models."""
        root = self.data_dir / "models" / job_id
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def rows(self, table):
        database = Database(database_url_for(self._directory) or self.data_dir / "cosyforge.db")
        try:
            with database.read() as connection:
                return connection.execute(table.select().order_by(*table.primary_key)).all()
        finally:
            database.close()

    def epochs_of(self, job_id: str) -> list[tuple[str, int, str]]:
        """Every end of an epoch with its figures, as the database has them."""
        events = [row.event for row in self.rows(job_events) if row.job_id == job_id]
        return [
            (event["stage"], event["epoch"], json.dumps(event["metrics"]))
            for event in events
            if event["epoch"] and not event["step"]
        ]


@pytest.fixture(scope="module")
def server(tmp_path_factory, base_directory):
    server = Training(
        tmp_path_factory.mktemp("server"), base_directory, environment={"SLOW_LM_S": 0.15, "SLOW_FLOW_S": 0.15}
    ).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def whole(server, package):
    """A job that nobody disturbed."""
    job_id = server.create(package)
    server.wait_for_job(job_id, "SUCCEEDED")
    return job_id


def is_about_interruptions(line):
    told = ("Start ", "The training worker ", "Going on ", "The training of ", "The server is stopped")
    return line.split(" - ", 1)[1].startswith(told)


def assert_as_undisturbed(server, job_id, whole):
    """The same weights to the bit, the same log and progress, nothing twice and nothing missing, one bill."""
    assert server.files_of(job_id) == server.files_of(whole)
    ours = [line for line in server.log_of(job_id) if not is_about_interruptions(line)]
    theirs = server.log_of(whole)
    assert [line for line in ours if "The job succeeded after" not in line] == [
        line for line in theirs if "The job succeeded after" not in line
    ]
    assert ours[-1].endswith("##FT_COMPLETE##")
    assert server.epochs_of(job_id) == server.epochs_of(whole)
    expected = [("lm", epoch) for epoch in range(1, 7)] + [("flow", epoch) for epoch in range(1, 16)]
    assert [(stage, epoch) for stage, epoch, _ in server.epochs_of(job_id)] == expected
    assert_billed_from_events(server, job_id)


def assert_billed_from_events(server, job_id):
    events = [row.event for row in server.rows(job_events) if row.job_id == job_id]
    (audio_s,) = {event["metrics"]["audio_s"] for event in events if "audio_s" in event["metrics"]}
    num_epochs = {stage: len({e for s, e, _ in server.epochs_of(job_id) if s == stage}) for stage in ("lm", "flow")}
    expected = training_tokens(num_epochs["lm"], num_epochs["flow"], audio_s)
    billed = [row.quantity for row in server.rows(usage_entries) if row.subject == job_id]
    assert billed == ([expected] if expected else [])
    assert server.job(job_id)["usage"] == expected


def test_ten_killed_workers_and_five_killed_servers_change_nothing(server, package, whole):
    rng = random.Random(SEED)
    kills = ["worker"] * NUM_WORKER_KILLS + ["server"] * NUM_SERVER_KILLS
    rng.shuffle(kills)
    job_id = server.create(package)
    hit = []
    for number, kill in enumerate(kills):
        pid = server.wait_for_worker()
        if number % 2 == 1:
            # while the worker is only starting; three in a row at one place would fail the job
            time.sleep(rng.uniform(0, 1.0))
        else:
            wait_for_epochs(server, job_id, server.num_epochs_told(job_id) + rng.choice((1, 1, 2)))
            time.sleep(rng.uniform(0, 0.2))
        assert server.job(job_id)["status"] == "RUNNING"
        hit.append(f"{kill} after {len(server.records_of(job_id))} records")
        if kill == "worker":
            os.kill(pid, signal.SIGKILL)
            wait_for_end_of(pid)
        else:
            server.kill()
            wait_for_end_of(pid)
            server.start()
    server.wait_for_job(job_id, "SUCCEEDED")
    assert_as_undisturbed(server, job_id, whole)
    lines = server.log_of(job_id)
    assert sum("The training worker was killed by signal 9" in line for line in lines) == NUM_WORKER_KILLS, hit
    assert sum("the server ended without stopping" in line for line in lines) == NUM_SERVER_KILLS, hit
    assert sum(line.startswith("INFO - Start ") for line in lines) == len(kills), hit
    assert any("Going on with lm" in line for line in lines), hit
    assert any("Going on with flow" in line for line in lines), hit


def wait_for_epochs(server, job_id, num_epochs):
    """Until so many epochs of both networks together are over."""
    wait_for(lambda: server.num_epochs_told(job_id) >= num_epochs, 120, f"{num_epochs} epochs")


def wait_for_end_of(pid):
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 60, "the worker to be gone")


def test_faults_of_a_dataset_fail_the_job_with_a_list_and_a_line_each(server, tmp_path):
    job_id = server.create(recordings(tmp_path / "bad.zip", 24, **{f"train/{n}.wav": b"RIFF" for n in range(22)}))
    job = server.wait_for_job(job_id, "FAILED")
    assert job["code"] == "InvalidParameter"
    assert job["message"].startswith("The training package has 22 errors: data.jsonl line 1 (train/0.wav): ")
    assert job["message"].endswith("; and 2 more")
    lines = server.log_of(job_id)
    assert sum("error [unreadable-audio] data.jsonl line" in line for line in lines) == 22
    assert lines[-1].startswith("ERROR - The training did not start")
    assert not (server.data_dir / "models" / job_id).exists()


def test_who_is_asked_to_stop_saves_in_the_middle_and_the_job_goes_on_from_there(
    tmp_path, base_directory, package, server, whole
):
    # without the state that is written at the end, a network would begin anew
    slow = {"SLOW_LM_S": 0.2, "SLOW_FLOW_S": 0.2}
    stopping = Training(tmp_path, base_directory, checkpoint_interval_s=600, environment=slow).start()
    try:
        job_id = stopping.create(package)
        wait_for_epochs(stopping, job_id, 2)
        assert [record for record in stopping.records_of(job_id) if record["kind"] == "state"] == []
        os.kill(stopping.wait_for_worker(), signal.SIGTERM)
        wait_for_epochs(stopping, job_id, HYPER["lm_max_epoch"] + 2)
        pid = stopping.wait_for_worker()
        assert stopping.stop() in (0, -signal.SIGTERM)
        assert not os.path.exists(f"/proc/{pid}")
        stopping.start()
        stopping.wait_for_job(job_id, "SUCCEEDED")
        assert stopping.files_of(job_id) == server.files_of(whole)
        lines = stopping.log_of(job_id)
        assert sum("was stopped by somebody else (SIGTERM)" in line for line in lines) == 1
        assert sum("The server is stopped; the training goes on" in line for line in lines) == 1
        going_on = [line for line in lines if "Going on with" in line]
        assert [line.split()[5] for line in going_on] == ["lm", "flow"]
        assert not any("epoch 1," in line for line in going_on), "it went on behind the first epoch"
        assert_billed_from_events(stopping, job_id)
    finally:
        stopping.stop()


def test_a_canceled_job_keeps_the_checkpoints_that_are_complete(tmp_path, base_directory, package):
    canceling = Training(tmp_path, base_directory, environment={"SLOW_FLOW_S": 3}).start()
    try:
        changes = {"lm_max_epoch": 3, "lm_step": 1, "lm_num": 2, "fm_max_epoch": 5, "fm_step": 1, "fm_num": 5}
        job_id = canceling.create(package, hyper_parameters={**HYPER, **changes})
        wait_for_epochs(canceling, job_id, 5)
        canceling.client.post(f"/api/v1/fine-tunes/{job_id}/cancel")
        canceling.wait_for_job(job_id, "CANCELED")
        assert_billed_from_events(canceling, job_id)
        num_epochs = len([stage for stage, _, _ in canceling.epochs_of(job_id) if stage == "flow"])
        assert 2 <= num_epochs < 5
        pairs = sorted(
            ((lm, fm) for lm in (3, 2) for fm in range(1, num_epochs + 1)), key=lambda p: (-p[0] * p[1], -p[0])
        )
        expected = [f"checkpoint-{lm:04d}{fm:04d}" for lm, fm in pairs]
        url = f"/api/v1/fine-tunes/{job_id}"
        checkpoints = output_of(canceling.client.get(f"{url}/checkpoints"))
        assert [(item["checkpoint"], item["status"]) for item in checkpoints] == [
            (name, "PENDING") for name in expected
        ]
        assert canceling.job(job_id)["output_cnt"] == len(expected)
        assert output_of(canceling.client.get(f"{url}/export/{expected[0]}?model_name=half-done")) is True
        exported = output_of(canceling.client.get(f"{url}/checkpoints"))[0]
        assert exported["model_name"] == canceling.job(job_id)["finetuned_output"]
        for name in expected:
            assert set(read_manifest(canceling.data_dir / "models" / job_id / name).files) == {
                "lm_delta",
                "flow_delta",
                "voices",
            }
    finally:
        canceling.stop()
