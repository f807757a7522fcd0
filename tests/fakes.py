"""Stand-ins without torch: a trainer, a tone for an engine, and a live server that uses both.

The worker and the replicas import this module by name, so its folder is on their path (see `LiveServer`).
"""

from __future__ import annotations

import atexit
import functools
import json
import math
import os
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from cosyforge.errors import InvalidDataset, InvalidParameter
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest, Word
from cosyforge.training.checkpoints import billed_tokens, plan_checkpoints
from cosyforge.training.events import TrainingEvent, TrainingStopped
from cosyforge.training.hyper_parameters import HyperParameters

if TYPE_CHECKING:
    from cosyforge.store.database import Database

TESTS = Path(__file__).parent
KEY = "sk-test-0123456789"
HYPER_PARAMETERS = {
    "lm_max_epoch": 4,
    "lm_step": 1,
    "lm_num": 2,
    "fm_max_epoch": 4,
    "fm_step": 2,
    "fm_num": 2,
    "lm_batch_size": 1000,
    "fm_batch_size": 2000,
}

# ---- training


@dataclass
class FakeCheckpoint:
    name: str
    lm_epoch: int
    fm_epoch: int
    directory: Path


@dataclass
class FakeResult:
    checkpoints: list[FakeCheckpoint]
    tokens: int
    duration_s: float


def finetune(
    package: Path,
    base_directory: Path,
    out_directory: Path,
    hyper_parameters: HyperParameters,
    *,
    on_event: Callable[[TrainingEvent], None],
    should_stop: Callable[[], bool],
    work_directory: Path | None = None,
    seed: int = 1986,
    validation_package: Path | None = None,
    checkpoint_interval_s: float = 60.0,
) -> FakeResult:
    """Pretends to train; `behaviour.json` in the zip says how long and how it ends."""
    behaviour = _behaviour(package)
    if "dataset_error" in behaviour:
        raise InvalidDataset(behaviour["dataset_error"])
    if "deaf_s" in behaviour:  # work that does not look up when it is asked to stop
        on_event(TrainingEvent("log", "data", "unpacking for long"))
        time.sleep(behaviour["deaf_s"])
    audio_s = behaviour.get("audio_s", 497.03)
    on_event(TrainingEvent("progress", "data", metrics={"audio_s": audio_s}))
    on_event(TrainingEvent("log", "data", "data process succeeded, start to fine-tune"))
    for stage, max_epoch in (("lm", hyper_parameters.lm_max_epoch), ("flow", hyper_parameters.fm_max_epoch)):
        for epoch in range(1, max_epoch + 1):
            _sleep(behaviour.get("epoch_s", 0.0), should_stop)
            if should_stop():
                raise TrainingStopped("stopped")
            if behaviour.get("raise"):
                raise RuntimeError(behaviour["raise"])
            on_event(TrainingEvent("log", stage, f"{stage} epoch {epoch}/{max_epoch} loss {1 / epoch:.3f}"))
            metrics = {"loss": 1 / epoch}
            on_event(TrainingEvent("progress", stage, "", epoch, max_epoch, 0, epoch / max_epoch, metrics))
    checkpoints = []
    for candidate in plan_checkpoints(hyper_parameters):
        directory = out_directory / candidate.name
        directory.mkdir(parents=True, exist_ok=True)
        manifest = {"voices": {"default": {}}, **behaviour.get("manifest", {})}
        (directory / "model.json").write_text(json.dumps(manifest))
        checkpoints.append(FakeCheckpoint(candidate.name, candidate.lm_epoch, candidate.fm_epoch, directory))
        on_event(TrainingEvent("checkpoint", "combine", candidate.name))
    tokens = billed_tokens(audio_s, hyper_parameters)
    on_event(TrainingEvent("log", "combine", f"Actual number of consumed tokens is {tokens}!"))
    return FakeResult(checkpoints, tokens, audio_s)


def _behaviour(package: Path) -> dict[str, Any]:
    with zipfile.ZipFile(package) as archive:
        if "behaviour.json" not in archive.namelist():
            return {}
        return dict(json.loads(archive.read("behaviour.json")))


