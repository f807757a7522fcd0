"""Child processes of the server: how they are started, how they follow it into death, what their end means."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_SHELLS_SIGKILL = 128 + signal.SIGKILL
"""As containers and shells report it."""


def start_module(module: str, spec: Path, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Run `python -m MODULE SPEC`, its output appended to a log file.

    The child is in a session of its own, so that Ctrl-C in a terminal reaches the server alone, which then ends it.
    """
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(spec)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def die_with_parent(parent_pid: int) -> None:
    """In the child: be killed as soon as the thread that started us ends, however it ends.

    Source: prctl(2), PR_SET_PDEATHSIG; the second look covers a parent that died before the call
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        sys.exit("the server that started this process is gone")


def end_process(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """Ask, wait, then kill."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def describe_exit(return_code: int | None) -> str:
    """How a process ended, for people."""
    if return_code is None:
        return "stopped together with the server"
    if return_code >= 0 and return_code != _SHELLS_SIGKILL:
        return f"ended with exit status {return_code}"
    if return_code in (_SHELLS_SIGKILL, -signal.SIGKILL):
        return "was killed by signal 9 SIGKILL (often the machine ran out of memory)"
    return f"was killed by signal {-return_code} {signal.Signals(-return_code).name}"


def last_lines(path: Path, num_lines: int, max_bytes: int = 8192, start: int = 0) -> list[str]:
    """The end of a text file, of what is behind `start` alone; nothing when there is none."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        file.seek(max(start, path.stat().st_size - max_bytes))
        lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-num_lines:]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
