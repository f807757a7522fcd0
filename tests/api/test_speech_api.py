import base64
import io
import json
import socket
import threading
import time
import wave
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx
import pytest

from fakes import KEY, TONE_TIMINGS_MS, LiveServer, assert_error, output_of, wait_for, wav_header

PATH = "/api/v1/services/audio/tts/SpeechSynthesizer"
BASE = "cosyvoice-v3-flash"


@pytest.fixture(scope="module")
def model(live_server):
    model = live_server.train()["finetuned_output"]
    live_server.deploy(model)
    live_server.wait_for_deployment(model, "RUNNING")
    return model


def _stream(server, model, text, **given):
    """The events of a streaming request: dicts of id, event, comments and data."""
    body = {"model": model, "input": {"text": text, "voice": "default", "format": "wav", "sample_rate": 24000, **given}}
    answer = server.client.post(PATH, json=body, headers={"X-DashScope-SSE": "enable"})
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    events = []
    for block in answer.text.split("\n\n")[:-1]:
        lines = block.split("\n")
        fields = dict(line.split(":", 1) for line in lines if not line.startswith(":"))
        comments = [line for line in lines if line.startswith(":")]
        events.append({**fields, "comments": comments, "data": json.loads(fields["data"])})
    return events


def test_a_text_becomes_a_link_to_audio(live_server, model):
    answer = live_server.speak(model, "hello world")
    body = answer.json()
    assert set(body) == {"request_id", "output", "usage"}
    assert body["usage"] == {"characters": 11}
    audio = body["output"]["audio"]
    assert body["output"]["finish_reason"] == "stop"
    assert (audio["data"], audio["id"]) == ("", f"audio_{body['request_id']}")
    assert abs(audio["expires_at"] - time.time() - 86_400) < 60
    with wave.open(io.BytesIO(httpx.get(audio["url"]).content)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (24000, 1, 2)
        assert sound.getnframes() == 2 * 2400, "a tenth of a second for each word"


@pytest.mark.parametrize(
    ("format", "media_type"),
    [("wav", "audio/wav"), ("mp3", "audio/mpeg"), ("opus", "audio/ogg"), ("pcm", "application/octet-stream")],
)
def test_a_link_says_what_it_is_and_serves_parts(live_server, model, format, media_type):
    url = output_of(live_server.speak(model, format=format))["audio"]["url"]
    assert f".{format}?Expires=" in url
    whole, head = httpx.get(url), httpx.head(url)
    assert (whole.headers["content-type"], head.headers["content-type"]) == (media_type, media_type)
    assert head.headers["content-length"] == str(len(whole.content))
    part = httpx.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])


def test_a_link_that_was_changed_or_is_over_opens_nothing(live_server, model):
    url = output_of(live_server.speak(model))["audio"]["url"]
    assert httpx.get(url.replace("Expires=1", "Expires=2")).status_code == 403
    assert httpx.get(url.replace(".wav", ".mp3")).status_code == 403


def test_every_field_of_the_interface_is_taken(live_server, model):
    answer = live_server.speak(
        model,
        "Hello.",
        volume=70,
        rate=1.2,
        pitch=0.9,
        bit_rate=64,
        seed=7,
        enable_ssml=False,
        word_timestamp_enabled=True,
        language_hints=["en"],
        instruction="",
        enable_aigc_tag=True,
        aigc_propagator="us",
        aigc_propagate_id="7",
        hot_fix={"pronunciation": [{"草地": "cao3 di4"}], "replace": [{"a": "b"}]},
        enable_markdown_filter=True,
        something_newer=1,
    )
    assert answer.status_code == 200, answer.text


def test_where_the_time_went_is_told_on_ask(live_server, model):
    given = {"text": "one two", "voice": "default", "format": "pcm", "word_timestamp_enabled": True}
    body = {"model": model, "input": given}
    assert "x-cosyforge-trace" not in live_server.client.post(PATH, json=body).headers
    answer = live_server.client.post(PATH, json=body, headers={"X-CosyForge-Trace": "enable"})
    trace = json.loads(answer.headers["x-cosyforge-trace"])
    assert {**trace["waterfall_ms"], "queue": 1.0} == TONE_TIMINGS_MS
    assert (trace["resampled"], trace["rtf"]) == (1, pytest.approx(0.12))
    (line,) = _speech_lines(live_server, answer.json()["request_id"])
    assert (line["transport"], line["characters"], line["error_code"]) == ("http", 7, None)
    assert line["waterfall_ms"] == trace["waterfall_ms"]


def test_a_refusal_has_its_line_in_the_log(live_server, model):
    answer = live_server.speak(model, voice="alto")
    (line,) = _speech_lines(live_server, answer.json()["request_id"])
    assert (line["model"], line["error_code"], line["characters"]) == (model, "InvalidParameter", 0)
    assert line["error_message"] == "[tts:]Engine return error code: 418"


def _speech_lines(server, request_id):
    def found():
        lines = [json.loads(line) for line in server.log().splitlines() if '"event": "speech"' in line]
        return [line for line in lines if line["request_id"] == request_id]

    wait_for(lambda: found() != [], 60, "the line of the request")
    return found()


