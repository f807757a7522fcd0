"""`make demo` without a server and without training: its packing, its calls, its reports, its way of failing."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import numpy as np
import pytest
import soundfile
import torch
from rich.console import Console

from cosyforge import demo, demo_progress
from cosyforge.dataset.manifest import read_manifest
from cosyforge.dataset.package import unpack
from cosyforge.demo_client import DashScope, DemoError, wait_for
from cosyforge.demo_progress import follow_job
from cosyforge.demo_recordings import DEMO_FOLDER, demo_recordings, pack, recordings_in
from cosyforge.demo_server import DemoServer
from cosyforge.evaluation.scorecard import Recording, count_phones
from cosyforge.evaluation.sentences import EVERYDAY

MODEL = "cosyvoice-v3-flash-ft-202605271743-dd2a"


class DocumentedPlatform:
    """Answers as the product document and the API reference print it; a job takes three looks, a deployment two."""

    def __init__(self, job_end: str = "SUCCEEDED") -> None:
        self.job_end = job_end
        self.calls: list[str] = []
        self.job_looks = 0
        self.deployment: dict[str, object] | None = None
        self.training_zip = b""
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(f"{request.method} {request.url.path}")
        for pattern, answer in self.routes():
            if re.fullmatch(pattern, self.calls[-1]):
                return answer(request)
        return refused(404, "NotFound", "Not found!")

    def routes(self) -> list[tuple[str, Callable[[httpx.Request], httpx.Response]]]:
        return [
            (r"POST /api/v1/files", self.upload),
            (
                r"POST /api/v1/fine-tunes",
                lambda request: ok({"job_id": "ft-1", "status": "PENDING", "finetuned_output": MODEL}),
            ),
            (r"GET /api/v1/fine-tunes/ft-1", self.job),
            (r"GET /api/v1/fine-tunes/ft-1/logs", self.logs),
            (r"GET /api/v1/fine-tunes/ft-1/checkpoints", lambda request: ok([{"checkpoint": "checkpoint-00120012"}])),
            (r"GET /api/v1/deployments/models", self.models),
            (r"POST /api/v1/deployments", self.deploy),
            (rf"GET /api/v1/deployments/{MODEL}", self.look),
            (rf"PUT /api/v1/deployments/{MODEL}/scale", self.scale),
            (rf"DELETE /api/v1/deployments/{MODEL}", self.delete),
            (r"POST /api/v1/services/audio/tts/SpeechSynthesizer", self.speak),
            (r"GET /audio/1\.wav", lambda request: httpx.Response(200, content=buzz())),
        ]

    def upload(self, request: httpx.Request) -> httpx.Response:
        body = request.read()
        assert request.headers["authorization"] == "Bearer sk-demo"
        assert b'name="files"; filename="train_data.zip"' in body
        assert b'name="purpose"\r\n\r\nfine-tune\r\n' in body
        self.training_zip = body[body.index(b"PK\x03\x04") : body.rindex(b"\r\n--")]
        uploaded = {"uploaded_files": [{"file_id": "f-1", "name": "train_data.zip"}], "failed_uploads": []}
        return httpx.Response(200, json={"request_id": "r", "data": uploaded})

    def job(self, request: httpx.Request) -> httpx.Response:
        self.job_looks += 1
        status = ["QUEUING", "RUNNING", self.job_end][min(self.job_looks - 1, 2)]
        output = {"job_id": "ft-1", "status": status, "finetuned_output": MODEL}
        if status == "FAILED":
            output |= {"code": "InvalidParameter", "message": "data.jsonl line 3: has no text [rule 1]"}
        return ok(output | ({"usage": 1234567} if status == "SUCCEEDED" else {}))

    def logs(self, request: httpx.Request) -> httpx.Response:
        lines = ["data process succeeded", "LM epoch 1/12 loss 3.21", "LM epoch 2/12 loss 2.95"][: self.job_looks]
        return ok({"total": len(lines), "logs": lines[int(request.url.params["offset"]) :]})

    def models(self, request: httpx.Request) -> httpx.Response:
        def template(template_id: str, units: int) -> dict[str, object]:
            role = {"model_unit_spec": template_id, "capacity_unit_per_instance": units}
            return {"template_name": template_id, "template_id": template_id, "roles": {"unified": role}}

        plans = [{"plan": "mu", "templates": [template("MU2", 8), template("dps-1", 1)]}]
        return ok({"models": [{"model_name": "other", "plans": []}, {"model_name": MODEL, "plans": plans}]})

    def deploy(self, request: httpx.Request) -> httpx.Response:
        assert json.loads(request.read()) == {
            "model_name": MODEL, "plan": "mu", "deploy_spec": "dps-1", "capacity": 1, "billing_method": "POST_PAY",
        }  # fmt: skip
        self.deployment = {"deployed_model": MODEL, "status": "PENDING", "capacity": 1, "ready_capacity": 0}
        return ok(self.deployment)

    def look(self, request: httpx.Request) -> httpx.Response:
        if self.deployment is None:
            return refused(404, "NotFound", "Not found!")
        answer = dict(self.deployment)
        self.deployment |= {"status": "RUNNING", "ready_capacity": self.deployment["capacity"]}
        return ok(answer)

    def scale(self, request: httpx.Request) -> httpx.Response:
        assert self.deployment is not None
        self.deployment |= {"status": "UPDATING", "capacity": json.loads(request.read())["capacity"]}
        return ok(self.deployment)

    def delete(self, request: httpx.Request) -> httpx.Response:
        self.deployment = None
        return ok({"deployed_model": MODEL, "status": "DELETING"})

    def speak(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.read())
        self.asked.append({"model": body["model"], **body["input"]})
        return ok({"finish_reason": "stop", "audio": {"data": "", "url": "http://platform/audio/1.wav", "id": "a"}})


class NoServer:
    """Stands where the demo's own server would be."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.address = "http://platform"
        self.api_key = "sk-demo"
        self.is_running = False

    def __enter__(self) -> Self:
        self.is_running = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_running = False

    def log_tail(self) -> str:
        return "the server's last words"


