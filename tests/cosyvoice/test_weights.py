"""A model directory keeps what was put into it, and says what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosyforge.cosyvoice.config import (
    FlowConfig,
    HiFTConfig,
    LMConfig,
    ModelConfig,
    SamplingConfig,
    SpeakerEncoderConfig,
    SpeechTokenizerConfig,
)
from cosyforge.cosyvoice.manifest import (
    BaseEntry,
    FileEntry,
    FrontendEntry,
    Manifest,
    VoiceEntry,
    base_entry,
    file_digest,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.cosyvoice.weights import (
    apply_delta,
    build_network,
    load_model,
    save_model,
    write_tensors,
    write_voices,
)
from cosyforge.errors import InvalidParameter

TINY = ModelConfig(
    lm=LMConfig(
        text_vocab_size=544, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16,
        intermediate_size=48, speech_token_size=27,
    ),
    flow=FlowConfig(
        speech_token_size=27, speaker_dim=16, pre_lookahead_channels=16, dim=32, depth=1, num_heads=2, head_dim=16,
        conv_pos_groups=16,
    ),
    hift=HiFTConfig(base_channels=16, f0_channels=8, resblock_kernel_sizes=(3,)),
    speech_tokenizer=SpeechTokenizerConfig(hidden_size=32, num_heads=2, num_layers=1, fsq_dim=3),
    speaker_encoder=SpeakerEncoderConfig(growth_rate=4, init_channels=8, embedding_size=16, blocks=(1, 2)),
    sampling=SamplingConfig(top_k=5),
)  # fmt: skip

Q_PROJ = "llm.model.model.layers.0.self_attn.q_proj.weight"


def make_model() -> CosyVoice:
    torch.manual_seed(3)
    names = ("lm", "flow", "hift", "speech_tokenizer", "speaker_encoder")
    frontend = FrontendEntry(languages=("en",), english="phones", prefix="Speak.<|endofprompt|>")
    voice = Voice(torch.randn(16), "Hello.", torch.tensor([1, 2, 3]), torch.randn(80, 6))
    return CosyVoice(
        networks={name: build_network(name, TINY).eval() for name in names},
        text_tokenizer=TextTokenizer.byte_level(),
        manifest=Manifest(
            "tiny",
            networks=TINY,
            voices={"alto": VoiceEntry("a low voice", "f", "en", aliases=("longwan_v3",))},
            licence="Apache-2.0",
        ),
        voices={"alto": voice, "plain": Voice(torch.randn(16))},
        sampling=TINY.sampling,
        config=TINY,
        frontend=frontend,
    )


@pytest.fixture(scope="module")
def model() -> CosyVoice:
    return make_model()


@pytest.fixture(scope="module")
def saved(model: CosyVoice, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_model(model, directory)
    return directory


def edited(saved: Path, directory: Path, **changes: object) -> Path:
    """A copy of the saved model whose model.json has other values; digests of its files are as they are now."""
    directory.mkdir(exist_ok=True)
    for path in saved.iterdir():
        if not (directory / path.name).exists():
            (directory / path.name).write_bytes(path.read_bytes())
    values = json.loads((saved / "model.json").read_text()) | changes
    for entry in values["files"].values():
        if (directory / entry["path"]).exists():
            entry["sha256"] = file_digest(directory / entry["path"])
    (directory / "model.json").write_text(json.dumps(values))
    return directory


def states_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_saved_model_loads_bit_for_bit(model: CosyVoice, saved: Path) -> None:
    loaded = load_model(saved)
    for name, network in model.networks.items():
        assert states_equal(network.state_dict(), loaded.networks[name].state_dict()), name
        assert not loaded.networks[name].training
    assert loaded.config == replace(TINY)
    assert loaded.sampling == TINY.sampling
    assert loaded.frontend == model.frontend
    assert loaded.manifest.voices["alto"] == VoiceEntry("a low voice", "f", "en", "Hello.", ("longwan_v3",))
    alto = loaded.voices["alto"]
    assert alto.prompt_text == "Hello."
    assert alto.prompt_token is not None
    assert alto.prompt_token.tolist() == [1, 2, 3]
    assert torch.equal(alto.speaker_embedding, model.voices["alto"].speaker_embedding)
    assert loaded.voices["plain"].prompt_mel is None
    assert loaded.text_tokenizer.encode("Hi [sigh]") == model.text_tokenizer.encode("Hi [sigh]")


def test_loaded_networks_compute_what_the_saved_ones_did(model: CosyVoice, saved: Path) -> None:
    loaded = load_model(saved)
    fbank, mel = torch.randn(1, 60, 80), torch.randn(1, 80, 12)
    with torch.no_grad():
        assert torch.equal(loaded.speaker_encoder(fbank), model.speaker_encoder(fbank))
        assert torch.equal(loaded.hift.f0(mel), model.hift.f0(mel))
        token = torch.tensor([[1, 5, 9, 2]])
        assert torch.equal(loaded.flow.mu(token), model.flow.mu(token))


def test_saving_a_loaded_model_gives_the_same_model(saved: Path, tmp_path: Path) -> None:
    save_model(load_model(saved), tmp_path / "again")
    assert read_manifest(tmp_path / "again") == read_manifest(saved)


def test_only_the_networks_asked_for_are_loaded(saved: Path, tmp_path: Path) -> None:
    directory = edited(saved, tmp_path / "m")
    (directory / "speech_tokenizer.safetensors").unlink()
    loaded = load_model(directory, networks=("lm", "hift"))
    assert set(loaded.networks) == {"lm", "hift"}
    with pytest.raises(InvalidParameter, match="network flow was not loaded"):
        _ = loaded.flow
    with pytest.raises(InvalidParameter, match=r"speech_tokenizer\.safetensors.*missing"):
        load_model(directory)
    with pytest.raises(InvalidParameter, match="no network vocoder"):
        load_model(directory, networks=("vocoder",))


def test_a_model_loaded_in_part_is_not_saved_as_a_whole(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="without flow, speech_tokenizer, speaker_encoder"):
        save_model(load_model(saved, networks=("lm", "hift")), tmp_path / "part")
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("storage", [torch.bfloat16, torch.float16])
def test_sixteen_bit_storage_halves_matrices_and_keeps_statistics(
    model: CosyVoice, tmp_path: Path, storage: torch.dtype
) -> None:
    save_model(model, tmp_path / "half", storage=storage)
    stored = load_file(tmp_path / "half" / "speaker_encoder.safetensors")
    assert stored["xvector.tdnn.linear.weight"].dtype == storage
    assert stored["head.bn1.running_var"].dtype == torch.float32
    loaded = load_model(tmp_path / "half")
    assert {p.dtype for network in loaded.networks.values() for p in network.parameters()} == {torch.float32}
    weight = model.lm.state_dict()[Q_PROJ]
    assert torch.equal(loaded.lm.state_dict()[Q_PROJ], weight.to(storage).float())


def test_float16_refuses_numbers_it_cannot_hold(model: CosyVoice, tmp_path: Path) -> None:
    big = make_model()
    with torch.no_grad():
        big.lm.state_dict()[Q_PROJ][0, 0] = 1e6
    with pytest.raises(ValueError, match=r"q_proj\.weight.*bfloat16"):
        save_model(big, tmp_path / "big", storage=torch.float16)


def test_one_error_names_missing_unknown_and_misshapen_keys(saved: Path, tmp_path: Path) -> None:
    directory = tmp_path / "broken"
    directory.mkdir()
    state = load_file(saved / "flow.safetensors")
    state["decoder.surprise"] = state.pop("spk_embed_affine_layer.bias")
    state["input_embedding.weight"] = torch.zeros(26, 80)
    save_file(state, directory / "flow.safetensors")
    edited(saved, directory)
    with pytest.raises(InvalidParameter) as caught:
        load_model(directory)
    assert "missing spk_embed_affine_layer.bias" in caught.value.message
    assert "unknown decoder.surprise" in caught.value.message
    assert "input_embedding.weight (26, 80) instead of (27, 80)" in caught.value.message


def test_a_file_that_changed_is_refused_before_it_is_read(saved: Path, tmp_path: Path) -> None:
    directory = edited(saved, tmp_path / "m")
    content = bytearray((directory / "lm.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "lm.safetensors").write_bytes(content)
    with pytest.raises(InvalidParameter, match=r"lm\.safetensors: not the file that model\.json names"):
        load_model(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other/1"}, "format must be"),
        ({"surprise": 1}, "unknown keys surprise"),
        ({"networks": {"lm": {}, "flow": {}, "hift": {}, "ear": {}}}, "unknown ear"),
        ({"networks": {"lm": {"depth": 3}, "flow": {}, "hift": {}}}, r"networks\.lm: unknown keys depth"),
        (
            {"networks": {"lm": {"num_layers": "six"}, "flow": {}, "hift": {}}},
            r"networks\.lm\.num_layers must be like 24",
        ),
        ({"networks": None}, "exactly one of networks"),
        ({"files": {"lm": {"path": "/etc/passwd", "sha256": "0" * 64}}}, "must be relative"),
        ({"files": {"lm": {"path": "a/../../b", "sha256": "0" * 64}}}, "must be relative"),
        ({"files": {"lm": {"path": "a", "sha256": "12"}}}, "64 hexadecimal digits"),
        ({"files": {"ears": {"path": "a", "sha256": "0" * 64}}}, "unknown file ears"),
        ({"voices": {"a/b": {}}}, "voice name 'a/b'"),
        ({"voices": {"alto": {"mood": "sad"}}}, r"voices\.alto: unknown keys mood"),
        ({"frontend": {"english": "runes"}}, "text or phones"),
        ({"frontend": {"mandarin": "runes"}}, "text or pinyin"),
        ({"frontend": {"languages": ["zh"], "english": "phones"}}, "go together"),
        ({"frontend": {"instructions": "slow"}}, r"frontend\.instructions must be like"),
        ({"frontend": {"max_characters": 3}}, "integer of at least 20, got 3"),
        ({"frontend": {"max_characters": "many"}}, "integer of at least 20, got 'many'"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_fault(
    saved: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    values = json.loads((saved / "model.json").read_text()) | changes
    (tmp_path / "model.json").write_text(json.dumps(values))
    with pytest.raises(InvalidParameter, match=message):
        read_manifest(tmp_path)


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="no model here"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InvalidParameter, match="not valid JSON"):
        load_model(tmp_path)


def test_voices_must_match_the_manifest(saved: Path, tmp_path: Path) -> None:
    directory = tmp_path / "m"
    directory.mkdir()
    save_file({"alto.speaker_embedding": torch.zeros(16), "tenor.prompt_token": torch.zeros(2, dtype=torch.int64)},
              directory / "voices.safetensors")  # fmt: skip
    edited(saved, directory)
    with pytest.raises(InvalidParameter) as caught:
        load_model(directory, networks=())
    for part in (
        "voice tenor: speaker_embedding",
        "belong together",
        "tenor is not in model.json",
        "plain of model.json",
    ):
        assert part in caught.value.message


# --- deltas and tuned models ---


def test_a_delta_replaces_whole_tensors_and_adds_products() -> None:
    state = {"w": torch.ones(3, 4), "conv": torch.zeros(2, 3, 5), "b": torch.zeros(3), "same": torch.ones(1)}
    a, b = torch.randn(2, 4), torch.randn(3, 2)
    c, d = torch.randn(1, 15), torch.randn(2, 1)
    delta = {"w.lora_A": a, "w.lora_B": b, "conv.lora_A": c, "conv.lora_B": d, "b": torch.full((3,), 2.0)}
    tuned = apply_delta(state, delta)
    torch.testing.assert_close(tuned["w"], 1 + b @ a)
    torch.testing.assert_close(tuned["conv"], (d @ c).reshape(2, 3, 5))
    assert tuned["b"].tolist() == [2, 2, 2]
    assert tuned["same"] is state["same"]
    assert torch.equal(state["w"], torch.ones(3, 4)), "the base must stay as it was"


def test_one_error_names_all_that_is_wrong_with_a_delta() -> None:
    state = {"w": torch.ones(3, 4), "b": torch.zeros(3), "v": torch.ones(3, 4)}
    delta = {
        "w.lora_A": torch.ones(2, 5), "w.lora_B": torch.ones(3, 2), "x.lora_A": torch.ones(1, 1),
        "b.lora_B": torch.ones(3, 1), "b": torch.ones(4), "y": torch.ones(1),
        "v.lora_A": torch.ones(1, 4), "v.lora_B": torch.ones(3, 1), "v": torch.ones(3, 4),
    }  # fmt: skip
    with pytest.raises(InvalidParameter) as caught:
        apply_delta(state, delta)
    for part in ("w: product", "x.lora_A has no lora_B", "b.lora_B has no lora_A", "b is (4)", "y is not in the base",
                 "v is both"):  # fmt: skip
        assert part in caught.value.message


def make_tuned(base: Path, run: Path, *, hint: str | None = None) -> tuple[Path, dict[str, Tensor]]:
    """A tuned model as fine-tuning leaves it: shared weights beside the checkpoint's directory."""
    torch.manual_seed(5)
    delta = {f"{Q_PROJ}.lora_A": torch.randn(2, 32), f"{Q_PROJ}.lora_B": torch.randn(32, 2)}
    replaced = {"spk_embed_affine_layer.bias": torch.full((80,), 0.5)}
    voice = {"default": Voice(torch.randn(16))}
    files = {
        "lm_delta": FileEntry("../weights/lm.safetensors", write_tensors(run / "weights/lm.safetensors", delta)),
        "flow_delta": FileEntry(
            "../weights/flow.safetensors", write_tensors(run / "weights/flow.safetensors", replaced)
        ),
        "voices": FileEntry("../weights/voices.safetensors", write_voices(run / "weights/voices.safetensors", voice)),
    }
    entry = base_entry(base)
    manifest = Manifest("tuned", base=replace(entry, path=hint), files=files, voices={"default": VoiceEntry()})
    write_manifest(run / "checkpoint", manifest)
    return run / "checkpoint", delta


