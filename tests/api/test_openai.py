"""What speaks OpenAI's language, by the official client: speech, models, voices."""

import base64
import json
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from fakes import KEY, wait_for, wav_header

openai = pytest.importorskip("openai", reason="the official client is not installed")

BASE = "cosyvoice-v3-flash"


@pytest.fixture(scope="module")
def model(live_server):
    model = live_server.train()["finetuned_output"]
    live_server.deploy(model)
    live_server.wait_for_deployment(model, "RUNNING")
    return model


@pytest.fixture(scope="module")
def client(live_server):
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def _speak(client, model, text="one two", voice="default", **options):
    return client.audio.speech.create(model=model, voice=voice, input=text, **options)


def test_a_tuned_model_speaks_with_its_voice(client, model):
    answer = _speak(client, model, response_format="pcm")
    assert len(answer.content) == 2 * 4800, "a tenth of a second at 24 kHz for each word"


@pytest.mark.parametrize(
    ("format", "media_type"),
    [
        ("aac", "audio/aac"),
        ("flac", "audio/flac"),
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("wav", "audio/wav"),
        ("pcm", "audio/pcm"),
        (None, "audio/mpeg"),
    ],
)
def test_formats(client, model, format, media_type):
    options = {} if format is None else {"response_format": format}
    answer = _speak(client, model, **options)
    assert answer.response.headers["content-type"] == media_type
    assert answer.response.headers["transfer-encoding"] == "chunked"
    header = wav_header(0x7FFFFF00, 24000) if format == "wav" else b""
    assert answer.content[: len(header)] == header
    assert len(answer.content) == len(header) + 9600


def test_the_base_model_speaks_with_its_presets(client):
    assert len(_speak(client, BASE, voice="alto", response_format="pcm").content) == 9600
    assert len(_speak(client, BASE, voice={"id": "longanhuan"}, response_format="pcm").content) == 9600


def test_the_body_comes_while_it_is_made(client, model):
    began = time.monotonic()
    with client.audio.speech.with_streaming_response.create(
        model=model, voice="default", input="one slow slow", response_format="pcm"
    ) as answer:
        pieces = [(len(piece), time.monotonic() - began) for piece in answer.iter_bytes(4800)]
    assert [size for size, _ in pieces] == [4800] * 3
    assert pieces[-1][1] - pieces[0][1] > 1.5, "the first word is heard two seconds before the last"


def test_events_carry_the_audio_on_ask(client, model):
    with client.audio.speech.with_streaming_response.create(
        model=model, voice="default", input="one two", response_format="pcm", stream_format="sse"
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert [event["type"] for event in events] == ["speech.audio.delta"] * 2 + ["speech.audio.done"]
    assert len(base64.b64decode(events[0]["audio"])) == 4800
    assert events[-1]["usage"] == {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}


def test_an_error_in_the_middle_of_events_is_an_event(client, model):
    with client.audio.speech.with_streaming_response.create(
        model=model, voice="default", input="one refuse", response_format="pcm", stream_format="sse"
    ) as answer:
        *_, last = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert "not spoken here" in last["error"]["message"]


def test_an_error_in_the_middle_of_the_audio_breaks_it_off(live_server, model):
    body = {"model": model, "voice": "default", "input": "one refuse", "response_format": "pcm"}
    with pytest.raises(httpx.RemoteProtocolError):
        live_server.client.post("/v1/audio/speech", json=body)


def test_our_own_parameters_may_be_given_too(client, model):
    answer = _speak(client, model, response_format="pcm", extra_body={"sample_rate": 8000, "seed": 7})
    assert len(answer.content) == 2 * 1600
    with pytest.raises(openai.BadRequestError, match="volume must be an integer"):
        _speak(client, model, extra_body={"volume": 101})


@pytest.mark.parametrize(
    ("options", "param", "part"),
    [
        ({"voice": "alloy"}, "voice", "voice must be one of default"),
        ({"voice": ""}, "voice", "GET /v1/audio/voices"),
        ({"response_format": "midi"}, "response_format", "must be one of mp3"),
        ({"speed": 4.0}, "speed", "speed must be a number in [0.5, 2.0]"),
        ({"speed": "fast"}, "speed", "speed must be a number"),
        ({"instructions": "Whisper."}, "instructions", "takes no such instructions"),
        ({"text": ""}, None, "Please ensure input text is valid."),
        ({"text": 7}, "input", "input must be the text"),
        ({"text": "字" * 10_001}, None, "at most 20000"),
        ({"stream_format": "video"}, "stream_format", "audio or sse"),
        ({"text": "refuse"}, None, "not spoken here"),
    ],
)
def test_what_is_wrong_is_said_in_their_shape(client, model, options, param, part):
    with pytest.raises(openai.BadRequestError) as caught:
        _speak(client, model, **options)
    error = caught.value
    assert (error.code, error.param, error.type) == ("InvalidParameter", param, "invalid_request_error")
    assert part in error.message
    assert error.request_id


def test_other_errors_have_their_classes(client, live_server, model):
    with pytest.raises(openai.NotFoundError) as caught:
        _speak(client, "nobody")
    assert caught.value.code == "ModelNotFound"
    with pytest.raises(openai.InternalServerError, match="the tone broke"):
        _speak(client, model, "fail")
    with pytest.raises(openai.BadRequestError, match="Model is not ready"):
        _speak(client, live_server.train()["finetuned_output"])
    stranger = openai.OpenAI(base_url=f"{live_server.url}/v1", api_key="sk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "InvalidApiKey"


def test_the_base_takes_instructions_of_a_sentence(client, model):
    _speak(client, BASE, voice="alto", instructions="Whisper.")
    with pytest.raises(openai.BadRequestError, match="in fewer words"):
        _speak(client, BASE, voice="alto", instructions="x" * 101)


def test_models_are_those_that_can_be_spoken_with(client, live_server, model):
    waiting = live_server.train()["finetuned_output"]
    listed = {item.id: item for item in client.models.list()}
    assert {BASE, model} <= set(listed)
    assert waiting not in listed, "not deployed"
    assert (listed[BASE].owned_by, listed[BASE].object) == ("cosyforge", "model")
    assert abs(listed[model].created - time.time()) < 3600
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_voices_tell_their_models(live_server, model):
    voices = live_server.client.get("/v1/audio/voices").json()["voices"]
    assert {"id": "alto", "name": "alto", "model": BASE} in voices
    assert {"id": "default", "name": "default", "model": model} in voices
    only = live_server.client.get("/v1/audio/voices", params={"model": model}).json()["voices"]
    assert only == [{"id": "default", "name": "default", "model": model}]


def test_a_client_that_leaves_stops_the_work(live_server, model):
    address = urlsplit(live_server.url)
    body = json.dumps({"model": model, "voice": "default", "input": "one " + "slow " * 100, "response_format": "pcm"})
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall((head + body).encode())
        answer = b""
        while len(answer) < 4800:
            answer += connection.recv(65536)
    request_id = answer.partition(b"x-request-id: ")[2][:36].decode()

    def lines():
        found = [json.loads(line) for line in live_server.log().splitlines() if '"event": "speech"' in line]
        return [line for line in found if line["request_id"] == request_id]

    wait_for(lambda: lines() != [], 60, "the line of the request")
    assert lines()[0]["error_code"] == "ClientDisconnect"
