"""Speech by the official Python SDK 2.0.2, unchanged: its 1.x classes over both transports, and its 2.x client."""

import io
import threading
import time
import wave

import httpx
import pytest

from fakes import KEY, LiveServer, wait_for, wav_header

dashscope = pytest.importorskip("dashscope", reason="the official SDK is not installed")

from dashscope.audio.http_tts import HttpSpeechSynthesizer  # noqa: E402
from dashscope.audio.tts_v2 import (  # noqa: E402
    AudioFormat,
    ResultCallback,
    SpeechSynthesizer,
    SpeechSynthesizerObjectPool,
)
from dashscope.common.error import RequestFailure  # noqa: E402
from dashscope.v2 import Client, WsConnection  # noqa: E402
from dashscope.v2.errors import DashScopeError  # noqa: E402

GARDEN = "There is a large garden behind my house."

# The product document's sample, "Real-time (Python WebSocket)", as printed.
SAMPLE = """# coding=utf-8
import os
import dashscope
from dashscope.audio.tts_v2 import *

dashscope.api_key = os.environ.get('DASHSCOPE_API_KEY')
dashscope.base_websocket_api_url = 'wss://dashscope.aliyuncs.com/api-ws/v1/inference'

# Replace with the deployed_model from the deployment response; voice is fixed to "default"
model = "<replace with the deployed_model from the deployment response>"
voice = "default"

synthesizer = SpeechSynthesizer(model=model, voice=voice)
audio = synthesizer.call("There is a large garden behind my house.")

print('[Metric] requestId: {}, first-package latency: {} ms'.format(
    synthesizer.get_last_request_id(),
    synthesizer.get_first_package_delay()))

with open('output.mp3', 'wb') as f:
    f.write(audio)
"""


@pytest.fixture(scope="module")
def model(live_server):
    model = live_server.train()["finetuned_output"]
    live_server.deploy(model)
    live_server.wait_for_deployment(model, "RUNNING")
    return model


def _socket_url(server):
    return server.url.replace("http", "ws") + "/api-ws/v1/inference"


@pytest.fixture(autouse=True)
def sdk(live_server, monkeypatch):
    monkeypatch.setattr(dashscope, "base_http_api_url", f"{live_server.url}/api/v1")
    monkeypatch.setattr(dashscope, "base_websocket_api_url", _socket_url(live_server))
    monkeypatch.setattr(dashscope, "api_key", KEY)


class Ear(ResultCallback):
    """Remembers everything that a callback hears."""

    def __init__(self):
        self.calls, self.audio, self.pieces = [], b"", []
        self.has_audio, self.is_closed = threading.Event(), threading.Event()

    def on_open(self):
        self.calls.append("open")

    def on_complete(self):
        self.calls.append("complete")

    def on_error(self, message):
        self.calls.append(f"error {message}")

    def on_close(self):
        self.calls.append("close")
        self.is_closed.set()

    def on_event(self, message):
        self.calls.append("event")

    def on_data(self, data):
        self.pieces.append(data)
        self.audio += data
        self.has_audio.set()


