"""Real replica processes behind their sockets, started by the backend; only the engine is a tone."""

import json
import os
import signal
import threading
import time
from datetime import UTC, datetime

import pytest

from cosyforge.deployments.backend import Phase
from cosyforge.deployments.local_backend import LocalBackend, LocalBackendConfig
from cosyforge.deployments.records import Deployment, DeploymentStatus, Wanted
from cosyforge.deployments.replica import Turns
from cosyforge.deployments.templates import ReplicaResources
from cosyforge.errors import Internal, InvalidParameter
from cosyforge.synthesis.request import SynthesisRequest
from fakes import TESTS, wait_for

NOW = datetime.now(UTC)
PCM = SynthesisRequest(format="pcm", sample_rate_hz=8000, streaming=True)
BEEP_BYTES = 1600  # 0.1 s of 16-bit samples at 8 kHz


def make_backend(directory):
    return LocalBackend(
        LocalBackendConfig(
            engine="fakes:ToneEngine",
            data_directory=directory,
            base_directory=directory / "base",
            log_directory=directory / "replicas",
            resources={"MU5": ReplicaResources(1)},
            drain_s=2,
            environment={"PYTHONPATH": str(TESTS)},
        )
    )


def make_deployment(directory, deployment_id="d", **manifest):
    model = directory / deployment_id
    model.mkdir(exist_ok=True)
    (model / "model.json").write_text(json.dumps(manifest))
    values = {name: None for name in Deployment.__dataclass_fields__}
    values |= {"deployment_id": deployment_id, "deployed_model": f"model-{deployment_id}", "workspace_id": "w"}
    values |= {"directory": deployment_id, "model_unit_spec": "MU5", "status": DeploymentStatus.RUNNING}
    values |= {"wanted": Wanted.RUNNING, "generation": 1, "seen_generation": 1, "model_name": "m", "base_model": "b"}
    return Deployment(**values)


