"""The duplex socket against a live server: bytes on the wire, time, and what happens to the work behind it."""

import contextlib
import json
import socket
import struct
import time
import uuid
from datetime import datetime
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from fakes import KEY, TONE_TIMINGS_MS, LiveServer, output_of, wait_for, wav_header

BASE = "cosyvoice-v3-flash"


@pytest.fixture(scope="module")
def model(live_server):
    model = live_server.train()["finetuned_output"]
    live_server.deploy(model)
    live_server.wait_for_deployment(model, "RUNNING")
    return model


class Client:
    """A socket that speaks the protocol in small words."""

    def __init__(self, server, model=BASE, *, path="/api-ws/v1/inference", key=KEY, sock=None, **headers):
        url = server.url.replace("http", "ws") + path
        self.model = model
        headers = {"Authorization": f"bearer {key}", **headers}
        self.socket = connect(url, additional_headers=headers, open_timeout=60, max_size=None, proxy=None, sock=sock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, action, task_id, payload):
        header = {"action": action, "task_id": task_id, "streaming": "duplex"}
        self.socket.send(json.dumps({"header": header, "payload": payload}))

    def run(self, task_id=None, *, is_awaited=True, **parameters):
        task_id = task_id or uuid.uuid4().hex
        service = {"task_group": "audio", "task": "tts", "function": "SpeechSynthesizer", "model": self.model}
        voice = "alto" if self.model == BASE else "default"
        parameters = {"text_type": "PlainText", "voice": voice, "format": "pcm", "sample_rate": 24000, **parameters}
        self.send("run-task", task_id, {**service, "input": {}, "parameters": parameters})
        if is_awaited:
            assert self.next_event()["header"] == {"task_id": task_id, "event": "task-started", "attributes": {}}
        return task_id

    def text(self, task_id, text, **more):
        self.send("continue-task", task_id, {"input": {"text": text, **more}})

    def flush(self, task_id):
        self.send("continue-task", task_id, {"input": {"flush": True}})

    def finish(self, task_id, **given):
        self.send("finish-task", task_id, {"input": given})

    def next_event(self):
        return json.loads(self.socket.recv(timeout=60))

    def next_sound(self):
        """The audio of the next sentence-synthesis, skipping what is only told."""
        while self.next_event()["payload"]["output"]["type"] != "sentence-synthesis":
            pass
        return self.socket.recv(timeout=60)

    def rest(self):
        """Events and audio until the task has ended; every binary frame belongs to the event before it."""
        events, audio = [], b""
        while True:
            events.append(self.next_event())
            if events[-1]["header"]["event"] != "result-generated":
                return events, audio
            if events[-1]["payload"]["output"]["type"] == "sentence-synthesis":
                sound = self.socket.recv(timeout=60)
                assert isinstance(sound, bytes)
                assert sound
                audio += sound

    def failure(self):
        """(code, message) of the task-failed that comes next; the connection ends with it."""
        events, _ = self.rest()
        header = events[-1]["header"]
        assert header["event"] == "task-failed"
        with pytest.raises(ConnectionClosed):
            self.socket.recv(timeout=60)
        return header["error_code"], header["error_message"]


def speech_lines(server, **wanted):
    """What the log says of a task; it may say so a moment after the client knows."""

    def found():
        lines = [json.loads(line) for line in server.log().splitlines() if '"event": "speech"' in line]
        return [line for line in lines if all(line.get(name) == value for name, value in wanted.items())]

    wait_for(lambda: found() != [], 60, f"the line of {wanted}")
    return found()


