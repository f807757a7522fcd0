"""The frames of the duplex protocol: what a client may say, and how we say things to it. No state, no I/O."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from cosyforge.api.envelope import wire_error
from cosyforge.errors import InvalidParameter, PlatformError

RUN, CONTINUE, FINISH = "run-task", "continue-task", "finish-task"
ACTIONS = (RUN, CONTINUE, FINISH)
NO_TASK = "task can not be null"

_UNKEEPABLE = re.compile(r"\\u(0000|[dD][89a-fA-F])")
_SERVICE = {"task_group": "audio", "task": "tts", "function": "SpeechSynthesizer"}


class Malformed(ValueError):
    """Not a message at all; the socket is closed, as there is no task to tell."""


@dataclass(frozen=True)
class Message:
    """One frame of a client, read but not judged."""

    action: str
    task_id: str
    payload: Any


@dataclass(frozen=True)
class RunTask:
    """What run-task asks for."""

    model: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Text:
    """What continue-task brings: text, or the wish to hear what is buffered, or both."""

    text: str
    is_flush: bool


def read_message(frame: str) -> Message:
    """Raises: Malformed when the frame is no JSON object with a header"""
    try:
        contents = json.loads(frame)
    except ValueError as error:
        raise Malformed("The frame is not valid JSON.") from error
    except RecursionError as error:
        raise Malformed("The frame is nested too deeply.") from error
    if _UNKEEPABLE.search(frame):
        _refuse_unkeepable(contents)
    header = contents.get("header") if isinstance(contents, dict) else None
    if not isinstance(header, dict):
        raise Malformed("The frame must be a JSON object with a header.")
    action, task_id = header.get("action"), header.get("task_id")
    return Message(
        action if isinstance(action, str) else "",
        task_id if isinstance(task_id, str) else "",
        contents.get("payload"),
    )


def _refuse_unkeepable(contents: Any) -> None:
    """What no answer could echo and no database keep: NUL, and halves of surrogate pairs. Without recursion."""
    waiting = [contents]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in item):
            raise Malformed("The frame has NUL characters or halves of surrogate pairs.")


def check_header(message: Message) -> None:
    """Raises: InvalidParameter naming what is missing"""
    if not message.action:
        raise _missing("header.action")
    if not message.task_id:
        raise _missing("header.task_id")
    if message.action not in ACTIONS:
        raise InvalidParameter(f"header.action must be one of {', '.join(ACTIONS)} (got {message.action[:50]}).")


def read_run(payload: Any) -> RunTask:
    """Raises: InvalidParameter naming the key that is missing or wrong"""
    if not isinstance(payload, dict):
        raise _missing("payload")
    for key in ("model", *_SERVICE):
        if not isinstance(payload.get(key), str) or not payload[key]:
            raise _missing(f"payload.{key}")
    for key, wanted in _SERVICE.items():
        if payload[key] != wanted:
            raise InvalidParameter(f"payload.{key} must be {wanted} (got {payload[key][:50]}).")
    given = _input(payload)
    if given.get("text"):
        raise InvalidParameter("payload.input of run-task must be empty; send the text by continue-task.")
    parameters = payload.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise InvalidParameter("payload.parameters must be an object.")
    return RunTask(payload["model"], parameters or {})


def read_text(payload: Any) -> Text:
    """Raises: InvalidParameter when there is neither text nor a flush"""
    given = _input(payload)
    text, flush = given.get("text"), given.get("flush")
    if flush is not None and not isinstance(flush, bool):
        raise InvalidParameter("payload.input.flush must be true or false.")
    if not isinstance(text, str) and not (text is None and flush):
        raise InvalidParameter(NO_TASK)
    return Text(text or "", bool(flush))


def read_finish(payload: Any) -> bool:
    """Whether the rest is not wanted.

    Raises: InvalidParameter for a directive that nobody knows
    """
    directive = _input(payload).get("directive")
    if directive not in (None, "", "cancel"):
        raise InvalidParameter(f"payload.input.directive must be cancel or absent (got {directive!r:.50}).")
    return directive == "cancel"


def _input(payload: Any) -> dict[str, Any]:
    given = payload.get("input") if isinstance(payload, dict) else None
    if not isinstance(given, dict):
        raise InvalidParameter(NO_TASK)
    return given


def _missing(name: str) -> InvalidParameter:
    return InvalidParameter(f"Missing required parameter '{name}'! Please follow the protocol!")


# ---- what we say


def started(task_id: str) -> dict[str, Any]:
    return _event(task_id, "task-started", {})


def generated(task_id: str, output: dict[str, Any], num_characters: int | None = None) -> dict[str, Any]:
    payload: dict[str, Any] = {"output": output}
    if num_characters is not None:
        payload["usage"] = {"characters": num_characters}
    return _event(task_id, "result-generated", payload)


def finished(
    task_id: str, words: list[dict[str, Any]], num_characters: int, attributes: dict[str, Any]
) -> dict[str, Any]:
    payload = {"output": {"sentence": {"words": words}}, "usage": {"characters": num_characters}}
    return _event(task_id, "task-finished", payload, attributes=attributes)


def failed(task_id: str, error: PlatformError) -> dict[str, Any]:
    _, code = wire_error(error)
    return _event(task_id, "task-failed", {}, error_code=code, error_message=error.message)


def _event(task_id: str, event: str, payload: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"header": {"task_id": task_id, "event": event, "attributes": {}, **more}, "payload": payload}
