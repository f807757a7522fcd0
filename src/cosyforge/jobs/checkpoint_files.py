"""The files of a job's checkpoints: a folder each, and weights that several of them share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_MANIFEST = "model.json"


def delete_checkpoint_files(directory: Path, names: Iterable[str]) -> None:
    """Delete these checkpoints and the weights that no other one needs; when none is left, the directory itself.

    What is gone already is fine, so that an interrupted deletion can be done again.
    """
    for name in names:
        shutil.rmtree(directory / name, ignore_errors=True)
    if not directory.is_dir():
        return
    kept = [path.parent for path in directory.glob(f"*/{_MANIFEST}")]
    if not kept:
        shutil.rmtree(directory, ignore_errors=True)
        return
    needed = {path for checkpoint in kept for path in _weights(checkpoint)}
    for path in (directory / "weights").glob("*"):
        if path.resolve() not in needed:
            path.unlink(missing_ok=True)


def _weights(checkpoint: Path) -> set[Path]:
    manifest: dict[str, Any] = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))
    return {(checkpoint / entry["path"]).resolve() for entry in manifest.get("files", {}).values()}
