"""A base model of random weights, small enough that a whole fine-tuning run takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_model import TINY

from cosyforge.cosyvoice.manifest import FrontendEntry, Manifest
from cosyforge.cosyvoice.model import CosyVoice
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.cosyvoice.weights import build_network, save_model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(7)
    networks = {
        name: build_network(name, TINY) for name in ("lm", "flow", "hift", "speech_tokenizer", "speaker_encoder")
    }
    frontend = FrontendEntry(("en",), "phones", "Say.<|endofprompt|>")
    manifest = Manifest(name="tiny", networks=TINY, frontend=frontend)
    save_model(CosyVoice(networks, TextTokenizer.byte_level(), manifest, {}, TINY.sampling, TINY, frontend), directory)
    return directory