def test_a_tuned_model_is_its_base_plus_the_delta(model: CosyVoice, saved: Path, tmp_path: Path) -> None:
    directory, delta = make_tuned(saved, tmp_path)
    tuned = load_model(directory, base_directory=saved)
    wanted = model.lm.state_dict()[Q_PROJ] + delta[f"{Q_PROJ}.lora_B"] @ delta[f"{Q_PROJ}.lora_A"]
    torch.testing.assert_close(tuned.lm.state_dict()[Q_PROJ], wanted)
    assert tuned.flow.state_dict()["spk_embed_affine_layer.bias"].unique().tolist() == [0.5]
    assert states_equal(tuned.hift.state_dict(), model.hift.state_dict())
    assert set(tuned.voices) == {"default"}
    assert tuned.manifest.name == "tuned"
    assert (tuned.config, tuned.sampling, tuned.frontend) == (TINY, TINY.sampling, model.frontend)


def test_a_tuned_model_saved_whole_needs_its_base_no_more(saved: Path, tmp_path: Path) -> None:
    directory, _ = make_tuned(saved, tmp_path)
    tuned = load_model(directory, base_directory=saved)
    manifest = save_model(tuned, tmp_path / "merged")
    merged = load_model(tmp_path / "merged")
    assert manifest.base is None
    assert states_equal(merged.lm.state_dict(), tuned.lm.state_dict())


