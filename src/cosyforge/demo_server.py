"""A server of our own for the length of the demo: another process with a data folder that vanishes afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from cosyforge.demo_client import DashScope, DemoError, wait_for

COMMAND = ("-c", "from cosyforge.cli import main; main()", "serve", "--host", "127.0.0.1", "--port", "0")
"""What this Python runs: the program `cosyforge`, whose place on the disk may be unknown."""

_START_S = 90.0
_STOP_S = 30.0
_TAIL_LINES = 40


class DemoServer:
    """`cosyforge serve` on a free port of this machine, ended with all of its child processes.

    Use as a context manager; `address` and `api_key` are known inside of it.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.address = ""
        self.api_key = f"sk-{secrets.token_hex(16)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        # children may still be writing when the folder goes
        self._folder = tempfile.TemporaryDirectory(prefix="cosyforge-demo-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        try:
            self._start(folder)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def log_tail(self) -> str:
        """The last lines that the server wrote; nothing when it never ran (an older log may lie there)."""
        if self._process is None:
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])

    def _start(self, folder: Path) -> None:
        port_file = folder / "port"
        # settings meant for another server must not lead this one to that one's database
        environment = {key: value for key, value in os.environ.items() if not key.startswith("COSYFORGE_")}
        environment |= {
            "COSYFORGE_DATA_DIR": str(folder / "data"),
            "COSYFORGE_BOOTSTRAP_KEY": self.api_key,
            "COSYFORGE_LOG_FORMAT": "console",
            # a line for each of our own requests would push what went wrong out of sight
            "COSYFORGE_LOG_LEVEL": "warning",
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *COMMAND, "--port-file", str(port_file)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # a process group of its own, so that one signal reaches its workers and replicas as well
                start_new_session=True,
            )
        port = wait_for(lambda: self._port(port_file), seconds=_START_S, every_s=0.1, what="starting the server")
        self.address = f"http://127.0.0.1:{port}"
        with DashScope(self.address, self.api_key) as client:
            wait_for(
                lambda: (self._alive() and client.is_healthy()) or None,
                seconds=_START_S,
                every_s=0.2,
                what=f"waiting for {self.address}/healthz",
            )

    def _port(self, port_file: Path) -> int | None:
        self._alive()
        text = port_file.read_text().strip() if port_file.is_file() else ""
        return int(text) if text else None

    def _alive(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise DemoError(f"the server ended while it started (exit status {self._process.returncode})")
        return True

    def _stop(self) -> None:
        if self._process is not None:
            _signal_group(self._process.pid, signal.SIGTERM)
            # what does not end in time, or outlives the leader of the group, gets a signal that none can refuse
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
            _signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._folder is not None:
            self._folder.cleanup()


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # nobody is left in it
