"""The state that a training run goes on from, on disk: the newest one and the one before it, each with its digest.

A crash at any moment, also of the machine, leaves at least one of them whole; what is not whole is noticed and not used.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cosyforge.errors import Internal, OutOfSpace

_DIGEST = "digest"


@dataclass(frozen=True)
class StatePosition:
    """What a state is of. sums: the figures of the steps so far, as text that keeps every bit."""

    objective: str
    epoch: int
    step: int
    sums: str

    def to_metadata(self) -> dict[str, str]:
        return {"objective": self.objective, "epoch": str(self.epoch), "step": str(self.step), "sums": self.sums}


State = tuple[StatePosition, dict[str, Tensor]]


class DamagedState(Exception):
    """A file is not the whole state that was written."""


def write_state(path: Path, position: StatePosition, tensors: Mapping[str, Tensor]) -> None:
    """Make this the newest state; what was the newest becomes the one before.

    Raises: OutOfSpace, Internal when it cannot be written; the states on disk are then as they were
    """
    content = {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
    metadata = position.to_metadata()
    with explained_write(path):
        partial = write_partial(content, path, {**metadata, _DIGEST: _digest(metadata, content)})
        if path.exists():
            os.replace(path, previous_path(path))
        os.replace(partial, path)
        sync_directory(path.parent)


def read_newest_state(path: Path) -> tuple[State | None, tuple[Path, ...]]:
    """The newest whole state, if there is any, and the damaged files that were passed over."""
    damaged: list[Path] = []
    for candidate in (path, previous_path(path)):
        if not candidate.exists():
            continue
        try:
            return _read_state(candidate), tuple(damaged)
        except DamagedState:
            damaged.append(candidate)
    return None, tuple(damaged)


def previous_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_atomically(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file that is there complete or not at all, even when the power goes.

    Raises: OutOfSpace, Internal when it cannot be written; what was there before still is
    """
    with explained_write(path):
        os.replace(write_partial(tensors, path, metadata or {}), path)
        sync_directory(path.parent)


def write_partial(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> Path:
    """A neighbour of `path` with this content, on the disk; nothing is left when that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(dict(tensors), partial, dict(metadata))
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


@contextlib.contextmanager
def explained_write(path: Path) -> Iterator[None]:
    """Says what could not be written and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors tells the system's error in its text alone
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if is_full:
            raise OutOfSpace(f"{path}: cannot be written, the disk is full; free some space") from error
        raise Internal(f"{path}: cannot be written ({error})") from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory as durable as its files."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Bring everything that was written beside `path` onto the disk: one call for thousands of files.

    Source: syncfs(2)
    """
    if sys.platform != "linux":
        os.sync()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed", str(path))
    finally:
        os.close(descriptor)


def _read_state(path: Path) -> State:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 it is no mapping
    except (SafetensorError, OSError) as error:
        raise DamagedState(f"{path}: {error}") from error
    digest = metadata.pop(_DIGEST, None)
    if digest is None or not metadata.keys() >= {"objective", "epoch", "step", "sums"}:
        raise Internal(f"{path}: is the state of another training; give each run its own work directory", is_final=True)
    if digest != _digest(metadata, tensors):
        raise DamagedState(f"{path}: its content is not what was written")
    return StatePosition(
        metadata["objective"], int(metadata["epoch"]), int(metadata["step"]), metadata["sums"]
    ), tensors


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
