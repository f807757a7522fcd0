"""A model directory on disk <-> a CosyVoice in memory; strict in every direction.

Nothing is read before its digest is checked, nothing is loaded that does not fit the configuration key by key, and one
error names all that is wrong. Weights are safetensors only, so a file can hold numbers and nothing that runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cosyforge.cosyvoice.config import ModelConfig, SamplingConfig
from cosyforge.cosyvoice.manifest import (
    NETWORKS,
    BaseEntry,
    FileEntry,
    FrontendEntry,
    Manifest,
    VoiceEntry,
    builtin_model_directory,
    file_digest,
    manifest_digest,
    read_manifest,
    replacing,
    write_manifest,
)
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.errors import InvalidParameter

if TYPE_CHECKING:
    from cosyforge.cosyvoice.text_tokenizer import TextTokenizer

ONNX_NETWORKS = ("speech_tokenizer", "speaker_encoder")
STORAGE_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_LORA_A, _LORA_B = ".lora_A", ".lora_B"


def load_model(
    directory: str | Path,
    *,
    base_directory: str | Path | None = None,
    device: str | torch.device = "cpu",
    networks: Collection[str] | None = None,
) -> CosyVoice:
    """Load a model, whole or tuned, in evaluation mode and float32.

    networks: load only these (of lm, flow, hift, speech_tokenizer, speaker_encoder); None loads all the model has
    base_directory: where a tuned model's base lies; None looks where the manifest says, then at the built-in model
    Raises: InvalidParameter when a file is missing, changed, or does not fit, or the base is not found or another one
    """
    chain = _resolve(Path(directory), None if base_directory is None else Path(base_directory))
    config = chain[-1].manifest.networks
    assert config is not None
    return CosyVoice(
        networks={name: _load_network(name, chain, config, device) for name in _wanted(networks, chain)},
        text_tokenizer=_load_text_tokenizer(chain, config),
        manifest=chain[0].manifest,
        voices=_load_voices(chain),
        sampling=next((link.manifest.sampling for link in chain if link.manifest.sampling), SamplingConfig()),
        config=config,
        frontend=next((link.manifest.frontend for link in chain if link.manifest.frontend), FrontendEntry()),
    )


def save_model(model: CosyVoice, directory: str | Path, *, storage: torch.dtype = torch.float32) -> Manifest:
    """Write a whole model; one that was tuned is written merged with its base. Returns the manifest.

    storage: bfloat16 or float16 halve the matrices; vectors, statistics and voices stay float32
    Raises: ValueError when storage is no such type or a number does not fit float16; InvalidParameter when the model
    lacks a network of its configuration
    """
    directory = Path(directory)
    wanted = [name for name in NETWORKS if getattr(model.config, name) is not None]
    wanted += [name for name in ONNX_NETWORKS if name not in wanted and name in model.networks]
    missing = [name for name in wanted if name not in model.networks]
    if missing:
        raise InvalidParameter(
            f"model {model.manifest.name} was loaded without {', '.join(missing)}; load all to save it"
        )
    files = dict(_save_network(name, model.networks[name], directory, storage) for name in wanted)
    with replacing(directory / "tokenizer.json") as temporary:
        model.text_tokenizer.save(temporary)
    files["text_tokenizer"] = FileEntry("tokenizer.json", file_digest(directory / "tokenizer.json"))
    if model.voices:
        files["voices"] = FileEntry("voices.safetensors", write_voices(directory / "voices.safetensors", model.voices))
    manifest = replace(
        model.manifest,
        networks=model.config,
        base=None,
        sampling=model.sampling,
        frontend=model.frontend,
        files=files,
        voices=voice_entries(model.voices, model.manifest.voices),
    )
    write_manifest(directory, manifest)
    return manifest


# --- tensors and voices in files ---


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> str:
    """Write tensors as safetensors in one step and return the digest of the file."""
    path = Path(path)
    content = {key: _own_storage(tensor) for key, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(content, temporary)
        return file_digest(temporary)


def read_tensors(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, 16-bit numbers as float32; the digest is checked first when it is known.

    Raises: InvalidParameter naming the file when it is missing, changed or damaged
    """
    _check_digest(Path(path), sha256)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise InvalidParameter(f"{path}: not a safetensors file, or a damaged one ({error})") from error
    return {key: _widened(tensor) for key, tensor in tensors.items()}


def narrowed(state: Mapping[str, Tensor], buffers: Collection[str], storage: torch.dtype) -> dict[str, Tensor]:
    """A state dict with its matrices in 16 bits; vectors and the named buffers keep their precision.

    Raises: ValueError when storage is not float32, bfloat16 or float16, or a number is too large for float16
    """
    if storage not in STORAGE_TYPES:
        raise ValueError(f"storage must be float32, bfloat16 or float16, got {storage}")
    result = {}
    for key, tensor in state.items():
        small = tensor.ndim < 2 or key in buffers or tensor.dtype != torch.float32
        result[key] = tensor if small else tensor.to(storage)
        if not small and tensor.isfinite().all() and not result[key].isfinite().all():
            raise ValueError(f"{key} holds numbers too large for {storage}; store it as bfloat16")
    return result


