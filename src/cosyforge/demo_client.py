"""The product document's HTTP calls as `make demo` needs them: a client like any other, with no view of our insides."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

T = TypeVar("T")
Json = dict[str, Any]

_ANSWER_S = 300.0
"""The service's own limit for one request."""


class DemoError(Exception):
    """The journey cannot go on; the message says where it stopped and why."""


class DashScope:
    """One server and one key. Every method is one call and gives its `output` (files: `data`).

    Raises (all methods): DemoError with the call, the status, code, message and request id
    """

    def __init__(self, address: str, api_key: str, transport: httpx.BaseTransport | None = None) -> None:
        self._http = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=_ANSWER_S,
            # the server is on this machine: a proxy from the environment has no business here
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def upload(self, package: Path) -> str:
        """Send a training zip; gives its file id."""
        with package.open("rb") as stream:
            files = {"files": (package.name, stream, "application/zip")}
            body = self._call("POST", "/api/v1/files", data={"purpose": "fine-tune"}, files=files)
        uploaded, refused = body["data"]["uploaded_files"], body["data"]["failed_uploads"]
        if not uploaded:
            raise DemoError(f"{package}: the upload was refused: {refused}")
        return str(uploaded[0]["file_id"])

    def create_job(self, file_id: str, hyper_parameters: dict[str, int]) -> Json:
        body = {
            "model": "cosyvoice-v3-flash",
            "training_type": "efficient_sft",
            "training_file_ids": [file_id],
            "hyper_parameters": hyper_parameters,
        }
        return self._output("POST", "/api/v1/fine-tunes", json=body)

    def job(self, job_id: str) -> Json:
        return self._output("GET", f"/api/v1/fine-tunes/{job_id}")

    def logs(self, job_id: str, offset: int) -> list[str]:
        """Give the log lines after the first `offset` ones, at most 1,000."""
        params = {"offset": offset, "line": 1000}
        return list(self._output("GET", f"/api/v1/fine-tunes/{job_id}/logs", params=params)["logs"])

    def checkpoints(self, job_id: str) -> list[Json]:
        return list(self._call("GET", f"/api/v1/fine-tunes/{job_id}/checkpoints")["output"])

    def deployable_models(self) -> list[Json]:
        params: dict[str, str | int] = {"page_no": 1, "page_size": 100, "version": "v1.0", "model_source": "custom"}
        return list(self._output("GET", "/api/v1/deployments/models", params=params)["models"])

    def deploy(self, model_name: str, deploy_spec: str, capacity: int) -> Json:
        body = {
            "model_name": model_name,
            "plan": "mu",
            "deploy_spec": deploy_spec,
            "capacity": capacity,
            "billing_method": "POST_PAY",
        }
        return self._output("POST", "/api/v1/deployments", json=body)

    def deployment(self, deployed_model: str) -> Json | None:
        """Look at a deployment; None when there is none (any more)."""
        response = self._send("GET", f"/api/v1/deployments/{deployed_model}")
        return None if response.status_code == httpx.codes.NOT_FOUND else _body(response)["output"]

    def scale(self, deployed_model: str, capacity: int) -> Json:
        return self._output("PUT", f"/api/v1/deployments/{deployed_model}/scale", json={"capacity": capacity})

    def delete_deployment(self, deployed_model: str) -> Json:
        return self._output("DELETE", f"/api/v1/deployments/{deployed_model}")

    def speak(self, model: str, voice: str, text: str) -> bytes:
        """Say a text; gives the WAV file behind the link of the answer."""
        asked = {"text": text, "voice": voice, "format": "wav", "sample_rate": 24000}
        body = {"model": model, "input": asked}
        output = self._output("POST", "/api/v1/services/audio/tts/SpeechSynthesizer", json=body)
        response = self._send("GET", output["audio"]["url"])
        if response.is_error:
            raise DemoError(f"GET {response.url}: the audio could not be fetched (HTTP {response.status_code})")
        return response.content

    def is_healthy(self) -> bool:
        try:
            return self._http.get("/healthz", timeout=2.0).is_success
        except httpx.TransportError:
            return False

    def _output(self, method: str, path: str, **options: Any) -> Json:
        return dict(self._call(method, path, **options)["output"])

    def _call(self, method: str, path: str, **options: Any) -> Json:
        return _body(self._send(method, path, **options))

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise DemoError(f"{method} {path}: no answer from the server ({error})") from error


def wait_for(check: Callable[[], T | None], *, seconds: float, every_s: float, what: str) -> T:
    """Ask again and again until `check` gives something.

    Raises: DemoError when the time is over
    """
    deadline = time.monotonic() + seconds
    while (answer := check()) is None:
        if time.monotonic() > deadline:
            raise DemoError(f"{what}: nothing after {seconds:.0f} s")
        time.sleep(every_s)
    return answer


def _body(response: httpx.Response) -> Json:
    call = f"{response.request.method} {response.request.url.path}"
    try:
        body = response.json()
    except ValueError as error:
        raise DemoError(f"{call}: HTTP {response.status_code}, and the answer is no JSON") from error
    if not response.is_success:
        told = f"{body.get('code')}: {body.get('message')} (request_id {body.get('request_id')})"
        raise DemoError(f"{call}: HTTP {response.status_code} {told}")
    return dict(body)
