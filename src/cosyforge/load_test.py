"""Load on the socket: `python -m cosyforge.load_test --idle 200 --speaking 20 --minutes 10` prints a table.

Without --url it starts a server of its own in a temporary directory (COSYFORGE_* variables count) and watches its
processes too. Speakers send one sentence at once and the rest word by word, listen to all of it, and begin anew on the
same connection. Slow readers take a frame now and then; every second a client vanishes in the middle of a sentence.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table
from websockets.exceptions import ConnectionClosed

from cosyforge.load_speaker import Speaker, Target, open_speaker

SENTENCES = (
    "There is a large garden behind my house.",
    "The old clock on the wall has stopped again.",
    "She put the letter back into the drawer.",
    "A small boat went slowly down the river.",
)
WORD_INTERVAL_S = 0.12
SAMPLE_INTERVAL_S = 2.0
_KEY = "sk-load-test-0123456789"


@dataclass
class Figures:
    """What was seen. Units: _ms in milliseconds, memory in MiB by name of the process"""

    num_idle_open: int = 0
    num_tasks: int = 0
    audio_bytes: int = 0
    slow_frames: int = 0
    errors: list[str] = field(default_factory=list)
    first_package_ms: list[float] = field(default_factory=list)
    vanished_at_s: dict[str, float] = field(default_factory=dict)
    freed_ms: list[float] = field(default_factory=list)
    memory_mib: dict[str, list[float]] = field(default_factory=dict)
    num_threads: int = 0


async def idle(target: Target, figures: Figures, deadline: float) -> None:
    """Open and silent, as a pool of connections is; at the end it must still be good for a ping."""
    try:
        async with open_speaker(target) as (_, connection):
            await asyncio.sleep(max(0.0, deadline - time.monotonic()))
            await asyncio.wait_for(await connection.ping(), 30)
            figures.num_idle_open += 1
    except (OSError, ConnectionClosed, TimeoutError) as error:
        figures.errors.append(f"idle: {error!r}")


async def speak(target: Target, figures: Figures, deadline: float, number: int) -> None:
    """One task after another on one connection."""
    try:
        async with open_speaker(target) as (speaker, _):
            while time.monotonic() < deadline:
                await _one_task(speaker, figures, number)
                figures.num_tasks += 1
    except (OSError, ConnectionClosed, RuntimeError) as error:
        figures.errors.append(f"speaking: {error!r}")


async def _one_task(speaker: Speaker, figures: Figures, number: int) -> None:
    task_id = await speaker.begin()
    sentences = SENTENCES[number % len(SENTENCES) :] + SENTENCES[: number % len(SENTENCES)]

    async def send_rest() -> None:
        for word in " ".join(sentences[1:]).split():
            await asyncio.sleep(WORD_INTERVAL_S)
            await speaker.text(task_id, f"{word} ")
        await speaker.finish(task_id)

    began = time.monotonic()
    await speaker.text(task_id, f"{sentences[0]} ")
    sending = asyncio.create_task(send_rest())
    try:
        is_first = True
        async for sound in speaker.sounds():
            if is_first:
                figures.first_package_ms.append((time.monotonic() - began) * 1000)
                is_first = False
            figures.audio_bytes += len(sound)
    finally:
        sending.cancel()


async def read_slowly(target: Target, figures: Figures, deadline: float) -> None:
    """A long text, a frame of which is read every half second."""
    try:
        async with open_speaker(target, receive_buffer=4096) as (speaker, _):
            task_id = await speaker.begin()
            await speaker.text(task_id, f"{SENTENCES[0]} " * 400)
            await speaker.finish(task_id)
            async for _ in speaker.sounds():
                figures.slow_frames += 1
                if time.monotonic() > deadline:
                    return
                await asyncio.sleep(0.5)
    except (OSError, ConnectionClosed, RuntimeError) as error:
        figures.errors.append(f"slow reader: {error!r}")


async def vanish(target: Target, figures: Figures, deadline: float) -> None:
    """Every second somebody is gone without a word, in the middle of a long text."""
    while time.monotonic() < deadline:
        try:
            async with open_speaker(target) as (speaker, connection):
                task_id = await speaker.begin()
                await speaker.text(task_id, f"{SENTENCES[1]} " * 400)
                async for _ in speaker.sounds():
                    break
                plain: socket.socket = connection.transport.get_extra_info("socket")
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                figures.vanished_at_s[task_id] = time.time()
                connection.transport.abort()
        except (OSError, ConnectionClosed, RuntimeError) as error:
            figures.errors.append(f"vanishing: {error!r}")
        await asyncio.sleep(1)


async def watch_memory(target: Target, figures: Figures, deadline: float) -> None:
    """Resident memory of the server and of all its children together."""
    if target.pid is None:
        return
    while time.monotonic() < deadline:
        children = _children(target.pid)
        figures.memory_mib.setdefault("server", []).append(_resident_mib(target.pid))
        figures.memory_mib.setdefault("replica", []).append(sum(_resident_mib(pid) for pid in children))
        figures.num_threads = max(figures.num_threads, len(list(Path(f"/proc/{target.pid}/task").iterdir())))
        await asyncio.sleep(SAMPLE_INTERVAL_S)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended while we looked
            children += [int(child) for child in (task / "children").read_text().split()]
    return children


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):  # likewise a process
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


async def run(target: Target, num_idle: int, num_speaking: int, num_slow: int, duration_s: float) -> Figures:
    """All of it at once."""
    figures = Figures()
    deadline = time.monotonic() + duration_s
    async with asyncio.TaskGroup() as group:
        group.create_task(watch_memory(target, figures, deadline))
        for _ in range(num_idle):
            group.create_task(idle(target, figures, deadline))
        for number in range(num_speaking):
            group.create_task(speak(target, figures, deadline, number))
        for _ in range(num_slow):
            group.create_task(read_slowly(target, figures, deadline))
        if target.log is not None:
            group.create_task(vanish(target, figures, deadline))
    if target.log is not None:
        figures.freed_ms = await asyncio.to_thread(_freed_ms, target.log, figures.vanished_at_s)
    return figures


def _freed_ms(log: Path, vanished_at_s: dict[str, float], patience_s: float = 30) -> list[float]:
    """From a client's end to the line that the server writes once the place is free."""
    deadline = time.monotonic() + patience_s
    while True:
        lines = [json.loads(line) for line in log.read_text().splitlines() if '"event": "speech"' in line]
        ended_at = {line.get("task_id"): datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines}
        if vanished_at_s.keys() <= ended_at.keys() or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return [(ended_at[task_id] - at) * 1000 for task_id, at in vanished_at_s.items() if task_id in ended_at]


