"""A PostgreSQL server for the length of a test run: its own files, a free port of loopback, no fsync."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "cosyforge"
PASSWORD = "pass word/%"
"""With characters that a URL must escape."""

_OPTIONS = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200 -c listen_addresses=127.0.0.1"


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, the newest version first; None where PostgreSQL is not installed."""
    found = sorted(
        glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]), reverse=True
    )
    on_path = shutil.which("initdb")
    return Path(found[0]).parent if found else Path(on_path).parent if on_path else None


def why_not() -> str:
    """Why no server can be started here; empty when one can."""
    if binaries() is None:
        return "PostgreSQL is not installed (apt-get install postgresql) and COSYFORGE_TEST_DATABASE_URL is not set"
    if os.geteuid() == 0 and (_owner() is None or shutil.which("runuser") is None):
        return "PostgreSQL does not run as root, and there is no user postgres to run it as"
    return ""


@contextmanager
def running_cluster() -> Iterator[str]:
    """The URL of an empty database whose server ends with the block."""
    folder = binaries()
    assert folder is not None
    with tempfile.TemporaryDirectory(prefix="cosyforge-pg-") as temporary:
        root = Path(temporary)
        (root / "password").write_text(PASSWORD)
        if (owner := _owner()) is not None:
            for path in (root, root / "password"):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        port = _free_port()
        initdb = ["initdb", "-D", f"{root}/data", "-U", USER, "--auth=scram-sha-256", f"--pwfile={root}/password"]
        _run(folder, [*initdb, "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8"], root)
        options = f"{_OPTIONS} -c port={port} -c unix_socket_directories={root}"
        _run(
            folder,
            ["pg_ctl", "-D", f"{root}/data", "-l", f"{root}/log", "-o", options, "-w", "-t", "120", "start"],
            root,
        )
        try:
            quoted = PASSWORD.replace("%", "%25").replace("/", "%2F").replace(" ", "%20")
            yield f"postgresql://{USER}:{quoted}@127.0.0.1:{port}/postgres"
        finally:
            _run(folder, ["pg_ctl", "-D", f"{root}/data", "-m", "immediate", "-w", "stop"], root)


def _owner() -> pwd.struct_passwd | None:
    """Who the server runs as: None is ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


def _run(folder: Path, command: list[str], root: Path) -> None:
    command = [str(folder / command[0]), *command[1:]]
    if os.geteuid() == 0:
        command = ["runuser", "-u", "postgres", "--", *command]
    # a file, not a pipe: the server would inherit the pipe and keep its end open
    with open(root / "commands.log", "ab") as output:
        result = subprocess.run(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=root)
    if result.returncode:
        raise RuntimeError(f"{command} failed: {(root / 'commands.log').read_text()[-3000:]}")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
