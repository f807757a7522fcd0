"""One engine in its own process: `python -m cosyforge.deployments.replica SPEC.json`.

The bridge between the platform and synthesis: it loads one model, listens on a Unix socket and speaks for whoever
connects. It knows no database and no HTTP.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosyforge.deployments.frames import chunk_to_frame, error_to_frame, receive_frame, send_frame
from cosyforge.errors import Internal, PlatformError
from cosyforge.jobs.process import die_with_parent
from cosyforge.jobs.worker import load_attribute
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest, Synthesizer


@dataclass(frozen=True)
class ReplicaSpec:
    """Everything a replica needs to know; written by the backend, read once.

    engine: module:Class, called as Engine(model_directory, base_directory=..., device=..., num_threads=...)
    status: the file in which the replica says how it is
    """

    replica_id: str
    deployed_model: str
    parent_pid: int
    engine: str
    model_directory: str
    base_directory: str | None
    num_threads: int
    device: str
    socket: str
    status: str
    drain_s: float

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> ReplicaSpec:
        return cls(**json.loads(path.read_text()))


class Canceled(Exception):
    """Nobody listens any more."""


class Turns:
    """Requests use the engine one at a time, a chunk each, in the order in which they asked."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()
        self._holder: object | None = None

    def take(self, who: object) -> None:
        with self._condition:
            self._waiting.append(who)
            self._condition.wait_for(lambda: self._holder is None and self._waiting[0] is who)
            self._waiting.popleft()
            self._holder = who

    def give(self, who: object) -> None:
        """Harmless for somebody who has no turn."""
        with self._condition:
            if self._holder is who:
                self._holder = None
                self._condition.notify_all()


class FreeForAll(Turns):
    """For an engine that schedules its requests itself."""

    def take(self, who: object) -> None:
        pass

    def give(self, who: object) -> None:
        pass


class Conversation:
    """One request: its text comes in while its audio goes out. As an iterator it is the text."""

    _END = None

    def __init__(self, connection: socket.socket, turns: Turns) -> None:
        self._connection = connection
        self._turns = turns
        self._pieces: queue.Queue[str | Canceled | None] = queue.Queue()
        self._canceled = threading.Event()
        self._accepted_at = time.perf_counter()
        self._queue_ms: float | None = None

    def is_canceled(self) -> bool:
        """Nobody listens any more. An engine may ask from any thread, in the middle of a chunk."""
        return self._canceled.is_set()

    def listen(self) -> None:
        """Take in text until the other side hangs up; runs in a thread of its own."""
        try:
            while (frame := receive_frame(self._connection)) is not None:
                header, _ = frame
                self._pieces.put(header["text"] if header["type"] == "text" else self._END)
        except OSError:
            pass  # hung up in the middle of a frame: the same as hanging up
        self._canceled.set()
        self._pieces.put(Canceled())

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            piece = self._pieces.get_nowait()
        except queue.Empty:
            # do not keep the engine from others while our speaker thinks
            self._turns.give(self)
            piece = self._pieces.get()
            self._turns.take(self)
        if isinstance(piece, Canceled):
            raise piece
        if piece is None:
            self._pieces.put(self._END)  # asked once more, it has ended still
            raise StopIteration
        return piece

    def speak(self, engine: Synthesizer, request: SynthesisRequest) -> None:
        """Send what the engine says, as it says it.

        Nothing is held while sending, so a slow listener keeps neither the engine nor memory.
        Raises: Canceled, PlatformError and whatever the engine raises
        """
        chunks = engine.synthesize(request, self)
        try:
            while (chunk := self._next_chunk(chunks)) is not None:
                send_frame(self._connection, *chunk_to_frame(chunk))
        except Exception as error:
            # however the engine stops once nobody listens, it is no failure
            if self.is_canceled():
                raise Canceled from error
            raise
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    def _next_chunk(self, chunks: Iterator[AudioChunk]) -> AudioChunk | None:
        self._turns.take(self)
        try:
            if self._queue_ms is None:
                self._queue_ms = (time.perf_counter() - self._accepted_at) * 1000
            chunk = None if self.is_canceled() else next(chunks, None)
            if self.is_canceled():
                raise Canceled
            return chunk and self._with_queue_time(chunk)
        finally:
            self._turns.give(self)

    def _with_queue_time(self, chunk: AudioChunk) -> AudioChunk:
        """Where an engine tells how long its parts took, add how long the request had waited before."""
        if not chunk.timings_ms or self._queue_ms is None:
            return chunk
        queue_ms = self._queue_ms + chunk.timings_ms.get("queue", 0.0)
        return dataclasses.replace(chunk, timings_ms={**chunk.timings_ms, "queue": round(queue_ms, 3)})


