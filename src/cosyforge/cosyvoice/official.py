"""A directory of the official release (Fun-CosyVoice3) <-> a model directory of ours; strict both ways.

Nothing of the official files is executed: weights are unpickled as tensors alone, and the HyperPyYAML configuration is
read as plain data. Our networks use the official parameter names, so what differs stands in a few lines here: entries
that trainers add, the prefix a GAN run leaves, and the tied copy of the text embedding.
"""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosyforge.cosyvoice.config import OFFICIAL, ModelConfig
from cosyforge.cosyvoice.manifest import FileEntry, FrontendEntry, Manifest, file_digest, replacing, write_manifest
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.official_config import CONFIG_FILE, EMBED_TOKENS, QWEN_DIRECTORY, infer_config
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.cosyvoice.weights import (
    UnsetParameters,
    build_network,
    copy_file,
    load_model,
    mismatches,
    narrowed,
    voice_entries,
    write_tensors,
    write_voices,
)
from cosyforge.errors import InvalidParameter

logger = logging.getLogger(__name__)

VOICES_FILE = "spk2info.pt"
WEIGHT_FILES = {"lm": "llm.pt", "flow": "flow.pt", "hift": "hift.pt"}
RL_FILE = "llm.rl.pt"
ONNX_FILES = {"speech_tokenizer": "speech_tokenizer_v3.onnx", "speaker_encoder": "campplus.onnx"}

PREFIX = "You are a helpful assistant.<|endofprompt|>"
LICENCE = "Apache-2.0"

LM_HEAD = "llm.model.lm_head.weight"
_TRAINER_ENTRIES = ("epoch", "step")


def import_weights(
    official_directory: str | Path,
    out_directory: str | Path,
    *,
    reinforced: bool = False,
    name: str | None = None,
    storage: torch.dtype = torch.float32,
) -> Manifest:
    """Make a model directory of ours from an official one; model.json is written last, when all the rest is in place.

    reinforced: take the language model of llm.rl.pt instead of llm.pt
    storage: as in `save_model`
    Raises: InvalidParameter naming every file that is missing or refused, every figure on which configuration and
    tensors disagree, and every key that is missing, unknown or misshapen
    """
    source, target = Path(official_directory), Path(out_directory)
    weight_files = {**WEIGHT_FILES, "lm": RL_FILE} if reinforced else WEIGHT_FILES
    _require(source, [CONFIG_FILE, f"{QWEN_DIRECTORY}/config.json", *weight_files.values()])
    states = {network: _clean(read_pickled_tensors(source / file), file) for network, file in weight_files.items()}
    config = infer_config(source, states)
    _check_states(config, states, weight_files)
    tokenizer = _text_tokenizer(source, config)
    voices = _read_voices(source / VOICES_FILE, tokenizer) if (source / VOICES_FILE).is_file() else {}

    files = {network: _write_network(target, network, state, storage) for network, state in states.items()}
    files |= _copy_onnx(source, target)
    with replacing(target / "tokenizer.json") as temporary:
        tokenizer.save(temporary)
    files["text_tokenizer"] = FileEntry("tokenizer.json", file_digest(target / "tokenizer.json"))
    if voices:
        files["voices"] = FileEntry("voices.safetensors", write_voices(target / "voices.safetensors", voices))
    manifest = Manifest(
        name=name or source.resolve().name,
        preset="official"
        if (config.lm, config.flow, config.hift) == (OFFICIAL.lm, OFFICIAL.flow, OFFICIAL.hift)
        else None,
        networks=config,
        sampling=config.sampling,
        files=files,
        frontend=FrontendEntry(languages=("zh", "en"), english="text", prefix=PREFIX),
        voices=voice_entries(voices),
        licence=LICENCE,
    )
    write_manifest(target, manifest)
    return manifest


def export_weights(
    model_directory: str | Path, out_directory: str | Path, *, base_directory: str | Path | None = None
) -> list[Path]:
    """Write llm.pt, flow.pt and hift.pt as the official code loads them, and spk2info.pt when there are voices.

    A tuned model is merged with its base first. The other official files are not written: take them from the release.
    Raises: InvalidParameter as `load_model` does
    """
    model = load_model(model_directory, base_directory=base_directory, networks=tuple(WEIGHT_FILES))
    if model.config.hift.source != "staircase":
        logger.warning("the vocoder's source is %s; the official code knows only staircase", model.config.hift.source)
    target = Path(out_directory)
    written = []
    for network, file in WEIGHT_FILES.items():
        state = {key: tensor.detach().clone() for key, tensor in model.networks[network].state_dict().items()}
        if network == "lm":
            state[LM_HEAD] = state[EMBED_TOKENS]
        written.append(_save_pickled(target / file, state))
    if model.voices:
        written.append(_save_pickled(target / VOICES_FILE, _official_voices(model)))
    return written


# --- files ---


def read_pickled_tensors(path: str | Path) -> Any:
    """Unpickle a .pt file, refusing whatever is not plain data and tensors.

    Raises: InvalidParameter naming the file
    """
    try:
        # a mapped file is read once, by whoever copies the tensors; the old format cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise InvalidParameter(f"{path}: refused, it holds more than tensors or is damaged ({reason})") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise InvalidParameter(f"{path}: cannot be read as a PyTorch file ({error})") from error


def _require(directory: Path, names: list[str]) -> None:
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise InvalidParameter(f"{directory}: not an official CosyVoice 3 directory, missing {', '.join(missing)}")


