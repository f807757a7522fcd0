"""What is said about the pieces of an utterance while they come: server-sent events, and the words that both transports show."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import Any

from cosyforge.api.envelope import error_body, server_sent_event, wire_error
from cosyforge.api.utterance import Utterance
from cosyforge.errors import PlatformError
from cosyforge.synthesis.request import AudioChunk, Word

AudioJson = Callable[..., dict[str, Any]]
"""(data, with_url) -> the `audio` object of an answer"""


def words_json(words: Iterable[Word]) -> list[dict[str, Any]]:
    """Units: times in ms from the beginning of the audio; end_index is the position after the last character"""
    return [
        {
            "text": word.text,
            "begin_index": word.begin_index,
            "end_index": word.end_index,
            "begin_time": word.begin_ms,
            "end_time": word.end_ms,
        }
        for word in words
    ]


class EventWriter:
    """The events of one utterance in DashScope's framing, numbered."""

    def __init__(self, utterance: Utterance, audio_json: AudioJson) -> None:
        self._utterance = utterance
        self._audio_json = audio_json
        self._number = 0
        self._num_characters = 0

    def of_chunk(self, chunk: AudioChunk) -> list[bytes]:
        events = []
        sentence: dict[str, Any] = {"index": chunk.sentence_index, "words": []}
        if chunk.is_sentence_begin:
            events.append(self._result("sentence-begin", sentence, chunk.sentence_text))
        if chunk.audio:
            data = base64.b64encode(chunk.audio).decode()
            events.append(self._result("sentence-synthesis", sentence, data=data))
        if chunk.is_sentence_end:
            self._num_characters = min(self._utterance.num_spoken, self._utterance.num_characters)
            spoken = {**sentence, "words": words_json(chunk.words)}
            events.append(self._result("sentence-end", spoken, chunk.sentence_text))
        return events

    def last(self) -> bytes:
        """Without a type, by which clients know it."""
        output: dict[str, Any] = {"finish_reason": "stop", "audio": self._audio_json()}
        if self._utterance.origin.wants_trace:
            output["trace"] = self._utterance.trace()
        return self._event("result", 200, self._body(output, self._utterance.num_characters))

    def error(self, error: PlatformError) -> bytes:
        status, code = wire_error(error)
        body = error_body(self._utterance.request.request_id, code, error.message)
        return self._event("error", status, body)

    def _result(self, kind: str, sentence: dict[str, Any], text: str | None = None, data: str = "") -> bytes:
        output: dict[str, Any] = {"finish_reason": "null", "type": kind}
        if text is not None:
            output["original_text"] = text
        output |= {"sentence": sentence, "audio": self._audio_json(data, with_url=False)}
        return self._event("result", 200, self._body(output, self._num_characters))

    def _body(self, output: dict[str, Any], num_characters: int) -> dict[str, Any]:
        request_id = self._utterance.request.request_id
        return {"request_id": request_id, "output": output, "usage": {"characters": num_characters}}

    def _event(self, kind: str, status: int, body: dict[str, Any]) -> bytes:
        self._number += 1
        return server_sent_event(self._number, kind, status, body)
