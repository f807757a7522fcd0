"""Official directories come in and go out bit for bit; what is wrong is said in one error, and nothing runs."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_file import write_speaker_file, write_tokenizer_file
from torch import Tensor

from cosyforge.cosyvoice.config import OFFICIAL, FlowConfig, HiFTConfig, LMConfig, ModelConfig, SamplingConfig
from cosyforge.cosyvoice.manifest import FileEntry, Manifest, base_entry, read_manifest, write_manifest
from cosyforge.cosyvoice.official import export_weights, import_weights
from cosyforge.cosyvoice.official_config import read_plain_yaml
from cosyforge.cosyvoice.text_tokenizer import BASE_SPECIALS, TextTokenizer
from cosyforge.cosyvoice.weights import UnsetParameters, build_network, load_model, write_tensors
from cosyforge.errors import InvalidParameter

SMALL = ModelConfig(
    lm=LMConfig(
        text_vocab_size=544, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16,
        intermediate_size=48, speech_token_size=27, rope_theta=5e5, mix_ratio=(5, 15),
    ),
    flow=FlowConfig(
        speech_token_size=27, speaker_dim=16, pre_lookahead_channels=24, dim=32, depth=2, num_heads=2, head_dim=16,
        conv_pos_groups=16, chunk_frames=40, guidance=0.6, training_guidance_dropout=0.3, sigma_min=1e-5,
    ),
    hift=HiFTConfig(
        base_channels=16, f0_channels=8, resblock_kernel_sizes=(3, 5), resblock_dilations=(1, 2), noise_sigma=0.004
    ),
    sampling=SamplingConfig(top_p=0.7, top_k=11, window=8, tau=0.2),
)  # fmt: skip

YAML = """\
__seed: !apply:torch.manual_seed [1986]
sample_rate: 24000
width: 32
speaker_width: 16
qwen_path: ''
token_rate: 25
ratio: 2
chunk: 20
left: -1

llm: !new:cosyvoice.llm.llm.CosyVoice3LM
    llm_input_size: !ref <width>
    llm_output_size: !ref <width>
    speech_token_size: 27
    length_normalized_loss: True
    lsm_weight: 0
    mix_ratio: [5, 15]
    llm: !new:cosyvoice.llm.llm.Qwen2Encoder
        pretrain_path: !ref <qwen_path>
    sampling: !name:cosyvoice.utils.common.ras_sampling
        top_p: 0.7
        top_k: 11
        win_size: 8
        tau_r: 0.2

flow: !new:cosyvoice.flow.flow.CausalMaskedDiffWithDiT
    input_size: 80
    output_size: 80
    spk_embed_dim: !ref <speaker_width>
    vocab_size: 27
    input_frame_rate: !ref <token_rate>
    token_mel_ratio: !ref <ratio>
    pre_lookahead_len: 3
    pre_lookahead_layer: !new:cosyvoice.transformer.upsample_encoder.PreLookaheadLayer
        channels: 24
    decoder: !new:cosyvoice.flow.flow_matching.CausalConditionalCFM
        cfm_params: !new:omegaconf.DictConfig
            content:
                sigma_min: 1e-05
                training_cfg_rate: 0.3
                inference_cfg_rate: 0.6
        estimator: !new:cosyvoice.flow.DiT.dit.DiT
            dim: 32
            depth: 2
            heads: 2
            dim_head: 16
            ff_mult: 2
            static_chunk_size: !ref <chunk> * <ratio>
            num_decoding_left_chunks: !ref <left>

hift: !new:cosyvoice.hifigan.generator.CausalHiFTGenerator
    in_channels: 80
    base_channels: 16
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.004
    nsf_voiced_threshold: 10
    upsample_rates: [8, 5, 3]
    upsample_kernel_sizes: [16, 11, 7]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 5]
    resblock_dilation_sizes: [[1, 2], [1, 2]]
    source_resblock_kernel_sizes: [7, 7, 11]
    source_resblock_dilation_sizes: [[1, 2], [1, 2], [1, 2]]
    lrelu_slope: 0.1
    audio_limit: 0.99
    conv_pre_look_right: 4
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor
        cond_channels: 8

mel: !name:matcha.utils.audio.mel_spectrogram
    fmax: null