@pytest.mark.parametrize("path", ["/api-ws/v1/inference", "/api-ws/v1/inference/"])
def test_a_task_is_spoken(live_server, model, path):
    with Client(live_server, model, path=path) as client:
        task_id = client.run()
        client.text(task_id, "one two")
        client.finish(task_id)
        events, audio = client.rest()
    kinds = [event["payload"].get("output", {}).get("type") for event in events]
    sentence = ["sentence-begin", "sentence-synthesis", "sentence-end"]
    assert kinds == [*sentence, *sentence, None]
    assert {event["header"]["task_id"] for event in events} == {task_id}
    assert len(audio) == 2 * 4800
    assert events[2]["payload"]["usage"] == {"characters": 3}
    assert events[-1]["header"]["event"] == "task-finished"
    assert events[-1]["payload"]["usage"] == {"characters": 7}
    assert len(events[-1]["header"]["attributes"]["request_uuid"]) == 36


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer sk-wrong", f"Basic {KEY}"])
def test_a_bad_key_is_refused_before_the_upgrade(live_server, header):
    headers = {} if header is None else {"Authorization": header}
    with pytest.raises(InvalidStatus) as caught:
        connect(live_server.url.replace("http", "ws") + "/api-ws/v1/inference", additional_headers=headers, proxy=None)
    response = caught.value.response
    body = json.loads(response.body)
    assert (response.status_code, body["code"]) == (401, "InvalidApiKey")
    assert body["message"] == "Invalid API-key provided."
    assert response.headers["x-request-id"] == body["request_id"]


def test_text_is_spoken_while_more_is_to_come(live_server, model):
    with Client(live_server, model) as client:
        task_id = client.run()
        for word in ("one", "two", "three"):
            client.text(task_id, f"{word} ")
            assert len(client.next_sound()) == 4800, "heard before anything else is said"
        client.flush(task_id)
        client.finish(task_id)
        events, audio = client.rest()
        assert audio == b""
        assert events[-1]["payload"]["usage"] == {"characters": 14}


def test_each_task_of_a_connection_begins_its_own_file(live_server, model):
    with Client(live_server, model) as client:
        for text in ("one two", "three"):
            task_id = client.run(format="wav")
            client.text(task_id, text)
            client.finish(task_id)
            _, audio = client.rest()
            assert audio[:44] == wav_header(0x7FFFFF00, 24000)
            assert audio.count(b"RIFF") == 1


def test_a_new_task_takes_the_place_of_the_old_one(live_server, model):
    with Client(live_server, model) as client:
        old = client.run()
        client.text(old, "slow " * 50)
        new = client.run(is_awaited=False)
        client.text(old, "too late")
        client.text(new, "one")
        client.finish(new)
        events = []
        while not events or events[-1]["header"]["event"] != "task-finished":
            message = client.socket.recv(timeout=60)
            events += [] if isinstance(message, bytes) else [json.loads(message)]
        ids = [event["header"]["task_id"] for event in events]
        assert ids[-1] == new
        assert ids == sorted(ids, key=[old, new].index), "nothing of the old task after the new one began"
    wait_for(lambda: speech_lines(live_server, task_id=old), 60, "the line of the old task")
    assert speech_lines(live_server, task_id=old)[0]["error_code"] == "Replaced"


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_cancelled_task_stops_and_the_connection_stays(live_server, model, is_finished):
    with Client(live_server, model) as client:
        task_id = client.run()
        client.text(task_id, "one " + "slow " * 100)
        client.next_sound()
        if is_finished:
            client.finish(task_id)
        client.finish(task_id, directive="cancel")
        events, _ = client.rest()
        assert events[-1]["header"]["event"] == "task-finished"
        assert events[-1]["payload"]["usage"]["characters"] < 20, "only what had begun"
        again = client.run()
        client.text(again, "two")
        client.finish(again)
        assert len(client.rest()[1]) == 4800
    wait_for(lambda: speech_lines(live_server, task_id=task_id), 60, "the line of the task")
    assert speech_lines(live_server, task_id=task_id)[0]["error_code"] == "Canceled"


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"voice": "longanyang"}, ("InvalidParameter", "[tts:]Engine return error code: 418")),
        ({"instruction": "Slowly."}, ("InvalidParameter", "[tts:]Engine return error code: 428")),
        ({"voice": None}, ("InvalidParameter", "Request voice is invalid!")),
    ],
)
def test_what_a_tuned_model_does_not_take(live_server, model, parameters, error):
    with Client(live_server, model) as client:
        client.run(is_awaited=False, **parameters)
        assert client.failure() == error