# ---- a server of our own


@contextmanager
def own_server() -> Iterator[Target]:
    """`cosyforge serve` on a free port, with a directory that goes when it ends."""
    with tempfile.TemporaryDirectory(prefix="cosyforge-load-") as name:
        directory = Path(name)
        log, port_file = directory / "server.log", directory / "port"
        command = [sys.executable, "-c", "from cosyforge.cli_platform import app; app()", "serve"]
        command += ["--port", "0", "--port-file", str(port_file), "--data-dir", str(directory / "data")]
        environment = {**os.environ, "COSYFORGE_BOOTSTRAP_KEY": _KEY, "COSYFORGE_REPLICA_MAX_REQUESTS": "1000"}
        with open(log, "ab") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            while not port_file.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
                time.sleep(0.05)
            yield _first_words(f"http://127.0.0.1:{port_file.read_text()}", log, process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _first_words(url: str, log: Path, pid: int) -> Target:
    """The base model with its first voice; it is loaded now, so that nobody waits for it later."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {_KEY}"}, timeout=180) as client:
        voice = client.get("/v1/audio/voices").raise_for_status().json()["voices"][0]
        body = {"model": voice["model"], "voice": voice["id"], "input": SENTENCES[0], "response_format": "pcm"}
        client.post("/v1/audio/speech", json=body).raise_for_status()
    return Target(url, _KEY, voice["model"], voice["id"], log, pid)


# ---- the table


def show(figures: Figures, num_idle: int, num_speaking: int, duration_s: float) -> Table:
    table = Table(title=f"{num_idle} idle and {num_speaking} speaking connections for {duration_s:g} s")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("errors", str(len(figures.errors)))
    table.add_row("idle connections open to the end", f"{figures.num_idle_open} of {num_idle}")
    table.add_row("tasks spoken", str(figures.num_tasks))
    audio_s = figures.audio_bytes / 48_000
    table.add_row("audio heard, s", f"{audio_s:.0f} ({audio_s / duration_s:.1f} x real time)")
    table.add_row("first package, ms (median / 95 % / most)", _spread(figures.first_package_ms))
    table.add_row("frames read by slow readers", str(figures.slow_frames))
    table.add_row("clients vanished", str(len(figures.vanished_at_s)))
    table.add_row("until their place was free, ms (median / 95 % / most)", _spread(figures.freed_ms))
    for name, samples in figures.memory_mib.items():
        fourth = max(1, len(samples) // 4)
        begin, end = statistics.median(samples[fourth : 2 * fourth] or samples), statistics.median(samples[-fourth:])
        table.add_row(
            f"memory of the {name}, MiB (2nd / last quarter / most)", f"{begin:.1f} / {end:.1f} / {max(samples):.1f}"
        )
    table.add_row("threads of the server, most", str(figures.num_threads))
    return table


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    return f"{statistics.median(ordered):.0f} / {ordered[int(0.95 * (len(ordered) - 1))]:.0f} / {ordered[-1]:.0f}"


def main(
    idle: Annotated[int, typer.Option(help="Connections that are open and silent.")] = 200,
    speaking: Annotated[int, typer.Option(help="Connections that speak all the time.")] = 20,
    slow: Annotated[int, typer.Option(help="Connections that read a frame every half second.")] = 2,
    minutes: Annotated[float, typer.Option(help="How long.")] = 10,
    url: Annotated[str, typer.Option(help="A server that runs already; default: one of our own.")] = "",
    key: Annotated[str, typer.Option(help="A key of that server.")] = "",
    model: Annotated[str, typer.Option(help="A model of that server.")] = "cosyvoice-v3-flash",
    voice: Annotated[str, typer.Option(help="A voice of that model.")] = "default",
) -> None:
    """Put load on the socket and print what was seen; ends with 1 when anything failed."""
    if url:
        figures = asyncio.run(run(Target(url, key, model, voice), idle, speaking, slow, minutes * 60))
    else:
        with own_server() as target:
            figures = asyncio.run(run(target, idle, speaking, slow, minutes * 60))
    console = Console(width=120)
    console.print(show(figures, idle, speaking, minutes * 60))
    for error in figures.errors[:20]:
        console.print(error, style="red", markup=False)
    if figures.errors:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
