"""The architecture of an official model, from its yaml, Qwen2's config.json and the tensors; cross-checked.

The HyperPyYAML file is read as plain data: its tags name classes and functions, and none of them is imported or called.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from torch import Tensor

from cosyforge.cosyvoice.config import FlowConfig, HiFTConfig, LMConfig, ModelConfig, SamplingConfig
from cosyforge.errors import InvalidParameter

_T = TypeVar("_T")

CONFIG_FILE = "cosyvoice3.yaml"
QWEN_DIRECTORY = "CosyVoice-BlankEN"
EMBED_TOKENS = "llm.model.model.embed_tokens.weight"
_CLASSES = {
    "llm": "cosyvoice.llm.llm.CosyVoice3LM",
    "flow": "cosyvoice.flow.flow.CausalMaskedDiffWithDiT",
    "hift": "cosyvoice.hifigan.generator.CausalHiFTGenerator",
}


def infer_config(source: Path, states: Mapping[str, Mapping[str, Tensor]]) -> ModelConfig:
    """The architectures, from yaml, Qwen2's config.json and the tensors; a figure must be the same wherever it stands.

    Raises: InvalidParameter naming every figure that is not
    """
    figures = _Figures(read_plain_yaml(source / CONFIG_FILE), _read_json(source / QWEN_DIRECTORY / "config.json"))
    for part, wanted in _CLASSES.items():
        figures.check_class(part, wanted)
    config = ModelConfig(
        lm=_lm_config(figures, states["lm"]),
        flow=_flow_config(figures, states["flow"]),
        hift=_hift_config(figures, states["hift"]),
        sampling=SamplingConfig(
            top_p=figures.agreed("top_p", SamplingConfig.top_p, yaml="llm.sampling.top_p"),
            top_k=figures.agreed("top_k", SamplingConfig.top_k, yaml="llm.sampling.top_k"),
            window=figures.agreed("win_size", SamplingConfig.window, yaml="llm.sampling.win_size"),
            tau=figures.agreed("tau_r", SamplingConfig.tau, yaml="llm.sampling.tau_r"),
        ),
    )
    if figures.problems:
        raise InvalidParameter(f"{source}: configuration and tensors disagree: {'; '.join(figures.problems)}")
    return config


def _lm_config(figures: _Figures, state: Mapping[str, Tensor]) -> LMConfig:
    agreed, layer = figures.agreed, "llm.model.model.layers.0"
    hidden = agreed(
        "hidden_size", LMConfig.hidden_size, yaml="llm.llm_input_size", qwen="hidden_size",
        tensors=_size(state, EMBED_TOKENS, 1),
    )  # fmt: skip
    heads = agreed("num_attention_heads", LMConfig.num_heads, qwen="num_attention_heads")
    head_dim = agreed(
        "head_dim",
        hidden // max(heads, 1),
        qwen="head_dim",
        tensors=_size(state, f"{layer}.self_attn.q_proj.weight", 0, heads),
    )
    speech_tokens = agreed("llm.speech_token_size", LMConfig.speech_token_size, yaml="llm.speech_token_size")
    rows = _size(state, "speech_embedding.weight", 0)
    return LMConfig(
        text_vocab_size=agreed(
            "vocab_size", LMConfig.text_vocab_size, qwen="vocab_size", tensors=_size(state, EMBED_TOKENS, 0)
        ),
        hidden_size=hidden,
        num_layers=agreed(
            "num_hidden_layers", LMConfig.num_layers, qwen="num_hidden_layers",
            tensors=_count(state, r"llm\.model\.model\.layers\.(\d+)\."),
        ),
        num_heads=heads,
        num_kv_heads=agreed(
            "num_key_value_heads", LMConfig.num_kv_heads, qwen="num_key_value_heads",
            tensors=_size(state, f"{layer}.self_attn.k_proj.weight", 0, head_dim),
        ),
        head_dim=head_dim,
        intermediate_size=agreed(
            "intermediate_size", LMConfig.intermediate_size, qwen="intermediate_size",
            tensors=_size(state, f"{layer}.mlp.gate_proj.weight", 0),
        ),
        rope_theta=agreed("rope_theta", LMConfig.rope_theta, qwen="rope_theta"),
        rms_norm_eps=agreed("rms_norm_eps", LMConfig.rms_norm_eps, qwen="rms_norm_eps"),
        speech_token_size=speech_tokens,
        num_special_rows=LMConfig.num_special_rows if rows is None else max(rows - speech_tokens, 0),
        mix_ratio=agreed("llm.mix_ratio", LMConfig.mix_ratio, yaml="llm.mix_ratio"),
    )  # fmt: skip


def _flow_config(figures: _Figures, state: Mapping[str, Tensor]) -> FlowConfig:
    agreed, dit, cfm = figures.agreed, "flow.decoder.estimator", "flow.decoder.cfm_params.content"
    dim = agreed(
        f"{dit}.dim", FlowConfig.dim, yaml=f"{dit}.dim",
        tensors=_size(state, "decoder.estimator.input_embed.proj.weight", 0),
    )  # fmt: skip
    conv_pos = "decoder.estimator.input_embed.conv_pos_embed.conv1.0.weight"
    group_width = _size(state, conv_pos, 1)
    heads = agreed(f"{dit}.heads", FlowConfig.num_heads, yaml=f"{dit}.heads")
    return FlowConfig(
        speech_token_size=agreed(
            "flow.vocab_size", FlowConfig.speech_token_size, yaml="flow.vocab_size",
            tensors=_size(state, "input_embedding.weight", 0),
        ),
        mel_bins=agreed(
            "flow.output_size", FlowConfig.mel_bins, yaml="flow.output_size",
            tensors=_size(state, "decoder.estimator.proj_out.weight", 0),
        ),
        speaker_dim=agreed(
            "flow.spk_embed_dim", FlowConfig.speaker_dim, yaml="flow.spk_embed_dim",
            tensors=_size(state, "spk_embed_affine_layer.weight", 1),
        ),
        pre_lookahead=agreed("flow.pre_lookahead_len", FlowConfig.pre_lookahead, yaml="flow.pre_lookahead_len"),
        pre_lookahead_channels=agreed(
            "flow.pre_lookahead_layer.channels", FlowConfig.pre_lookahead_channels,
            yaml="flow.pre_lookahead_layer.channels", tensors=_size(state, "pre_lookahead_layer.conv1.weight", 0),
        ),
        dim=dim,
        depth=agreed(
            f"{dit}.depth", FlowConfig.depth, yaml=f"{dit}.depth",
            tensors=_count(state, r"decoder\.estimator\.transformer_blocks\.(\d+)\."),
        ),
        num_heads=heads,
        head_dim=agreed(
            f"{dit}.dim_head", FlowConfig.head_dim, yaml=f"{dit}.dim_head",
            tensors=_size(state, "decoder.estimator.transformer_blocks.0.attn.to_q.weight", 0, heads),
        ),
        ff_mult=agreed(
            f"{dit}.ff_mult", FlowConfig.ff_mult, yaml=f"{dit}.ff_mult",
            tensors=_size(state, "decoder.estimator.transformer_blocks.0.ff.ff.0.0.weight", 0, dim),
        ),
        conv_pos_kernel=_size(state, conv_pos, 2) or FlowConfig.conv_pos_kernel,
        conv_pos_groups=dim // group_width if group_width else FlowConfig.conv_pos_groups,
        dropout=agreed(f"{dit}.dropout", FlowConfig.dropout, yaml=f"{dit}.dropout"),
        chunk_frames=agreed(f"{dit}.static_chunk_size", FlowConfig.chunk_frames, yaml=f"{dit}.static_chunk_size"),
        frames_per_token=agreed("flow.token_mel_ratio", FlowConfig.frames_per_token, yaml="flow.token_mel_ratio"),
        guidance=agreed("inference_cfg_rate", FlowConfig.guidance, yaml=f"{cfm}.inference_cfg_rate"),
        training_guidance_dropout=agreed(
            "training_cfg_rate", FlowConfig.training_guidance_dropout, yaml=f"{cfm}.training_cfg_rate"
        ),
        sigma_min=agreed("sigma_min", FlowConfig.sigma_min, yaml=f"{cfm}.sigma_min"),
    )  # fmt: skip


def _hift_config(figures: _Figures, state: Mapping[str, Tensor]) -> HiFTConfig:
    agreed = figures.agreed
    dilations = figures.one_for_all(
        HiFTConfig.resblock_dilations, "hift.resblock_dilation_sizes", "hift.source_resblock_dilation_sizes"
    )
    f0_kernel = _size(state, "f0_predictor.condnet.0.parametrizations.weight.original1", 2)
    return HiFTConfig(
        mel_bins=agreed(
            "hift.in_channels", HiFTConfig.mel_bins, yaml="hift.in_channels",
            tensors=_size(state, "conv_pre.parametrizations.weight.original1", 1),
        ),
        base_channels=agreed(
            "hift.base_channels", HiFTConfig.base_channels, yaml="hift.base_channels",
            tensors=_size(state, "conv_pre.parametrizations.weight.original1", 0),
        ),
        f0_channels=agreed(
            "hift.f0_predictor.cond_channels", HiFTConfig.f0_channels, yaml="hift.f0_predictor.cond_channels",
            tensors=_size(state, "f0_predictor.classifier.weight", 1),
        ),
        upsample_rates=agreed("hift.upsample_rates", HiFTConfig.upsample_rates, yaml="hift.upsample_rates"),
        upsample_kernel_sizes=agreed(
            "hift.upsample_kernel_sizes", HiFTConfig.upsample_kernel_sizes, yaml="hift.upsample_kernel_sizes"
        ),
        istft_n_fft=agreed("hift.istft_params.n_fft", HiFTConfig.istft_n_fft, yaml="hift.istft_params.n_fft"),
        istft_hop=agreed("hift.istft_params.hop_len", HiFTConfig.istft_hop, yaml="hift.istft_params.hop_len"),
        resblock_kernel_sizes=agreed(
            "hift.resblock_kernel_sizes", HiFTConfig.resblock_kernel_sizes, yaml="hift.resblock_kernel_sizes"
        ),
        resblock_dilations=dilations,
        source_resblock_kernel_sizes=agreed(
            "hift.source_resblock_kernel_sizes", HiFTConfig.source_resblock_kernel_sizes,
            yaml="hift.source_resblock_kernel_sizes",
        ),
        num_harmonics=agreed("hift.nb_harmonics", HiFTConfig.num_harmonics, yaml="hift.nb_harmonics"),
        sine_amplitude=agreed("hift.nsf_alpha", HiFTConfig.sine_amplitude, yaml="hift.nsf_alpha"),
        noise_sigma=agreed("hift.nsf_sigma", HiFTConfig.noise_sigma, yaml="hift.nsf_sigma"),
        voiced_threshold_hz=agreed(
            "hift.nsf_voiced_threshold", HiFTConfig.voiced_threshold_hz, yaml="hift.nsf_voiced_threshold"
        ),
        conv_pre_look_right=agreed(
            "hift.conv_pre_look_right", HiFTConfig.conv_pre_look_right, yaml="hift.conv_pre_look_right"
        ),
        f0_look_right=f0_kernel - 1 if f0_kernel else HiFTConfig.f0_look_right,
        lrelu_slope=agreed("hift.lrelu_slope", HiFTConfig.lrelu_slope, yaml="hift.lrelu_slope"),
        audio_limit=agreed("hift.audio_limit", HiFTConfig.audio_limit, yaml="hift.audio_limit"),
        sample_rate_hz=agreed("hift.sampling_rate", HiFTConfig.sample_rate_hz, yaml="hift.sampling_rate"),
    )  # fmt: skip


class _Figures:
    """Looks figures up where they stand, and notes where two places disagree."""

    def __init__(self, tree: Mapping[str, Any], qwen: Mapping[str, Any]) -> None:
        self._tree = tree
        self._qwen = qwen
        self.problems: list[str] = []

    def check_class(self, part: str, wanted: str) -> None:
        """Note when the yaml builds a part of another class, such as that of an earlier CosyVoice."""
        node = self._tree.get(part)
        found = node.get(TAG) if isinstance(node, dict) else None
        if found != f"!new:{wanted}":
            self.problems.append(f"{CONFIG_FILE}: {part} must be !new:{wanted}, got {found or 'nothing'}")

    def agreed(self, what: str, default: _T, *, yaml: str = "", qwen: str = "", tensors: int | None = None) -> _T:
        """What yaml (by dotted path), Qwen2's config.json and the tensors give; the default where none does."""
        places = {
            CONFIG_FILE: _lookup(self._tree, yaml) if yaml else None,
            f"{QWEN_DIRECTORY}/config.json": self._qwen.get(qwen) if qwen else None,
            "the tensors": tensors,
        }
        found: dict[str, _T] = {}
        for place, value in places.items():
            if value is not None:
                try:
                    found[place] = _like(default, value)
                except (ValueError, TypeError):
                    self.problems.append(f"{what} in {place} must be like {default!r}, got {value!r}")
        if len(set(found.values())) > 1:
            said = ", ".join(f"{value} in {place}" for place, value in found.items())
            self.problems.append(f"{what} is {said}")
        return next(iter(found.values()), default)

    def one_for_all(self, default: tuple[int, ...], *paths: str) -> tuple[int, ...]:
        """The one list that all rows of the yaml's lists of lists must be."""
        lists = [_lookup(self._tree, path) for path in paths]
        rows = {_tuples(row) for rows in lists if isinstance(rows, list) for row in rows}
        if len(rows) > 1:
            self.problems.append(
                f"{' and '.join(paths)} must hold one list over and over, hold {sorted(rows, key=str)}"
            )
        row = next(iter(rows), default)
        if not isinstance(row, tuple) or not all(type(item) is int for item in row):
            self.problems.append(f"{paths[0]} must hold lists of whole numbers, got {row!r}")
            return default
        return row