def test_a_model_tuned_twice_adds_both_deltas(saved: Path, tmp_path: Path) -> None:
    first, delta = make_tuned(saved, tmp_path / "one", hint=str(saved))
    second, _ = make_tuned(first, tmp_path / "two", hint=str(first))
    twice = load_model(second).lm.state_dict()[Q_PROJ]
    once = load_model(first).lm.state_dict()[Q_PROJ]
    torch.testing.assert_close(twice, once + delta[f"{Q_PROJ}.lora_B"] @ delta[f"{Q_PROJ}.lora_A"])


def test_the_hint_finds_the_base_absolute_or_relative(saved: Path, tmp_path: Path) -> None:
    directory, _ = make_tuned(saved, tmp_path, hint=str(saved))
    assert load_model(directory, networks=()).manifest.name == "tuned"
    (tmp_path / "base").symlink_to(saved)
    directory, _ = make_tuned(saved, tmp_path, hint="../base")
    assert load_model(directory, networks=()).manifest.name == "tuned"


def test_a_base_that_is_another_model_is_refused(saved: Path, tmp_path: Path) -> None:
    directory, _ = make_tuned(saved, tmp_path, hint="nowhere")
    with pytest.raises(InvalidParameter, match=r"base model tiny with digest .* is in none of .*nowhere"):
        load_model(directory)
    other = edited(saved, tmp_path / "other", name="other")
    with pytest.raises(InvalidParameter, match=f"holds other with digest {manifest_digest(other)[:12]}"):
        load_model(directory, base_directory=other)


