"""A replica's server in this process, so that its engine can be watched: cancelling, slow listeners, queues, pings."""

import threading
import time
from types import SimpleNamespace

import pytest

from cosyforge.deployments.ping import Ping
from cosyforge.deployments.replica import ReplicaServer
from cosyforge.deployments.replica_client import ReplicaClient
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest
from fakes import wait_for

PCM = SynthesisRequest(format="pcm", sample_rate_hz=8000, streaming=True)


class WatchedEngine:
    """Says every word in 4 KiB. `endless` computes until it is cancelled, as a long chunk would; `raise` then raises."""

    def __init__(self):
        self.num_chunks = 0
        self.num_canceled = 0
        self.is_computing = threading.Event()

    def synthesize(self, request, text):
        for piece in text:
            for word in piece.split():
                if word in ("endless", "raise"):
                    self._compute_until_canceled(text, word)
                    return
                self.num_chunks += 1
                yield AudioChunk(bytes(4096), 0, word, timings_ms={"total": 1.0} if word == "last" else {})

    def _compute_until_canceled(self, text, word):
        self.is_computing.set()
        while not text.is_canceled():
            time.sleep(0.005)
        self.num_canceled += 1
        if word == "raise":
            raise RuntimeError("stopped in the middle")

    def close(self):
        pass


class ConcurrentEngine(WatchedEngine):
    is_concurrent = True


@pytest.fixture(params=[WatchedEngine, ConcurrentEngine], ids=["turns", "concurrent"])
def served(request, tmp_path):
    engine = request.param()
    path = str(tmp_path / "s")
    server = ReplicaServer(engine, path, drain_s=5)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield SimpleNamespace(engine=engine, path=path, client=ReplicaClient(path), server=server)
    server.stop()
    thread.join()


def num_in_flight(served):
    """What the replica itself says."""
    ping = Ping(served.path)
    ping.look(time.monotonic())
    wait_for(lambda: ping.look(time.monotonic()) or ping.silent_s(time.monotonic()) == 0, 60, "an answer")
    ping.close()
    return ping.num_in_flight


@pytest.mark.parametrize("word", ["endless", "raise"])
def test_a_listener_who_leaves_stops_the_engine_within_a_chunk(served, word, capfd):
    stream = served.client.synthesize(PCM, [f"hello {word}"])
    next(stream)
    reader = threading.Thread(target=lambda: list(stream))
    reader.start()
    assert served.engine.is_computing.wait(60)
    assert num_in_flight(served) == 1
    stream.close()
    reader.join(60)
    wait_for(lambda: num_in_flight(served) == 0, 60, "the replica to notice")
    assert served.engine.num_canceled == 1
    assert [chunk.sentence_text for chunk in served.client.synthesize(PCM, ["next"])] == ["next"]
    assert "failed" not in capfd.readouterr().err, "leaving is no failure"


def test_a_slow_listener_is_not_worked_for_ahead_and_keeps_nobody_waiting(served):
    slow = served.client.synthesize(PCM, ["word " * 20_000])  # 80 MB
    next(slow)
    at_rest = wait_until_still(lambda: served.engine.num_chunks)
    # what the kernel holds for a Unix socket, about 200 kB at most settings, whatever is asked for
    assert at_rest * 4096 < 4 << 20
    for _ in range(3):
        assert len(list(served.client.synthesize(PCM, ["a b c"]))) == 3
    assert served.engine.num_chunks == at_rest + 9
    slow.close()
    wait_for(lambda: num_in_flight(served) == 0, 60, "the replica to notice")


def wait_until_still(read):
    """The value once it has not changed for half a second."""
    value, since = read(), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.02)
        if read() != value:
            value, since = read(), time.monotonic()
    return value


def test_the_time_in_the_queue_is_told_with_the_other_times(tmp_path):
    engine = WatchedEngine()
    server = ReplicaServer(engine, str(tmp_path / "s"), drain_s=5)
    thread = threading.Thread(target=server.serve)
    thread.start()
    client = ReplicaClient(str(tmp_path / "s"))
    first = client.synthesize(PCM, ["endless"])
    reader = threading.Thread(target=lambda: list(first))
    reader.start()
    assert engine.is_computing.wait(60)
    waiting = client.synthesize(PCM, ["first last"])
    time.sleep(0.2)
    first.close()
    chunks = list(waiting)
    reader.join()
    assert chunks[0].timings_ms == {}
    assert chunks[1].timings_ms["total"] == 1.0
    assert chunks[1].timings_ms["queue"] >= 150, "it waited for the first to leave"
    server.stop()
    thread.join()


class TestPing:
    def test_an_answer_is_a_sign_of_life(self, served):
        ping = Ping(served.path)
        ping.look(100.0)
        assert ping.silent_s(103.0) == 3.0, "none has been read yet"
        wait_for(lambda: ping.look(100.5) or ping.silent_s(103.0) == 0.0, 60, "an answer")
        ping.look(100.9)
        assert ping.silent_s(103.0) == 0.0, "not asked again within a second"
        ping.look(101.1)
        assert ping.silent_s(103.1) == pytest.approx(2.0)
        ping.close()

    def test_nobody_there_is_silence(self, tmp_path):
        ping = Ping(str(tmp_path / "nobody"))
        for second in range(5):
            ping.look(10.0 + second * 1.5)
        assert ping.silent_s(20.0) == 10.0

    def test_a_replica_that_takes_no_connections_does_not_hold_up_who_asks(self, tmp_path):
        import socket

        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        pings = [Ping(str(tmp_path / "s")) for _ in range(5)]  # more than the queue holds
        for ping in pings:
            ping.look(0.0)
            ping.look(0.1)
        assert all(ping.silent_s(9.0) == 9.0 for ping in pings)
        for ping in pings:
            ping.close()
        listener.close()