def _like(default: _T, value: Any) -> _T:
    """The value as the default's type; numbers that YAML 1.1 takes for text (1e-06) are numbers too."""
    result: Any
    if isinstance(default, tuple):
        result = _tuples(value)
        if not isinstance(result, tuple) or not all(type(item) is int for item in result):
            raise ValueError(value)
    elif isinstance(value, bool):
        raise ValueError(value)
    elif isinstance(default, float):
        result = float(value)
    else:
        result = int(value)
        if result != float(value):
            raise ValueError(value)
    return result  # type: ignore[no-any-return]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _size(state: Mapping[str, Tensor], key: str, axis: int, divisor: int = 1) -> int | None:
    """Length of one axis in units of divisor; None where the tensor is missing, or of a form refused elsewhere."""
    if key not in state or state[key].ndim <= axis or divisor <= 0 or state[key].shape[axis] % divisor:
        return None
    return state[key].shape[axis] // divisor


def _count(state: Mapping[str, Tensor], pattern: str) -> int | None:
    indices = [int(match[1]) for match in map(re.compile(pattern).match, state) if match]
    return max(indices) + 1 if indices else None


# --- HyperPyYAML as plain data ---

TAG = "!"
"""Key under which a mapping keeps its tag, such as `!new:package.Class`."""
_MAX_REFERENCES = 16
_REFERENCE = re.compile(r"<(\w+)>")