def test_a_delta_that_does_not_fit_names_its_file(saved: Path, tmp_path: Path) -> None:
    files = {"lm_delta": FileEntry("lm.safetensors", write_tensors(tmp_path / "lm.safetensors", {"q": torch.ones(1)}))}
    write_manifest(tmp_path, Manifest("tuned", base=base_entry(saved), files=files))
    with pytest.raises(
        InvalidParameter, match=r"lm\.safetensors: the delta does not fit its base: q is not in the base"
    ):
        load_model(tmp_path)


def test_a_tuned_manifest_cannot_bring_whole_networks() -> None:
    with pytest.raises(ValueError, match="has no file lm"):
        Manifest("x", base=BaseEntry("b", "0" * 64), files={"lm": FileEntry("lm.safetensors", "0" * 64)})
    with pytest.raises(ValueError, match="lm_delta needs a base"):
        Manifest("x", networks=TINY, files={"lm_delta": FileEntry("lm.safetensors", "0" * 64)})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    digest = write_tensors(tmp_path / "w.safetensors", {"a": torch.ones(2)})
    with pytest.raises(AttributeError):
        write_tensors(tmp_path / "w.safetensors", {"a": "no tensor"})  # type: ignore[dict-item]
    assert file_digest(tmp_path / "w.safetensors") == digest
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
