"""A base model of random weights, small enough that a whole fine-tuning run takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cosyforge.cosyvoice.config import (
    FlowConfig,
    HiFTConfig,
    LMConfig,
    ModelConfig,
    SpeakerEncoderConfig,
    SpeechTokenizerConfig,
)
from cosyforge.cosyvoice.manifest import FrontendEntry, Manifest
from cosyforge.cosyvoice.model import CosyVoice
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.cosyvoice.weights import build_network, save_model

sys.path.insert(0, str(Path(__file__).parents[1] / "dataset"))

TINY = ModelConfig(
    lm=LMConfig(
        text_vocab_size=544, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16,
        intermediate_size=64, speech_token_size=27,
    ),
    flow=FlowConfig(
        speech_token_size=27, pre_lookahead_channels=32, dim=32, depth=2, num_heads=2, head_dim=16, conv_pos_groups=4,
        dropout=0.1,
    ),
    hift=HiFTConfig(
        base_channels=16, f0_channels=16, resblock_kernel_sizes=(3,), source_resblock_kernel_sizes=(3, 3, 3)
    ),
    speech_tokenizer=SpeechTokenizerConfig(hidden_size=32, num_heads=2, num_layers=1, fsq_dim=3),
    speaker_encoder=SpeakerEncoderConfig(growth_rate=4, init_channels=8, blocks=(1, 1, 1)),
)  # fmt: skip


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
