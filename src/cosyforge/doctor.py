"""`cosyforge doctor`: looks at this machine and installation, changes nothing, says what to do.

Whatever needs torch or an encoder runs in a process of its own: a broken library is a finding, not the end.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, inspect, select, text
from sqlalchemy.exc import SQLAlchemyError

from cosyforge import __version__
from cosyforge.cosyvoice.manifest import MANIFEST_NAME, file_digest, read_manifest
from cosyforge.errors import PlatformError
from cosyforge.settings import Settings
from cosyforge.store.database import Database, newest_revision
from cosyforge.store.tables import models

_MIN_MEMORY_GIB = 4
_COMFORTABLE_DISK_GIB = 10
_MAX_CLOCK_SKEW_S = 60
_CHILD_TIMEOUT_S = 120

_TORCH = """
import json, torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"version": torch.__version__, "sum": float(torch.ones(3).sum()), "devices": names}))
"""
_ENCODERS = """
import json, numpy
from cosyforge.audio.encode import FORMATS, make_encoder
samples = (numpy.sin(numpy.arange(24000) * 0.1) * 0.3).astype(numpy.float32)
sizes = {}
for name in FORMATS:
    encoder = make_encoder(name, 24000)
    sizes[name] = len(encoder.encode(samples) + encoder.finish())