opener: !name:cosyvoice.dataset.processor.parquet_opener
pipeline: [
    !ref <opener>,
]
"""

QWEN = {
    "vocab_size": 544, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 48, "rope_theta": 500000.0, "rms_norm_eps": 1e-06, "tie_word_embeddings": True,
}  # fmt: skip

EMBED, HEAD = "llm.model.model.embed_tokens.weight", "llm.model.lm_head.weight"


def write_official(directory: Path) -> Path:
    """A directory as the release is laid out, with random weights."""
    torch.manual_seed(7)
    qwen = directory / "CosyVoice-BlankEN"
    qwen.mkdir(parents=True)
    (directory / "cosyvoice3.yaml").write_text(YAML)
    (qwen / "config.json").write_text(json.dumps(QWEN))
    symbols = json.loads(TextTokenizer.byte_level()._tokenizer.to_str())["model"]["vocab"]
    (qwen / "vocab.json").write_text(json.dumps(symbols))
    (qwen / "merges.txt").write_text("#version: 0.2\n")
    added = {str(256 + index): {"content": token} for index, token in enumerate(BASE_SPECIALS)}
    (qwen / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    lm = build_network("lm", SMALL).state_dict()
    torch.save({**lm, HEAD: lm[EMBED]}, directory / "llm.pt")
    torch.save(build_network("lm", SMALL).state_dict(), directory / "llm.rl.pt")
    torch.save(build_network("flow", SMALL).state_dict(), directory / "flow.pt")
    torch.save(build_network("hift", SMALL).state_dict(), directory / "hift.pt")
    torch.save({"中文女": {"embedding": torch.randn(1, 16)}}, directory / "spk2info.pt")
    write_tokenizer_file(directory / "speech_tokenizer_v3.onnx")
    write_speaker_file(directory / "campplus.onnx")
    return directory


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("release") / "Small")


@pytest.fixture
def official(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    copy = tmp_path / "Small"
    for path in pristine.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(pristine)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    state = load(path)
    edit(state)
    torch.save(state, path)


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert tensor.dtype == second[key].dtype, key
        assert torch.equal(tensor, second[key]), key


# --- there and back ---


def test_weights_go_in_and_out_bit_for_bit(pristine: Path, tmp_path: Path) -> None:
    import_weights(pristine, tmp_path / "ours")
    written = export_weights(tmp_path / "ours", tmp_path / "theirs")
    assert [path.name for path in written] == ["llm.pt", "flow.pt", "hift.pt", "spk2info.pt"]
    for name in ("llm.pt", "flow.pt", "hift.pt"):
        assert_same(load(pristine / name), load(tmp_path / "theirs" / name))
    voices = load(tmp_path / "theirs" / "spk2info.pt")
    assert torch.equal(voices["中文女"]["embedding"], load(pristine / "spk2info.pt")["中文女"]["embedding"])


def test_our_model_goes_out_and_in_bit_for_bit(pristine: Path, official: Path, tmp_path: Path) -> None:
    import_weights(pristine, tmp_path / "ours")
    export_weights(tmp_path / "ours", official)
    import_weights(official, tmp_path / "again")
    for name in ("lm", "flow", "hift", "voices"):
        first, second = (read_manifest(tmp_path / where).files[name].sha256 for where in ("ours", "again"))
        assert first == second, name


def test_the_imported_model_is_complete_and_loads(pristine: Path, tmp_path: Path) -> None:
    manifest = import_weights(pristine, tmp_path / "ours")
    assert manifest == read_manifest(tmp_path / "ours")
    assert (manifest.name, manifest.preset, manifest.licence) == ("Small", None, "Apache-2.0")
    model = load_model(tmp_path / "ours")
    assert model.config == SMALL
    assert model.sampling == SMALL.sampling
    assert model.frontend.prefix == "You are a helpful assistant.<|endofprompt|>"
    assert set(model.voices) == {"中文女"}
    assert model.text_tokenizer.encode("a<|endofprompt|>[sigh]") == [97, 259, 259 + 13]
    code, _ = model.speech_tokenizer(torch.full((1, 128, 3), 5.0), torch.tensor([3]))
    assert code.tolist() == [[5, 5, 5]]
    assert model.speaker_encoder(torch.ones(1, 9, 80)).shape == (1, 80)


def test_the_reinforced_language_model_is_taken_when_asked_for(pristine: Path, tmp_path: Path) -> None:
    import_weights(pristine, tmp_path / "ours", reinforced=True, name="rl")
    model = load_model(tmp_path / "ours", networks=("lm",))
    assert torch.equal(model.lm.state_dict()["llm_decoder.weight"], load(pristine / "llm.rl.pt")["llm_decoder.weight"])
    assert model.manifest.name == "rl"


def test_a_tuned_model_is_exported_merged_with_its_base(pristine: Path, tmp_path: Path) -> None:
    import_weights(pristine, tmp_path / "ours")
    key = "llm.model.model.layers.1.mlp.up_proj.weight"
    delta = {f"{key}.lora_A": torch.ones(1, 32), f"{key}.lora_B": torch.ones(48, 1), EMBED: torch.zeros(544, 32)}
    (tmp_path / "tuned").mkdir()
    files = {"lm_delta": FileEntry("d.safetensors", write_tensors(tmp_path / "tuned" / "d.safetensors", delta))}
    write_manifest(tmp_path / "tuned", Manifest("t", base=base_entry(tmp_path / "ours"), files=files))
    export_weights(tmp_path / "tuned", tmp_path / "theirs", base_directory=tmp_path / "ours")
    merged, base = load(tmp_path / "theirs" / "llm.pt"), load(pristine / "llm.pt")
    torch.testing.assert_close(merged[key], base[key] + 1)
    assert torch.equal(merged[HEAD], torch.zeros(544, 32)), "the tied head must follow the tuned embedding"
    assert_same(load(tmp_path / "theirs" / "flow.pt"), load(pristine / "flow.pt"))


def test_what_trainers_add_is_dropped(official: Path, pristine: Path, tmp_path: Path) -> None:
    change(official / "llm.pt", lambda state: state.update(epoch=3, step=700))
    change(official / "flow.pt", lambda state: state.update(epoch=3, step=700))
    gan = {f"generator.{key}": tensor for key, tensor in load(official / "hift.pt").items()}
    torch.save({**gan, "discriminator.mpd.x": torch.ones(1), "epoch": 1, "step": 2}, official / "hift.pt")
    first = import_weights(official, tmp_path / "one")
    second = import_weights(pristine, tmp_path / "two")
    assert first.files == second.files


def test_a_missing_tied_head_is_written_back(official: Path, pristine: Path, tmp_path: Path) -> None:
    change(official / "llm.pt", lambda state: state.pop(HEAD))
    import_weights(official, tmp_path / "ours")
    export_weights(tmp_path / "ours", tmp_path / "theirs")
    assert_same(load(tmp_path / "theirs" / "llm.pt"), load(pristine / "llm.pt"))


def test_half_precision_checkpoints_and_storage_are_served(official: Path, tmp_path: Path) -> None:
    change(official / "flow.pt", lambda state: state.update({k: v.bfloat16() for k, v in state.items()}))
    import_weights(official, tmp_path / "ours", storage=torch.bfloat16)
    weight = load_model(tmp_path / "ours", networks=("flow",)).flow.state_dict()["input_embedding.weight"]
    assert torch.equal(weight, load(official / "flow.pt")["input_embedding.weight"].float())


def test_optional_files_may_be_absent(official: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("spk2info.pt", "campplus.onnx", "llm.rl.pt"):
        (official / name).unlink()
    manifest = import_weights(official, tmp_path / "ours")
    assert not manifest.voices
    assert "onnx_speaker_encoder" not in manifest.files
    assert "campplus.onnx" in caplog.text
    assert set(load_model(tmp_path / "ours").networks) == {"lm", "flow", "hift", "speech_tokenizer"}


def test_a_stored_zero_shot_prompt_comes_along(official: Path, tmp_path: Path) -> None:
    entry = {
        "flow_embedding": torch.randn(1, 16), "prompt_text": torch.tensor([[72, 105]]),
        "flow_prompt_speech_token": torch.tensor([[1, 2, 3]], dtype=torch.int32),
        "prompt_speech_feat": torch.randn(1, 5, 80), "prompt_speech_feat_len": torch.tensor([5]),
    }  # fmt: skip
    torch.save({"me": entry}, official / "spk2info.pt")
    import_weights(official, tmp_path / "ours")
    voice = load_model(tmp_path / "ours", networks=()).voices["me"]
    assert voice.prompt_text == "Hi"
    assert voice.prompt_token is not None
    assert voice.prompt_token.tolist() == [1, 2]
    assert voice.prompt_mel is not None
    assert torch.equal(voice.prompt_mel, entry["prompt_speech_feat"][0, :4].T)


# --- what is refused ---


def test_one_error_names_every_key_that_does_not_fit(official: Path, tmp_path: Path) -> None:
    change(official / "llm.pt", lambda state: state.pop("llm_decoder.weight"))
    change(official / "flow.pt", lambda state: state.update(surprise=torch.ones(1)))
    change(official / "hift.pt", lambda state: state.update({"conv_post.bias": torch.ones(3)}))
    with pytest.raises(InvalidParameter) as caught:
        import_weights(official, tmp_path / "ours")
    for part in (
        "llm.pt: missing llm_decoder.weight",
        "flow.pt: unknown surprise",
        "hift.pt: misshapen conv_post.bias (3) instead of (18)",
    ):
        assert part in caught.value.message
    assert not (tmp_path / "ours").exists()


def test_a_head_that_is_not_tied_is_refused(official: Path, tmp_path: Path) -> None:
    change(official / "llm.pt", lambda state: state.update({HEAD: state[EMBED] + 1}))
    with pytest.raises(InvalidParameter, match=r"lm_head\.weight is tied and must equal"):
        import_weights(official, tmp_path / "ours")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("            dim: 32", "            dim: 64", r"dim is 64 in cosyvoice3.yaml, 32 in the tensors"),
        (
            "width: 32",
            "width: 48",
            r"hidden_size is 48 in cosyvoice3.yaml, 32 in CosyVoice-BlankEN/config.json, 32 in the",
        ),
        ("            depth: 2", "            depth: 3", "depth is 3 in .*, 2 in the tensors"),
        ("top_k: 11", "top_k: many", "top_k in .* must be like 25, got 'many'"),
        (
            "CosyVoice3LM",
            "Qwen2LM",
            "llm must be !new:cosyvoice.llm.llm.CosyVoice3LM, got !new:cosyvoice.llm.llm.Qwen2LM",
        ),
        ("[[1, 2], [1, 2], [1, 2]]", "[[1, 2], [1, 3], [1, 2]]", "must hold one list over and over"),
        ("chunk: 20", "chunk: 'x'", "must multiply whole numbers"),
        ("width: 32", "width: !ref <width>", "in a circle"),
    ],
)
def test_a_figure_that_is_not_the_same_everywhere_is_named(
    official: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert YAML.count(old) >= 1
    (official / "cosyvoice3.yaml").write_text(YAML.replace(old, new, 1))
    with pytest.raises(InvalidParameter, match=message):
        import_weights(official, tmp_path / "ours")


def test_missing_files_are_all_named(official: Path, tmp_path: Path) -> None:
    (official / "flow.pt").unlink()
    (official / "CosyVoice-BlankEN" / "config.json").unlink()
    with pytest.raises(InvalidParameter, match=r"missing CosyVoice-BlankEN/config\.json, flow\.pt"):
        import_weights(official, tmp_path / "ours")
    with pytest.raises(InvalidParameter, match="missing"):
        import_weights(tmp_path / "nowhere", tmp_path / "ours")


class Touch:
    """Unpickled without care, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["zip", "bare"])