def test_models_that_cannot_be_had(live_server):
    with Client(live_server, "nobody") as client:
        client.run(is_awaited=False)
        assert client.failure() == ("ModelNotFound", "Model can not be found.")
    with Client(live_server, live_server.train()["finetuned_output"]) as client:
        client.run(is_awaited=False)
        code, message = client.failure()
        assert code == "InvalidParameter"
        assert "Model is not ready" in message


def test_plain_text_with_ssml_switched_on_is_plain_and_may_come_once(live_server, model):
    with Client(live_server, model) as client:
        task_id = client.run(enable_ssml=True)
        client.text(task_id, "a < b & c")
        client.text(task_id, "more")
        assert client.failure() == ("InvalidParameter", "Text request limit violated, expected 1.")


@pytest.mark.parametrize(
    ("text", "code", "part"),
    [
        ("one refuse", "InvalidParameter", "not spoken here"),
        ("one fail", "InternalError", "the tone broke"),
        (" \n", "InvalidParameter", "Please ensure input text is valid."),
        ('<speak><soundEvent src="http://127.0.0.1/a.wav"/>a</speak>', "InvalidParameter", "SSML line 1"),
    ],
)
def test_what_goes_wrong_while_speaking_fails_the_task(live_server, model, text, code, part):
    with Client(live_server, model) as client:
        task_id = client.run(enable_ssml=True)
        client.text(task_id, text)
        with contextlib.suppress(ConnectionClosed):  # it may have failed, and been closed, already
            client.finish(task_id)
        found_code, message = client.failure()
        assert (found_code, part in message) == (code, True)


def test_a_replica_that_dies_fails_its_task_and_the_next_one_is_spoken(live_server, model):
    with Client(live_server, model) as client:
        task_id = client.run()
        client.text(task_id, "one crash")
        assert client.failure()[0] == "InternalError"
    live_server.wait_for_deployment(model, "RUNNING")
    with Client(live_server, model) as client:
        task_id = client.run()
        client.text(task_id, "one")
        client.finish(task_id)
        assert len(client.rest()[1]) == 4800


@pytest.mark.parametrize(("message", "code"), [("{", 1007), ("[1]", 1007), (b"\0\1", 1003)])
def test_what_is_no_message_closes_the_connection(live_server, message, code):
    with Client(live_server) as client:
        client.socket.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            client.socket.recv(timeout=60)
        assert caught.value.rcvd.code == code


def test_the_base_model_answers_to_the_other_ids_of_its_voices(live_server):
    with Client(live_server) as client:
        task_id = client.run(voice="longanhuan")
        client.text(task_id, "one")
        client.finish(task_id)
        assert len(client.rest()[1]) == 4800
    assert speech_lines(live_server, task_id=task_id)[0]["voice"] == "alto"


