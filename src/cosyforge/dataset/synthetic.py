"""Synthetic speech for the built-in base model: sentences spoken by free engines as many virtual speakers.

flite says when each phone ends, which is worth more than hours of unlabelled speech; espeak-ng adds cheap variety of voices. A corpus
is a folder: `NNN.npy` (int16 samples at 16 kHz, all clips of a shard in a row) and `NNN.jsonl` (one Clip per line). One flite voice, `rms`,
is never used here: it is the stranger that demonstrations and tests tune to.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from cosyforge.dataset.sentences import spoken_words, training_sentences

SAMPLE_RATE_HZ = 16_000
PHONES = (
    "SIL AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
).split()
_FLITE_PHONE = {"pau": "SIL", "ax": "AH", "axr": "ER", "ssil": "SIL", "h#": "SIL"}


@dataclass(frozen=True)
class VirtualSpeaker:
    """One voice of an engine, its vocal tract and pitch scaled by `factor`.

    pitch_hz: the mean pitch asked from engines that obey it (flite's diphone voice; espeak-ng takes 0-99 instead)
    """

    name: str
    engine: str
    voice: str
    factor: float = 1.0
    pitch: int | None = None


@dataclass(frozen=True)
class Clip:
    """One utterance of the corpus.

    Units: offset and num_samples at 16 kHz; phones is a list of (ARPAbet phone or SIL, end in seconds), empty when the engine names none
    """

    text: str
    speaker: str
    offset: int
    num_samples: int
    phones: tuple[tuple[str, float], ...]


def flite_speakers() -> list[VirtualSpeaker]:
    """The labelled speakers: two sampled voices and a diphone voice, each at several vocal-tract lengths."""
    speakers: list[VirtualSpeaker] = []
    sampled: dict[str, tuple[float, ...]] = {
        "slt": (1.0, 0.8, 0.86, 0.92, 1.07, 1.14),
        "awb": (1.0, 0.86, 0.93, 1.08, 1.17, 1.26, 1.36),
    }
    for voice, factors in sampled.items():
        speakers += [VirtualSpeaker(f"{voice}-{f:.2f}", "flite", voice, f) for f in factors]
    diphone: dict[int | None, tuple[float, ...]] = {None: (1.0, 0.9, 1.12), 130: (1.0, 1.15, 1.3), 95: (0.95,)}
    for pitch, factors in diphone.items():
        speakers += [VirtualSpeaker(f"kal16-{pitch or 0}-{f:.2f}", "flite", "kal16", f, pitch) for f in factors]
    return speakers


def espeak_speakers() -> list[VirtualSpeaker]:
    """Unlabelled variety: espeak-ng's variants at several pitches."""
    variants = "m1 m2 m3 m4 m5 m6 m7 f1 f2 f3 f4 f5 klatt klatt2 klatt3".split()
    return [
        VirtualSpeaker(f"espeak-{accent}-{v}-{p}", "espeak", f"{accent}+{v}", 1.0, p)
        for v in variants
        for accent, p in (("en-us", 35), ("en-gb", 60))
    ]


def check_engines() -> None:
    """Say what to install when an engine is missing.

    Raises: FileNotFoundError naming the packages
    """
    missing = [name for name in ("flite", "espeak-ng") if shutil.which(name) is None]
    if missing:
        raise FileNotFoundError(f"{' and '.join(missing)} not found: run `apt-get install -y flite espeak-ng fortunes`")


def speak(
    speaker: VirtualSpeaker, text: str, tempo: float = 1.0
) -> tuple[npt.NDArray[np.float32], list[tuple[str, float]]]:
    """Speak a sentence as a virtual speaker.

    Returns: samples (L,) at 16 kHz in [-1, 1], and phones with their end times in seconds (empty for espeak-ng)
    Raises: subprocess.CalledProcessError when the engine fails
    """
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        if speaker.engine == "flite":
            # scaling the vocal tract by playing faster shortens the clip: ask for a slower one first
            command = [
                "flite",
                "-voice",
                speaker.voice,
                "-psdur",
                "--setf",
                f"duration_stretch={speaker.factor * tempo:.3f}",
            ]
            if speaker.pitch is not None:
                command += ["--setf", f"int_f0_target_mean={speaker.pitch}"]
            command += ["-t", text, "-o", file.name]
        else:
            words_per_minute = round(160 / tempo)
            command = [
                "espeak-ng",
                "-v",
                speaker.voice,
                "-p",
                str(speaker.pitch),
                "-s",
                str(words_per_minute),
                "-w",
                file.name,
                text,
            ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        samples, rate_hz = soundfile.read(file.name, dtype="float32")
    phones = [
        (_FLITE_PHONE.get(name, name.upper()), float(end) / speaker.factor)
        for name, end in re.findall(r"(\S+):([0-9.]+)", output if speaker.engine == "flite" else "")
    ]
    samples = soxr.resample(samples, rate_hz * speaker.factor, SAMPLE_RATE_HZ, quality="HQ").astype(np.float32)
    return samples, phones


def _make_clip(task: tuple[VirtualSpeaker, str, float]) -> tuple[npt.NDArray[np.int16], dict[str, object]]:
    speaker, text, tempo = task
    samples, phones = speak(speaker, text, tempo)
    peak = float(np.abs(samples).max()) or 1.0
    # engines differ in level; recordings do too, so the level varies on purpose, repeatably
    level = 0.35 + 0.5 * (zlib.crc32(text.encode()) % 1000) / 1000
    scaled = np.round(samples / peak * level * 32767).astype(np.int16)
    return scaled, {"text": text, "speaker": speaker.name, "phones": [(name, round(end, 4)) for name, end in phones]}


def plan_corpus(
    num_clips: int, knows: Callable[[str], bool], words: list[str], seed: int = 7
) -> list[tuple[VirtualSpeaker, str, float]]:
    """Who says what and how fast: six labelled clips in seven, the sampled voices' own pitch most often."""
    rng = random.Random(seed)
    sentences = training_sentences(num_clips, knows, words, seed)
    flite, espeak = flite_speakers(), espeak_speakers()
    weights = [(4 if s.factor == 1.0 else 1) * (0.6 if s.voice == "kal16" else 1.0) for s in flite]
    tasks = []
    for index, text in enumerate(sentences):
        speaker = rng.choice(espeak) if index % 7 == 6 else rng.choices(flite, weights)[0]
        tasks.append((speaker, text, rng.choice((0.9, 1.0, 1.0, 1.1, 1.2))))
    return tasks


def generate_corpus(
    directory: Path,
    tasks: list[tuple[VirtualSpeaker, str, float]],
    *,
    num_processes: int = 2,
    shard_clips: int = 500,
    on_progress: Callable[[float], None] = lambda share: None,
) -> None:
    """Write the corpus shard by shard; shards that are there are kept, so a stopped run goes on where it was."""
    check_engines()
    directory.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(tasks), shard_clips)
    with ProcessPoolExecutor(num_processes) as pool:
        for number, start in enumerate(starts):
            listing = directory / f"{number:03d}.jsonl"
            if not listing.exists():
                clips = list(pool.map(_make_clip, tasks[start : start + shard_clips], chunksize=10))
                _write_shard(directory / f"{number:03d}.npy", listing, clips)
            on_progress((number + 1) / len(starts))


def _write_shard(
    samples_path: Path, listing: Path, clips: list[tuple[npt.NDArray[np.int16], dict[str, object]]]
) -> None:
    np.save(samples_path, np.concatenate([samples for samples, _ in clips]))
    offset, lines = 0, []
    for samples, facts in clips:
        lines.append(json.dumps({**facts, "offset": offset, "num_samples": len(samples)}))
        offset += len(samples)
    partial = listing.with_suffix(".part")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(listing)


def shard_listings(directory: Path) -> list[Path]:
    """The finished shards of a corpus, in order."""
    return sorted(directory.glob("[0-9]*.jsonl"))


def read_shard(listing: Path) -> Iterator[tuple[Clip, npt.NDArray[np.float32]]]:
    """Every clip of a shard with its samples (L,) at 16 kHz in [-1, 1]."""
    samples = np.load(listing.with_suffix(".npy"), mmap_mode="r")
    for line in listing.read_text(encoding="utf-8").splitlines():
        facts = json.loads(line)
        clip = Clip(**{**facts, "phones": tuple((name, end) for name, end in facts["phones"])})
        yield clip, samples[clip.offset : clip.offset + clip.num_samples].astype(np.float32) / 32768.0


def write_package(directory: Path, speaker: VirtualSpeaker, sentences: list[str]) -> None:
    """A speaker's recordings in the product document's layout: data.jsonl and train/*.wav, for tests and trials."""
    (directory / "train").mkdir(parents=True, exist_ok=True)
    rows = []
    for index, text in enumerate(sentences):
        samples, _ = speak(speaker, text)
        name = f"train/{100001 + index}.wav"
        soundfile.write(directory / name, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        rows.append(json.dumps({"wav_fn": name, "text": text}, ensure_ascii=False))
    (directory / "data.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def describe(tasks: list[tuple[VirtualSpeaker, str, float]]) -> dict[str, object]:
    """What a plan holds, for the model card."""
    return {
        "num_clips": len(tasks),
        "num_words": sum(len(spoken_words(text)) for _, text, _ in tasks),
        "speakers": [asdict(s) for s in sorted({s for s, _, _ in tasks}, key=lambda s: s.name)],
    }
