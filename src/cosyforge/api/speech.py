"""Speech over HTTP: one text in; a link to the audio, or its pieces as server-sent events, out."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from anyio import CancelScope, CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from cosyforge.api.context import Caller, PlatformParameter, link_to, now
from cosyforge.api.envelope import answer
from cosyforge.api.speech_events import EventWriter
from cosyforge.api.speech_parameters import NO_TEXT
from cosyforge.api.speech_request import (
    TRACE_HEADER,
    end,
    first_chunk,
    in_thread,
    json_object,
    parse_speech,
    watched,
)
from cosyforge.api.utterance import Utterance
from cosyforge.api.wav_sizes import fix_wav_sizes
from cosyforge.errors import Internal, InvalidParameter, PlatformError
from cosyforge.store.artifacts import ArtifactWriter, new_artifact
from cosyforge.synthesis.request import AudioChunk

router = APIRouter(tags=["speech"])


@router.post("/api/v1/services/audio/tts/SpeechSynthesizer")
async def synthesize(request: Request, platform: PlatformParameter, caller: Caller) -> Response:
    """Speak a text. With `X-DashScope-SSE: enable` the pieces come as events, else one answer with a link."""
    utterance = await parse_speech(request, await json_object(request), platform, caller)
    limiter: CapacityLimiter = request.app.state.synthesis_limiter
    result = Result(request, utterance)
    if utterance.request.streaming:
        return await _events(request, utterance, result, limiter)
    try:
        async with watched(request.receive, utterance):
            await in_thread(utterance, limiter, result.speak)
        await end(utterance)
    finally:
        await end(utterance, Internal())  # for what nobody foresaw; harmless after another end
    output = {"finish_reason": "stop", "audio": result.audio_json()}
    response = answer(request, output, usage={"characters": utterance.num_characters})
    if utterance.origin.wants_trace:
        response.headers[TRACE_HEADER] = json.dumps(utterance.trace())
    return response


class Result:
    """The file that an utterance becomes, and the link to it."""

    def __init__(self, request: Request, utterance: Utterance) -> None:
        self._request = request
        self._utterance = utterance
        self._expires_at = int(time.time()) + utterance.platform.settings.url_lifetime_s
        asked = utterance.request
        self._artifact = f"results/{now():%Y%m%d}/{asked.request_id}.{asked.format}"

    def speak(self) -> None:
        """Collect the whole audio and make it available.

        Raises: as Utterance.open and next_chunk
        """
        utterance = self._utterance
        with new_artifact(utterance.platform.artifacts) as writer:
            utterance.open([utterance.text])
            while (chunk := utterance.next_chunk()) is not None:
                writer.write(chunk.audio)
            self.keep(writer)

    def keep(self, writer: ArtifactWriter) -> None:
        """Raises: InvalidParameter when nothing was said"""
        if not writer.size:
            raise InvalidParameter(NO_TEXT)
        asked = self._utterance.request
        if asked.streaming and asked.format == "wav":
            writer.flush()
            fix_wav_sizes(writer.path)
        writer.commit(self._artifact)

    def audio_json(self, data: str = "", *, with_url: bool = True) -> dict[str, Any]:
        utterance = self._utterance
        audio = {"data": data, "id": f"audio_{utterance.request.request_id}", "expires_at": self._expires_at}
        if with_url:
            audio["url"] = link_to(utterance.platform, self._request, self._artifact, self._expires_at)
        return audio


class SpokenStream(StreamingResponse):
    """Pieces of an utterance as they come. The client's leaving stops the work; nothing depends on the next piece."""

    def __init__(
        self, utterance: Utterance, pieces: AsyncGenerator[bytes, None], media_type: str, headers: dict[str, str]
    ) -> None:
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._utterance = utterance
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with watched(receive, self._utterance):
                await self.stream_response(send)
        except PlatformError:
            pass  # logged with the utterance; the body ends in the middle, which is how a client learns of it
        finally:
            await end(self._utterance, Internal())
            with CancelScope(shield=True):
                await self._pieces.aclose()


async def _events(request: Request, utterance: Utterance, result: Result, limiter: CapacityLimiter) -> Response:
    """An error before the first sound is a plain JSON answer, which every client understands."""
    chunk = await first_chunk(request, utterance, limiter)
    events = EventWriter(utterance, result.audio_json)
    stream = _event_stream(utterance, result, events, limiter, chunk)
    return SpokenStream(utterance, stream, "text/event-stream", {"cache-control": "no-cache"})


async def _event_stream(
    utterance: Utterance, result: Result, events: EventWriter, limiter: CapacityLimiter, first: AudioChunk | None
) -> AsyncGenerator[bytes, None]:
    try:
        with new_artifact(utterance.platform.artifacts) as writer:
            async with aclosing(chunks(utterance, limiter, first)) as pieces:
                async for chunk in pieces:
                    await to_thread.run_sync(writer.write, chunk.audio)
                    for event in events.of_chunk(chunk):
                        yield event
            await in_thread(utterance, limiter, lambda: result.keep(writer))
        await end(utterance)
        yield events.last()
    except PlatformError as error:
        yield events.error(error)


async def chunks(
    utterance: Utterance, limiter: CapacityLimiter, first: AudioChunk | None
) -> AsyncGenerator[AudioChunk, None]:
    """The first piece and those after it; the utterance has ended when this raises.

    Raises: as Utterance.next_chunk
    """
    chunk = first
    while chunk is not None:
        yield chunk
        chunk = await in_thread(utterance, limiter, utterance.next_chunk)