def test_tuning_fields_may_stand_beside_the_input(live_server, model):
    body = {
        "model": model,
        "input": {"text": "hello"},
        "parameters": {"voice": "default", "format": "wav", "sample_rate": 8000},
    }
    audio = output_of(live_server.client.post(PATH, json=body))["audio"]
    with wave.open(io.BytesIO(httpx.get(audio["url"]).content)) as sound:
        assert sound.getframerate() == 8000


def test_the_base_model_speaks_with_its_presets(live_server):
    assert live_server.speak(BASE, voice="alto").status_code == 200
    assert_error(live_server.speak(BASE, voice="default"), 400, "InvalidParameter", "418")
    listed = output_of(live_server.client.get("/api/v1/deployments"))["deployments"]
    assert BASE not in {item["deployed_model"] for item in listed}
    assert_error(live_server.client.delete(f"/api/v1/deployments/{BASE}"), 404, "NotFound")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"text": ""}, "Please ensure input text is valid."),
        ({"text": "   "}, "Please ensure input text is valid."),
        ({"text": None}, "task can not be null"),
        ({"text": 7}, "task can not be null"),
        ({"voice": None}, "Request voice is invalid!"),
        ({"voice": "longanyang"}, "[tts:]Engine return error code: 418"),
        ({"instruction": "Speak slowly."}, "[tts:]Engine return error code: 428"),
        ({"hot_fix": {"replace": "a"}}, "hot_fix.replace must be a list"),
        ({"rate": 3}, "rate must be a number in [0.5, 2.0]"),
        ({"text": "字" * 10_001}, "20002 characters; at most 20000"),
        ({"text": "refuse"}, "not spoken here"),
    ],
)
def test_what_cannot_be_spoken_is_refused(live_server, model, changes, part):
    assert_error(live_server.speak(model, **{"text": "hello", **changes}), 400, "InvalidParameter", part)


def test_errors_before_the_first_sound_are_plain_json_when_streaming_too(live_server, model):
    for text, status in [("refuse", 400), ("fail", 500)]:
        body = {"model": model, "input": {"text": text, "voice": "default", "format": "pcm"}}
        answer = live_server.client.post(PATH, json=body, headers={"X-DashScope-SSE": "enable"})
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("body", [{}, {"model": 7, "input": {}}, {"model": BASE}, {"model": BASE, "input": []}])
def test_a_request_without_its_parts_is_refused(live_server, body):
    assert_error(live_server.client.post(PATH, json=body), 400, "InvalidParameter")


def test_an_unknown_model_is_not_found(live_server):
    assert_error(live_server.speak("nobody"), 404, "ModelNotFound", "Model can not be found.")


def test_a_model_that_is_not_deployed_is_not_ready(live_server):
    model = live_server.train()["finetuned_output"]
    assert_error(live_server.speak(model), 400, "InvalidParameter", "Model is not ready", "create a deployment")


def test_a_fault_of_the_engine_is_an_internal_error_that_clients_do_not_repeat(live_server, model):
    answer = live_server.speak(model, "fail")
    assert_error(answer, 500, "InternalError", "the tone broke")
    assert answer.headers["x-should-retry"] == "false"


def test_characters_are_counted_by_the_rule_and_recorded(live_server, model):
    before = _characters(live_server, model)
    assert live_server.speak(model, "中A文123").json()["usage"] == {"characters": 8}
    ssml = live_server.speak(model, "<speak>你好</speak>", enable_ssml=True)
    assert ssml.json()["usage"] == {"characters": 4}
    assert _characters(live_server, model) == before + 12


def _characters(server, model):
    usage = output_of(server.client.get("/platform/v1/usage"))["synthesis"]
    return sum(item["characters"] for item in usage if item["model"] == model)


