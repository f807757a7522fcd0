"""Real recordings into the corpus that the base is trained on: judged, cut to the speech, written as shards from 900 on.

Nothing is lost silently: whatever is left out is counted by its reason. `extra.json` beside the shards says what they were made of, so a
recording that is there already is never taken in twice, and which speakers are kept from training.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import soundfile

from cosyforge.audio.resample import resample
from cosyforge.audio.wav import read_wav
from cosyforge.dataset.synthetic import SAMPLE_RATE_HZ, shard_listings, write_shard
from cosyforge.dataset.validate import MIN_SAMPLE_RATE_HZ
from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.signal import clipped_share, frame_levels_db
from cosyforge.text.frontend import Frontend
from cosyforge.text.language import LATIN, SCRIPTS
from cosyforge.training.pretrain.extra_recordings import (
    Collection,
    ExtraRecording,
    find_collections,
    find_recordings,
    language_of,
)

__all__ = ["ExtraRecording", "ImportReport", "find_recordings", "held_out_speakers", "import_recordings", "language_of"]

FIRST_SHARD, LAST_SHARD = 900, 999
"""Listings are taken in the order of their names: these come after the synthetic ones and move none of them."""
LEDGER = "extra.json"
_LEDGER_FORMAT = "cosyforge-extra-corpus/1"
_UNPACKED = ".extra-unpacked"

MIN_CLIP_S, MAX_CLIP_S = 0.6, 20.0
_MAX_RAW_S = 120.0
"""Longer files are refused by their header: decoding hours of sound to throw it away could fill the memory."""
_SHARD_S = 3600.0
"""A shard and its features are held in memory while they are made."""
_AT_ONCE = 64

_SILENT_PEAK = 10 ** (-50 / 20)
_CLIPPED_SHARE = 1e-3
_SPEECH_DB = 35.0
_QUIET_DBFS = -70.0
_FRAME_S = 0.02
_KEPT_SILENCE_S = 0.2

_HELD_OUT_EVERY = 20
_ENOUGH_SPEAKERS = 5
_EXAMPLES = 5
_OUR_LETTER = re.compile(f"[{LATIN}{SCRIPTS['zh']}]")

T = TypeVar("T")


@dataclass
class ImportReport:
    """What became of the recordings of a source: num_found is num_kept, num_known and everything dropped together.

    num_known: there since an earlier import; dropped: how many by reason; examples: a few places by reason
    Units: duration_s of the kept clips, as they are in the shards
    """

    num_found: int = 0
    num_kept: int = 0
    num_known: int = 0
    duration_s: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    duration_s_by_language: dict[str, float] = field(default_factory=dict)
    num_speakers: int = 0
    held_out: tuple[str, ...] = ()
    shards: tuple[int, ...] = ()

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @property
    def summary(self) -> str:
        reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(self.dropped.items()))
        return (
            f"{self.num_kept} of {self.num_found} recordings taken in ({self.duration_s / 60:.1f} minutes), "
            f"{self.num_known} known already, {sum(self.dropped.values())} left out"
            + (f" ({reasons})" if reasons else "")
        )

    def drop(self, reason: str, number: int = 1, place: str | None = None) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + number
        if place is not None and len(self.examples.setdefault(reason, [])) < _EXAMPLES:
            self.examples[reason].append(place)


@dataclass(frozen=True)
class _Kept:
    """A recording as it goes into a shard: samples (L,) at 16 kHz."""

    digest: str
    samples: npt.NDArray[np.int16]
    text: str


def import_recordings(
    source: Path,
    corpus_directory: Path,
    *,
    num_processes: int = 2,
    shard_clips: int = 500,
    on_progress: Callable[[float], None] = lambda share: None,
    on_log: Callable[[str], None] = lambda line: None,
) -> ImportReport:
    """Take the recordings of a source into a corpus; what is there is passed over, so a stopped import goes on where it was.

    Raises: InvalidParameter when the source is in no known layout or the shards are full; InvalidDataset naming
    an unsafe zip, before anything is taken in
    """
    collections = find_collections(source)
    corpus_directory.mkdir(parents=True, exist_ok=True)
    work = _Import(corpus_directory, shard_clips)
    unpacked = corpus_directory / _UNPACKED
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    try:
        with ProcessPoolExecutor(num_processes) as pool:
            for index, collection in enumerate(collections):

                def on_share(share: float, num_done: int = index) -> None:
                    on_progress((num_done + share) / len(collections))

                line = work.take(collection, unpacked, pool, on_share)
                on_log(f"extra corpus: {line}")
        work.finish()
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    on_progress(1.0)
    on_log(
        f"extra corpus: {work.report.summary}; {len(work.report.held_out)} of {work.report.num_speakers} speakers held out"
    )
    return work.report


def held_out_speakers(corpus_directory: Path) -> frozenset[str]:
    """The speakers of a corpus whose recordings no stage may train on; none when nothing was imported."""
    path = corpus_directory / LEDGER
    return frozenset(_Ledger.read(path).held_out) if path.exists() else frozenset()


# --- what was taken in -----------------------------------------------------------------------------------------------------------------


@dataclass
class _Ledger:
    """What the shards from 900 on were made of.

    recordings: digests of the sound files by shard; collections: what was counted in each that is done, by its fingerprint
    """

    recordings: dict[int, list[str]] = field(default_factory=dict)
    collections: dict[str, dict[str, object]] = field(default_factory=dict)
    held_out: list[str] = field(default_factory=list)
    speakers: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Ledger:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts.get("format") != _LEDGER_FORMAT:
            raise InvalidParameter(
                f"{path}: is not of the form {_LEDGER_FORMAT}; remove it and the shards from {FIRST_SHARD} on"
            )
        recordings = {int(number): digests for number, digests in facts["recordings"].items()}
        return cls(recordings, facts["collections"], facts["held_out_speakers"], facts["speakers"])

    def write(self, path: Path) -> None:
        facts = {
            "format": _LEDGER_FORMAT,
            "held_out_speakers": self.held_out,
            "speakers": self.speakers,
            "collections": self.collections,
            "recordings": {str(number): digests for number, digests in sorted(self.recordings.items())},
        }
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


class _Import:
    """One run of import_recordings: clips wait until a shard is full.

    The ledger is written before the listing that makes a shard count; entries without a listing are forgotten when it is read.
    """

    def __init__(self, corpus_directory: Path, shard_clips: int) -> None:
        self.directory, self.shard_clips = corpus_directory, shard_clips
        self.report = ImportReport()
        self.path = corpus_directory / LEDGER
        self.ledger = _Ledger.read(self.path) if self.path.exists() else _Ledger()
        shards = {int(listing.stem) for listing in shard_listings(corpus_directory) if int(listing.stem) >= FIRST_SHARD}
        strangers = shards - self.ledger.recordings.keys()
        if strangers:
            raise InvalidParameter(
                f"{corpus_directory}: {self.path.name} does not tell what shard {min(strangers)} was made of; remove the shards from "
                f"{FIRST_SHARD} on and import again"
            )
        self.ledger.recordings = {n: digests for n, digests in self.ledger.recordings.items() if n in shards}
        self.earlier = frozenset(digest for digests in self.ledger.recordings.values() for digest in digests)
        self.taken: set[str] = set()
        self.waiting: list[tuple[_Kept, ExtraRecording]] = []
        self.waiting_samples = 0
        self.done: dict[str, dict[str, object]] = {}
        """Collections whose last clips may still be waiting, by their fingerprint."""

    def take(
        self, collection: Collection, unpacked: Path, pool: ProcessPoolExecutor, on_share: Callable[[float], None]
    ) -> str:
        """Take in what is new of one collection; says in a line what became of it."""
        fingerprint = collection.fingerprint()
        counted = self.ledger.collections.get(fingerprint) or self.done.get(fingerprint)
        if counted is not None:
            return self._count_again(collection, counted)
        before = (self.report.num_found, self.report.num_kept, Counter(self.report.dropped))
        with collection.opened(unpacked) as (recordings, unusable):
            for reason, number in unusable.items():
                self.report.drop(reason, number, collection.name)
            self.report.num_found += len(recordings) + unusable.total()
            num_seen = 0
            for some in _pieces(recordings, _AT_ONCE):
                self._take_some(some, pool)
                num_seen += len(some)
                on_share(num_seen / len(recordings))
        dropped = Counter(self.report.dropped) - before[2]
        num_found, num_kept = self.report.num_found - before[0], self.report.num_kept - before[1]
        self.done[fingerprint] = {"name": collection.name, "num_found": num_found, "dropped": dict(dropped)}
        reasons = f" ({', '.join(f'{n} {reason}' for reason, n in sorted(dropped.items()))})" if dropped else ""
        return f"{collection.name}: {num_kept} of {num_found} recordings taken in{reasons}"

    def _count_again(self, collection: Collection, counted: dict[str, object]) -> str:
        num_found, dropped = counted["num_found"], counted["dropped"]
        assert isinstance(num_found, int)
        assert isinstance(dropped, dict)
        self.report.num_found += num_found
        self.report.num_known += num_found - sum(dropped.values())
        for reason, number in dropped.items():
            self.report.drop(reason, number)
        return f"{collection.name}: known already"

    def _take_some(self, recordings: list[ExtraRecording], pool: ProcessPoolExecutor) -> None:
        new = []
        for recording in recordings:
            digest = _digest(recording.path)
            if digest in self.earlier:
                self.report.num_known += 1
            else:
                new.append((recording, digest))
        for (recording, _), kept in zip(new, pool.map(judge, new, chunksize=4), strict=True):
            if isinstance(kept, str):
                self.report.drop(kept, 1, recording.path.name)
            elif kept.digest in self.taken:
                self.report.drop("duplicate", 1, recording.path.name)
            else:
                self._keep(kept, recording)

    def _keep(self, kept: _Kept, recording: ExtraRecording) -> None:
        duration_s = len(kept.samples) / SAMPLE_RATE_HZ
        by_language = self.report.duration_s_by_language
        by_language[recording.language] = by_language.get(recording.language, 0.0) + duration_s
        self.report.num_kept += 1
        self.report.duration_s += duration_s
        self.taken.add(kept.digest)
        self.waiting.append((kept, recording))
        self.waiting_samples += len(kept.samples)
        if len(self.waiting) >= self.shard_clips or self.waiting_samples >= _SHARD_S * SAMPLE_RATE_HZ:
            self._write_waiting()

    def _write_waiting(self) -> None:
        number = max(self.ledger.recordings, default=FIRST_SHARD - 1) + 1
        if number > LAST_SHARD:
            raise InvalidParameter(
                f"{self.directory}: all {LAST_SHARD - FIRST_SHARD + 1} shards for recordings are full; give fewer recordings, "
                "more than fifty hours add little to a base of this size"
            )
        self.ledger.recordings[number] = [kept.digest for kept, _ in self.waiting]
        self.ledger.write(self.path)
        clips: list[tuple[npt.NDArray[np.int16], dict[str, object]]] = [
            (
                kept.samples,
                {"text": kept.text, "speaker": recording.speaker, "phones": [], "language": recording.language},
            )
            for kept, recording in self.waiting
        ]
        write_shard(self.directory / f"{number:03d}.npy", self.directory / f"{number:03d}.jsonl", clips)
        self.report.shards += (number,)
        self.waiting, self.waiting_samples = [], 0
        self._settle()

    def _settle(self) -> None:
        """Nothing waits: the collections that are done are in the shards to their last clip."""
        self.ledger.collections |= self.done
        self.done = {}
        self.ledger.write(self.path)

    def finish(self) -> None:
        """Write what waits, and settle which speakers are kept from training."""
        if self.waiting:
            self._write_waiting()
        before = self.ledger.speakers.keys()
        self.ledger.speakers = _speakers(self.directory, sorted(self.ledger.recordings))
        self.ledger.held_out = choose_held_out(
            self.ledger.speakers.keys() - before, self.ledger.held_out, len(self.ledger.speakers)
        )
        self._settle()
        self.report.num_speakers = len(self.ledger.speakers)
        self.report.held_out = tuple(self.ledger.held_out)


def choose_held_out(new: Iterable[str], held_out: Iterable[str], num_speakers: int) -> list[str]:
    """The held-out speakers after an import: every 20th by the hash of its name, at least one of five or more.

    Who was held out stays so; who was trained on before never becomes a stranger.
    new: speakers that came with this import; num_speakers: all that there are
    """
    by_hash = {int(hashlib.sha256(name.encode()).hexdigest(), 16): name for name in new}
    chosen = {*held_out, *(name for number, name in by_hash.items() if number % _HELD_OUT_EVERY == 0)}
    if not chosen and by_hash and num_speakers >= _ENOUGH_SPEAKERS:
        chosen = {by_hash[min(by_hash)]}
    return sorted(chosen)


def _speakers(directory: Path, shards: list[int]) -> dict[str, dict[str, float]]:
    speakers: dict[str, dict[str, float]] = {}
    for number in shards:
        for line in (directory / f"{number:03d}.jsonl").read_text(encoding="utf-8").splitlines():
            clip = json.loads(line)
            speaker = speakers.setdefault(clip["speaker"], {"num_clips": 0, "duration_s": 0.0})
            speaker["num_clips"] += 1
            speaker["duration_s"] = round(speaker["duration_s"] + clip["num_samples"] / SAMPLE_RATE_HZ, 3)
    return dict(sorted(speakers.items()))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _pieces(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece


# --- one recording ---------------------------------------------------------------------------------------------------------------------


def judge(work: tuple[ExtraRecording, str]) -> _Kept | str:
    """One recording made ready, or the reason why it is left out."""
    recording, digest = work
    text = spoken_text(recording.text, recording.language)
    if text is None:
        return "other-language"
    if not text:
        return "unspeakable-text"
    samples = _read(recording.path)
    if isinstance(samples, str):
        return samples
    samples = trim(samples)
    if len(samples) < MIN_CLIP_S * SAMPLE_RATE_HZ:
        return "too-short"
    if len(samples) > MAX_CLIP_S * SAMPLE_RATE_HZ:
        return "too-long"
    return _Kept(digest, np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16), text)


def _read(path: Path) -> npt.NDArray[np.float32] | str:
    """Samples (L,) at 16 kHz, or why they are of no use."""
    try:
        header = soundfile.info(path)
        if header.samplerate < MIN_SAMPLE_RATE_HZ:
            return "low-sample-rate"
        if header.frames > _MAX_RAW_S * header.samplerate:
            return "too-long"
        samples, rate_hz = read_wav(path)
    except (soundfile.SoundFileError, InvalidParameter):
        return "unreadable-audio"
    if np.abs(samples).max() < _SILENT_PEAK:
        return "silent"
    if clipped_share(samples) > _CLIPPED_SHARE:
        return "clipped"
    return resample(samples, rate_hz, SAMPLE_RATE_HZ)


def trim(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Cut long silence off both ends; 0.2 s of it stays. Shapes: (L,) at 16 kHz -> (at most L,)."""
    frame = round(_FRAME_S * SAMPLE_RATE_HZ)
    if len(samples) < frame:
        return samples
    levels = frame_levels_db(samples, SAMPLE_RATE_HZ)
    is_speech = levels > max(float(np.percentile(levels, 95)) - _SPEECH_DB, _QUIET_DBFS)
    if not is_speech.any():
        return samples[:0]
    first, last = np.flatnonzero(is_speech)[[0, -1]]
    margin = round(_KEPT_SILENCE_S * SAMPLE_RATE_HZ)
    return samples[max(0, int(first) * frame - margin) : (int(last) + 1) * frame + margin]


def spoken_text(text: str, language: str) -> str | None:
    """The text with numbers, signs and abbreviations as words.

    Returns: "" when nothing of it can be said, None when it has letters of another script
    """
    folded = unicodedata.normalize("NFKC", text)
    if any(unicodedata.category(char)[0] == "L" and not _OUR_LETTER.match(char) for char in folded):
        return None
    try:
        segments = _frontend().segments(text, language)
    except InvalidParameter:
        return ""
    return ("" if language == "zh" else " ").join(segment.words for segment in segments if segment.words)


@cache
def _frontend() -> Frontend:
    # a recording is one clip whatever its length: a sentence must not be cut, and closed with a stop, to take a breath
    return Frontend({"languages": ("zh", "en"), "english": "text", "mandarin": "text", "max_characters": 10_000})