class TestSocket1x:
    def test_the_sample_of_the_product_document(self, live_server, model, tmp_path, monkeypatch, capsys):
        """Only host and model are changed; the key comes from the environment, as printed."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DASHSCOPE_API_KEY", KEY)
        sample = SAMPLE.replace("wss://dashscope.aliyuncs.com/api-ws/v1/inference", _socket_url(live_server))
        sample = sample.replace("<replace with the deployed_model from the deployment response>", model)
        names = {}
        exec(compile(sample, "sample.py", "exec"), names)
        # the tone engine gives raw samples whatever the format: eight words of 0.1 s at 22050 Hz, the default
        assert (tmp_path / "output.mp3").read_bytes() == names["audio"]
        assert len(names["audio"]) == 8 * 2205 * 2
        printed = capsys.readouterr().out
        assert printed.startswith("[Metric] requestId: ")
        request_id = printed.split()[2].rstrip(",")
        assert len(request_id) == 32
        wait_for(lambda: f'"task_id": "{request_id}"' in live_server.log(), 60, "the line of the task")
        assert float(printed.split()[-2]) > 0
        response = names["synthesizer"].get_response()
        assert response["payload"]["usage"] == {"characters": 40}

    def test_streaming_with_a_callback(self, model):
        ear = Ear()
        synthesizer = SpeechSynthesizer(model, "default", AudioFormat.PCM_24000HZ_MONO_16BIT, callback=ear)
        synthesizer.streaming_call("one ")
        assert ear.has_audio.wait(60), "heard while more text is to come"
        synthesizer.streaming_call("two ")
        synthesizer.streaming_flush()
        synthesizer.streaming_call("three")
        synthesizer.streaming_complete()
        assert ear.is_closed.wait(60)
        assert [len(piece) for piece in ear.pieces] == [4800] * 3
        assert (ear.calls[0], ear.calls[-2:]) == ("open", ["complete", "close"])
        assert ear.calls.count("event") == 9

    def test_call_with_a_callback_returns_at_once(self, model):
        ear = Ear()
        synthesizer = SpeechSynthesizer(model, "default", AudioFormat.PCM_24000HZ_MONO_16BIT, callback=ear)
        assert synthesizer.call("one two") is None
        assert ear.is_closed.wait(60)
        assert len(ear.audio) == 9600

    def test_opus(self, model):
        synthesizer = SpeechSynthesizer(model, "default", AudioFormat.OGG_OPUS_24KHZ_MONO_64KBPS)
        assert len(synthesizer.call("one two")) == 9600

    def test_canceling(self, model):
        ear = Ear()
        synthesizer = SpeechSynthesizer(model, "default", AudioFormat.PCM_24000HZ_MONO_16BIT, callback=ear)
        synthesizer.streaming_call("one " + "slow " * 100)
        assert ear.has_audio.wait(60)
        began = time.monotonic()
        synthesizer.streaming_cancel()
        assert time.monotonic() - began < 9, "it was answered; the SDK gives up after 10 s"
        assert ear.calls[-2:] == ["complete", "close"]

    @pytest.mark.parametrize(
        ("options", "text", "name", "message"),
        [
            ({"voice": "longanyang"}, "one", "InvalidParameter", "[tts:]Engine return error code: 418"),
            ({"instruction": "Slowly."}, "one", "InvalidParameter", "[tts:]Engine return error code: 428"),
            ({"model": "nobody"}, "one", "ModelNotFound", "Model can not be found."),
            ({}, "one refuse", "InvalidParameter", "This word is not spoken here."),
            ({}, " ", "InvalidParameter", "Please ensure input text is valid."),
        ],
    )
    def test_failures_are_raised(self, model, options, text, name, message):
        synthesizer = SpeechSynthesizer(**{"model": model, "voice": "default", **options})
        with pytest.raises(RequestFailure) as caught:
            synthesizer.call(text)
        assert (caught.value.http_code, caught.value.name, caught.value.message) == (44, name, message)
        assert caught.value.request_id == synthesizer.get_last_request_id()

    def test_a_failure_reaches_the_callback(self, model):
        ear = Ear()
        synthesizer = SpeechSynthesizer(model, "default", callback=ear)
        synthesizer.streaming_call("one fail")
        synthesizer.streaming_complete()
        assert ear.is_closed.wait(60)
        assert "InternalError" in next(call for call in ear.calls if call.startswith("error"))

    def test_a_second_text_with_ssml(self, model):
        ear = Ear()
        options = {"callback": ear, "additional_params": {"enable_ssml": True}}
        synthesizer = SpeechSynthesizer(model, "default", AudioFormat.PCM_24000HZ_MONO_16BIT, **options)
        synthesizer.streaming_call("<speak>one</speak>")
        synthesizer.streaming_call("<speak>two</speak>")
        assert ear.is_closed.wait(60)
        assert "Text request limit violated, expected 1." in next(call for call in ear.calls if "error" in call)

    def test_a_pool_of_connections_opened_in_advance(self, live_server, model):
        pool = SpeechSynthesizerObjectPool(max_size=1, url=_socket_url(live_server))
        connections = set()
        try:
            for _ in range(2):
                synthesizer = pool.borrow_synthesizer(model, "default", AudioFormat.WAV_24000HZ_MONO_16BIT)
                audio = synthesizer.call("one")
                assert (audio[:4], len(audio)) == (b"RIFF", 44 + 4800)
                connections.add(id(synthesizer.ws))
                pool.return_synthesizer(synthesizer)
        finally:
            pool.shutdown()
        assert len(connections) == 1, "both tasks ran on the same one"

    def test_a_wrong_key_never_connects(self, model, monkeypatch):
        monkeypatch.setattr(dashscope, "api_key", "sk-wrong")
        with pytest.raises(TimeoutError, match="could not established"):
            SpeechSynthesizer(model, "default").call("one")

    def test_a_pause_that_is_too_long(self, tmp_path):
        """24 s against 23 s, at a fifteenth of the pace; the exact limit is tested without a clock elsewhere."""
        server = LiveServer(tmp_path, websocket_text_gap_s=1.5).start()
        try:
            ear = Ear()
            synthesizer = SpeechSynthesizer("cosyvoice-v3-flash", "alto", callback=ear, url=_socket_url(server))
            synthesizer.streaming_call("one ")
            assert ear.is_closed.wait(60)
            (error,) = [call for call in ear.calls if call.startswith("error")]
            assert "request timeout after 1.5 seconds." in error
            assert "InvalidParameter" in error
        finally:
            server.stop()


class TestHttp1x:
    def _call(self, model, text=GARDEN, **options):
        return HttpSpeechSynthesizer.call(model=model, text=text, voice="default", **options)

    def test_plain(self, model):
        result = self._call(model)
        assert (result.status_code, result.usage["characters"]) == (200, 40)
        assert result.audio_id == f"audio_{result.request_id}"
        with wave.open(io.BytesIO(httpx.get(result.audio_url).content)) as sound:
            assert (sound.getframerate(), sound.getnframes()) == (24000, 8 * 2400)

    def test_streaming(self, model):
        *pieces, last = self._call(model, audio_format="pcm", stream=True)
        assert len(pieces) == 8, "one for each word"
        assert b"".join(piece.audio_data for piece in pieces) == last.audio_data
        assert httpx.get(last.audio_url).content == last.audio_data

    def test_errors(self, model):
        result = HttpSpeechSynthesizer.call(model=model, text="hello", voice="longanyang")
        assert (result.status_code, result.code) == (400, "InvalidParameter")
        assert result.message == "[tts:]Engine return error code: 418"
        with pytest.raises(RuntimeError, match="400"):
            list(self._call(model, "one refuse", audio_format="pcm", stream=True))

    def test_a_wrong_key(self, model, monkeypatch):
        monkeypatch.setattr(dashscope, "api_key", "sk-wrong")
        result = self._call(model)
        assert (result.status_code, result.code) == (401, "InvalidApiKey")


class TestClient2x:
    @pytest.fixture
    def client(self, live_server):
        return Client(
            api_key=KEY,
            base_url=f"{live_server.url}/api/v1",
            max_retries=0,
        )

    def test_plain(self, client, model):
        result = client.audio.tts.http.synthesize(GARDEN, model=model, voice="default", format="wav")
        assert result.usage == {"characters": 40}
        with wave.open(io.BytesIO(httpx.get(result.audio_url).content)) as sound:
            assert (sound.getframerate(), sound.getnframes()) == (22050, 8 * 2205)

    def test_events(self, client, model):
        stream = client.audio.tts.http.stream("one two", model=model, voice="default", format="wav", sample_rate=24000)
        *pieces, last = list(stream)
        audio = b"".join(piece.audio for piece in pieces if piece.audio)
        assert audio[:44] == wav_header(0x7FFFFF00, 24000)
        assert last.is_final
        assert httpx.get(last.audio_url).content[44:] == audio[44:]
        assert pieces[0].sentence["index"] == 0

    def test_socket(self, client, model, live_server):
        with client.audio.tts.connect(
            model=model, voice="default", format="pcm", sample_rate=24000, ws_url=_socket_url(live_server)
        ) as session:
            session.send_text("one ")
            events = session.events()
            while not isinstance(next(events), bytes):
                pass
            session.send_text("two")
            session.flush()
            session.stop()
            rest = list(events)
            assert [len(item) for item in rest if isinstance(item, bytes)] == [4800]
            assert session.usage == {"characters": 7}
            assert session.first_package_delay > 0

    def test_socket_with_ssml_switched_on_and_cancel(self, client, model, live_server):
        with client.audio.tts.connect(
            model=model, voice="default", format="pcm", enable_ssml=True, ws_url=_socket_url(live_server)
        ) as session:
            session.send_text("one " + "slow " * 100)
            chunks = session.audio_chunks()
            assert next(chunks)
            session.stop()
            session.cancel()
            assert len(list(chunks)) < 5
            assert session.last_response["header"]["event"] == "task-finished"

    def test_two_tasks_on_one_connection(self, client, model, live_server):
        connection = WsConnection(url=_socket_url(live_server), api_key=KEY, timeout=60)
        try:
            for _ in range(2):
                with client.audio.tts.connect(
                    model=model, voice="default", format="wav", sample_rate=24000, connection=connection
                ) as session:
                    session.send_text("one")
                    session.stop()
                    audio = b"".join(session.audio_chunks())
                assert audio[:4] == b"RIFF"
                assert len(audio) == 44 + 4800
        finally:
            connection.close()

    def test_errors(self, client, model, live_server):
        with pytest.raises(DashScopeError, match="418"):
            client.audio.tts.http.synthesize("one", model=model, voice="longanyang")
        with pytest.raises(DashScopeError, match="not spoken here"):
            list(client.audio.tts.http.stream("one refuse", model=model, voice="default", format="pcm"))
        with pytest.raises(DashScopeError, match="428"):
            client.audio.tts.synthesize(
                "one", model=model, voice="default", parameters={"instruction": "x"}, ws_url=_socket_url(live_server)
            )

    def test_a_wrong_key(self, model, live_server):
        client = Client(api_key="sk-wrong", base_url=f"{live_server.url}/api/v1", max_retries=0)
        with pytest.raises(DashScopeError, match="Invalid API-key"):
            client.audio.tts.http.synthesize("one", model=model, voice="default")
        with pytest.raises(Exception, match="401"):
            client.audio.tts.synthesize("one", model=model, voice="default", ws_url=_socket_url(live_server))