def _clean(state: Any, file: str) -> dict[str, Tensor]:
    """The network's tensors alone, without what trainers add, in float32."""
    if not isinstance(state, Mapping):
        raise InvalidParameter(f"{file}: must hold a dictionary of tensors, holds {type(state).__name__}")
    kept: dict[str, Tensor] = {}
    problems = []
    for key, value in state.items():
        if key in _TRAINER_ENTRIES or str(key).startswith("discriminator."):
            continue
        ours = str(key).replace("generator.", "") if file == WEIGHT_FILES["hift"] else str(key)
        if not isinstance(value, Tensor):
            problems.append(f"{key} is no tensor but {type(value).__name__}")
        elif ours in kept:
            problems.append(f"{ours} occurs twice")
        else:
            kept[ours] = value.float() if value.is_floating_point() else value
    if problems:
        raise InvalidParameter(f"{file}: {'; '.join(problems)}")
    return kept


def _check_states(config: ModelConfig, states: dict[str, dict[str, Tensor]], weight_files: Mapping[str, str]) -> None:
    """Compare every state dict with the network it is for; takes the tied head off the language model's."""
    problems = []
    head = states["lm"].pop(LM_HEAD, None)
    embedding = states["lm"].get(EMBED_TOKENS)
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        problems.append(f"{weight_files['lm']}: {LM_HEAD} is tied and must equal {EMBED_TOKENS}, but differs")
    for network, state in states.items():
        if found := mismatches(_blank(network, config).state_dict(), state):
            problems.append(f"{weight_files[network]}: {found}")
    if problems:
        raise InvalidParameter("the weights do not fit the configuration: " + " | ".join(problems))


def _blank(network: str, config: ModelConfig) -> nn.Module:
    try:
        with UnsetParameters():
            return build_network(network, config)
    except (ValueError, RuntimeError) as error:
        raise InvalidParameter(f"{CONFIG_FILE}: no {network} can be built from it ({error})") from error


def _write_network(target: Path, network: str, state: Mapping[str, Tensor], storage: torch.dtype) -> FileEntry:
    path = target / f"{network}.safetensors"
    # the only buffer among official keys; a table of frequencies does not bear rounding
    buffers = {key for key in state if key.endswith("inv_freq")}
    return FileEntry(path.name, write_tensors(path, narrowed(state, buffers, storage)))


def _copy_onnx(source: Path, target: Path) -> dict[str, FileEntry]:
    entries = {}
    for network, file in ONNX_FILES.items():
        if not (source / file).is_file():
            logger.warning("%s has no %s: the model will speak, but cannot take in recordings", source, file)
            continue
        copy_file(source / file, target / file)
        entries[f"onnx_{network}"] = FileEntry(file, file_digest(target / file))
    return entries


def _save_pickled(path: Path, content: Any) -> Path:
    with replacing(path) as temporary:
        torch.save(content, temporary)
    return path


def _text_tokenizer(source: Path, config: ModelConfig) -> TextTokenizer:
    try:
        tokenizer = TextTokenizer.from_qwen2_directory(source / QWEN_DIRECTORY)
    except ValueError as error:
        raise InvalidParameter(str(error)) from error
    if tokenizer.vocab_size > config.lm.text_vocab_size:
        raise InvalidParameter(
            f"{source / QWEN_DIRECTORY}: {tokenizer.vocab_size} text tokens, but {EMBED_TOKENS} has "
            f"{config.lm.text_vocab_size} rows"
        )
    return tokenizer


# --- voices ---


def _read_voices(path: Path, tokenizer: TextTokenizer) -> dict[str, Voice]:
    """spk2info.pt: per name an `embedding` (1, D), or a whole zero-shot prompt as the official code keeps it."""
    content = read_pickled_tensors(path)
    voices = {}
    problems = []
    for name, entry in content.items() if isinstance(content, Mapping) else [("the file", None)]:
        embedding = _entry(entry, "embedding", "flow_embedding")
        if embedding is None or embedding.numel() != embedding.shape[-1]:
            problems.append(f"{name} must hold an embedding (1, width)")
            continue
        voices[str(name)] = _voice(embedding, entry, tokenizer)
    if problems:
        raise InvalidParameter(f"{path}: {'; '.join(problems)}")
    return voices


def _entry(entry: Any, *keys: str) -> Tensor | None:
    values = [entry.get(key) for key in keys] if isinstance(entry, Mapping) else []
    return next((value for value in values if isinstance(value, Tensor)), None)


def _voice(embedding: Tensor, entry: Any, tokenizer: TextTokenizer) -> Voice:
    vector = embedding.reshape(-1).float()
    token, mel, text = (_entry(entry, key) for key in ("flow_prompt_speech_token", "prompt_speech_feat", "prompt_text"))
    if token is None or mel is None:
        return Voice(vector)
    num_tokens = min(token.shape[-1], mel.shape[1] // 2)
    return Voice(
        speaker_embedding=vector,
        prompt_text=None if text is None else tokenizer.decode(text.reshape(-1).tolist()),
        prompt_token=token.reshape(-1)[:num_tokens].long(),
        prompt_mel=mel[0, : 2 * num_tokens].T.float().contiguous(),
    )


def _official_voices(model: CosyVoice) -> dict[str, dict[str, Tensor]]:
    return {name: {"embedding": voice.speaker_embedding[None].clone()} for name, voice in model.voices.items()}
