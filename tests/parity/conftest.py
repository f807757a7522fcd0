"""Stored results of the public reference, in the folder COSYFORGE_GOLDEN_DIR; any folder of the same form will do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

LoadJson = Callable[[str], dict[str, Any]]
LoadTensors = Callable[[str], dict[str, torch.Tensor]]


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    repository = Path(__file__).resolve().parents[2]
    directory = Path(os.environ.get("COSYFORGE_GOLDEN_DIR", repository.parent / "shared" / "golden"))
    if not directory.is_dir():
        pytest.skip(f"no golden vectors at {directory}; set COSYFORGE_GOLDEN_DIR to their folder")
    return directory


@pytest.fixture(scope="session")
def load_json(golden_dir: Path) -> LoadJson:
    """load_json("lm") reads lm.json."""
    return lambda name: json.loads((golden_dir / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def load_tensors(golden_dir: Path) -> LoadTensors:
    """load_tensors("lm.io") reads lm.io.safetensors; "lm.state" the weights."""
    return lambda name: load_file(golden_dir / f"{name}.safetensors")


@pytest.fixture(autouse=True)
def _one_thread_as_the_vectors_were_made() -> None:
    torch.set_num_threads(1)