print(json.dumps(sizes))
"""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do when it is not well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    message: str
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """All checks, in the order in which one would put things right."""
    findings: list[Finding] = []
    for check in _CHECKS:
        findings += check(settings)
    return findings


def to_text(findings: list[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    lines = [f"cosyforge {__version__}"]
    for finding in findings:
        lines.append(f"{finding.status:<4}  {finding.name:<{width}}  {finding.message}")
        if finding.advice:
            lines.append(f"{'':<4}  {'':<{width}}  -> {finding.advice}")
    counts = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "fail")}
    lines.append(", ".join(f"{number} {status}" for status, number in counts.items()))
    return "\n".join(lines)


def to_json(findings: list[Finding]) -> str:
    is_well = all(finding.status != "fail" for finding in findings)
    return json.dumps({"version": __version__, "ok": is_well, "checks": [asdict(finding) for finding in findings]})


# ---- the machine


def _python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] == (3, 11):
        yield Finding("python", "ok", version)
    else:
        yield Finding("python", "fail", f"{version}, and 3.11 is needed", "make a virtual environment of Python 3.11")


def _torch(settings: Settings) -> Iterator[Finding]:
    found = _in_a_process(_TORCH)
    if isinstance(found, str):
        yield Finding("torch", "fail", f"does not work: {found}", "install the package again: make setup")
        return
    yield Finding("torch", "ok", str(found["version"]))
    devices = found["devices"]
    yield Finding("gpu", "ok", ", ".join(devices) if devices else "none; the processor does everything")


def _encoders(settings: Settings) -> Iterator[Finding]:
    found = _in_a_process(_ENCODERS)
    advice = "install the package again: make setup (the encoders come with the wheel `av`; no ffmpeg is needed)"
    if isinstance(found, str):
        yield Finding("audio encoders", "fail", f"do not work: {found}", advice)
    elif empty := [name for name, size in found.items() if not size]:
        yield Finding("audio encoders", "fail", f"give nothing for {', '.join(empty)}", advice)
    else:
        yield Finding("audio encoders", "ok", ", ".join(found))


def _processors(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        yield Finding("cores", "warn", f"{cores}", "training and a replica share it: give the machine two or more")
    else:
        yield Finding("cores", "ok", f"{cores}")
    gib = _memory_bytes() / 2**30
    if gib < _MIN_MEMORY_GIB:
        advice = f"training may be killed for memory: give the machine {_MIN_MEMORY_GIB} GiB or more"
        yield Finding("memory", "warn", f"{gib:.1f} GiB", advice)
    else:
        yield Finding("memory", "ok", f"{gib:.1f} GiB")


def _memory_bytes() -> int:
    """Of the machine, or of the container if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def _clock(settings: Settings) -> Iterator[Finding]:
    """Links and keys expire by the clock; files of a shared disk carry the time of another machine."""
    advice = "set the clock, best by NTP: signed links, keys and bills go by it"
    now_s = time.time()
    built_s = Path(__file__).stat().st_mtime
    directory = _existing(settings.data_dir)
    if now_s < built_s - 86_400:
        yield Finding("clock", "fail", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, before this program was made", advice)
        return
    if os.access(directory, os.W_OK):
        skew_s = _disk_time_s(directory) - now_s
        if abs(skew_s) > _MAX_CLOCK_SKEW_S:
            yield Finding("clock", "warn", f"{skew_s:+.0f} s between this machine and the disk of {directory}", advice)
            return
    yield Finding("clock", "ok", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")


def _disk_time_s(directory: Path) -> float:
    path = directory / f".doctor-{os.getpid()}"
    path.touch()
    try:
        return path.stat().st_mtime
    finally:
        path.unlink()


# ---- where things are kept


def _data_directory(settings: Settings) -> Iterator[Finding]:
    directory = settings.data_dir
    place = _existing(directory)
    if not os.access(place, os.W_OK | os.X_OK):
        advice = f"chown it to the server's user, or set COSYFORGE_DATA_DIR (this is user {os.getuid()})"
        yield Finding("data directory", "fail", f"{place} cannot be written", advice)
    elif place != directory:
        yield Finding("data directory", "ok", f"{directory} is made at the first start")
    else:
        yield _permissions("data directory", directory, 0o077, "warn", "700")
    secret = directory / "secret"
    if secret.is_file():
        yield _permissions("secret", secret, 0o077, "fail", "600")


def _permissions(name: str, path: Path, forbidden: int, bad: Literal["warn", "fail"], wanted: str) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & forbidden:
        return Finding(name, bad, f"{path} is open to other users (mode {mode:o})", f"chmod {wanted} {path}")
    return Finding(name, "ok", f"{path} (mode {mode:o})")


def _disk(settings: Settings) -> Iterator[Finding]:
    place = _existing(settings.data_dir)
    free = shutil.disk_usage(place).free
    text = f"{free / 2**30:.1f} GiB free at {place}"
    if free < settings.min_free_disk_bytes:
        needed = f"{settings.min_free_disk_bytes / 2**30:.2f} GiB must stay free (COSYFORGE_MIN_FREE_DISK_BYTES)"
        yield Finding("disk", "fail", text, f"make room or move the data directory: {needed}")
    elif free < _COMFORTABLE_DISK_GIB * 2**30:
        advice = "a training needs its dataset three times and some checkpoints: make room before it is needed"
        yield Finding("disk", "warn", text, advice)
    else:
        yield Finding("disk", "ok", text)


def _database(settings: Settings) -> Iterator[Finding]:
    url = settings.database_url.get_secret_value()
    if not url and not settings.database_path.exists():
        yield Finding("database", "ok", f"{settings.database_path} is made at the first start")
        return
    advice = "see whether it runs, and COSYFORGE_DATABASE_URL or the rights of the file"
    try:
        database = Database(url or settings.database_path, pool_size=1)
        try:
            database.check()  # says why, where a read would only fail
            with database.read() as connection:
                yield from _schema(settings, connection)
        finally:
            database.close()
    except PlatformError as error:
        yield Finding("database", "fail", error.message, advice)
    except SQLAlchemyError as error:
        yield Finding("database", "fail", str(getattr(error, "orig", error)), advice)


def _schema(settings: Settings, connection: Connection) -> Iterator[Finding]:
    revision = None
    if inspect(connection).has_table("alembic_version"):
        revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision == newest_revision():
        yield Finding("database", "ok", f"reachable, schema {revision}")
        yield from _tuned_models(settings, connection)
    elif revision is not None and revision > newest_revision():
        advice = "install the version of cosyforge that it was last used with, or a newer one"
        yield Finding("database", "fail", f"schema {revision} is newer than this program ({newest_revision()})", advice)
    else:
        advice = "nothing to do: the next start of the server brings it up to date (a copy beforehand does no harm)"
        yield Finding("database", "warn", f"schema {revision or 'empty'}, newest is {newest_revision()}", advice)


def _tuned_models(settings: Settings, connection: Connection) -> Iterator[Finding]:
    """That they are there; replicas check the digests when they load."""
    directories = connection.execute(select(models.c.model_name, models.c.directory)).all()
    gone = [name for name, directory in directories if not (settings.data_dir / directory / MANIFEST_NAME).is_file()]
    if gone:
        advice = f"restore their folders below {settings.data_dir} from a copy, or delete their deployments"
        yield Finding("tuned models", "fail", f"without files: {', '.join(gone)}", advice)
    else:
        yield Finding("tuned models", "ok", f"{len(directories)}")


def _weights(settings: Settings) -> Iterator[Finding]:
    directory = settings.base_model_dir
    advice = "install the package again, or point COSYFORGE_BASE_MODEL_DIR at a whole model directory"
    try:
        manifest = read_manifest(directory)
        wrong = [
            entry.path
            for entry in manifest.files.values()
            if not (directory / entry.path).is_file() or file_digest(directory / entry.path) != entry.sha256
        ]
    except (PlatformError, OSError, ValueError) as error:
        yield Finding("base model", "fail", f"{directory}: {error}", advice)
        return
    if wrong:
        yield Finding("base model", "fail", f"missing or damaged in {directory}: {', '.join(wrong)}", advice)
    else:
        yield Finding("base model", "ok", f"{manifest.name}, {len(manifest.files)} files, digests right")


# ---- the network


def _port(settings: Settings) -> Iterator[Finding]:
    address = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(1)
        except OSError as error:
            running = _running_server(settings)
            if running:
                yield Finding("port", "ok", f"{address} is in use; a server with this data directory runs ({running})")
            else:
                advice = "stop what listens there, or choose another by COSYFORGE_PORT"
                yield Finding("port", "fail", f"{address}: {error.strerror}", advice)
            return
    yield Finding("port", "ok", f"{address} is free")


def _running_server(settings: Settings) -> str:
    """`pid N` of the server that holds the data directory, empty when there is none."""
    import fcntl

    try:
        with open(settings.data_dir / "server.lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return f"pid {file.read().strip() or 'unknown'}"
    except OSError:
        return ""
    return ""


def _exposure(settings: Settings) -> Iterator[Finding]:
    if settings.host in ("127.0.0.1", "::1", "localhost"):
        return
    if not settings.public_url.startswith("https://"):
        advice = "put a proxy with TLS in front and set COSYFORGE_PUBLIC_URL to its https:// address"
        yield Finding(
            "exposure", "warn", f"{settings.host} is reachable from outside, and keys travel unencrypted", advice
        )


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _in_a_process(code: str) -> dict[str, Any] | str:
    """What the code printed as JSON, or in words why it did not."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_CHILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_CHILD_TIMEOUT_S} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"ended with code {done.returncode}"
    return dict(json.loads(done.stdout))


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _torch,
    _encoders,
    _processors,
    _clock,
    _data_directory,
    _disk,
    _database,
    _weights,
    _port,
    _exposure,
)
