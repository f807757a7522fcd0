"""The work behind one task of a socket: its model, its text on the way to a replica, its audio on the way back."""

from __future__ import annotations

import asyncio
import math
import queue
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from cosyforge import metrics
from cosyforge.api.rate_limits import RateLimits
from cosyforge.api.speech_parameters import NO_TEXT, is_ssml
from cosyforge.api.utterance import Origin, Utterance, find_voice, log_refused
from cosyforge.billing.characters import count_characters
from cosyforge.bootstrap import Platform
from cosyforge.errors import Internal, InvalidParameter, PlatformError, ShuttingDown, Throttled
from cosyforge.registry.api_keys import ApiKey
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

_T = TypeVar("_T")


class TextQueue:
    """Pieces of text for a replica; iterated by a thread of the replica's client."""

    def __init__(self) -> None:
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def put(self, piece: str) -> None:
        self._pieces.put(piece)

    def end(self) -> None:
        self._pieces.put(None)

    def __iter__(self) -> Iterator[str]:
        while (piece := self._pieces.get()) is not None:
            yield piece


@dataclass(frozen=True)
class Gates:
    """What a task must pass. places: how many tasks may speak at the same time"""

    places: CapacityLimiter
    rate_limits: RateLimits


class SocketTask:
    """Text may be added from the start; a replica is not asked for before there is some, so that waiting costs nothing."""

    def __init__(
        self,
        platform: Platform,
        caller: ApiKey,
        model: str,
        request: SynthesisRequest,
        origin: Origin,
        gates: Gates,
    ) -> None:
        self.stop_reason: PlatformError | None = None
        self._platform = platform
        self._caller = caller
        self._model = model
        self._request = request
        self._origin = origin
        self._gates = gates
        self._texts = TextQueue()
        self._has_text = asyncio.Event()
        self._is_markup = False
        self._first_text = ""
        self._num_characters = 0
        self._utterance: Utterance | None = None
        self._has_ended = False
        self._threads = CapacityLimiter(math.inf)  # one at a time; the places are what is limited

    def add_text(self, text: str) -> None:
        """The empty text means: speak what is buffered."""
        if not self._has_text.is_set():
            self._is_markup = is_ssml(text, self._request.enable_ssml)
            self._first_text = text
        self._num_characters += count_characters(text, is_ssml=self._is_markup)
        self._texts.put(text)
        self._has_text.set()

    def end_text(self) -> None:
        self._texts.end()

    def stop(self, reason: PlatformError) -> None:
        """Free the replica at once; whoever waits for something of ours wakes up and gets the reason."""
        self.stop_reason = self.stop_reason or reason
        self._texts.end()
        self._has_text.set()
        if self._utterance is not None:
            self._utterance.cancel(reason)

    async def find(self) -> None:
        """Raises: as find_voice; Throttled, ShuttingDown; the reason when it was stopped"""
        if self._platform.is_stopping:
            raise ShuttingDown()
        self._gates.rate_limits.take_request(self._caller)
        deployment, request = await to_thread.run_sync(
            find_voice, self._platform, self._caller, self._model, self._request, self._gates.rate_limits
        )
        self._raise_if_stopped()
        self._utterance = Utterance(
            self._platform, self._caller, deployment, request, self._origin, asked_voice=self._request.voice
        )

    async def chunks(self) -> AsyncGenerator[AudioChunk, None]:
        """The audio, from the first text on.

        Raises: Throttled, NotReady, and as the engine; InvalidParameter when nothing was said; the reason when stopped
        """
        await self._has_text.wait()
        self._raise_if_stopped()
        utterance = self._utterance
        assert utterance is not None
        utterance.request = replace(utterance.request, enable_ssml=self._is_markup)
        utterance.text = self._first_text  # all of it when it is markup
        has_audio = False
        with self._taken_place():
            await self._in_thread(utterance.open, self._texts)
            while (chunk := await self._in_thread(utterance.next_chunk)) is not None:
                has_audio = has_audio or bool(chunk.audio)
                yield chunk
        if not has_audio:
            raise InvalidParameter(NO_TEXT)

    async def end(self, error: PlatformError | None = None) -> None:
        """Close, count, log; only the first call does, also while we are being cancelled."""
        if self._has_ended:
            return
        self._has_ended = True
        self._texts.end()
        error = self.stop_reason or error
        if self._utterance is None:
            log_refused(self._model, self._origin, error or Internal())
            return
        self._utterance.num_characters = self._num_characters
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._utterance.end, error)

    def trace(self) -> dict[str, Any]:
        assert self._utterance is not None
        return self._utterance.trace()

    @contextmanager
    def _taken_place(self) -> Iterator[None]:
        try:
            self._gates.places.acquire_on_behalf_of_nowait(self)
        except anyio.WouldBlock:
            metrics.throttled.labels("websocket_tasks").inc()
            raise Throttled() from None
        try:
            yield
        finally:
            self._gates.places.release_on_behalf_of(self)

    async def _in_thread(self, work: Callable[..., _T], *arguments: object) -> _T:
        """The thread is left behind when we are cancelled: it ends as soon as the stream is closed."""
        return await to_thread.run_sync(work, *arguments, limiter=self._threads, abandon_on_cancel=True)

    def _raise_if_stopped(self) -> None:
        if self.stop_reason is not None:
            raise self.stop_reason