def write_voices(path: str | Path, voices: Mapping[str, Voice]) -> str:
    """Write the tensors of voices and return the digest of the file; transcripts belong in the manifest."""
    tensors = {}
    for name, voice in voices.items():
        tensors[f"{name}.speaker_embedding"] = voice.speaker_embedding.to(torch.float32)
        if voice.prompt_token is not None and voice.prompt_mel is not None:
            tensors[f"{name}.prompt_token"] = voice.prompt_token.to(torch.int64)
            tensors[f"{name}.prompt_mel"] = voice.prompt_mel.to(torch.float32)
    return write_tensors(path, tensors)


def voice_entries(voices: Mapping[str, Voice], known: Mapping[str, VoiceEntry] | None = None) -> dict[str, VoiceEntry]:
    """What the manifest says of voices: descriptions already known are kept, transcripts come from the voices."""
    described = {name: (known or {}).get(name, VoiceEntry()) for name in voices}
    return {name: replace(entry, prompt_text=voices[name].prompt_text) for name, entry in described.items()}


# --- deltas ---


def apply_delta(state: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a tuned network's weights are: the base's, with whole tensors replaced and low-rank products added.

    delta: KEY (replaces), or KEY.lora_A (r, in) and KEY.lora_B (out, r): weight + B @ A; for a convolution, in counts
    channels times kernel
    Raises: InvalidParameter naming every entry that has no partner, no counterpart or another shape
    """
    result = dict(state)
    problems = []
    for key, tensor in delta.items():
        if key.endswith(_LORA_B):
            if key.removesuffix(_LORA_B) + _LORA_A not in delta:
                problems.append(f"{key} has no {_LORA_A[1:]}")
        elif key.endswith(_LORA_A):
            problems += _add_product(result, delta, key.removesuffix(_LORA_A))
        elif key not in state:
            problems.append(f"{key} is not in the base")
        elif state[key].shape != tensor.shape:
            problems.append(f"{key} is {_shape(tensor)} and {_shape(state[key])} in the base")
        else:
            result[key] = tensor.to(state[key].dtype)
    if problems:
        raise InvalidParameter(f"the delta does not fit its base: {'; '.join(problems)}")
    return result


def _add_product(result: dict[str, Tensor], delta: Mapping[str, Tensor], key: str) -> list[str]:
    a, b = delta[key + _LORA_A], delta.get(key + _LORA_B)
    base = result.get(key)
    if b is None:
        return [f"{key}{_LORA_A} has no {_LORA_B[1:]}"]
    if base is None:
        return [f"{key} is not in the base"]
    if key in delta:
        return [f"{key} is both replaced and added to"]
    fits = base.ndim >= 2 and a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]
    if not fits or b.shape[0] != base.shape[0] or a.shape[1] != base[0].numel():
        return [f"{key}: product of {_shape(b)} and {_shape(a)} does not fit {_shape(base)}"]
    result[key] = base + (b.to(base.dtype) @ a.to(base.dtype)).view_as(base)
    return []


# --- a tuned model and its bases ---


@dataclass(frozen=True)
class _Link:
    """One directory of the way from a tuned model down to the whole model it stands on."""

    directory: Path
    manifest: Manifest

    def file(self, name: str) -> tuple[Path, str] | None:
        entry = self.manifest.files.get(name)
        return None if entry is None else (self.directory / entry.path, entry.sha256)


def _resolve(directory: Path, base_directory: Path | None) -> list[_Link]:
    chain = [_Link(directory, read_manifest(directory))]
    while (base := chain[-1].manifest.base) is not None:
        found = _find_base(chain[-1], base, base_directory)
        chain.append(_Link(found, read_manifest(found)))
        base_directory = None  # it was named for the first step alone
    return chain


def _find_base(link: _Link, base: BaseEntry, explicit: Path | None) -> Path:
    if explicit is not None:
        found = manifest_digest(explicit)
        if found != base.sha256:
            raise InvalidParameter(
                f"{link.directory}: stands on the base model {base.name} with digest {base.sha256[:12]}…, but "
                f"{explicit} holds {read_manifest(explicit).name} with digest {found[:12]}…; name the right directory"
            )
        return explicit
    # an absolute hint stays as it is when joined
    hints = [] if base.path is None else [link.directory / base.path]
    tried = [*hints, builtin_model_directory()]
    for candidate in tried:
        if (candidate / "model.json").is_file() and manifest_digest(candidate) == base.sha256:
            return candidate
    raise InvalidParameter(
        f"{link.directory}: its base model {base.name} with digest {base.sha256[:12]}… is in none of "
        f"{', '.join(map(str, tried))}; name its directory (base_directory)"
    )


# --- networks ---


class UnsetParameters(TorchFunctionMode):
    """Building a network leaves its parameters unset: all are loaded right after, and filling them takes seconds."""

    _FILLS = frozenset(
        {
            nn.init.uniform_,
            nn.init.normal_,
            nn.init.kaiming_uniform_,
            nn.init.constant_,
            Tensor.uniform_,
            Tensor.normal_,
            Tensor.zero_,
            Tensor.fill_,
        }
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        target = args[0] if args else (kwargs or {}).get("tensor")
        if func in self._FILLS and isinstance(target, nn.Parameter):
            return target
        return func(*args, **(kwargs or {}))


def build_network(name: str, config: ModelConfig) -> nn.Module:
    """A fresh network of the model with random weights.

    Raises: InvalidParameter when the configuration has no such network
    """
    network_config = getattr(config, name)
    if network_config is None:
        raise InvalidParameter(f"the configuration has no network {name}")
    if name == "lm":
        from cosyforge.cosyvoice.lm import SpeechLM

        return SpeechLM(network_config)
    if name == "flow":
        from cosyforge.cosyvoice.flow import Flow

        return Flow(network_config)
    if name == "hift":
        from cosyforge.cosyvoice.hift import HiFT

        return HiFT(network_config)
    if name == "speech_tokenizer":
        from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer

        return SpeechTokenizer(network_config)
    from cosyforge.cosyvoice.speaker_encoder import SpeakerEncoder

    return SpeakerEncoder(network_config)


def load_state(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Put a state dict into a network without copying; `where` names its origin in the error.

    Raises: InvalidParameter naming every key that is missing, unknown, misshapen or of another kind
    """
    expected = network.state_dict()
    problems = mismatches(expected, state)
    if problems:
        raise InvalidParameter(f"{where}: does not fit the network of the configuration: {problems}")
    network.load_state_dict({key: tensor.to(expected[key].dtype) for key, tensor in state.items()}, assign=True)


def mismatches(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Everything by which a state dict differs in form from the expected one; empty when it fits."""
    parts = []
    if missing := sorted(set(expected) - set(state)):
        parts.append(f"missing {', '.join(missing)}")
    if unknown := sorted(set(state) - set(expected)):
        parts.append(f"unknown {', '.join(unknown)}")
    shared = sorted(set(expected) & set(state))
    if misshapen := [
        f"{key} {_shape(state[key])} instead of {_shape(expected[key])}"
        for key in shared
        if state[key].shape != expected[key].shape
    ]:
        parts.append(f"misshapen {', '.join(misshapen)}")
    if other_kind := [
        f"{key} {state[key].dtype} instead of {expected[key].dtype}"
        for key in shared
        if state[key].is_floating_point() != expected[key].is_floating_point()
    ]:
        parts.append(f"of another kind {', '.join(other_kind)}")
    return "; ".join(parts)


def _wanted(networks: Collection[str] | None, chain: list[_Link]) -> list[str]:
    files = chain[-1].manifest.files
    present = [name for name in NETWORKS if name in files or f"onnx_{name}" in files]
    if networks is None:
        return present
    absent = sorted(set(networks) - set(present))
    if absent:
        raise InvalidParameter(
            f"{chain[-1].directory}: has no network {', '.join(absent)}; it has {', '.join(present)}"
        )
    return [name for name in NETWORKS if name in networks]


def _load_network(name: str, chain: list[_Link], config: ModelConfig, device: str | torch.device) -> Any:
    root = chain[-1]
    if (onnx := root.file(f"onnx_{name}")) is not None:
        return _load_onnx(name, *onnx)
    entry = root.file(name)
    assert entry is not None
    if getattr(config, name) is None:
        raise InvalidParameter(
            f"{root.directory}: model.json names a file for {name} but no architecture under networks"
        )
    with UnsetParameters():
        network = build_network(name, config)
    state = read_tensors(*entry)
    if problems := mismatches(network.state_dict(), state):
        raise InvalidParameter(f"{entry[0]}: does not fit the network {name} of the configuration: {problems}")
    for link in reversed(chain[:-1]):
        if (delta := link.file(f"{name}_delta")) is not None:
            try:
                state = apply_delta(state, read_tensors(*delta))
            except InvalidParameter as error:
                raise InvalidParameter(f"{delta[0]}: {error.message}") from error
    load_state(network, state, str(entry[0]))
    return network.to(device).eval()


def _load_onnx(name: str, path: Path, sha256: str) -> Any:
    from cosyforge.cosyvoice.onnx_networks import OnnxSpeakerEncoder, OnnxSpeechTokenizer

    _check_digest(path, sha256)
    return (OnnxSpeechTokenizer if name == "speech_tokenizer" else OnnxSpeakerEncoder).open(path)


def _save_network(name: str, network: Any, directory: Path, storage: torch.dtype) -> tuple[str, FileEntry]:
    if not isinstance(network, nn.Module):  # an ONNX file goes along as it is
        path = directory / f"{name}.onnx"
        if network.path is None:
            raise InvalidParameter(f"the ONNX {name} was not opened from a file and cannot be saved")
        copy_file(network.path, path)
        return f"onnx_{name}", FileEntry(path.name, file_digest(path))
    buffers = {key for key, _ in network.named_buffers()}
    path = directory / f"{name}.safetensors"
    return name, FileEntry(path.name, write_tensors(path, narrowed(network.state_dict(), buffers, storage)))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file in one step; copying it onto itself does nothing."""
    if source.resolve() == target.resolve():
        return
    with replacing(target) as temporary, source.open("rb") as reader, temporary.open("wb") as writer:
        while block := reader.read(1 << 24):
            writer.write(block)


# --- voices and text tokenizer ---


def _load_voices(chain: list[_Link]) -> dict[str, Voice]:
    for link in chain:
        if (entry := link.file("voices")) is not None:
            tensors = read_tensors(*entry)
            return _voices(entry[0], tensors, link.manifest.voices)
    return {}


_VOICE_PARTS = ("speaker_embedding", "prompt_token", "prompt_mel")


def _voices(path: Path, tensors: Mapping[str, Tensor], entries: Mapping[str, VoiceEntry]) -> dict[str, Voice]:
    parts_by_name: dict[str, dict[str, Tensor]] = {}
    problems = []
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        if part not in _VOICE_PARTS:
            problems.append(f"unknown tensor {key}")
        parts_by_name.setdefault(name, {})[part] = tensor
    for name, parts in parts_by_name.items():
        problems += [f"voice {name}: {problem}" for problem in _voice_problems(parts)]
    problems += [f"voice {name} is not in model.json" for name in sorted(set(parts_by_name) - set(entries))]
    problems += [f"voice {name} of model.json is missing" for name in sorted(set(entries) - set(parts_by_name))]
    if problems:
        raise InvalidParameter(f"{path}: {'; '.join(problems)}")
    return {
        name: Voice(
            speaker_embedding=parts_by_name[name]["speaker_embedding"],
            prompt_text=entry.prompt_text,
            prompt_token=parts_by_name[name].get("prompt_token"),
            prompt_mel=parts_by_name[name].get("prompt_mel"),
        )
        for name, entry in entries.items()
    }


def _voice_problems(parts: Mapping[str, Tensor]) -> Iterable[str]:
    embedding, token, mel = (parts.get(part) for part in _VOICE_PARTS)
    if embedding is None or embedding.ndim != 1:
        yield "speaker_embedding (width,) is needed"
    if (token is None) != (mel is None):
        yield "prompt_token and prompt_mel belong together"
    if token is not None and mel is not None:
        if token.ndim != 1 or mel.ndim != 2 or mel.shape[1] != 2 * token.shape[0]:
            yield f"prompt_mel {_shape(mel)} must hold two frames for each of prompt_token {_shape(token)}"
        if token.is_floating_point():
            yield "prompt_token must hold integers"


def _load_text_tokenizer(chain: list[_Link], config: ModelConfig) -> TextTokenizer:
    from cosyforge.cosyvoice.text_tokenizer import TextTokenizer

    for link in chain:
        if (entry := link.file("text_tokenizer")) is not None:
            _check_digest(*entry)
            tokenizer = TextTokenizer.from_file(entry[0])
            if tokenizer.vocab_size > config.lm.text_vocab_size:
                raise InvalidParameter(
                    f"{entry[0]}: {tokenizer.vocab_size} text tokens, but the language model has rows for "
                    f"{config.lm.text_vocab_size}"
                )
            return tokenizer
    raise InvalidParameter(f"{chain[-1].directory}: model.json names no file text_tokenizer")


# --- small things ---


def _check_digest(path: Path, sha256: str | None) -> None:
    if not path.is_file():
        raise InvalidParameter(f"{path}: file of the model is missing")
    if sha256 is None:
        return
    found = file_digest(path)
    if found != sha256:
        raise InvalidParameter(
            f"{path}: not the file that model.json names (digest {found[:12]}…, wanted {sha256[:12]}…); copy it again"
        )


def _own_storage(tensor: Tensor) -> Tensor:
    """The numbers in a storage of their own: safetensors writes no views."""
    tensor = tensor.detach().cpu().contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