class TestStreaming:
    def test_the_chunks_are_the_file(self, live_server, model):
        events = _stream(live_server, model, "one two", format="pcm")
        pieces = [base64.b64decode(event["data"]["output"]["audio"]["data"]) for event in events]
        url = events[-1]["data"]["output"]["audio"]["url"]
        assert b"".join(pieces) == httpx.get(url).content
        assert len(b"".join(pieces)) == 2 * 4800

    def test_a_wav_streams_with_one_header_and_is_kept_with_true_sizes(self, live_server, model):
        events = _stream(live_server, model, "one two")
        sound = b"".join(base64.b64decode(event["data"]["output"]["audio"]["data"]) for event in events)
        assert sound.count(b"RIFF") == 1
        kept = httpx.get(events[-1]["data"]["output"]["audio"]["url"]).content
        assert kept[44:] == sound[44:]
        with wave.open(io.BytesIO(kept)) as file:
            assert file.getnframes() == 2 * 2400

    def test_events_come_in_the_order_and_frame_that_clients_parse(self, live_server, model):
        events = _stream(live_server, model, "one two", format="pcm")
        kinds = [event["data"]["output"].get("type") for event in events]
        sentence = ["sentence-begin", "sentence-synthesis", "sentence-end"]
        assert kinds == [*sentence, *sentence, None]
        assert [event["id"] for event in events] == [str(number) for number in range(1, 8)]
        assert {event["event"] for event in events} == {"result"}
        assert all(event["comments"] == [":HTTP_STATUS/200"] for event in events)
        assert [event["data"]["output"]["finish_reason"] for event in events] == ["null"] * 6 + ["stop"]
        assert [event["data"]["output"].get("original_text") for event in events[:3]] == ["one", None, "one"]
        assert [event["data"]["usage"]["characters"] for event in events] == [0, 0, 3, 3, 3, 6, 7]
        assert len({event["data"]["request_id"] for event in events}) == 1

    def test_words_come_with_the_end_of_their_sentence(self, live_server, model):
        events = _stream(live_server, model, "one two", format="pcm", word_timestamp_enabled=True)
        ends = [event for event in events if event["data"]["output"].get("type") == "sentence-end"]
        assert [event["data"]["output"]["sentence"] for event in ends] == [
            {"index": 0, "words": [_word("one", 0)]},
            {"index": 1, "words": [_word("two", 100)]},
        ]

    def test_where_the_time_went_is_told_on_ask_in_the_last_event(self, live_server, model):
        given = {"text": "one", "voice": "default", "format": "pcm", "word_timestamp_enabled": True}
        headers = {"X-DashScope-SSE": "enable", "X-CosyForge-Trace": "enable"}
        answer = live_server.client.post(PATH, json={"model": model, "input": given}, headers=headers)
        *_, last = [json.loads(line[5:]) for line in answer.text.splitlines() if line.startswith("data:")]
        assert last["output"]["trace"]["waterfall_ms"]["vocoder"] == TONE_TIMINGS_MS["vocoder"]

    def test_an_error_in_the_middle_is_an_error_event_in_both_spellings(self, live_server, model):
        *_, last = _stream(live_server, model, "one refuse", format="pcm")
        assert (last["event"], last["status"], last["comments"]) == ("error", "400", [":HTTP_STATUS/400"])
        assert last["data"]["code"] == "InvalidParameter"
        assert "not spoken here" in last["data"]["message"]


class TestSounds:
    MARKUP = '<speak>one <soundEvent src="{}"/> two</speak>'

    def test_an_address_in_our_own_network_is_refused(self, live_server, model):
        markup = self.MARKUP.format("http://127.0.0.1/a.wav")
        answer = live_server.speak(model, markup, enable_ssml=True)
        assert_error(answer, 400, "InvalidParameter", "SSML line 1, column 12", "soundEvent")

    def test_a_sound_that_may_be_had_is_fetched_and_forgotten(self, tmp_path):
        sound = wav_header(3200, 16000) + bytes(3200)
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(sound)))
                self.end_headers()
                self.wfile.write(sound)

            def log_message(self, *_):
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            server = LiveServer(tmp_path, fetch_allow=f"127.0.0.1:{web.server_port}").start()
            try:
                markup = self.MARKUP.format(f"http://127.0.0.1:{web.server_port}/a.wav")
                assert server.speak(BASE, markup, voice="alto", enable_ssml=True).status_code == 200
                assert asked == ["/a.wav"]
                assert list((server.data_dir / "sounds").iterdir()) == []
            finally:
                server.stop()
                web.shutdown()


def _word(text, begin_ms):
    return {"text": text, "begin_index": 0, "end_index": 3, "begin_time": begin_ms, "end_time": begin_ms + 100}


@pytest.mark.parametrize("sse", ["enable", "no"])
def test_a_request_that_takes_too_long_is_given_up(tmp_path, sse):
    server = LiveServer(tmp_path, request_timeout_s=1.5).start()
    try:
        wait_for(lambda: server.speak(BASE, voice="alto").status_code == 200, 120, "the model to be loaded")
        body = {"model": BASE, "input": {"text": "one " + "slow " * 50, "voice": "alto", "format": "pcm"}}
        answer = server.client.post(PATH, json=body, headers={"X-DashScope-SSE": sse})
        assert "RequestTimeOut" in answer.text
    finally:
        server.stop()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_request(live_server, model, stream):
    """A hundred slow words would keep the only replica busy for 100 s."""
    address = urlsplit(live_server.url)
    connection = socket.create_connection((address.hostname, address.port))
    text = "slow " * 100
    # without streaming the tone engine says nothing before the end, unless it is raw samples
    body = json.dumps({"model": model, "input": {"text": text, "voice": "default", "format": "pcm"}})
    sse = "X-DashScope-SSE: enable\r\n" if stream else ""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n{sse}Content-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body.encode())
    time.sleep(1)
    connection.close()
    started_at = time.monotonic()
    assert live_server.speak(model, "hello").status_code == 200
    assert time.monotonic() - started_at < 30
    wait_for(lambda: _staging(live_server) == [], 30, "the unfinished result to be removed")


def _staging(server):
    return list((server.data_dir / "artifacts" / ".staging").iterdir())


def test_many_requests_at_once_are_all_answered(live_server, model):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: live_server.speak(model, "hello world"), range(32)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["request_id"] for answer in answers}) == 32
