"""A model of random weights, small enough to speak in a blink; it babbles, but every stage is real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cosyforge.cosyvoice.config import FlowConfig, HiFTConfig, LMConfig, ModelConfig, SamplingConfig
from cosyforge.cosyvoice.manifest import FileEntry, FrontendEntry, Manifest, VoiceEntry, base_entry, write_manifest
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.cosyvoice.weights import build_network, save_model, voice_entries, write_voices
from cosyforge.synthesis.engine import Engine
from one_thread import one_thread  # noqa: F401 a fixture

TINY = ModelConfig(
    lm=LMConfig(
        text_vocab_size=544, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16,
        intermediate_size=48, speech_token_size=27,
    ),
    flow=FlowConfig(
        speech_token_size=27, speaker_dim=16, pre_lookahead_channels=16, dim=32, depth=1, num_heads=2, head_dim=16,
        conv_pos_groups=16, num_steps=2,
    ),
    hift=HiFTConfig(base_channels=16, f0_channels=8, resblock_kernel_sizes=(3,)),
)  # fmt: skip


@pytest.fixture(scope="session")
def model() -> CosyVoice:
    return _tiny_model()


def _tiny_model() -> CosyVoice:
    torch.manual_seed(3)
    prompted = Voice(torch.randn(16), "Hello there.", torch.arange(20) % 27, torch.randn(80, 40))
    return CosyVoice(
        networks={name: build_network(name, TINY).eval() for name in ("lm", "flow", "hift")},
        text_tokenizer=TextTokenizer.byte_level(),
        manifest=Manifest("tiny", networks=TINY, voices={"alto": VoiceEntry("a low voice", "f", "en")}),
        voices={"alto": prompted, "plain": Voice(torch.randn(16))},
        sampling=SamplingConfig(top_k=8),
        config=TINY,
        frontend=FrontendEntry(("en",), "phones", "Speak.<|endofprompt|>"),
    )


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_model(_tiny_model(), directory)
    return directory


@pytest.fixture(scope="session")
def tuned_directory(model_directory: Path) -> Path:
    """A tuned model without any delta: the base's weights, one voice of its own."""
    directory = model_directory.parent / "tuned"
    directory.mkdir()
    voices = {"default": Voice(torch.ones(16))}
    digest = write_voices(directory / "voices.safetensors", voices)
    entry = base_entry(model_directory)
    manifest = Manifest(
        "tuned", base=entry, files={"voices": FileEntry("voices.safetensors", digest)}, voices=voice_entries(voices)
    )
    write_manifest(directory, manifest)
    return directory


@pytest.fixture(scope="session")
def reading_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model that reads text, as the official one does, and so takes instructions."""
    directory = tmp_path_factory.mktemp("models") / "reading"
    model = _tiny_model()
    model.frontend = FrontendEntry(("zh", "en"), "text", "You are a helpful assistant.<|endofprompt|>")
    model.voices = {name: replace(voice, prompt_text=None) for name, voice in model.voices.items()}
    save_model(model, directory)
    return directory


@pytest.fixture(scope="session")
def engine(model_directory: Path) -> Engine:
    return Engine(model_directory)
