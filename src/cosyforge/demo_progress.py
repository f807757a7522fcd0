"""Watching a job from outside: its status and log lines become a progress bar, or plain lines where no terminal is."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cosyforge.demo_client import DashScope, DemoError, Json

_FINAL = ("SUCCEEDED", "FAILED", "CANCELED")
_POLL_S = 1.0
_EPOCH = re.compile(r"\b(lm|fm|flow)\b.*?\bepoch\W+(\d+)", re.IGNORECASE)
_LOSS = re.compile(r"\bloss\W+(\d+\.\d+)", re.IGNORECASE)


def follow_job(client: DashScope, job_id: str, num_epochs: int, seconds: float, console: Console) -> Json:
    """Show a job until it ends; gives its last state.

    Units: num_epochs counts the epochs of both networks, the length of the bar
    Raises: DemoError when the job takes longer than `seconds`
    """
    watch = _JobWatch()
    if not console.is_terminal:
        return _follow(
            client,
            job_id,
            seconds,
            watch,
            lambda line: console.print(f"   {line}", highlight=False, markup=False, soft_wrap=True),
        )
    columns = (
        TextColumn("   {task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("waiting", total=num_epochs)

        def show(line: str) -> None:
            progress.update(bar, completed=watch.epochs_done, description=watch.describe())

        return _follow(client, job_id, seconds, watch, show)


class _JobWatch:
    """What the log lines have told so far."""

    def __init__(self) -> None:
        self._epoch_by_stage: dict[str, int] = {}
        self._stage = ""
        self._loss = ""

    @property
    def epochs_done(self) -> int:
        return sum(self._epoch_by_stage.values())

    def read(self, line: str) -> None:
        if match := _EPOCH.search(line):
            self._stage = "LM" if match[1].lower() == "lm" else "FM"
            self._epoch_by_stage[self._stage] = max(int(match[2]), self._epoch_by_stage.get(self._stage, 0))
            loss = _LOSS.search(line)
            self._loss = loss[1] if loss else ""

    def describe(self) -> str:
        if not self._stage:
            return "preparing"
        return f"{self._stage} epoch {self._epoch_by_stage[self._stage]}" + (
            f", loss {self._loss}" if self._loss else ""
        )


def _follow(client: DashScope, job_id: str, seconds: float, watch: _JobWatch, show: Callable[[str], None]) -> Json:
    deadline = time.monotonic() + seconds
    num_lines = 0
    while True:
        # the state first: lines that a finished job wrote are then all there to be read
        job = client.job(job_id)
        lines = client.logs(job_id, num_lines)
        num_lines += len(lines)
        for line in lines:
            watch.read(line)
            show(line)
        if job["status"] in _FINAL:
            return job
        if time.monotonic() > deadline:
            raise DemoError(f"job {job_id} is {job['status']} after {seconds:.0f} s; its last line: {lines[-1:]}")
        time.sleep(_POLL_S)
