"""The recordings of a tuning trial: a voice that the base never heard says what it is tuned on, and what it is judged by.

A speaker's folder holds `package/` and `package.zip` in the product's layout, `references/` (other sentences, what every
voice is compared with) and `everyday/` (the sentences that every voice says). What is there is kept.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cosyforge.audio.wav import read_wav, write_wav
from cosyforge.cosyvoice.manifest import replacing
from cosyforge.dataset.sentences import training_sentences
from cosyforge.dataset.synthetic import HELD_OUT, SAMPLE_RATE_HZ, VirtualSpeaker, speak
from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.sentences import EVERYDAY
from cosyforge.evaluation.similarity import Clip
from cosyforge.text.lexicon import english_phones, known_words

SPEAKERS = ("rms", "rms-0.88", "rms-1.18", *(name for name in HELD_OUT if name != "rms"))
"""Held-out voices, one of them also as a larger and as a smaller person: the recogniser understands few others."""

NUM_REFERENCES = 12

_LEAST_MEAN_S = 1.2
"""No voice speaks sentences that are shorter than this on average."""
_SENTENCE_SEED = 2024
"""Another than the base's corpus, so that it has not heard just these sentences filled in."""
_FLITE_VOICES = ("rms",)
_PEAK = 0.7


def record_speaker(folder: Path, name: str, minutes: float, everyday: Sequence[str]) -> float:
    """Let a held-out speaker say everything; returns the seconds in its package.

    Raises: InvalidParameter as held_out_speaker; subprocess.CalledProcessError when flite fails
    """
    speaker = held_out_speaker(name)
    sentences = free_sentences(NUM_REFERENCES + int(60 * minutes / _LEAST_MEAN_S) + 1)
    for part, texts in (("references", sentences[:NUM_REFERENCES]), ("everyday", everyday)):
        for number, text in enumerate(texts, start=1):
            _recorded(folder / part / f"{number:03d}.wav", speaker, text)
    return _record_package(folder, speaker, sentences[NUM_REFERENCES:], 60 * minutes)


def held_out_speaker(name: str) -> VirtualSpeaker:
    """A voice of dataset.synthetic.HELD_OUT, as "rms" or scaled in pitch and vocal tract, as "rms-1.18".

    Raises: InvalidParameter
    """
    match = re.fullmatch(r"(\w+?)(?:-([01]\.\d{1,2}))?", name)
    factor = float(match[2] or 1.0) if match else 0.0
    if match is None or match[1] not in HELD_OUT or not 0.7 <= factor <= 1.4:
        raise InvalidParameter(
            f"speaker {name!r} must be one that the base never hears ({', '.join(HELD_OUT)}), perhaps with a size from "
            "0.7 to 1.4 as in rms-1.18"
        )
    return VirtualSpeaker(name, "flite" if match[1] in _FLITE_VOICES else "espeak", match[1], factor)


def free_sentences(count: int) -> list[str]:
    """Sentences of which none is among those that figures are quoted for; the same at every call with this count."""
    drawn = training_sentences(
        count + len(EVERYDAY), lambda word: english_phones(word) is not None, sorted(known_words()), _SENTENCE_SEED
    )
    return [text for text in drawn if text not in EVERYDAY][:count]


def read_clips(folder: Path) -> list[Clip]:
    """The recordings of a folder in their order."""
    return [read_wav(path) for path in sorted(folder.glob("*.wav"))]


def opening_clips(folder: Path, most_s: float) -> tuple[list[Clip], list[str]]:
    """The first clips of the package with their texts, whole ones, as many as stay within `most_s`; at least one."""
    clips: list[Clip] = []
    texts: list[str] = []
    seconds = 0.0
    for line in (folder / "package" / "data.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        clip = read_wav(folder / "package" / row["wav_fn"])
        duration_s = len(clip[0]) / clip[1]
        if clips and seconds + duration_s > most_s:
            continue
        clips.append(clip)
        texts.append(row["text"])
        seconds += duration_s
        if seconds > most_s - _LEAST_MEAN_S:
            break
    return clips, texts


def _record_package(folder: Path, speaker: VirtualSpeaker, sentences: Sequence[str], wanted_s: float) -> float:
    rows: list[str] = []
    paths: list[Path] = []
    seconds = 0.0
    for number, text in enumerate(sentences, start=100001):
        if seconds >= wanted_s:
            break
        name = f"train/{number}.wav"
        samples, rate_hz = _recorded(folder / "package" / name, speaker, text)
        rows.append(json.dumps({"wav_fn": name, "text": text}, ensure_ascii=False))
        paths.append(folder / "package" / name)
        seconds += len(samples) / rate_hz
    manifest = folder / "package" / "data.jsonl"
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8")
    if not (folder / "package.zip").is_file():
        with (
            replacing(folder / "package.zip") as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for path in (manifest, *paths):
                archive.write(path, path.relative_to(folder / "package"))
    return seconds


def _recorded(path: Path, speaker: VirtualSpeaker, text: str) -> Clip:
    """The recording at this place, made when it is not there."""
    if not path.is_file():
        samples = speak(speaker, text).samples
        # the engines differ in level, and some exceed full scale
        peak = float(np.abs(samples).max(initial=0.0)) or 1.0
        with replacing(path) as partial:
            write_wav(partial, (samples * (_PEAK / peak)).astype(np.float32), SAMPLE_RATE_HZ)
    return read_wav(path)
