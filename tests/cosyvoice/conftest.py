from __future__ import annotations

import pytest
import torch
from small_flow import random_flow

from cosyforge.cosyvoice.flow import Flow


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def flow() -> Flow:
    return random_flow()
