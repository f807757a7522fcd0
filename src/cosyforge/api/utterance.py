"""One request to speak on its way, whatever transport it came by: opened, read chunk by chunk, ended, accounted for.

A request that ends well is counted with every character of its text. One that was cancelled, abandoned or failed is
counted with the sentences that had begun to sound, because those were work and the rest was not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from cosyforge import metrics
from cosyforge.api.context import now
from cosyforge.api.envelope import wire_error
from cosyforge.api.rate_limits import RateLimits
from cosyforge.api.speech_parameters import resolve_voice
from cosyforge.billing.characters import count_characters
from cosyforge.bootstrap import Platform
from cosyforge.deployments.records import Deployment
from cosyforge.deployments.router import RoutedStream
from cosyforge.errors import InvalidParameter, PlatformError
from cosyforge.registry.api_keys import ApiKey
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

_log = structlog.get_logger()

OK = "OK"
WORK_PARTS = ("text", "lm", "flow", "vocoder", "encode")
"""Sums of work in `timings_ms`; the other entries there are moments."""


def client_left() -> PlatformError:
    """Why an utterance ends whose listener is gone."""
    return InvalidParameter("Client disconnected before task finished!", code="ClientDisconnect")


@dataclass(frozen=True)
class Origin:
    """Where a request came from, for the log. task_id: what the client calls it, over a socket."""

    transport: str
    request_id: str
    task_id: str = ""
    wants_trace: bool = False


class Utterance:
    """Read by one thread at a time; `cancel` may come from any."""

    def __init__(
        self,
        platform: Platform,
        caller: ApiKey,
        deployment: Deployment,
        request: SynthesisRequest,
        origin: Origin,
        text: str = "",
        asked_voice: str | None = None,
    ) -> None:
        self.platform = platform
        self.request = request
        self.deployment = deployment
        self.caller = caller
        self.origin = origin
        self.text = text
        """all of it, when it is known before the work begins, as markup always is"""
        self.num_characters = count_characters(text, is_ssml=request.enable_ssml)
        """counted characters of the text that was given"""
        self.num_spoken = 0
        """counted characters of the sentences that have begun"""
        self._asked_voice = asked_voice or request.voice
        self._report: dict[str, Any] = {}
        self._timings_ms: dict[str, float] = {}
        self.audio_s = 0.0
        self._num_bytes = 0
        self._lock = threading.Lock()
        self._stream: RoutedStream | None = None
        self._cancel_reason: PlatformError | None = None
        self._has_ended = False
        self._started_at = time.perf_counter()
        self._opened_at: float | None = None
        self._first_package_ms: float | None = None
        metrics.synthesis_in_flight.labels(deployment.deployed_model).inc()

    def open(self, text: Iterable[str]) -> None:
        """Fetch the sounds that the markup names, and start speaking on a replica.

        Raises: InvalidMarkup, NotReady, Throttled; the reason when it was cancelled
        """
        self._started_at = time.perf_counter()
        self._attach_sounds()
        stream = self.platform.router.synthesizer(self.deployment).synthesize(self.request, text)
        self._opened_at = time.perf_counter()
        with self._lock:
            self._stream = stream
            is_unwanted = self._cancel_reason is not None or self._has_ended
        if is_unwanted:
            stream.close()

    def next_chunk(self) -> AudioChunk | None:
        """The next piece, None at the end.

        Raises: the reason when it was cancelled; InvalidParameter, Internal from the engine
        """
        assert self._stream is not None
        chunk = next(self._stream, None)
        if self._cancel_reason is not None:
            raise self._cancel_reason
        if chunk is not None:
            self._note(chunk)
        return chunk

    def cancel(self, reason: PlatformError) -> None:
        """Stop the work at once and free its place; whoever reads gets the reason."""
        with self._lock:
            self._cancel_reason = self._cancel_reason or reason
            stream = self._stream
        if stream is not None:
            stream.close()

    def end(self, error: PlatformError | None = None) -> None:
        """Close, count the characters, write the line of the log; only the first call does."""
        with self._lock:
            has_ended, self._has_ended = self._has_ended, True
        if has_ended:
            return
        if self._stream is not None:
            self._stream.close()
        self.platform.sounds.release(self.request)
        num_characters = self.num_characters if error is None else min(self.num_spoken, self.num_characters)
        self._observe(num_characters, OK if error is None else wire_error(error)[1])
        self._log_line(num_characters, error)
        if num_characters:
            model = self.deployment.deployed_model
            self.platform.meter.add_characters(
                self.caller.workspace_id, self.request.request_id, model, num_characters, now()
            )

    def trace(self) -> dict[str, Any]:
        """Where the time went and what the engine had to say; complete after the last chunk."""
        return {
            "waterfall_ms": self._waterfall_ms(),
            "first_package_ms": self._first_package_ms,
            "rtf": self._rtf(),
            "resampled": self._report.get("resampled", 0),
            "failed_checks": self._report.get("failed_checks", []),
            "warnings": self._report.get("warnings", []),
        }

    def _attach_sounds(self) -> None:
        """We may be given up while we fetch; what came too late is dropped."""
        request = self.platform.sounds.attach(self.request, self.text, self._asked_voice)
        with self._lock:
            self.request = request
            has_ended = self._has_ended
        if has_ended:
            self.platform.sounds.release(request)
        if self._cancel_reason is not None:
            raise self._cancel_reason

    def _note(self, chunk: AudioChunk) -> None:
        if chunk.audio and self._first_package_ms is None:
            self._first_package_ms = round((time.perf_counter() - self._started_at) * 1000, 1)
        if chunk.is_sentence_begin:
            self.num_spoken += count_characters(chunk.sentence_text)
        self._num_bytes += len(chunk.audio)
        self.audio_s += chunk.duration_s
        self._timings_ms = chunk.timings_ms or self._timings_ms
        self._report = chunk.report or self._report

    def _waterfall_ms(self) -> dict[str, float]:
        """`queue` is the wait for a replica that takes the request, and for a turn of its engine."""
        routing_ms = 1000 * ((self._opened_at or time.perf_counter()) - self._started_at)
        queue_ms = routing_ms + self._timings_ms.get("queue", 0.0)
        rest = {part: spent for part, spent in self._timings_ms.items() if part not in ("queue", "total")}
        return {"queue": round(queue_ms, 1), **{part: round(spent, 1) for part, spent in rest.items()}}

    def _rtf(self) -> float | None:
        """Seconds of work per second of audio; the wall clock where an engine does not say what it worked."""
        if not self.audio_s:
            return None
        work_ms = sum(self._timings_ms.get(part, 0.0) for part in WORK_PARTS)
        spent_s = work_ms / 1000 or time.perf_counter() - self._started_at
        return round(spent_s / self.audio_s, 4)

    def _observe(self, num_characters: int, code: str) -> None:
        model, transport = self.deployment.deployed_model, self.origin.transport
        metrics.synthesis_in_flight.labels(model).dec()
        metrics.synthesis_requests.labels(model, transport, code).inc()
        metrics.synthesis_characters.labels(model).inc(num_characters)
        metrics.sentences_resampled.labels(model).inc(int(self._report.get("resampled", 0)))
        if self._first_package_ms is not None:
            metrics.first_package_seconds.labels(model, transport).observe(self._first_package_ms / 1000)
        rtf = self._rtf()
        if code == OK and rtf is not None:
            metrics.rtf.labels(model, transport).observe(rtf)
            for part, spent_ms in self._waterfall_ms().items():
                metrics.synthesis_part_seconds.labels(model, part).observe(spent_ms / 1000)

    def _log_line(self, num_characters: int, error: PlatformError | None) -> None:
        code = OK if error is None else wire_error(error)[1]
        _log.info(
            "speech",
            **_origin_fields(self.origin),
            model=self.deployment.deployed_model,
            replica=self._stream.replica_id if self._stream is not None else None,
            voice=self.request.voice,
            format=self.request.format,
            characters=num_characters,
            bytes=self._num_bytes,
            audio_s=round(self.audio_s, 3),
            total_ms=round((time.perf_counter() - self._started_at) * 1000, 1),
            error_code=None if error is None else code,
            error_message=None if error is None else error.message,
            **self.trace(),
        )


def log_refused(model: object, origin: Origin, error: PlatformError) -> None:
    """The line of a request that never reached a model. The metric has no name for a model that may not exist."""
    code = wire_error(error)[1]
    metrics.synthesis_requests.labels("", origin.transport, code).inc()
    named = model[:200] if isinstance(model, str) else None
    fields = {**_origin_fields(origin), "model": named, "characters": 0}
    _log.info("speech", **fields, error_code=code, error_message=error.message)


def _origin_fields(origin: Origin) -> dict[str, str]:
    fields = {"request_id": origin.request_id, "transport": origin.transport}
    return {**fields, "task_id": origin.task_id} if origin.task_id else fields


def find_voice(
    platform: Platform, caller: ApiKey, model: str, request: SynthesisRequest, rate_limits: RateLimits
) -> tuple[Deployment, SynthesisRequest]:
    """Who speaks for a model, and the request in that model's own words.

    Raises: ModelNotFound, AccessDenied, NotReady; InvalidParameter for a voice or an instruction it does not take;
        Throttled
    """
    deployment = platform.router.find(model, caller.workspace_id)
    request = resolve_voice(request, platform.base_voice_ids() if deployment.is_base else None)
    if deployment.is_builtin:  # the router keeps the limits of the others
        rate_limits.take_synthesis(caller, deployment)
    return deployment, request
