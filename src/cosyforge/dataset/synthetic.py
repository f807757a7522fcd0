"""Synthetic speech for the built-in base model: English and Mandarin sentences spoken by free engines as many virtual speakers.

Both engines say when each phone ends, which is worth more than hours of unlabelled speech: flite with sampled English voices,
espeak-ng with cheap variety in both languages. A corpus is a folder: `NNN.npy` (int16 samples at 16 kHz, all clips of a shard in a row)
and `NNN.jsonl` (one Clip per line). Some voices are never used here (`HELD_OUT`): they are the strangers that demonstrations and figures
are made with.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from cosyforge.dataset import espeak
from cosyforge.dataset.mandarin_sentences import mandarin_sentences
from cosyforge.dataset.sentences import training_sentences

SAMPLE_RATE_HZ = 16_000
PHONES = (
    "SIL AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH "
    "J Q X TS TSH A YU E IR IZ"
).split()
"""ARPAbet, and the sounds of Mandarin that English has no neighbour for: j q x z c, the a of an, ü, e, and the i of shi and of si."""
_FLITE_PHONE = {"pau": "SIL", "ax": "AH", "axr": "ER", "ssil": "SIL", "h#": "SIL"}


HELD_OUT = ("rms", "linda", "Alicia", "paul", "Denis")
"""Voices of the engines that no part of the base hears: a flite voice, two women and two men of espeak-ng."""

_FLITE_VOICES: dict[str, tuple[float, ...]] = {
    "slt": (1.0, 0.8, 0.86, 0.92, 0.96, 1.04, 1.07, 1.14, 1.2),
    "awb": (1.0, 0.86, 0.9, 0.93, 0.97, 1.04, 1.08, 1.17, 1.26, 1.36),
}
_FLITE_DIPHONE: dict[int | None, tuple[float, ...]] = {
    None: (1.0, 0.9, 1.12, 1.25), 80: (1.0, 1.15), 95: (0.95, 1.1), 130: (1.0, 0.88, 1.15, 1.3), 160: (1.0, 0.9, 1.2),
}  # fmt: skip
_ESPEAK_VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 klatt klatt2 klatt3 klatt4 klatt6 Alex Andrea Andy Annie Diogo Gene Gene2 Henrique "
    "Hugo Jacky Lee Marco Mario Michael Mike adam anika antonio aunty belinda benjamin boris caleb david ed edward grandma "
    "grandpa gustave iven iven2 iven3 john kaukovalta marcelo max michel miguel norbert pablo pedro quincy rob robert sandro "
    "shelby steph steph2 steph3 travis victor zac"
).split()
_NO_MANDARIN = frozenset("Andrea Jacky Lee Marco anika antonio kaukovalta pedro".split())
"""Variants whose Mandarin a recogniser understands worse than one syllable in three: they speak English alone."""
_ESPEAK_SIZES = ((50, 1.0), (35, 0.94), (62, 1.07))
"""(pitch 0 to 99, vocal tract) of the virtual speakers that are made of one variant."""
_ESPEAK_ENGLISH = ("en-us", "en-us", "en-gb-x-rp")
ESPEAK_MANDARIN = "cmn-latn-pinyin"
_MANDARIN_LINES = ("phonemes cmn", "dictionary cmn", "words 1")
_CALM_MANDARIN = 0.5
_LOWEST_MANDARIN_HZ, _HALF_MANDARIN_RANGE = 112.0, 2**0.5

_FAVOURED_SHARE = 0.4
"""Mandarin presets with 50 clips of 16,000 each, and then with a flow that saw 350 of each: syllables with tone .20 -> .14 wrong."""

INSTRUCTIONS = ("slow", "fast", "lively", "calm")
"""What the base is told before a text, and what the engines do for it: tempo, and the range of the pitch."""


@dataclass(frozen=True)
class VirtualSpeaker:
    """One voice of an engine, its vocal tract and pitch scaled by `factor`.

    pitch: the mean in Hz asked from flite's diphone voice (the sampled ones obey none); 0 to 99 for espeak-ng
    """

    name: str
    engine: str
    voice: str
    factor: float = 1.0
    pitch: int | None = None


@dataclass(frozen=True)
class Clip:
    """One utterance of the corpus.

    phones: (one of PHONES, end in seconds) of every sound; empty when the times are not known
    units: what a Mandarin text is written with, (initial or final in pinyin with its tone digit, or SIL, end in seconds)
    instruction: how it is spoken, words of INSTRUCTIONS joined with ", "; empty for plain speech
    Units: offset and num_samples at 16 kHz
    """

    text: str
    speaker: str
    offset: int
    num_samples: int
    phones: tuple[tuple[str, float], ...]
    language: str = "en"
    instruction: str = ""
    units: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Task:
    """One clip to be made.

    spoken: what the engine gets, for Mandarin pinyin with tone digits
    tempo: above 1 is slower; pitch_range: 1 is the voice's own
    """

    speaker: VirtualSpeaker
    text: str
    spoken: str
    tempo: float = 1.0
    pitch_range: float = 1.0
    language: str = "en"
    instruction: str = ""


@dataclass(frozen=True)
class Speech:
    """What an engine said: samples (L,) at 16 kHz in [-1, 1], phones and units as in Clip."""

    samples: npt.NDArray[np.float32]
    phones: list[tuple[str, float]]
    units: list[tuple[str, float]]


def flite_speakers() -> list[VirtualSpeaker]:
    """Two sampled voices at many vocal-tract lengths, and a diphone voice whose pitch varies apart from it."""
    return [
        VirtualSpeaker(f"{voice}-{f:.2f}", "flite", voice, f)
        for voice, factors in _FLITE_VOICES.items()
        for f in factors
    ] + [
        VirtualSpeaker(f"kal16-{pitch or 0}-{f:.2f}", "flite", "kal16", f, pitch)
        for pitch, factors in _FLITE_DIPHONE.items()
        for f in factors
    ]


def espeak_speakers() -> list[VirtualSpeaker]:
    """espeak-ng's variants at several pitches and sizes; each speaks English, most speak Mandarin."""
    return [
        VirtualSpeaker(f"espeak-{variant}-{pitch}", "espeak", variant, factor, pitch)
        for variant in _ESPEAK_VARIANTS
        for pitch, factor in _ESPEAK_SIZES
    ]