class TestWhatIsTold:
    def test_words_come_with_their_sentence_and_all_at_the_end(self, live_server, model):
        with Client(live_server, model) as client:
            task_id = client.run(word_timestamp_enabled=True)
            client.text(task_id, "one two")
            client.finish(task_id)
            events, _ = client.rest()
        one = {"text": "one", "begin_index": 0, "end_index": 3, "begin_time": 0, "end_time": 100}
        two = {"text": "two", "begin_index": 0, "end_index": 3, "begin_time": 100, "end_time": 200}
        assert events[2]["payload"]["output"]["sentence"]["words"] == [one]
        assert events[-1]["payload"]["output"]["sentence"]["words"] == [one, two]

    def test_one_line_of_the_log_says_it_all(self, live_server, model):
        with Client(live_server, model) as client:
            task_id = client.run(word_timestamp_enabled=True)
            client.text(task_id, "one two")
            client.finish(task_id)
            events, _ = client.rest()
        (line,) = speech_lines(live_server, task_id=task_id)
        assert line["request_id"] == events[-1]["header"]["attributes"]["request_uuid"]
        assert (line["model"], line["transport"], line["characters"], line["resampled"]) == (model, "websocket", 7, 1)
        assert line["replica"].startswith("r")
        assert line["first_package_ms"] > 0
        assert line["rtf"] == pytest.approx(0.024 / 0.2), "milliseconds of work against 0.2 s of audio"
        assert line["audio_s"] == pytest.approx(0.2)
        assert line["error_code"] is None
        assert {**line["waterfall_ms"], "queue": 1.0} == TONE_TIMINGS_MS

    def test_the_waterfall_comes_on_ask(self, live_server, model):
        with Client(live_server, model, **{"X-CosyForge-Trace": "enable"}) as client:
            task_id = client.run(word_timestamp_enabled=True)
            client.text(task_id, "one")
            client.finish(task_id)
            events, _ = client.rest()
        trace = events[-1]["header"]["attributes"]["trace"]
        assert trace["waterfall_ms"]["flow"] == TONE_TIMINGS_MS["flow"]
        assert (trace["resampled"], trace["warnings"]) == (1, ["a tone only"])

    def test_a_refusal_has_its_line_too(self, live_server):
        with Client(live_server, "nobody") as client:
            task_id = client.run(is_awaited=False)
            client.failure()
        (line,) = speech_lines(live_server, task_id=task_id)
        assert (line["model"], line["error_code"], line["characters"]) == ("nobody", "ModelNotFound", 0)

    def test_metrics_count_it(self, live_server, model):
        with Client(live_server, model) as client:
            task_id = client.run()
            client.text(task_id, "one")
            client.finish(task_id)
            client.rest()
            shown = live_server.client.get("/metrics").text
        wanted = f'cosyforge_synthesis_requests_total{{code="OK",model="{model}",transport="websocket"}}'
        assert wanted in shown
        assert f'cosyforge_first_package_seconds_count{{model="{model}",transport="websocket"}}' in shown
        assert f'cosyforge_synthesis_in_flight{{model="{model}"}} 0.0' in shown
        assert "cosyforge_websockets 1.0" in shown

    def test_characters_are_billed(self, live_server, model):
        before = _billed(live_server, model)
        with Client(live_server, model) as client:
            task_id = client.run()
            client.text(task_id, "你好 one")
            client.finish(task_id)
            client.rest()
        assert _billed(live_server, model) == before + 8


def _billed(server, model):
    usage = output_of(server.client.get("/platform/v1/usage"))["synthesis"]
    return sum(item["characters"] for item in usage if item["model"] == model)


# ---- time, and places


@pytest.fixture(scope="module")
def narrow_server(tmp_path_factory):
    """Short times, and one place only."""
    limits = {"websocket_text_gap_s": 1, "websocket_idle_s": 1, "replica_max_requests": 1, "max_websockets": 3}
    server = LiveServer(tmp_path_factory.mktemp("narrow"), **limits, request_timeout_s=60).start()
    assert server.speak(BASE, voice="alto").status_code == 200
    yield server
    server.stop()


def test_a_pause_between_texts_fails_the_task(narrow_server):
    with Client(narrow_server) as client:
        task_id = client.run()
        client.text(task_id, "one")
        assert client.failure() == ("InvalidParameter", "request timeout after 1 seconds.")


def test_an_idle_connection_is_closed_after_a_task_but_not_before_one(narrow_server):
    with Client(narrow_server) as client:
        time.sleep(2)
        task_id = client.run()
        client.text(task_id, "one")
        client.finish(task_id)
        client.rest()
        with pytest.raises(ConnectionClosed) as caught:
            client.socket.recv(timeout=60)
        assert caught.value.rcvd.code == 1000


def test_a_task_for_which_there_is_no_place_is_throttled(narrow_server):
    with Client(narrow_server) as first, Client(narrow_server) as second:
        task_id = first.run()
        first.text(task_id, "one " + "slow " * 5)
        first.next_sound()
        late = second.run()
        second.text(late, "two")
        assert second.failure() == ("Throttling.RateQuota", "Requests rate limit exceeded, please try again later.")