def state_of(backend, replica_id):
    return next(state for state in backend.observe() if state.replica_id == replica_id)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A backend with one replica that no test ends."""
    directory = tmp_path_factory.mktemp("replica")
    backend = make_backend(directory)
    replica_id = backend.start(make_deployment(directory), NOW)
    wait_for(lambda: backend.ready("d") != [], 60, "the replica")
    yield backend, replica_id
    backend.shut_down()


@pytest.fixture
def client(shared):
    backend, replica_id = shared
    return backend.connect(replica_id)


def test_a_text_comes_back_as_audio(client):
    chunks = list(client.synthesize(PCM, ["hello world"]))
    assert [(chunk.sentence_index, chunk.sentence_text, len(chunk.audio)) for chunk in chunks] == [
        (0, "hello", BEEP_BYTES),
        (1, "world", BEEP_BYTES),
    ]


def test_audio_comes_while_text_is_still_coming(client):
    may_go_on = threading.Event()

    def text():
        yield "first"
        assert may_go_on.wait(20)
        yield "second"

    stream = client.synthesize(PCM, text())
    assert next(stream).sentence_text == "first"
    may_go_on.set()
    assert [chunk.sentence_text for chunk in stream] == ["second"]


def test_a_speaker_who_thinks_does_not_keep_others_waiting(client):
    may_go_on = threading.Event()

    def text():
        yield "first"
        may_go_on.wait(20)

    waiting = client.synthesize(PCM, text())
    next(waiting)
    assert len(list(client.synthesize(PCM, ["a b c"]))) == 3
    may_go_on.set()
    assert list(waiting) == []


def test_requests_share_the_engine_chunk_by_chunk(client):
    """A long request that came first does not make a short one wait for its end."""
    long = client.synthesize(PCM, ["word " * 2000])
    next(long)
    assert len(list(client.synthesize(PCM, ["short"]))) == 1
    num_left = sum(1 for _ in long)
    assert num_left == 1999


def test_errors_keep_their_class_and_the_replica_goes_on(client):
    with pytest.raises(InvalidParameter, match="not spoken here"):
        list(client.synthesize(PCM, ["refuse"]))
    with pytest.raises(Internal, match="RuntimeError: the tone broke"):
        list(client.synthesize(PCM, ["fail"]))
    assert len(list(client.synthesize(PCM, ["hello"]))) == 1


def test_an_error_of_the_text_reaches_whoever_reads_the_audio(client):
    def text():
        yield "first"
        raise InvalidParameter("the speaker stumbled")

    with pytest.raises(InvalidParameter, match="stumbled"):
        list(client.synthesize(PCM, text()))


def test_closing_stops_the_work(client, shared):
    """The engine of a closed request is free at once: 100 slow words would take 100 s."""
    slow = client.synthesize(PCM, ["slow " * 100])
    next(slow)
    slow.close()
    started_at = time.monotonic()
    assert len(list(client.synthesize(PCM, ["hello"]))) == 1
    assert time.monotonic() - started_at < 20
    assert list(slow) == []


def test_a_socket_is_for_its_owner_alone(shared):
    backend, replica_id = shared
    path = backend.connect(replica_id)._socket_path
    assert os.stat(path).st_mode & 0o077 == 0
    assert os.stat(os.path.dirname(path)).st_mode & 0o077 == 0


class TestEnds:
    def _start(self, directory, **manifest):
        backend = make_backend(directory)
        return backend, backend.start(make_deployment(directory, **manifest), NOW)

    def _wait_for(self, backend, replica_id, phase):
        wait_for(lambda: state_of(backend, replica_id).phase is phase, 60, phase)
        return state_of(backend, replica_id)

    def test_a_killed_replica_is_seen_with_its_signal(self, tmp_path):
        backend, replica_id = self._start(tmp_path)
        pid = self._wait_for(backend, replica_id, Phase.READY).pid
        stream = backend.connect(replica_id).synthesize(PCM, ["hello slow slow"])
        next(stream)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Internal, match="stopped while it was speaking"):
            list(stream)
        state = self._wait_for(backend, replica_id, Phase.ENDED)
        assert "signal 9 SIGKILL" in state.reason
        assert (state.was_ready, state.was_stopped, backend.ready("d")) == (True, False, [])
        backend.shut_down()

    def test_a_model_that_does_not_load_says_why(self, tmp_path):
        backend, replica_id = self._start(tmp_path, broken="lm.safetensors: 3 tensors are missing")
        state = self._wait_for(backend, replica_id, Phase.ENDED)
        assert state.reason == "could not load the model: ValueError: lm.safetensors: 3 tensors are missing"
        backend.shut_down()

    def test_a_replica_that_must_go_finishes_its_sentence(self, tmp_path):
        backend, replica_id = self._start(tmp_path)
        self._wait_for(backend, replica_id, Phase.READY)
        stream = backend.connect(replica_id).synthesize(PCM, ["hello slow bye"])
        next(stream)
        backend.stop(replica_id, now=NOW)
        assert backend.ready("d") == []
        assert [chunk.sentence_text for chunk in stream] == ["slow", "bye"]
        assert self._wait_for(backend, replica_id, Phase.ENDED).was_stopped
        backend.shut_down()

    def test_one_that_does_not_finish_is_killed(self, tmp_path):
        backend, replica_id = self._start(tmp_path)
        self._wait_for(backend, replica_id, Phase.READY)
        stream = backend.connect(replica_id).synthesize(PCM, ["slow " * 100])
        next(stream)
        backend.stop(replica_id, now=NOW)
        self._wait_for(backend, replica_id, Phase.ENDED)
        backend.shut_down()

    def test_shutting_down_leaves_no_process_and_no_socket(self, tmp_path):
        backend, replica_id = self._start(tmp_path, load_s=100)
        pid, run_directory = state_of(backend, replica_id).pid, backend._run_directory
        backend.shut_down()
        assert not os.path.exists(f"/proc/{pid}")
        assert not run_directory.exists()


def test_turns_are_taken_in_the_order_of_asking():
    turns, order = Turns(), []
    turns.take("first")

    def wait_and_note(name):
        turns.take(name)
        order.append(name)
        turns.give(name)

    threads = []
    for name in "abcde":
        threads.append(threading.Thread(target=wait_and_note, args=(name,)))
        threads[-1].start()
        wait_for(lambda: len(turns._waiting) == len(threads), 10, "the thread to ask")
    turns.give("a")  # somebody without a turn cannot end another's
    assert order == []
    turns.give("first")
    for thread in threads:
        thread.join()
    assert order == list("abcde")