class ReplicaServer:
    """Listens, and gives every connection a thread."""

    def __init__(self, engine: Synthesizer, socket_path: str, drain_s: float) -> None:
        self._engine = engine
        self._drain_s = drain_s
        self._turns = FreeForAll() if getattr(engine, "is_concurrent", False) else Turns()
        self._stop = threading.Event()
        self._threads: set[threading.Thread] = set()
        self._conversations: set[Conversation] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(socket_path)
        os.chmod(socket_path, 0o600)
        self._listener.listen(128)
        self._listener.settimeout(0.1)  # how often `stop` is looked at

    def stop(self) -> None:
        """Take no new requests; `serve` returns when the present ones are done or the drain time is over."""
        self._stop.set()

    def serve(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            thread = threading.Thread(target=self._answer, args=(connection,), daemon=True)
            self._threads.add(thread)
            thread.start()
        self._listener.close()
        deadline = time.monotonic() + self._drain_s
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        self._engine.close()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._converse(connection)
            except (Canceled, OSError):
                pass  # the other side has hung up, which is its right
            finally:
                self._threads.discard(threading.current_thread())

    def _converse(self, connection: socket.socket) -> None:
        frame = receive_frame(connection)
        if frame is None:
            return
        if frame[0]["type"] == "ping":
            send_frame(connection, {"type": "pong", "in_flight": len(self._conversations)})
            return
        request = SynthesisRequest.from_json(frame[0]["request"])
        # whoever hears nothing of this kind knows that nothing was begun and may ask another replica
        send_frame(connection, {"type": "accepted"})
        conversation = Conversation(connection, self._turns)
        listener = threading.Thread(target=conversation.listen, daemon=True)
        self._conversations.add(conversation)
        listener.start()
        try:
            conversation.speak(self._engine, request)
        except (Canceled, OSError):
            raise
        except PlatformError as error:
            send_frame(connection, error_to_frame(error))
        except Exception as error:
            # one request may fail in any way; the replica goes on and the listener is told
            print(f"request {request.request_id} failed", file=sys.stderr)
            traceback.print_exc()
            send_frame(connection, error_to_frame(Internal(f"The model failed: {type(error).__name__}: {error}")))
        else:
            send_frame(connection, {"type": "end"})
        finally:
            self._conversations.discard(conversation)
            # wakes our listener, which may not outlive the socket
            connection.shutdown(socket.SHUT_RD)
            listener.join()


def main(arguments: list[str]) -> int:
    spec = ReplicaSpec.read(Path(arguments[0]))
    die_with_parent(spec.parent_pid)
    try:
        engine = load_attribute(spec.engine)(
            Path(spec.model_directory),
            base_directory=None if spec.base_directory is None else Path(spec.base_directory),
            device=spec.device,
            num_threads=spec.num_threads,
        )
    except Exception as error:
        # loading may fail in any way; the server shows the user why
        traceback.print_exc()
        write_status(Path(spec.status), "failed", f"{type(error).__name__}: {error}")
        return 1
    server = ReplicaServer(engine, spec.socket, spec.drain_s)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    write_status(Path(spec.status), "ready")
    server.serve()
    return 0


def write_status(path: Path, state: str, message: str = "") -> None:
    """Say how the replica is, whole or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"state": state, "message": message}))
    os.replace(draft, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