@dataclass(frozen=True)
class _Reference:
    """`!ref <name>`, or a product such as `!ref <a> * <b>`."""

    expression: str


def read_plain_yaml(path: str | Path) -> dict[str, Any]:
    """Read HyperPyYAML without executing it: `!new:`, `!name:`, `!apply:` become dictionaries that keep their tag.

    Raises: InvalidParameter when it is no YAML mapping, or holds tags that only a Python object could serve
    """
    try:
        # a subclass of the safe loader: it knows the plain types and what is added below
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(tree, dict):
        raise InvalidParameter(f"{path}: must hold a mapping")
    return tree


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Constructs strings, numbers, lists and dictionaries, nothing else."""


def _construct_plain(loader: Any, suffix: str, node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {TAG: f"!{suffix}", **loader.construct_mapping(node, deep=True)}
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    if suffix == "ref":
        return _Reference(loader.construct_scalar(node))
    return {TAG: f"!{suffix}"}


_PlainLoader.add_multi_constructor("!", _construct_plain)


def _lookup(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path with references followed; None when there is none."""
    value: Any = tree
    for part in path.split("."):
        value = _resolved(tree, value.get(part)) if isinstance(value, Mapping) else None
    return value


def _resolved(tree: Mapping[str, Any], value: Any) -> Any:
    for _ in range(_MAX_REFERENCES):
        if not isinstance(value, _Reference):
            return value
        value = _followed(tree, value.expression)
    raise InvalidParameter(f"{CONFIG_FILE}: references lead in a circle")


def _followed(tree: Mapping[str, Any], expression: str) -> Any:
    factors = [_REFERENCE.fullmatch(factor.strip()) for factor in expression.split("*")]
    names = [factor[1] for factor in factors if factor]
    if len(names) != len(factors):
        return expression
    if len(names) == 1:
        return tree.get(names[0])
    values = [value for value in map(tree.get, names) if type(value) is int]
    if len(values) != len(names):
        raise InvalidParameter(f"{CONFIG_FILE}: !ref {expression} must multiply whole numbers")
    return math.prod(values)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"{path}: not valid JSON ({error})") from error
    if not isinstance(values, dict):
        raise InvalidParameter(f"{path}: must hold a JSON object")
    return values