def check_engines() -> None:
    """Say what to install when an engine is missing.

    Raises: FileNotFoundError naming the packages
    """
    missing = [name for name in ("flite", "espeak-ng") if shutil.which(name) is None]
    if missing:
        raise FileNotFoundError(f"{' and '.join(missing)} not found: run `apt-get install -y flite espeak-ng fortunes`")


def speak(speaker: VirtualSpeaker, text: str, tempo: float = 1.0) -> Speech:
    """Speak an English sentence as a virtual speaker.

    Raises: subprocess.CalledProcessError when flite fails
    """
    return perform(Task(speaker, text, text, tempo))


def perform(task: Task) -> Speech:
    """Let the task's engine speak.

    Raises: subprocess.CalledProcessError when flite fails; KeyError for a sound of espeak-ng that has no name here
    """
    return _flite(task) if task.speaker.engine == "flite" else _espeak(task)


def _flite(task: Task) -> Speech:
    speaker = task.speaker
    # scaling the vocal tract by playing faster shortens the clip: ask for a slower one first
    settings = [f"duration_stretch={speaker.factor * task.tempo:.3f}"]
    if speaker.pitch is not None:
        settings.append(f"int_f0_target_mean={speaker.pitch}")
    if task.pitch_range != 1.0:
        # the diphone voice's own deviation is 15 Hz
        settings.append(f"int_f0_target_stddev={15 * task.pitch_range:.1f}")
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["flite", "-voice", speaker.voice, "-psdur"]
        for setting in settings:
            command += ["--setf", setting]
        command += ["-t", task.spoken, "-o", file.name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        samples, rate_hz = soundfile.read(file.name, dtype="float32")
    phones = [
        (_FLITE_PHONE.get(name, name.upper()), float(end) / speaker.factor)
        for name, end in re.findall(r"(\S+):([0-9.]+)", output)
    ]
    return Speech(_resized(samples, rate_hz, speaker.factor), phones, [])


def _espeak(task: Task) -> Speech:
    speaker = task.speaker
    words_per_minute = 150.0 if task.language == "zh" else 160.0
    manner = {
        "words_per_minute": round(words_per_minute / task.tempo / speaker.factor),
        "pitch": speaker.pitch if speaker.pitch is not None else 50,
        "pitch_range": min(99, round(50 * task.pitch_range)),
    }
    if task.language == "zh":
        samples, rate_hz, sounds = espeak.speak_with_file(mandarin_voice(speaker.voice), task.spoken, **manner)
    else:
        accent = _ESPEAK_ENGLISH[zlib.crc32(speaker.voice.encode()) % len(_ESPEAK_ENGLISH)]
        samples, rate_hz, sounds = espeak.speak(f"{accent}+{speaker.voice}", task.spoken, **manner)
    scale = rate_hz * speaker.factor
    ends = [sound.start / scale for sound in sounds[1:]] + [len(samples) / scale]
    resized = _resized(samples, rate_hz, speaker.factor)
    if task.language == "zh":
        phones, units = _mandarin_times(task.spoken, sounds, ends)
        return Speech(resized, phones, units)
    phones = []
    start = 0.0
    for sound, end in zip(sounds, ends, strict=True):
        names = espeak.arpabet(sound.ipa) if sound.ipa else ["SIL"]
        phones += [(name, start + (end - start) * (i + 1) / len(names)) for i, name in enumerate(names)]
        start = end
    return Speech(resized, phones, [])


def mandarin_voice(variant: str) -> str:
    """A variant of espeak-ng as a voice file for Mandarin, its tones an octave apart.

    As they come, most variants move by three or four semitones around 85 Hz: too little and too low for a mel to show a tone.
    """
    lines = espeak.variant(variant).splitlines()
    own = next((line.split()[1:3] for line in lines if line.startswith("pitch")), ("82", "118"))
    height = float(np.sqrt(float(own[0]) * float(own[1])))
    # the lowest voices apart from each other, too
    height = max(height, _LOWEST_MANDARIN_HZ * (1 + (zlib.crc32(variant.encode()) % 100) / 400))
    kept = [line for line in lines if line.split()[:1] not in (["language"], ["name"], ["pitch"])]
    pitch = f"pitch {round(height / _HALF_MANDARIN_RANGE)} {round(height * _HALF_MANDARIN_RANGE)}"
    return "\n".join([f"name {variant}", f"language {ESPEAK_MANDARIN}", *_MANDARIN_LINES, *kept, pitch]) + "\n"


def _resized(samples: npt.NDArray[np.float32], rate_hz: int, factor: float) -> npt.NDArray[np.float32]:
    resized = soxr.resample(samples, rate_hz * factor, SAMPLE_RATE_HZ, quality="HQ")
    return np.asarray(resized, dtype=np.float32)


def _mandarin_times(
    spoken: str, sounds: list[espeak.Sound], ends: list[float]
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Phones, and initials and finals: a syllable is a word for the engine; its first consonant is the initial."""
    syllables = re.findall(r"[a-zü]+[1-5]", spoken)
    phones: list[tuple[str, float]] = []
    units: list[tuple[str, float]] = []
    start = 0.0
    for index, (sound, end) in enumerate(zip(sounds, ends, strict=True)):
        names = espeak.mandarin_phones(sound.ipa) if sound.ipa else ["SIL"]
        shares = (0.35, 1.0) if len(names) == 2 else (1.0,)
        phones += [(name, start + (end - start) * share) for name, share in zip(names, shares, strict=True)]
        if not sound.ipa or not 0 <= sound.word < len(syllables):
            units.append(("SIL", end))
        else:
            is_first = index == 0 or sounds[index - 1].word != sound.word or not sounds[index - 1].ipa
            initial, final = split_syllable(syllables[sound.word])
            is_last = index + 1 == len(sounds) or sounds[index + 1].word != sound.word or not sounds[index + 1].ipa
            if initial and is_first and is_last:
                units.append((initial, start + (end - start) * 0.25))
            units.append((initial if initial and is_first and not is_last else final, end))
        start = end
    return phones, units


def split_syllable(syllable: str) -> tuple[str, str]:
    """A pinyin syllable with its tone digit to initial ("" where there is none) and final with the digit: xiang3 -> x, iang3."""
    match = re.fullmatch(r"(zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])?([a-zü]+[1-5])", syllable)
    return (match[1] or "", match[2]) if match else ("", syllable)


def _make_clip(task: Task) -> tuple[npt.NDArray[np.int16], dict[str, object]]:
    speech = perform(task)
    peak = float(np.abs(speech.samples).max()) or 1.0
    # engines differ in level; recordings do too, so the level varies on purpose, repeatably
    level = 0.35 + 0.5 * (zlib.crc32(task.text.encode()) % 1000) / 1000
    scaled = np.round(speech.samples / peak * level * 32767).astype(np.int16)
    facts: dict[str, object] = {
        "text": task.text, "speaker": task.speaker.name, "phones": [(name, round(end, 4)) for name, end in speech.phones]
    }  # fmt: skip
    if task.language != "en":
        facts["language"] = task.language
        facts["units"] = [(name, round(end, 4)) for name, end in speech.units]
    if task.instruction:
        facts["instruction"] = task.instruction
    return scaled, facts


@dataclass(frozen=True)
class Lexicon:
    """What the plan must know of the languages; the text column knows it.

    knows: whether an English word (lower case) has a pronunciation; words: English words to mix; phrases: Mandarin ones
    pinyin: hanzi to pinyin syllables with tone digits
    """

    knows: Callable[[str], bool]
    words: list[str]
    phrases: list[str]
    pinyin: Callable[[str], list[str]]


def plan_corpus(
    num_clips: int,
    lexicon: Lexicon,
    seed: int = 7,
    speakers: Collection[str] | None = None,
    favoured: Collection[str] = (),
) -> list[Task]:
    """Who says what and how: of 16 clips 8 by flite, 3 English and 5 Mandarin ones by espeak-ng; one in eight is instructed.

    The sampled voices' own size comes up most often.

    speakers: the names of those that speak; all of them by default
    favoured: of those that say a good part of the English of flite and of the Mandarin, one as much as another
    Raises: ValueError when none of them is of the diphone voice, or none speaks Mandarin
    """
    rng = random.Random(seed)
    num_mandarin = num_clips * 5 // 16
    english = training_sentences(num_clips - num_mandarin, lexicon.knows, lexicon.words, seed)
    flite, variants = (
        [speaker for speaker in group if speakers is None or speaker.name in speakers]
        for group in (flite_speakers(), espeak_speakers())
    )
    diphone = [s for s in flite if s.voice == "kal16"]
    mandarin = [s for s in variants if s.voice not in _NO_MANDARIN]
    if not diphone or not mandarin:
        raise ValueError("a corpus needs a speaker of flite's diphone voice and one of espeak-ng that speaks Mandarin")
    weights = {s.name: (4 if s.factor == 1.0 else 1) * (0.6 if s.voice == "kal16" else 1.0) for s in flite}

    def one_of(group: list[VirtualSpeaker]) -> VirtualSpeaker:
        best = [speaker for speaker in group if speaker.name in favoured]
        if best and rng.random() < _FAVOURED_SHARE:
            return rng.choice(best)
        return rng.choices(group, [weights.get(speaker.name, 1.0) for speaker in group])[0]

    tasks = []
    for index, text in enumerate(english):
        by_espeak = index % 11 >= 8
        manner = _draw_manner(rng)
        # a sampled voice has one melody: only the diphone voice can be lively or calm
        speaker = rng.choice(variants) if by_espeak else one_of(diphone if manner[1] != 1.0 else flite)
        tasks.append(Task(speaker, text, text, manner[0], manner[1], instruction=manner[2]))
    for text in mandarin_sentences(num_mandarin, lexicon.phrases, seed):
        manner = _draw_manner(rng)
        spoken = spoken_pinyin(text, lexicon.pinyin)
        # a calm voice still tells its tones apart
        pitch_range = max(manner[1], _CALM_MANDARIN)
        tasks.append(Task(one_of(mandarin), text, spoken, manner[0], pitch_range, "zh", manner[2]))
    rng.shuffle(tasks)
    return tasks


def spoken_pinyin(text: str, pinyin: Callable[[str], list[str]]) -> str:
    """A Mandarin sentence as espeak-ng wants it: syllables apart, marks kept. Mandarin marks become English ones."""
    pieces = re.findall(r"[\u4e00-\u9fff]+|[，。？！；、]", text)
    marks = str.maketrans("，。？！；、", ",.?!;,")
    return " ".join(" ".join(pinyin(p)) if p[0] > "\u4dff" and p[0] < "\ua000" else p.translate(marks) for p in pieces)


def _draw_manner(rng: random.Random) -> tuple[float, float, str]:
    """Tempo, pitch range and what they are called; mostly plain."""
    words = []
    tempo, pitch_range = rng.choice((0.9, 1.0, 1.0, 1.1, 1.2)), 1.0
    kind = rng.random()
    if kind < 0.09:
        word, tempo = ("slow", rng.uniform(1.5, 1.8)) if rng.random() < 0.5 else ("fast", rng.uniform(0.62, 0.74))
        words.append(word)
    if kind < 0.02 or 0.09 <= kind < 0.15:
        word, pitch_range = ("lively", 1.9) if rng.random() < 0.5 else ("calm", 0.25)
        words.append(word)
    return tempo, pitch_range, ", ".join(words)


def generate_corpus(
    directory: Path,
    tasks: list[Task],
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
                write_shard(directory / f"{number:03d}.npy", listing, clips)
            on_progress((number + 1) / len(starts))


def write_shard(
    samples_path: Path, listing: Path, clips: list[tuple[npt.NDArray[np.int16], dict[str, object]]]
) -> None:
    """Samples in a row and a line for each clip; the listing comes last, so a shard without one does not count."""
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
        for name in ("phones", "units"):
            facts[name] = tuple((sound, end) for sound, end in facts.get(name, ()))
        clip = Clip(**facts)
        yield clip, samples[clip.offset : clip.offset + clip.num_samples].astype(np.float32) / 32768.0


def write_package(directory: Path, tasks: list[Task]) -> None:
    """A speaker's recordings in the product document's layout: data.jsonl and train/*.wav; the listing comes last."""
    (directory / "train").mkdir(parents=True, exist_ok=True)
    rows = []
    for index, task in enumerate(tasks):
        samples = perform(task).samples
        name = f"train/{100001 + index}.wav"
        soundfile.write(directory / name, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        rows.append(json.dumps({"wav_fn": name, "text": task.text}, ensure_ascii=False))
    (directory / "data.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
