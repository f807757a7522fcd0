"""data.jsonl -> Samples. Knows the rules for lines, paths and transcripts; looks at no audio.

Everything that breaks a rule becomes a Problem, so that a person sees all of them at once.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cosyforge.dataset.package import CLIP_FOLDER, MANIFEST_NAME
from cosyforge.dataset.report import ERROR, WARNING, Problem

_KEYS = ("wav_fn", "text")
_MAX_PATH_BYTES = 250
"""Below what every file system takes as one name, so that looking for the file is always possible."""

_EXAMPLE = 'write one object per line, like {"wav_fn": "train/1.wav", "text": "Hello."}'


@dataclass(frozen=True)
class Sample:
    """One usable line of data.jsonl.

    Units: line counts from 1
    """

    line: int
    wav_fn: str
    """As `train/…`, in Unicode form NFC like the unpacked files."""
    text: str
    path: Path


def read_manifest(root: Path) -> tuple[list[Sample], list[Problem]]:
    """Read `root`/data.jsonl; a line with an error gives no sample."""
    raw = (root / MANIFEST_NAME).read_bytes()
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        found = "is in UTF-16"
        return [], [Problem(ERROR, "not-utf8", found, "save data.jsonl as UTF-8", file=MANIFEST_NAME)]
    samples: list[Sample] = []
    problems: list[Problem] = []
    # splitting bytes at \n alone: U+2028 and its kind may stand inside a JSON string
    for line, row in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if row.strip():
            sample, row_problems = _read_row(root, line, row.rstrip(b"\r"))
            problems += row_problems
            if sample is not None:
                samples.append(sample)
    if not samples and not problems:
        problems.append(Problem(ERROR, "no-samples", "holds no line", _EXAMPLE, file=MANIFEST_NAME))
    return samples, problems + list(_repeated(samples))


def _read_row(root: Path, line: int, row: bytes) -> tuple[Sample | None, list[Problem]]:
    try:
        value = json.loads(row.decode("utf-8"), object_pairs_hook=_without_repeated_keys)
    except UnicodeDecodeError as error:
        found = f"is not UTF-8 (byte {error.start + 1} of the line)"
        return None, [Problem(ERROR, "not-utf8", found, "save data.jsonl as UTF-8", line)]
    except (ValueError, RecursionError) as error:
        return None, [Problem(ERROR, "not-json", f"is not valid JSON ({error})", _EXAMPLE, line)]
    if not isinstance(value, dict):
        return None, [Problem(ERROR, "not-an-object", f"is not a JSON object (got {_shown(value)})", _EXAMPLE, line)]
    problems = list(_key_problems(line, value))
    if not any(problem.severity == ERROR for problem in problems):
        problems += _path_problems(line, value["wav_fn"])
        problems += _text_problems(line, value["text"])
    if any(problem.severity == ERROR for problem in problems):
        return None, problems
    wav_fn = unicodedata.normalize("NFC", value["wav_fn"])
    return Sample(line, wav_fn, value["text"].strip(), root / wav_fn), problems


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"the key {_shown(key)} occurs more than once")
    return dict(pairs)


def _key_problems(line: int, row: dict[str, Any]) -> Iterator[Problem]:
    for key in _KEYS:
        if key not in row:
            yield Problem(ERROR, "missing-key", f"has no {key}", "every line needs wav_fn and text", line)
        elif not isinstance(row[key], str):
            found = f"{key} must be a string (got {_shown(row[key])})"
            yield Problem(ERROR, "wrong-type", found, "put the value in quotes", line)
    for key in row.keys() - set(_KEYS):
        found = f"has the unknown key {_shown(key)}"
        yield Problem(WARNING, "unknown-key", found, "only wav_fn and text are read; remove it", line)


def _path_problems(line: int, wav_fn: str) -> Iterator[Problem]:
    shown = _shown(wav_fn)
    if "\\" in wav_fn:
        yield Problem(ERROR, "bad-path", f"wav_fn has a backslash (got {shown})", "write / between folders", line)
    elif not wav_fn.startswith(f"{CLIP_FOLDER}/"):
        advice = "put the clip in the folder train/ and write its path from there"
        yield Problem(ERROR, "not-in-train", f"wav_fn must start with train/ (got {shown})", advice, line)
    elif any(part in ("", ".", "..") for part in wav_fn.split("/")):
        found = f"wav_fn has an empty, '.' or '..' part (got {shown})"
        yield Problem(ERROR, "bad-path", found, "write the plain path below train/", line)
    elif any(unicodedata.category(char) in ("Cc", "Cs") for char in wav_fn):
        yield Problem(ERROR, "bad-path", f"wav_fn has a control character (got {shown})", "rename the file", line)
    elif len(wav_fn.encode()) > _MAX_PATH_BYTES:
        found = f"wav_fn has {len(wav_fn.encode())} bytes, more than {_MAX_PATH_BYTES}"
        yield Problem(ERROR, "bad-path", found, "give the file a shorter name", line)
    elif PurePosixPath(wav_fn).suffix.lower() != ".wav":
        yield Problem(ERROR, "not-wav", f"wav_fn must end with .wav (got {shown})", "convert the clip to WAV", line)


# --- transcripts ------------------------------------------------------------------------------------------------------

_TAG = r"</?[A-Za-z][\w:.-]*(?:\s+[\w:.-]+\s*=[^<>]*)?\s*/?>|<!--|<\?xml"
_ENTITY = r"&(?:[a-z]{2,8}|#\d+|#x[0-9a-fA-F]+);"
# plain money ("$5 to $10") is spoken text: a pair of dollars is LaTeX only around what formulas are made of
_FORMULA = r"\\[A-Za-z()\[\]]|\$\$|\$[^$\n]*[\\^_{}=][^$\n]*\$|\$\s*[A-Za-z]\s*\$"
_MARKUP = (
    ("ssml", re.compile(f"{_TAG}|{_ENTITY}"), "an SSML or XML tag"),
    ("control-token", re.compile(r"<\|[^<>]*\|>"), "a control token"),
    ("latex", re.compile(_FORMULA), "a LaTeX formula"),
    ("annotation", re.compile(r"\[[^\W\d_][^\[\]]{0,40}\]"), "an annotation in brackets"),
)
_SPOKEN_SYMBOLS = frozenset("°℃℉№™©®℮")
_DECORATION = frozenset("※•‣◦⁃†‡§¶⁂❖\u20e3\ufe0f")
_INVISIBLE_BUT_MEANT = frozenset("\u200c\u200d")
"""The joiners of Indic and Arabic scripts; between pictures they are caught with the pictures."""


def _text_problems(line: int, text: str) -> Iterator[Problem]:
    if not text.strip():
        yield Problem(ERROR, "empty-text", "text is empty", "transcribe the clip, or remove the line", line)
        return
    for rule, pattern, what in _MARKUP:
        if match := pattern.search(text):
            found = f"text holds {what} at column {match.start() + 1} ({_shown(match.group())})"
            yield Problem(ERROR, f"markup-{rule}", found, "write plain text, exactly what is spoken", line)
    for rule, characters, what in _special_characters(text.strip()):
        named = ", ".join(_named(char) for char in characters[:5]) + (", …" if len(characters) > 5 else "")
        advice = "remove them; keep only what is spoken"
        yield Problem(ERROR, rule, f"text holds {what}: {named}", advice, line)
    if not any(unicodedata.category(char)[0] in "LN" for char in text):
        yield Problem(ERROR, "unspeakable-text", f"text holds nothing to speak ({_shown(text)})", "transcribe it", line)


def _special_characters(text: str) -> Iterator[tuple[str, list[str], str]]:
    distinct = list(dict.fromkeys(text))
    control = [char for char in distinct if _is_control(char)]
    symbols = [char for char in distinct if _is_decoration(char)]
    if control:
        yield "control-character", control, "control or invisible characters"
    if symbols:
        yield "special-character", symbols, "emoji or symbols that nobody speaks"


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn") and char not in _INVISIBLE_BUT_MEANT


def _is_decoration(char: str) -> bool:
    if char in _SPOKEN_SYMBOLS or 0x3300 <= ord(char) <= 0x33FF:  # squared units such as ㎡ and ㎏
        return False
    # Sm holds both spoken signs (+, =, ≈) and arrows; Sk from U+1F3FB are the skin colours of emoji
    is_arrow = 0x2190 <= ord(char) <= 0x21FF or 0x27F0 <= ord(char) <= 0x297F
    is_skin_colour = 0x1F3FB <= ord(char) <= 0x1F3FF
    return unicodedata.category(char) == "So" or char in _DECORATION or is_arrow or is_skin_colour


def _named(char: str) -> str:
    shown = char if char.isprintable() else ""
    name = unicodedata.name(char, "no name")
    return f"{shown} U+{ord(char):04X} {name}".strip()


def _repeated(samples: list[Sample]) -> Iterator[Problem]:
    first_by_wav: dict[str, Sample] = {}
    first_by_text: dict[str, Sample] = {}
    for sample in samples:
        earlier = first_by_wav.setdefault(sample.wav_fn, sample)
        if earlier is not sample:
            differs = "" if earlier.text == sample.text else ", with another text"
            found = f"names the same clip as line {earlier.line}{differs}"
            advice = "remove one; a clip listed twice weighs and costs double"
            yield Problem(WARNING, "duplicate-clip", found, advice, sample.line, sample.wav_fn)
            continue
        same_text = first_by_text.setdefault(sample.text, sample)
        if same_text is not sample:
            found = f"has the same text as line {same_text.line}"
            yield Problem(WARNING, "duplicate-text", found, "check that both clips say it", sample.line, sample.wav_fn)


def _shown(value: object) -> str:
    # half a surrogate pair cannot be written out; everything else stays readable
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 80 else f"{text[:77]}..."