@pytest.mark.parametrize("name", ["llm.pt", "spk2info.pt"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(
    official: Path, tmp_path: Path, form: str, name: str
) -> None:
    bomb = {"x": Touch(tmp_path / "ran")}
    if form == "zip":
        torch.save(bomb, official / name)
    else:
        (official / name).write_bytes(pickle.dumps(bomb))
    with pytest.raises(InvalidParameter, match=rf"{re.escape(name)}: refused"):
        import_weights(official, tmp_path / "ours")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle at all", b"PK\x03\x04 broken"])
def test_a_file_that_is_no_checkpoint_is_named(official: Path, tmp_path: Path, content: bytes) -> None:
    (official / "hift.pt").write_bytes(content)
    with pytest.raises(InvalidParameter, match=r"hift\.pt"):
        import_weights(official, tmp_path / "ours")


@pytest.mark.parametrize("content", [[1, 2], {"a": "b"}, {"generator.x": torch.ones(1), "x": torch.ones(1)}])
def test_a_checkpoint_that_is_no_state_dict_is_named(official: Path, tmp_path: Path, content: Any) -> None:
    torch.save(content, official / "hift.pt")
    with pytest.raises(
        InvalidParameter, match=r"hift\.pt: (must hold a dictionary|a is no tensor but str|x occurs twice)"
    ):
        import_weights(official, tmp_path / "ours")


@pytest.mark.parametrize(
    "line",
    [
        "x: !!python/object/apply:os.mkdir ['RAN']",
        "x: !!python/object/new:os.mkdir ['RAN']",
        "x: !!python/name:os.mkdir",
    ],
)
def test_yaml_that_asks_for_python_objects_is_refused(
    official: Path, tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (official / "cosyvoice3.yaml").write_text(YAML + line + "\n")
    with pytest.raises(InvalidParameter, match=r"cosyvoice3\.yaml: cannot be read as YAML"):
        import_weights(official, tmp_path / "ours")
    assert not (tmp_path / "RAN").exists()


def test_hyperpyyaml_tags_are_data_and_nothing_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("x: !apply:os.mkdir [RAN]\ny: !new:os.mkdir\n    path: RAN\nz: !name:os.mkdir\n")
    tree = read_plain_yaml(tmp_path / "a.yaml")
    assert tree == {"x": ["RAN"], "y": {"!": "!new:os.mkdir", "path": "RAN"}, "z": {"!": "!name:os.mkdir"}}
    assert not (tmp_path / "RAN").exists()


# --- the real size ---


@pytest.mark.parametrize(("network", "num_tensors"), [("lm", 292), ("flow", 330), ("hift", 328)])
def test_networks_of_the_official_size_have_the_official_number_of_tensors(network: str, num_tensors: int) -> None:
    # the language model: 24 layers of 12, two norms and tables each; the tied head is not ours
    with UnsetParameters():
        state = build_network(network, OFFICIAL).state_dict()
    assert len(state) == num_tensors