def _sleep(duration_s: float, should_stop: Callable[[], bool]) -> None:
    end = time.monotonic() + duration_s
    while time.monotonic() < end and not should_stop():
        time.sleep(0.01)


def make_package(path: Path, **behaviour: Any) -> Path:
    """A training package for `finetune` above."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.jsonl", '{"wav_fn": "train/1.wav", "text": "Hello."}\n')
        archive.writestr("train/1.wav", b"RIFF")
        archive.writestr("behaviour.json", json.dumps(behaviour))
    return path


# ---- speaking

TONE_TIMINGS_MS = {"queue": 1.0, "text": 2.0, "first_token": 3.0, "lm": 4.0, "flow": 5.0, "vocoder": 6.0, "encode": 7.0}
"""What the tone engine says it spent, when words are asked for."""


def timed(request: SynthesisRequest, index: int, word: str) -> tuple[Word, ...]:
    """Every word takes its whole beep."""
    begin_ms = 100 * index
    return (Word(word, 0, len(word), begin_ms, begin_ms + 100),) if request.word_timestamps else ()


class ToneEngine:
    """One 0.1 s beep per word. Words with a meaning: `crash` kills the process, `slow` takes a second, `fail` raises.

    `refuse` is the user's fault.
    """

    def __init__(
        self,
        model_directory: Path,
        *,
        base_directory: Path | None = None,
        device: str = "cpu",
        num_threads: int = 1,
    ) -> None:
        manifest = json.loads((model_directory / "model.json").read_text())
        if "broken" in manifest:
            raise ValueError(manifest["broken"])
        time.sleep(manifest.get("load_s", 0))
        self.num_chunks = 0

    def synthesize(self, request: SynthesisRequest, text: Iterable[str]) -> Iterator[AudioChunk]:
        words = (word for piece in text for word in piece.split())
        if request.format == "wav" and not request.streaming:
            spoken = b"".join(self._beep(request, word) for word in words)
            yield AudioChunk(wav_header(len(spoken), request.sample_rate_hz) + spoken, 0, "", True, True)
            return
        header = wav_header(0x7FFFFF00, request.sample_rate_hz) if request.format == "wav" else b""
        for index, word in enumerate(words):
            yield AudioChunk(
                header + self._beep(request, word), index, word, True, True, 0.1, words=timed(request, index, word)
            )
            header = b""
        if request.word_timestamps:
            yield AudioChunk(
                b"", 0, "", timings_ms=TONE_TIMINGS_MS, report={"resampled": 1, "warnings": ["a tone only"]}
            )

    def _beep(self, request: SynthesisRequest, word: str) -> bytes:
        if word == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "fail":
            raise RuntimeError("the tone broke")
        if word == "refuse":
            raise InvalidParameter("This word is not spoken here.")
        if word == "slow":
            time.sleep(1)
        rate = request.sample_rate_hz
        samples = (int(8000 * math.sin(2 * math.pi * 440 * index / rate)) for index in range(rate // 10))
        return array("h", samples).tobytes()

    def close(self) -> None:
        pass


def wav_header(num_bytes: int, sample_rate_hz: int) -> bytes:
    layout = struct.pack("<IHHIIHH", 16, 1, 1, sample_rate_hz, sample_rate_hz * 2, 2, 16)
    return b"RIFF" + struct.pack("<I", 36 + num_bytes) + b"WAVEfmt " + layout + b"data" + struct.pack("<I", num_bytes)


# ---- the database

# Tests that need a database say make_database(tmp_path): a SQLite file there or, when COSYFORGE_TEST_DATABASE_URL names
# a PostgreSQL server (whose user may create databases), a database of its own there. LiveServer does the same by
# itself. A test about SQLite itself is marked @sqlite_only.

_TEST_DATABASE_URL = os.environ.get("COSYFORGE_TEST_DATABASE_URL", "")
sqlite_only = pytest.mark.skipif(bool(_TEST_DATABASE_URL), reason="about SQLite itself")
_databases: dict[Path | None, str] = {}


def make_database(directory: Path) -> Database:
    """An empty database with the newest schema; the same directory is the same database."""
    from cosyforge.store.database import Database  # here: replicas import this file too, and need no database

    url = database_url_for(directory)
    path = directory / "cosyforge.db"
    if not url and not path.exists():
        shutil.copyfile(_sqlite_template(), path)
    database = Database(url or path, pool_size=4)
    database.upgrade()
    return database


@functools.cache
def _sqlite_template() -> Path:
    """A copy is much faster than all migrations."""
    from cosyforge.store.database import Database

    directory = Path(tempfile.mkdtemp(prefix="cosyforge-"))
    atexit.register(shutil.rmtree, directory)
    database = Database(directory / "template.db")
    database.upgrade()
    database.close()
    return directory / "template.db"


def empty_location(directory: Path) -> Path | str:
    """Where a database can be made that has no schema yet; the same directory is the same place."""
    if not _TEST_DATABASE_URL:
        return directory / "cosyforge.db"
    if directory not in _databases:
        _create_on_postgres(directory)
    return _url_of(_databases[directory])


def database_url_for(directory: Path) -> str:
    """Where the tests of a directory keep their rows on PostgreSQL; empty: on SQLite."""
    if not _TEST_DATABASE_URL:
        return ""
    if directory not in _databases:
        if None not in _databases:
            _make_template()
        _create_on_postgres(directory, f"TEMPLATE {_databases[None]} STRATEGY FILE_COPY")
    return _url_of(_databases[directory])


def _make_template() -> None:
    """The same for PostgreSQL."""
    from cosyforge.store.database import Database

    _create_on_postgres(None)
    database = Database(_url_of(_databases[None]))
    database.upgrade()
    database.close()


def _create_on_postgres(directory: Path | None, options: str = "") -> None:
    name = f"test_{secrets.token_hex(8)}"
    _execute_on_postgres(f"CREATE DATABASE {name} {options}")
    if "COSYFORGE_TEST_DATABASE_IS_TEMPORARY" not in os.environ:  # else the whole server goes
        atexit.register(_execute_on_postgres, f"DROP DATABASE {name} WITH (FORCE)")
    _databases[directory] = name


def _url_of(database: str) -> str:
    from sqlalchemy import make_url

    return make_url(_TEST_DATABASE_URL).set(database=database).render_as_string(hide_password=False)


def _execute_on_postgres(statement: str) -> None:
    from sqlalchemy import create_engine, make_url, text
    from sqlalchemy.pool import NullPool

    url = make_url(_TEST_DATABASE_URL).set(drivername="postgresql+psycopg")
    with create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text(statement))


# ---- the server


class LiveServer:
    """`cosyforge serve` in a process of its own on a free port, with the fakes above."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.data_dir = directory / "data"
        self.process: subprocess.Popen[bytes] | None = None
        self._directory = directory
        base = directory / "base"
        base.mkdir(parents=True, exist_ok=True)
        (base / "model.json").write_text(json.dumps({"voices": {"alto": {"aliases": ["longanhuan"]}, "basso": {}}}))
        chosen = {
            "data_dir": self.data_dir,
            "base_model_dir": base,
            "bootstrap_key": KEY,
            "database_url": database_url_for(directory),
            "trainer": "fakes:finetune",
            "engine": "fakes:ToneEngine",
            "replica_backoff_s": 0.05,
            "replica_drain_s": 2,
            "cancel_grace_s": 2,
            "job_backoff_s": 0.05,
            **settings,
        }
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            **{f"COSYFORGE_{name.upper()}": str(value) for name, value in chosen.items()},
        }

    def start(self, timeout_s: float = 180) -> LiveServer:
        port_file = self._directory / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-c", "from cosyforge.cli_platform import app; app()"]
        command += ["serve", "--port", "0", "--port-file", str(port_file)]
        with open(self._directory / "server.log", "ab") as log:
            self.process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        wait_for(lambda: port_file.exists() or self.process.poll() is not None, timeout_s, "the server to start")
        if not port_file.exists():
            raise RuntimeError(f"the server ended: {self.log()}")
        self.url = f"http://127.0.0.1:{port_file.read_text()}"
        self.client = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=180)
        return self

    def stop(self) -> int:
        """As an operator would, by SIGTERM."""
        assert self.process is not None
        self.client.close()
        self.process.terminate()
        return self.process.wait(180)

    def kill(self) -> None:
        assert self.process is not None
        self.client.close()
        self.process.kill()
        self.process.wait(180)

    def log(self) -> str:
        return (self._directory / "server.log").read_text()

    # ---- what most tests do first

    def upload(self, **behaviour: Any) -> str:
        package = make_package(self._directory / "train_data.zip", **behaviour)
        with open(package, "rb") as file:
            response = self.client.post("/api/v1/files", files={"files": ("train_data.zip", file)})
        return str(response.json()["data"]["uploaded_files"][0]["file_id"])

    def create_job(self, file_id: str, **changes: Any) -> dict[str, Any]:
        body = {
            "model": "cosyvoice-v3-flash",
            "training_file_ids": [file_id],
            "hyper_parameters": HYPER_PARAMETERS,
            "training_type": "efficient_sft",
            **changes,
        }
        return output_of(self.client.post("/api/v1/fine-tunes", json=body))

    def job(self, job_id: str) -> dict[str, Any]:
        return output_of(self.client.get(f"/api/v1/fine-tunes/{job_id}"))

    def wait_for_job(self, job_id: str, *statuses: str, timeout_s: float = 180) -> dict[str, Any]:
        wait_for(lambda: self.job(job_id)["status"] in statuses, timeout_s, f"{job_id} to be {statuses}")
        return self.job(job_id)

    def train(self, **behaviour: Any) -> dict[str, Any]:
        """A job that has succeeded."""
        job = self.create_job(self.upload(**behaviour))
        return self.wait_for_job(job["job_id"], "SUCCEEDED")

    def deploy(self, model_name: str, **changes: Any) -> dict[str, Any]:
        body = {
            "model_name": model_name,
            "plan": "mu",
            "deploy_spec": "dps-20260521172224-1vabse",
            "capacity": 1,
            "billing_method": "POST_PAY",
            **changes,
        }
        return output_of(self.client.post("/api/v1/deployments", json=body))

    def deployment(self, deployed_model: str) -> dict[str, Any]:
        return output_of(self.client.get(f"/api/v1/deployments/{deployed_model}"))

    def wait_for_deployment(self, deployed_model: str, *statuses: str, timeout_s: float = 180) -> dict[str, Any]:
        def is_there() -> bool:
            return self.deployment(deployed_model)["status"] in statuses

        wait_for(is_there, timeout_s, f"{deployed_model} to be {statuses}")
        return self.deployment(deployed_model)

    def events(self, deployed_model: str) -> list[str]:
        output = output_of(self.client.get(f"/platform/v1/deployments/{deployed_model}/events"))
        return [event["message"] for event in output["events"]]

    def speak(self, model: str, text: str = "hello world", **changes: Any) -> httpx.Response:
        given = {"text": text, "voice": "default", "format": "wav", "sample_rate": 24000, **changes}
        return self.client.post("/api/v1/services/audio/tts/SpeechSynthesizer", json={"model": model, "input": given})


def output_of(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["output"]


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.02)


def assert_error(response: httpx.Response, status: int, code: str, *parts: str) -> None:
    """The error envelope, and what its message must say."""
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), response.text
    assert set(body) == {"request_id", "code", "message"}
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["x-request-id"] == body["request_id"]
    for part in parts:
        assert part in body["message"]


def child_pids(pid: int) -> list[int]:
    """The living children of a process, from /proc."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return children


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.fixture(scope="module")
def live_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server for all tests of a file."""
    server = LiveServer(tmp_path_factory.mktemp("live")).start()
    yield server
    server.stop()
