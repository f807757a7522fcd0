"""model.json: what a model directory holds, as plain data; no torch here, so the server can read it.

The manifest names files and their digests but opens none of them; `weights.py` does, and checks them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from cosyforge.cosyvoice.config import (
    FlowConfig,
    HiFTConfig,
    LMConfig,
    ModelConfig,
    SamplingConfig,
    SpeakerEncoderConfig,
    SpeechTokenizerConfig,
)
from cosyforge.errors import InvalidParameter

FORMAT = "cosyforge-model/1"
MANIFEST_NAME = "model.json"

NETWORKS = ("lm", "flow", "hift", "speech_tokenizer", "speaker_encoder")
FILES = (
    *NETWORKS,
    "onnx_speech_tokenizer",
    "onnx_speaker_encoder",
    "lm_delta",
    "flow_delta",
    "hift_delta",
    "voices",
    "text_tokenizer",
)

_VOICE_NAME = re.compile(r"[\w-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """One file of the model: a path relative to the directory, and the digest of its bytes.

    The path may start with one `..`, so that the checkpoints of a run can share weights.
    """

    path: str
    sha256: str

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if not self.path or path.is_absolute() or "\\" in self.path or ".." in path.parts[1:]:
            raise ValueError(f"path {self.path!r} must be relative and stay in the model directory or the one above it")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of {self.path} must be 64 hexadecimal digits, got {self.sha256!r}")


@dataclass(frozen=True)
class BaseEntry:
    """The model a tuned one stands on: name, digest of its model.json, and where it was (a hint)."""

    name: str
    sha256: str
    path: str | None = None

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 of {self.name} must be 64 hexadecimal digits, got {self.sha256!r}")


@dataclass(frozen=True)
class VoiceEntry:
    """What a person is told about a voice, and the transcript of its prompt if it has one."""

    description: str = ""
    gender: str = ""
    language: str = ""
    prompt_text: str | None = None
    aliases: tuple[str, ...] = ()
    """Other ids by which it may be asked for, such as a preset of the service we are compatible with."""


_SHORTEST_CUT = 20


@dataclass(frozen=True)
class FrontendEntry:
    """How text is made ready.

    languages: those served; english: as letters (`text`) or `phones`; mandarin: as hanzi (`text`) or `pinyin`, which
    goes with phones; prefix: what is put before every text; instructions: the words before the end of the prompt that
    the model was taught, in the order they are written in, none where it reads sentences or nothing; max_characters: a
    longer sentence is cut where one may breathe (a digit or hanzi counts three), None leaves that to the front end
    """

    languages: tuple[str, ...] = ("zh", "en")
    english: str = "text"
    prefix: str = ""
    mandarin: str = "text"
    instructions: tuple[str, ...] = ()
    max_characters: int | None = None

    def __post_init__(self) -> None:
        if self.english not in ("text", "phones"):
            raise ValueError(f"english must be text or phones, got {self.english!r}")
        if self.mandarin not in ("text", "pinyin"):
            raise ValueError(f"mandarin must be text or pinyin, got {self.mandarin!r}")
        if "zh" in self.languages and (self.english == "phones") != (self.mandarin == "pinyin"):
            raise ValueError("english: phones and mandarin: pinyin go together")
        length = self.max_characters
        if length is not None and (type(length) is not int or length < _SHORTEST_CUT):
            raise ValueError(f"max_characters must be an integer of at least {_SHORTEST_CUT}, got {length!r}")


@dataclass(frozen=True)
class Manifest:
    """A model directory as data.

    A tuned model has a base and no networks of its own; where its sampling or frontend is None, the base's counts.
    """

    name: str
    preset: str | None = None
    networks: ModelConfig | None = None
    sampling: SamplingConfig | None = None
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    frontend: FrontendEntry | None = None
    voices: Mapping[str, VoiceEntry] = field(default_factory=dict)
    base: BaseEntry | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        problems = [
            f"unknown file {name}; known are {', '.join(FILES)}" for name in sorted(set(self.files) - set(FILES))
        ]
        problems += [
            f"voice name {name!r} must be 1 to 64 letters (of any script), digits, _ or -"
            for name in self.voices
            if not _VOICE_NAME.fullmatch(name)
        ]
        if (self.networks is None) == (self.base is None):
            problems.append("exactly one of networks (a whole model) and base (a tuned one) must be there")
        if self.base is not None:
            problems += [f"a tuned model has no file {name}" for name in NETWORKS if name in self.files]
        if self.base is None:
            problems += [f"file {name} needs a base" for name in self.files if name.endswith("_delta")]
        if problems:
            raise ValueError("; ".join(problems))

    def to_json(self) -> dict[str, Any]:
        """The content of model.json."""
        return {
            "format": FORMAT,
            "name": self.name,
            "preset": self.preset,
            "networks": None if self.networks is None else networks_to_json(self.networks),
            "sampling": None if self.sampling is None else self.sampling.to_json(),
            "files": {name: asdict(entry) for name, entry in self.files.items()},
            "frontend": None if self.frontend is None else asdict(self.frontend),
            "voices": {name: _without_empty(asdict(entry)) for name, entry in self.voices.items()},
            "base": None if self.base is None else asdict(self.base),
            "training": dict(self.training),
            "figures": dict(self.figures),
            "licence": self.licence,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Manifest:
        """Rebuild a manifest; missing optional parts take their defaults, unknown keys are refused.

        Raises: ValueError naming what is wrong
        """
        if not isinstance(values, dict):
            raise ValueError("it must hold a JSON object")
        values = dict(values)
        if values.pop("format", None) != FORMAT:
            raise ValueError(f'format must be "{FORMAT}"')
        _refuse_unknown("model.json", values, cls)
        if "name" not in values:
            raise ValueError("name is missing")
        sampling = _optional(SamplingConfig, values.get("sampling"), "sampling")
        return cls(
            name=str(values["name"]),
            preset=values.get("preset"),
            networks=networks_from_json(values["networks"], sampling) if values.get("networks") else None,
            sampling=sampling,
            files={name: _record(FileEntry, entry, f"files.{name}") for name, entry in _object(values, "files")},
            frontend=_optional(FrontendEntry, values.get("frontend"), "frontend"),
            voices={name: _record(VoiceEntry, entry, f"voices.{name}") for name, entry in _object(values, "voices")},
            base=_optional(BaseEntry, values.get("base"), "base"),
            training=dict(_object(values, "training")),
            figures=dict(_object(values, "figures")),
            licence=str(values.get("licence", "")),
        )


_CONFIG_BY_NETWORK: dict[str, Any] = {
    "lm": LMConfig,
    "flow": FlowConfig,
    "hift": HiFTConfig,
    "speech_tokenizer": SpeechTokenizerConfig,
    "speaker_encoder": SpeakerEncoderConfig,
}


def networks_to_json(config: ModelConfig) -> dict[str, Any]:
    """The architectures by network; a network that the model lacks is left out."""
    configs = {name: getattr(config, name) for name in NETWORKS}
    return {name: network.to_json() for name, network in configs.items() if network is not None}


def networks_from_json(values: dict[str, Any], sampling: SamplingConfig | None = None) -> ModelConfig:
    """The way back.

    Raises: ValueError naming unknown or missing networks and keys
    """
    unknown = sorted(set(values) - set(NETWORKS))
    missing = [name for name in ("lm", "flow", "hift") if name not in values]
    if unknown or missing:
        raise ValueError(f"networks: unknown {', '.join(unknown) or 'none'}; missing {', '.join(missing) or 'none'}")
    configs = {name: _record(_CONFIG_BY_NETWORK[name], entry, f"networks.{name}") for name, entry in values.items()}
    return ModelConfig(**configs, sampling=sampling or SamplingConfig())


def read_manifest(directory: str | Path) -> Manifest:
    """Read model.json of a model directory.

    Raises: InvalidParameter naming the file when it is missing or wrong
    """
    path = Path(directory) / MANIFEST_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidParameter(f"{directory}: no model here, {MANIFEST_NAME} is missing") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidParameter(f"{path}: not valid JSON ({error})") from error
    try:
        return Manifest.from_json(values)
    except (ValueError, TypeError) as error:
        raise InvalidParameter(f"{path}: {error}") from error


def write_manifest(directory: str | Path, manifest: Manifest) -> str:
    """Write model.json in one step (a reader sees the old file or the new one) and return its digest."""
    text = json.dumps(manifest.to_json(), ensure_ascii=False, indent=1) + "\n"
    content = text.encode("utf-8")
    with replacing(Path(directory) / MANIFEST_NAME) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def manifest_digest(directory: str | Path) -> str:
    """Digest of a directory's model.json, which names the digests of all the rest: the identity of the model.

    Raises: InvalidParameter when there is no model
    """
    path = Path(directory) / MANIFEST_NAME
    if not path.is_file():
        raise InvalidParameter(f"{directory}: no model here, {MANIFEST_NAME} is missing")
    return file_digest(path)


def base_entry(directory: str | Path) -> BaseEntry:
    """How a tuned model names the model in this directory as its base."""
    return BaseEntry(read_manifest(directory).name, manifest_digest(directory), str(Path(directory).resolve()))


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def builtin_model_directory() -> Path:
    """Where the small model that comes with the package lies."""
    return Path(str(resources.files("cosyforge"))) / "assets" / "nano"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write to; renamed over `path` at the end, removed when something went wrong.

    So a reader, or a crash, sees the whole old file or the whole new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _refuse_unknown(where: str, values: Mapping[str, Any], record: Any) -> None:
    known = {f.name for f in fields(record)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _record(record: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be an object")
    _refuse_unknown(where, values, record)
    values = {key: _tuples(value) for key, value in values.items()}
    for f in fields(record):
        if f.name in values and not _fits(values[f.name], f.default):
            raise ValueError(f"{where}.{f.name} must be like {f.default!r}, got {values[f.name]!r}")
    try:
        return record(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _fits(value: Any, default: Any) -> bool:
    """Whether a value is of the kind its default is; fields without a default, or with None, say it themselves."""
    if default is MISSING or default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def _optional(record: Any, values: Any, where: str) -> Any:
    return None if values is None else _record(record, values, where)


def _object(values: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    part = values.get(key) or {}
    if not isinstance(part, dict):
        raise ValueError(f"{key} must be an object")
    return list(part.items())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != ()}