class DeafEar:
    def transcribe(self, samples: np.ndarray, sample_rate_hz: int) -> str:
        return "there is a large garden behind my house"


def ok(output: object) -> httpx.Response:
    return httpx.Response(200, json={"request_id": "r-1", "output": output})


def refused(status: int, code: str, message: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": message, "request_id": "r-2"})


def buzz() -> bytes:
    stream = io.BytesIO()
    wave = 0.3 * np.sign(np.sin(2 * np.pi * 110 * np.arange(24000) / 24000))
    soundfile.write(stream, wave, 24000, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def client(platform: Callable[[httpx.Request], httpx.Response]) -> DashScope:
    return DashScope("http://platform", "sk-demo", transport=httpx.MockTransport(platform))


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DocumentedPlatform:
    """The demo wired to the documented platform, with a small ear and no waiting."""
    torch.set_num_threads(1)
    platform = DocumentedPlatform()
    manifest = tmp_path / "model.json"
    manifest.write_text(json.dumps({"voices": {"alto": {}, "bass": {}}}))
    monkeypatch.setattr(demo, "BASE_MANIFEST", manifest)
    monkeypatch.setattr(demo, "DemoServer", NoServer)
    monkeypatch.setattr(demo, "DashScope", lambda address, api_key: client(platform))
    monkeypatch.setattr(demo, "PocketsphinxTranscriber", DeafEar)
    monkeypatch.setattr(demo_progress, "_POLL_S", 0.0)
    monkeypatch.setattr("cosyforge.demo_client.time.sleep", lambda seconds: None)
    return platform


# --- recordings and packing -------------------------------------------------------------------------------------------


def test_demo_recordings_fit_the_product_documents_rules_for_training_audio() -> None:
    train, heldout = demo_recordings("train"), demo_recordings("heldout")

    assert len(train) == 100
    assert len(heldout) == 12
    for clip in train + heldout:
        assert clip.sample_rate_hz >= 16000
        assert 2.0 <= len(clip.samples) / clip.sample_rate_hz <= 30.0
        assert count_phones(clip.text) is not None, f"a word of {clip.text!r} is in no dictionary"
    assert sum(len(clip.samples) / clip.sample_rate_hz for clip in train) > 240


def test_what_the_demo_says_and_compares_with_is_not_in_the_training_recordings() -> None:
    train = {clip.text for clip in demo_recordings("train")}
    heldout = {clip.text for clip in demo_recordings("heldout")}

    assert not train & heldout
    assert not train & set(EVERYDAY)
    assert set(demo.SENTENCES) <= heldout
    assert demo.SENTENCES[0] == "There is a large garden behind my house."


def test_every_recording_is_listed_and_every_listed_recording_is_there() -> None:
    listed = {
        json.loads(line)["flac"] for name in ("train", "heldout") for line in (DEMO_FOLDER / f"{name}.jsonl").open()
    }
    there = {str(path.relative_to(DEMO_FOLDER)) for path in DEMO_FOLDER.rglob("*.flac")}

    assert listed == there


def test_packed_zip_follows_the_document_and_keeps_every_sample(tmp_path: Path) -> None:
    clips = demo_recordings("heldout")[:3]

    pack(clips, tmp_path / "x.zip")

    names = zipfile.ZipFile(tmp_path / "x.zip").namelist()
    assert names == ["user_data/data.jsonl", *(f"user_data/train/10000{i}.wav" for i in (1, 2, 3))]
    samples, problems = read_manifest(unpack(tmp_path / "x.zip", tmp_path / "unpacked"))
    assert problems == []
    assert [sample.text for sample in samples] == [clip.text for clip in clips]
    for sample, clip in zip(samples, clips, strict=True):
        written, sample_rate_hz = soundfile.read(sample.path, dtype="float32")
        assert sample_rate_hz == clip.sample_rate_hz
        assert np.array_equal(written, clip.samples)


def test_packing_twice_gives_the_same_bytes_and_full_scale_does_not_wrap(tmp_path: Path) -> None:
    loud = [Recording(np.array([1.0, -1.0] * 8000, dtype=np.float32), 16000, "loud")]

    pack(loud, tmp_path / "a.zip")
    pack(loud, tmp_path / "b.zip")

    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert recordings_in(tmp_path / "a.zip", 5)[0].samples[:2] == pytest.approx([1.0, -1.0], abs=1e-4)


def test_a_persons_zip_lends_recordings_from_all_over_it(tmp_path: Path) -> None:
    pack([Recording(np.full(16000, 0.1, dtype=np.float32), 16000, f"text {i}") for i in range(9)], tmp_path / "x.zip")

    assert [clip.text for clip in recordings_in(tmp_path / "x.zip", 3)] == ["text 0", "text 3", "text 6"]
    assert len(recordings_in(tmp_path / "x.zip", 20)) == 9


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_refused_call_tells_what_where_and_which_request() -> None:
    with pytest.raises(DemoError, match=r"POST /api/v1/fine-tunes: HTTP 400 InvalidParameter: no \(request_id r-2\)"):
        client(lambda request: refused(400, "InvalidParameter", "no")).create_job("f", {})


def test_an_answer_that_is_no_json_is_told_and_not_parsed() -> None:
    with pytest.raises(DemoError, match="HTTP 502, and the answer is no JSON"):
        client(lambda request: httpx.Response(502, text="<html>")).job("ft-1")


def test_an_upload_that_was_refused_inside_of_a_good_answer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"PK")
    answer = {
        "uploaded_files": [],
        "failed_uploads": [{"name": "x.zip", "code": "BadRequest.TooLarge", "message": "full"}],
    }

    with pytest.raises(DemoError, match=r"BadRequest\.TooLarge"):
        client(lambda request: httpx.Response(200, json={"data": answer})).upload(tmp_path / "x.zip")


def test_a_deployment_that_is_gone_is_none_and_other_errors_are_raised() -> None:
    assert client(lambda request: refused(404, "NotFound", "Not found!")).deployment("x") is None
    with pytest.raises(DemoError, match="InternalError"):
        client(lambda request: refused(500, "InternalError", "broken")).deployment("x")


def test_waiting_ends_with_what_was_waited_for() -> None:
    with pytest.raises(DemoError, match="the moon: nothing after 0 s"):
        wait_for(lambda: None, seconds=0.0, every_s=0.0, what="the moon")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_following_a_job_shows_epochs_and_losses(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    monkeypatch.setattr(demo_progress, "_POLL_S", 0.0)
    screen = io.StringIO()

    job = follow_job(
        client(DocumentedPlatform()), "ft-1", 24, 60, Console(file=screen, force_terminal=is_terminal, width=100)
    )

    assert job["status"] == "SUCCEEDED"
    assert ("LM epoch 2, loss 2.95" if is_terminal else "LM epoch 2/12 loss 2.95\n") in screen.getvalue()


# --- the journey ------------------------------------------------------------------------------------------------------


def test_the_journey_goes_the_documents_way_and_leaves_sounds_picture_and_report(
    platform: DocumentedPlatform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: eval)")
    out_dir = tmp_path / "out"

    demo.run_demo(out_dir)

    calls = [call for i, call in enumerate(platform.calls) if i == 0 or call != platform.calls[i - 1]]
    assert calls[:2] == ["POST /api/v1/files", "POST /api/v1/fine-tunes"]
    assert calls.index(f"PUT /api/v1/deployments/{MODEL}/scale") < calls.index(f"DELETE /api/v1/deployments/{MODEL}")
    assert platform.deployment is None
    assert [(asked["model"], asked["voice"]) for asked in platform.asked[::6]] == [
        ("cosyvoice-v3-flash", "alto"),
        (MODEL, "default"),
    ]
    assert [asked["text"] for asked in platform.asked[6:]] == list(demo.SENTENCES)
    assert zipfile.ZipFile(io.BytesIO(platform.training_zip)).testzip() is None
    assert (out_dir / "tuned-1.wav").read_bytes() == buzz()
    assert (out_dir / "spectrograms.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((out_dir / "report.json").read_text())
    assert report["tokens"] == 1234567
    assert report["cost_cny"] == pytest.approx(246.91, abs=0.01)
    assert report["tuned"]["spoken"]["words"]["num_words"] == sum(len(text.split()) for text in demo.SENTENCES)
    printed = capsys.readouterr().out
    assert "1,234,567 training tokens" in printed
    assert str(out_dir) in printed.replace("\n", "")
    assert "make serve" in printed


def test_a_failed_job_ends_the_demo_with_its_message_and_the_servers_last_lines(
    platform: DocumentedPlatform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.job_end = "FAILED"

    with pytest.raises(SystemExit) as ended:
        demo.run_demo(tmp_path / "out")

    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "job ft-1 FAILED: data.jsonl line 3: has no text [rule 1]" in printed
    assert "the server's last words" in printed


def test_a_dataset_that_is_not_there_is_told_before_anything_starts(
    platform: DocumentedPlatform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        demo.run_demo(tmp_path / "out", tmp_path / "nothing.zip")

    assert "nothing.zip: no such file" in capsys.readouterr().out
    assert platform.calls == []


def test_a_server_that_cannot_start_is_told_with_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cosyforge.demo_server.COMMAND", ("-c", "import sys; sys.exit('no port is free')"))
    server = DemoServer(tmp_path / "server.log")

    with pytest.raises(DemoError, match=r"ended while it started \(exit status 1\)"), server:
        pass

    assert server.log_tail() == "no port is free"