@pytest.fixture(scope="module")
def single_server(tmp_path_factory):
    """One place only, and the usual patience: a slow machine must not let a task end for want of text."""
    server = LiveServer(tmp_path_factory.mktemp("single"), replica_max_requests=1).start()
    assert server.speak(BASE, voice="alto").status_code == 200
    yield server
    server.stop()


@pytest.mark.parametrize("is_rude", [False, True], ids=["closes", "vanishes"])
@pytest.mark.parametrize("is_finished", [False, True])
def test_a_client_that_leaves_frees_its_place_at_once(single_server, is_rude, is_finished):
    """The only place of the only replica is taken by a text of 100 s, until nobody listens any more."""
    client = Client(single_server)
    task_id = client.run()
    client.text(task_id, "one " + "slow " * 100)
    if is_finished:
        client.finish(task_id)
    client.next_sound()
    assert single_server.speak(BASE, voice="alto").status_code == 429
    if is_rude:
        client.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.socket.close()
    else:
        client.socket.close()
    wait_for(lambda: speech_lines(single_server, task_id=task_id), 60, "the task to be dropped")
    answer = single_server.speak(BASE, text="two", voice="alto")
    assert answer.status_code == 200
    (line,) = speech_lines(single_server, task_id=task_id)
    assert line["error_code"] == "ClientDisconnect"
    assert 3 <= line["characters"] <= 20, "counted: what had begun"


def test_a_stopping_server_lets_tasks_end_and_closes_idle_connections(tmp_path):
    server = LiveServer(tmp_path, shutdown_grace_s=60, max_websocket_tasks=1).start()
    with Client(server) as waiting, Client(server) as client:
        task_id = client.run()
        client.text(task_id, "one slow slow two")
        client.finish(task_id)
        client.next_sound()
        with Client(server) as third:
            late = third.run()
            third.text(late, "three")
            assert third.failure()[0] == "Throttling.RateQuota", "one task at a time"
        server.process.terminate()
        with pytest.raises(ConnectionClosed) as caught:
            waiting.socket.recv(timeout=60)
        assert caught.value.rcvd.code == 1001
        events, audio = client.rest()
        assert events[-1]["header"]["event"] == "task-finished"
        assert len(audio) == 3 * 4800
        with pytest.raises(ConnectionClosed) as caught:
            client.socket.recv(timeout=60)
        assert caught.value.rcvd.code == 1001
    server.process.wait(60)
    server.client.close()


def test_so_does_one_that_vanishes_while_we_wait_for_it_to_read(narrow_server):
    """29 MB of sound, more than the kernel keeps for somebody who does not read."""
    address = urlsplit(narrow_server.url)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect((address.hostname, address.port))
    client = Client(narrow_server, sock=plain)
    task_id = client.run(sample_rate=48000)
    client.text(task_id, "one " * 3000)
    client.finish(task_id)
    client.next_sound()
    time.sleep(3)
    assert narrow_server.speak(BASE, voice="alto").status_code == 429, "it is not over, so it waits"
    client.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    vanished_at = time.time()
    client.socket.socket.close()
    wait_for(lambda: speech_lines(narrow_server, task_id=task_id), 60, "the task to be dropped")
    (line,) = speech_lines(narrow_server, task_id=task_id)
    assert line["error_code"] == "ClientDisconnect"
    assert datetime.fromisoformat(line["timestamp"]).timestamp() - vanished_at < 8, "not by the last resort of 10 s"


def test_more_connections_than_allowed_are_refused(narrow_server):
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Client(narrow_server))
        with pytest.raises(InvalidStatus) as caught:
            Client(narrow_server)
        assert caught.value.response.status_code == 429
    wait_for(lambda: "cosyforge_websockets 0.0" in narrow_server.client.get("/metrics").text, 60, "them to be closed")
    Client(narrow_server).socket.close()
