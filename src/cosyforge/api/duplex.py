"""The duplex protocol of one socket as data and transitions: frames, sounds and moments come in, effects go out.

    no task --run-task--> checking --accepted--> speaking --last chunk--> no task (the socket may be used again)
                 any of them --error--> closed

It does no I/O and has no clock: whoever holds it passes `now` (seconds of any steady clock), carries the effects out in
their order, and calls `tick` at the `deadline`. Tasks are numbered, so that what comes late from one that was dropped is
known for what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cosyforge.api import duplex_messages as messages
from cosyforge.api.duplex_messages import Malformed, Message
from cosyforge.api.speech_events import words_json
from cosyforge.api.speech_parameters import MAX_TEXT_CHARACTERS, NO_TEXT, check_length, is_ssml, parse_parameters
from cosyforge.billing.characters import count_characters
from cosyforge.errors import Internal, InvalidParameter, PlatformError
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest, Word

MAX_TASK_CHARACTERS = 200_000
ONE_TEXT = "Text request limit violated, expected 1."
NORMAL, GOING_AWAY, NO_BINARY, NOT_A_MESSAGE = 1000, 1001, 1003, 1007
"""codes of closing, RFC 6455 section 7.4.1"""


@dataclass(frozen=True)
class Rules:
    """text_gap_s: longest silence of a client that may still send text; idle_s: how long a socket stays after a task;
    stall_s: how long the rest of a task may make no progress; account: who speaks"""

    text_gap_s: float = 23.0
    idle_s: float = 60.0
    stall_s: float = 300.0
    account: str = ""


# ---- effects


@dataclass(frozen=True)
class Send:
    """A text frame, and right behind it the audio, if any, as one binary frame; nothing may come between.

    number: the task whose Stop makes this worthless; 0 for what is said in any case
    """

    event: dict[str, Any]
    audio: bytes = b""
    number: int = 0


@dataclass(frozen=True)
class Check:
    """Find who speaks for the model, then tell by `accepted` or `failed`."""

    number: int
    task_id: str
    model: str
    request: SynthesisRequest


@dataclass(frozen=True)
class Speak:
    """More text; the empty text means: speak what is buffered."""

    number: int
    text: str


@dataclass(frozen=True)
class EndText:
    number: int


@dataclass(frozen=True)
class Stop:
    """Stop the work of a task, and forget what carries its number and was not sent yet."""

    number: int
    reason: PlatformError


@dataclass(frozen=True)
class Close:
    code: int
    reason: str


Effect = Send | Check | Speak | EndText | Stop | Close


@dataclass
class _Task:
    number: int
    task_id: str
    request: SynthesisRequest
    last_text_at: float
    is_accepted: bool = False
    is_canceled: bool = False
    ended_at: float | None = None
    """when the text ended"""
    progress_at: float = 0.0
    num_texts: int = 0
    has_text: bool = False
    """something other than spaces"""
    num_characters: int = 0
    num_spoken: int = 0
    has_audio: bool = False
    words: list[Word] = field(default_factory=list)


class Duplex:
    """One socket's conversation. Every method returns the effects, to be carried out in their order."""

    def __init__(self, rules: Rules, new_request_id: Callable[[], str]) -> None:
        self._rules = rules
        self._new_request_id = new_request_id
        self._task: _Task | None = None
        self._num_tasks = 0
        self._past_id = ""
        self._idle_since: float | None = None
        self._is_retiring = False
        self.is_closed = False

    @property
    def deadline(self) -> float | None:
        """After this moment `tick` has something to do; None while nothing is waited for."""
        task = self._task
        if self.is_closed:
            return None
        if task is None:
            # a socket that never ran a task was opened in advance, which clients do to save time
            return None if self._idle_since is None else self._idle_since + self._rules.idle_s
        if not task.is_accepted:
            return None
        if task.ended_at is None:
            return task.last_text_at + self._rules.text_gap_s
        return max(task.ended_at, task.progress_at) + self._rules.stall_s

    # ---- the client

    def receive(self, frame: str, now: float) -> list[Effect]:
        """A text frame has come."""
        if self.is_closed:
            return []
        try:
            message = messages.read_message(frame)
        except Malformed as error:
            return self._close(NOT_A_MESSAGE, str(error))
        try:
            return self._act(message, now)
        except PlatformError as error:
            return self._fail(error, message.task_id)

    def receive_binary(self) -> list[Effect]:
        """Sounds of the client are not for us."""
        return (
            [] if self.is_closed else self._close(NO_BINARY, "Send text frames; binary ones are not understood here.")
        )

    def gone(self) -> list[Effect]:
        """The client has hung up."""
        effects = self._drop(InvalidParameter("Client disconnected before task finished!", code="ClientDisconnect"))
        self.is_closed = True
        return effects

    def retire(self) -> list[Effect]:
        """The server is stopping: close as soon as no task runs."""
        self._is_retiring = True
        if self.is_closed or self._task is not None:
            return []
        return self._close(GOING_AWAY, "the server is stopping")

    # ---- those who work for us

    def accepted(self, number: int, now: float) -> list[Effect]:
        """The model was found and takes the request."""
        task = self._of(number)
        if task is None or task.is_accepted:
            return []
        task.is_accepted = True
        task.last_text_at = task.progress_at = now
        effects: list[Effect] = [Send(messages.started(task.task_id))]
        return effects + (self._cancel(task, now) if task.is_canceled else [])

    def chunk(self, number: int, chunk: AudioChunk, now: float) -> list[Effect]:
        """The next piece of audio of a task."""
        task = self._of(number)
        if task is None or not task.is_accepted:
            return []
        task.progress_at = now
        task.has_audio = task.has_audio or bool(chunk.audio)
        sentence: dict[str, Any] = {"index": chunk.sentence_index, "words": []}
        effects: list[Effect] = []
        if chunk.is_sentence_begin:
            task.num_spoken += count_characters(chunk.sentence_text)
            output = {"type": "sentence-begin", "original_text": chunk.sentence_text, "sentence": sentence}
            effects.append(Send(messages.generated(task.task_id, output), number=number))
        if chunk.audio:
            output = {"type": "sentence-synthesis", "sentence": sentence}
            effects.append(Send(messages.generated(task.task_id, output), chunk.audio, number))
        if chunk.is_sentence_end:
            task.words += chunk.words
            spoken = {**sentence, "words": words_json(chunk.words)}
            output = {"type": "sentence-end", "original_text": chunk.sentence_text, "sentence": spoken}
            effects.append(Send(messages.generated(task.task_id, output, _spoken_characters(task)), number=number))
        return effects

    def finished(self, number: int, now: float, attributes: dict[str, Any] | None = None) -> list[Effect]:
        """Everything was said."""
        task = self._of(number)
        if task is None or not task.is_accepted:
            return []
        if not task.has_audio:
            return self._fail(InvalidParameter(NO_TEXT))
        return self._finish(task, task.num_characters, now, attributes or {})

    def failed(self, number: int, error: PlatformError) -> list[Effect]:
        """The model is not to be had, or the work went wrong."""
        if self._of(number) is None:
            return []
        return self._fail(error)

    # ---- time

    def tick(self, now: float) -> list[Effect]:
        """Act on what has taken too long; before the deadline there is nothing to do."""
        deadline, task = self.deadline, self._task
        if deadline is None or now <= deadline:
            return []
        if task is None:
            return self._close(NORMAL, f"idle for {self._rules.idle_s:g} seconds after a task")
        if task.ended_at is None:
            return self._fail(InvalidParameter(f"request timeout after {self._rules.text_gap_s:g} seconds."))
        return self._fail(Internal("The request took too long.", code="RequestTimeOut"))

    # ---- transitions

    def _of(self, number: int) -> _Task | None:
        """The task that runs, when it is this one; others were dropped."""
        return self._task if self._task is not None and self._task.number == number else None

    def _act(self, message: Message, now: float) -> list[Effect]:
        messages.check_header(message)
        if message.action == messages.RUN:
            return self._run(message, now)
        task = self._task
        if task is None or task.task_id != message.task_id:
            if message.task_id == self._past_id:
                return []  # it crossed our answer on the way
            raise InvalidParameter(f"No task {message.task_id[:64]} is running here; begin with {messages.RUN}.")
        if message.action == messages.CONTINUE:
            return self._continue(task, message, now)
        return self._end_text(task, message, now)

    def _run(self, message: Message, now: float) -> list[Effect]:
        """A task that still runs gives way without a word."""
        effects = self._drop(InvalidParameter("Another task has begun on the same connection.", code="Replaced"))
        try:
            asked = messages.read_run(message.payload)
            request = parse_parameters(
                asked.parameters, request_id=self._new_request_id(), streaming=True, account=self._rules.account
            )
        except PlatformError as error:
            return effects + self._fail(error, message.task_id)
        self._num_tasks += 1
        self._task = _Task(self._num_tasks, message.task_id, request, now)
        return [*effects, Check(self._num_tasks, message.task_id, asked.model, request)]

    def _continue(self, task: _Task, message: Message, now: float) -> list[Effect]:
        given = messages.read_text(message.payload)
        if task.ended_at is not None or task.is_canceled:
            raise InvalidParameter(f"{messages.CONTINUE} came after {messages.FINISH}; begin another task.")
        task.last_text_at = now
        effects: list[Effect] = []
        if given.text:
            self._take_text(task, given.text)
            effects.append(Speak(task.number, given.text))
        if given.is_flush and task.has_text:
            effects.append(Speak(task.number, ""))
        return effects

    def _take_text(self, task: _Task, text: str) -> None:
        if task.request.enable_ssml and task.num_texts:
            raise InvalidParameter(ONE_TEXT)
        num_characters = count_characters(text, is_ssml=is_ssml(text, task.request.enable_ssml))
        check_length(num_characters, MAX_TEXT_CHARACTERS, f"the text of a {messages.CONTINUE}")
        check_length(task.num_characters + num_characters, MAX_TASK_CHARACTERS, "the text of the task")
        task.num_texts += 1
        task.num_characters += num_characters
        task.has_text = task.has_text or bool(text.strip())

    def _end_text(self, task: _Task, message: Message, now: float) -> list[Effect]:
        if messages.read_finish(message.payload):
            task.is_canceled = True
            return self._cancel(task, now) if task.is_accepted else []
        if task.ended_at is not None or task.is_canceled:
            return []  # said twice
        if not task.has_text:
            raise InvalidParameter(NO_TEXT)
        task.ended_at = now
        return [EndText(task.number)]

    def _cancel(self, task: _Task, now: float) -> list[Effect]:
        stop = Stop(task.number, InvalidParameter("The task was cancelled.", code="Canceled"))
        return [stop, *self._finish(task, _spoken_characters(task), now, {})]

    def _finish(self, task: _Task, num_characters: int, now: float, attributes: dict[str, Any]) -> list[Effect]:
        attributes = {"request_uuid": task.request.request_id, **attributes}
        self._task, self._past_id, self._idle_since = None, task.task_id, now
        answer = Send(messages.finished(task.task_id, words_json(task.words), num_characters, attributes))
        return [answer, *(self.retire() if self._is_retiring else [])]

    def _fail(self, error: PlatformError, task_id: str = "") -> list[Effect]:
        """Tell the task that runs, else the one that the client named, and close."""
        named = self._task.task_id if self._task is not None else task_id
        stops = self._drop(error)
        return [*stops, Send(messages.failed(named, error)), *self._close(NORMAL, "task-failed")]

    def _close(self, code: int, reason: str) -> list[Effect]:
        effects = self._drop(InvalidParameter(f"The connection was closed: {reason}"))
        self.is_closed = True
        return [*effects, Close(code, reason)]

    def _drop(self, reason: PlatformError) -> list[Effect]:
        """Forget the task that runs, if any."""
        task, self._task = self._task, None
        if task is None:
            return []
        self._past_id = task.task_id
        return [Stop(task.number, reason)]


def _spoken_characters(task: _Task) -> int:
    return min(task.num_spoken, task.num_characters)
