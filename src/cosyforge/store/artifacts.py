"""Where big bytes live (uploads, dataset copies, spoken results) and the signed links that hand them out.

Keys are relative paths such as `results/20260527/ID.wav`. Nobody outside this module joins them to a directory.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from cosyforge.errors import AccessDenied, NotFound, OutOfSpace

_CHECK_SPACE_EVERY_BYTES = 8 << 20
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class ArtifactWriter(Protocol):
    """An artifact that does not exist yet. Leaving its `with` block without `commit` leaves nothing behind."""

    @property
    def size(self) -> int: ...

    @property
    def md5(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    @property
    def path(self) -> Path: ...

    def write(self, piece: bytes) -> None: ...

    def flush(self) -> None: ...

    def finish(self) -> None: ...

    def commit(self, key: str) -> None: ...

    def discard(self) -> None: ...


class ArtifactStore(Protocol):
    """Keeps artifacts by key."""

    def create(self) -> ArtifactWriter: ...

    def local_path(self, key: str) -> Path: ...

    def keys(self, prefix: str) -> Iterator[str]: ...

    def copy(self, key: str, new_key: str) -> None: ...

    def delete(self, key: str) -> None: ...

    def delete_older_than(self, prefix: str, unix_s: float) -> int: ...


class LocalArtifacts:
    """Artifacts as files below one directory; a commit is one rename on the same file system.

    min_free_bytes: so much of the disk stays free; who writes beyond it gets OutOfSpace
    """

    def __init__(self, root: Path, min_free_bytes: int = 0) -> None:
        self._root = root
        self._min_free_bytes = min_free_bytes
        self._staging = root / ".staging"
        # a server that was killed may have left half an upload
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)

    def create(self) -> LocalArtifactWriter:
        return LocalArtifactWriter(self._staging / secrets.token_hex(16), self._path, self._require_space)

    def local_path(self, key: str) -> Path:
        """The file of an artifact.

        Raises: NotFound
        """
        path = self._path(key)
        if not path.is_file():
            raise NotFound(f"There is no artifact {key}.")
        return path

    def keys(self, prefix: str) -> Iterator[str]:
        """The artifacts below a prefix."""
        for path in self._path(prefix).rglob("*"):
            if path.is_file():
                yield path.relative_to(self._root).as_posix()

    def copy(self, key: str, new_key: str) -> None:
        """Give the same bytes a second name with a life of its own (a hard link: no bytes move).

        Raises: NotFound
        """
        target = self._path(new_key)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(self.local_path(key), target)

    def delete(self, key: str) -> None:
        """Forget an artifact; deleting what is gone already is fine."""
        self._path(key).unlink(missing_ok=True)

    def delete_older_than(self, prefix: str, unix_s: float) -> int:
        """Forget the artifacts below a prefix that were written before a moment; returns how many."""
        old = [path for path in self._path(prefix).rglob("*") if path.is_file() and path.stat().st_mtime < unix_s]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)

    def _require_space(self) -> None:
        usage = shutil.disk_usage(self._root)
        if usage.free < self._min_free_bytes:
            limit = usage.total - self._min_free_bytes
            raise OutOfSpace(f"Out of space, {usage.total - usage.free} B of {limit} B storage space has been used.")

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise NotFound(f"There is no artifact {key!r}.")
        return self._root / key


class LocalArtifactWriter:
    """Counts and hashes while it writes. A full disk is OutOfSpace, wherever it shows."""

    def __init__(self, path: Path, resolve: Resolve, require_space: Callable[[], None]) -> None:
        self._path = path
        self._resolve = resolve
        self._require_space = require_space
        self._file = open(path, "xb")  # noqa: SIM115 - closed by finish or discard
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._space_checked_at = 0

    @property
    def size(self) -> int:
        return self._size

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def path(self) -> Path:
        """Where the bytes are until `commit`."""
        return self._path

    def write(self, piece: bytes) -> None:
        """Raises: OutOfSpace"""
        if self._size >= self._space_checked_at:
            self._require_space()
            self._space_checked_at = self._size + _CHECK_SPACE_EVERY_BYTES
        with _space_errors():
            self._file.write(piece)
        self._md5.update(piece)
        self._sha256.update(piece)
        self._size += len(piece)

    def flush(self) -> None:
        with _space_errors():
            self._file.flush()

    def finish(self) -> None:
        """Bring the bytes to the disk, where a power cut cannot reach them; nothing more is written.

        Raises: OutOfSpace
        """
        if not self._file.closed:
            with _space_errors():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def commit(self, key: str) -> None:
        """Make the artifact visible under its key, whole or not at all.

        Raises: OutOfSpace
        """
        self.finish()
        target = self._resolve(key)
        with _space_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._path, target)

    def discard(self) -> None:
        """Leave nothing behind; harmless after `commit`."""
        with suppress(OSError):  # closing writes the rest, for which a full disk has no room
            self._file.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def _space_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace() from error
        raise


class Resolve(Protocol):
    def __call__(self, key: str) -> Path: ...


@contextmanager
def new_artifact(store: ArtifactStore) -> Iterator[ArtifactWriter]:
    """An artifact being written; dropped unless committed inside the block."""
    writer = store.create()
    try:
        yield writer
    finally:
        writer.discard()


@dataclass(frozen=True)
class SignedLinks:
    """Links that open one artifact to whoever holds them, until they expire.

    The signature covers key and expiry, so neither can be changed.
    """

    secret: bytes

    def sign(self, key: str, expires_at: int) -> str:
        """Path and query of a link.

        Units: expires_at in Unix seconds
        """
        return f"/artifacts/{quote(key)}?Expires={expires_at}&Signature={self._signature(key, expires_at)}"

    def check(self, key: str, expires_at: int, signature: str, now_s: float) -> None:
        """Raises: AccessDenied when the link was changed or has expired"""
        if not hmac.compare_digest(self._signature(key, expires_at).encode(), signature.encode()):
            raise AccessDenied("The signature of this link is not valid.")
        if now_s >= expires_at:
            raise AccessDenied("This link has expired.")

    def _signature(self, key: str, expires_at: int) -> str:
        digest = hmac.new(self.secret, f"{expires_at}\n{key}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def load_secret(path: Path) -> bytes:
    """The signing secret of this installation, made at first use and readable by its owner alone."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
        try:
            os.link(draft, path)  # two servers starting together: the first one's secret wins
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes()
