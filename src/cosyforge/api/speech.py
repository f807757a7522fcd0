"""Speech over HTTP: one text in; a link to the audio, or its pieces as server-sent events, out."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from cosyforge.api.context import Caller, PlatformParameter, link_to, now
from cosyforge.api.envelope import answer, error_body, server_sent_event, wire_error
from cosyforge.api.speech_parameters import MAX_TEXT_CHARACTERS, NO_TEXT, check_voice, is_ssml, parse_parameters
from cosyforge.billing.characters import count_characters
from cosyforge.bootstrap import Platform
from cosyforge.deployments.records import Deployment
from cosyforge.deployments.router import RoutedStream
from cosyforge.errors import Internal, InvalidParameter, PlatformError
from cosyforge.registry.api_keys import ApiKey
from cosyforge.store.artifacts import ArtifactWriter, new_artifact
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

router = APIRouter(tags=["speech"])
_log = structlog.get_logger()
_T = TypeVar("_T")


@router.post("/api/v1/services/audio/tts/SpeechSynthesizer")
async def synthesize(request: Request, platform: PlatformParameter, caller: Caller) -> Response:
    speech = _parse(await _json_object(request), request, platform, caller)
    limiter: CapacityLimiter = request.app.state.synthesis_limiter
    if speech.request.streaming:
        return await _events(request, speech, limiter)
    with new_artifact(platform.artifacts) as writer:
        await _watched(request, speech, limiter, lambda: speech.speak_to(writer))
        await to_thread.run_sync(speech.keep, writer)
    output = {"finish_reason": "stop", "audio": speech.audio_json(request)}
    return answer(request, output, usage={"characters": speech.num_characters})


class Speech:
    """One request on its way: checked, found a deployment, being spoken. `cancel` may come from any thread."""

    def __init__(
        self, platform: Platform, caller: ApiKey, deployment: Deployment, request: SynthesisRequest, text: str
    ) -> None:
        self.platform = platform
        self.request = request
        self.text = text
        self.num_characters = count_characters(text, is_ssml=request.enable_ssml)
        self.expires_at = int(time.time()) + platform.settings.url_lifetime_s
        self._caller = caller
        self._deployment = deployment
        self._lock = threading.Lock()
        self._stream: RoutedStream | None = None
        self._cancel_reason: PlatformError | None = None
        self._started_at = time.perf_counter()
        self._first_package_ms: float | None = None

    @property
    def artifact(self) -> str:
        return f"results/{now():%Y%m%d}/{self.request.request_id}.{self.request.format}"

    def open(self) -> None:
        """Raises: NotReady, Throttled"""
        stream = self.platform.router.synthesizer(self._deployment).synthesize(self.request, [self.text])
        with self._lock:
            self._stream = stream
            is_canceled = self._cancel_reason is not None
        if is_canceled:
            stream.close()

    def next_chunk(self) -> AudioChunk | None:
        """The next piece, None at the end.

        Raises: the reason when it was cancelled; InvalidParameter, Internal from the engine
        """
        assert self._stream is not None
        chunk = next(self._stream, None)
        if self._cancel_reason is not None:
            raise self._cancel_reason
        if chunk is not None and chunk.audio and self._first_package_ms is None:
            self._first_package_ms = (time.perf_counter() - self._started_at) * 1000
        return chunk

    def speak_to(self, writer: ArtifactWriter) -> None:
        """Collect the whole audio."""
        self.open()
        while (chunk := self.next_chunk()) is not None:
            writer.write(chunk.audio)
        self.require_audio(writer)

    def require_audio(self, writer: ArtifactWriter) -> None:
        if not writer.size:
            raise InvalidParameter(NO_TEXT)

    def keep(self, writer: ArtifactWriter) -> None:
        """Make the audio available under its link, and count it."""
        writer.commit(self.artifact)
        self.count(self.num_characters)
        _log.info(
            "spoken",
            model=self._deployment.deployed_model,
            characters=self.num_characters,
            bytes=writer.size,
            first_package_ms=self._first_package_ms and round(self._first_package_ms, 1),
            total_ms=round((time.perf_counter() - self._started_at) * 1000, 1),
        )

    def count(self, num_characters: int) -> None:
        self.platform.meter.add_characters(
            self._caller.workspace_id, self.request.request_id, self._deployment.deployed_model, num_characters, now()
        )

    def cancel(self, reason: PlatformError) -> None:
        with self._lock:
            self._cancel_reason = self._cancel_reason or reason
            stream = self._stream
        if stream is not None:
            stream.close()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def audio_json(self, request: Request, data: str = "", *, with_url: bool = True) -> dict[str, Any]:
        audio = {"data": data, "id": f"audio_{self.request.request_id}", "expires_at": self.expires_at}
        if with_url:
            audio["url"] = link_to(self.platform, request, self.artifact, self.expires_at)
        return audio


async def _json_object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise InvalidParameter("The body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise InvalidParameter("The body must be a JSON object.")
    return body


def _parse(body: dict[str, Any], request: Request, platform: Platform, caller: ApiKey) -> Speech:
    """Raises: InvalidParameter, ModelNotFound, AccessDenied, NotReady"""
    model, given = body.get("model"), body.get("input")
    if not isinstance(model, str) or not model:
        raise InvalidParameter("model is missing.")
    if not isinstance(given, dict):
        raise InvalidParameter("task can not be null")
    values = {**_object(body.get("parameters")), **given}  # some callers put the tuning fields beside the input
    text = values.get("text")
    if not isinstance(text, str):
        raise InvalidParameter("task can not be null")
    streaming = request.headers.get("x-dashscope-sse", "").lower() == "enable"
    asked = parse_parameters(values, request_id=request.state.request_id, streaming=streaming)
    asked = replace(asked, enable_ssml=is_ssml(text, asked.enable_ssml))
    deployment = platform.router.find(model, caller.workspace_id)
    check_voice(asked, is_base=deployment.is_builtin, base_voices=platform.base_voices())
    speech = Speech(platform, caller, deployment, asked, text)
    if not text.strip():
        raise InvalidParameter(NO_TEXT)
    if speech.num_characters > MAX_TEXT_CHARACTERS:
        raise InvalidParameter(
            f"text has {speech.num_characters} characters; at most {MAX_TEXT_CHARACTERS} can be spoken at once."
        )
    return speech


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


async def _watched(request: Request, speech: Speech, limiter: CapacityLimiter, work: Callable[[], _T]) -> _T:
    """Do blocking work in a thread; when the client leaves or the time is over, cancel what is being spoken."""

    async def watch() -> None:
        with anyio.move_on_after(speech.platform.settings.request_timeout_s):
            while (await request.receive())["type"] != "http.disconnect":
                pass
            speech.cancel(InvalidParameter("Client disconnected before task finished!", code="ClientDisconnect"))
            return
        speech.cancel(Internal("The request took too long.", code="RequestTimeOut"))

    problem: PlatformError | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        try:
            result = await to_thread.run_sync(work, limiter=limiter)
        except PlatformError as error:
            problem = error  # raised outside the group, which would wrap it
        group.cancel_scope.cancel()
    speech.close()
    if problem is not None:
        raise problem
    return result


async def _events(request: Request, speech: Speech, limiter: CapacityLimiter) -> Response:
    """Start speaking; an error before the first sound is a plain JSON answer, which every client understands."""

    def first() -> AudioChunk | None:
        speech.open()
        return speech.next_chunk()

    chunk = await _watched_start(request, speech, limiter, first)
    stream = _event_stream(request, speech, limiter, chunk)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-cache"})


async def _watched_start(
    request: Request, speech: Speech, limiter: CapacityLimiter, first: Callable[[], AudioChunk | None]
) -> AudioChunk | None:
    try:
        return await to_thread.run_sync(first, limiter=limiter)
    except PlatformError:
        speech.close()
        raise


async def _event_stream(
    request: Request, speech: Speech, limiter: CapacityLimiter, chunk: AudioChunk | None
) -> AsyncIterator[bytes]:
    events = _EventWriter(request, speech)
    deadline = time.monotonic() + speech.platform.settings.request_timeout_s
    try:
        with new_artifact(speech.platform.artifacts) as writer:
            while chunk is not None:
                writer.write(chunk.audio)
                for event in events.of_chunk(chunk):
                    yield event
                if time.monotonic() > deadline:
                    raise Internal("The request took too long.", code="RequestTimeOut")
                # abandoned when the client leaves: the thread ends as soon as the stream is closed below
                chunk = await to_thread.run_sync(speech.next_chunk, limiter=limiter, abandon_on_cancel=True)
            speech.require_audio(writer)
            await to_thread.run_sync(_keep_streamed, speech, writer)
        yield events.last()
    except PlatformError as error:
        yield events.error(error)
    finally:
        speech.close()


def _keep_streamed(speech: Speech, writer: ArtifactWriter) -> None:
    if speech.request.format == "wav":
        writer.flush()
        fix_wav_sizes(writer.path)
    speech.keep(writer)


class _EventWriter:
    """What is said about a chunk, and at the end."""

    def __init__(self, request: Request, speech: Speech) -> None:
        self._request = request
        self._speech = speech
        self._number = 0
        self._num_characters = 0

    def of_chunk(self, chunk: AudioChunk) -> list[bytes]:
        events = []
        sentence = {"index": chunk.sentence_index, "words": []}
        if chunk.is_sentence_begin:
            events.append(self._result("sentence-begin", sentence, chunk.sentence_text))
        if chunk.audio:
            data = base64.b64encode(chunk.audio).decode()
            events.append(self._result("sentence-synthesis", sentence, data=data))
        if chunk.is_sentence_end:
            spoken = self._num_characters + count_characters(chunk.sentence_text)
            self._num_characters = min(spoken, self._speech.num_characters)
            events.append(self._result("sentence-end", sentence, chunk.sentence_text))
        return events

    def last(self) -> bytes:
        """Without a type, by which clients know it."""
        output = {"finish_reason": "stop", "audio": self._speech.audio_json(self._request)}
        return self._event("result", 200, self._body(output, self._speech.num_characters))

    def error(self, error: PlatformError) -> bytes:
        status, code = wire_error(error)
        return self._event("error", status, error_body(self._speech.request.request_id, code, error.message))

    def _result(self, kind: str, sentence: dict[str, Any], text: str | None = None, data: str = "") -> bytes:
        output: dict[str, Any] = {"finish_reason": "null", "type": kind}
        if text is not None:
            output["original_text"] = text
        output |= {"sentence": sentence, "audio": self._speech.audio_json(self._request, data, with_url=False)}
        return self._event("result", 200, self._body(output, self._num_characters))

    def _body(self, output: dict[str, Any], num_characters: int) -> dict[str, Any]:
        request_id = self._speech.request.request_id
        return {"request_id": request_id, "output": output, "usage": {"characters": num_characters}}

    def _event(self, kind: str, status: int, body: dict[str, Any]) -> bytes:
        self._number += 1
        return server_sent_event(self._number, kind, status, body)


def fix_wav_sizes(path: Path) -> None:
    """Write the true sizes into a WAV file whose header was sent before its length was known.

    Raises: ValueError when the file has no data chunk
    """
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(struct.pack("<I", size - 8))
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, chunk_size = struct.unpack("<4sI", head)
            if name == b"data":
                file.seek(-4, 1)
                file.write(struct.pack("<I", size - file.tell() - 4))
                return
            file.seek(chunk_size + chunk_size % 2, 1)
    raise ValueError(f"{path} has no data chunk")
