"""`cosyforge evaluate`: from what a person asks for to a report on disk."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosyforge.cosyvoice.manifest import (
    Manifest,
    VoiceEntry,
    builtin_model_directory,
    file_digest,
    manifest_digest,
    read_manifest,
    replacing,
)
from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.clip_store import ClipStore
from cosyforge.evaluation.figures import Ears, language_of
from cosyforge.evaluation.mandarin_ear.ear import DIRECTORY as MANDARIN_EAR
from cosyforge.evaluation.mandarin_ear.ear import WEIGHTS_NAME, MandarinEar
from cosyforge.evaluation.record import check_recordable, record_figures
from cosyforge.evaluation.reference import read_references, spread
from cosyforge.evaluation.report import Report, make_report
from cosyforge.evaluation.report_page import report_page
from cosyforge.evaluation.scorecard import Recording
from cosyforge.evaluation.sentences import everyday_sentences
from cosyforge.evaluation.similarity import VoiceEncoder
from cosyforge.evaluation.spectrogram import Panel, draw_spectrograms
from cosyforge.evaluation.stress import stress_sentences
from cosyforge.evaluation.transcriber import PocketsphinxTranscriber, files_below
from cosyforge.evaluation.yardstick import Outcome, Plan, Yardstick

LANGUAGES = ("en", "zh")
OWN, ALL = "own", "all"

_PICTURED = {"source": "source recording", "copy": "copy-synthesis", "synthesis": "synthesis"}


@dataclass(frozen=True)
class Options:
    """What a person asks for; see the help of the command.

    voices: names, none for the model's first voice; instructions: as a request has them
    records: the averages go into model.json; out: None keeps nothing
    """

    model: Path | None = None
    base: Path | None = None
    voices: Sequence[str] = ()
    all_voices: bool = False
    reference: Path | None = None
    num_references: int | None = None
    says_references: bool = False
    sentences: Path | None = None
    language: str = OWN
    num_sentences: int | None = None
    stress: int = 0
    instructions: Sequence[str] = ()
    clones: bool = False
    recogniser: Path | None = None
    players: int = 12
    seed: int = 0
    records: bool = False
    out: Path | None = None


def run_evaluation(options: Options, on_line: Callable[[str], None] = lambda line: None) -> Report:
    """Evaluate a model and write report.json, report.html and spectrograms into the folder asked for.

    Started again with the same folder it takes over what is there, as long as model, code and recogniser are the same.
    Raises: InvalidParameter and InvalidDataset for what is asked wrongly; nothing for a clip that fails
    """
    directory = options.model or options.base or builtin_model_directory()
    plan = make_plan(options, directory)
    if options.records:
        check_recordable(directory)
    spoken = [text for texts in (*plan.sentences.values(), *plan.stress.values()) for text in texts]
    spoken += [clip.text for recordings in plan.references.values() for clip in recordings]
    ears, ear_notes = _ears(options, hears_mandarin=any(language_of(text) == "zh" for text in spoken))
    encoder, encoder_notes = _encoder()
    with ExitStack() as stack:
        folder = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cosyforge-evaluate-")))
        store = ClipStore(folder / "clips")
        base = options.base if options.model else None
        yardstick = Yardstick(directory, ears, encoder, store, folder / "clones", base_directory=base, on_line=on_line)
        outcome = yardstick.run(plan)
        model = {"name": read_manifest(directory).name, "digest": manifest_digest(directory)}
        notes = [*ear_notes, *encoder_notes]
        report = make_report(plan, outcome, model=model, recogniser=ears.name, notes=notes)
        if options.out is not None:
            _write(options.out, report, plan, outcome, options.players, on_line)
    if options.records:
        on_line(f"figures recorded in {directory}, whose digest is now {record_figures(directory, report)}")
    return report


# ---- what is said


def make_plan(options: Options, directory: Path) -> Plan:
    """Choose voices, what they say, and what they are compared with.

    Raises: InvalidParameter for a voice, language or reference that is not there, or instructions to a tuned model
    """
    manifest = read_manifest(directory)
    known = _voices(directory, manifest, options.base)
    if options.instructions and manifest.base is not None:
        raise InvalidParameter(
            f"{directory}: is a tuned model, and these follow no instructions; give its base instead"
        )
    voices = _chosen_voices(options, known)
    references: Mapping[str, Sequence[Recording]] = {}
    if options.reference is not None:
        references = read_references(options.reference, options.num_references)
    reference_of = _assigned(voices, list(references))
    used = {name: recordings for name, recordings in references.items() if name in reference_of.values()}
    sentences = {
        voice: _sentences(options, known[voice], used.get(reference_of.get(voice, ""), ())) for voice in voices
    }
    return Plan(
        sentences=sentences,
        references=used,
        reference_of=reference_of,
        stress=_stress(options, {voice: known[voice] for voice in voices}),
        instructions=list(dict.fromkeys(options.instructions)),
        makes_clones=options.clones,
        seed=options.seed,
    )


def _voices(directory: Path, manifest: Manifest, base: Path | None) -> dict[str, VoiceEntry]:
    """The voices of a model; a tuned one without any of its own has those of its base."""
    if not manifest.voices and manifest.base is not None:
        manifest = read_manifest(base or builtin_model_directory())
    if not manifest.voices:
        raise InvalidParameter(f"{directory}: has no voice to evaluate")
    return dict(manifest.voices)


def _chosen_voices(options: Options, known: Mapping[str, VoiceEntry]) -> list[str]:
    if missing := [voice for voice in options.voices if voice not in known]:
        raise InvalidParameter(f"no voice {', '.join(missing)}; the model has {', '.join(known)}")
    if options.language not in (*LANGUAGES, OWN, ALL):
        raise InvalidParameter(f"language must be one of en, zh, all, own (got {options.language})")
    if not options.all_voices:
        return list(dict.fromkeys(options.voices)) or [next(iter(known))]
    chosen = [v for v, entry in known.items() if options.language in (OWN, ALL, _language(entry))]
    if not chosen:
        raise InvalidParameter(f"the model has no voice whose language is {options.language}")
    return chosen


def _language(entry: VoiceEntry) -> str:
    return "zh" if entry.language.lower().startswith("zh") else "en"


def _assigned(voices: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Which reference a voice should be like: the one that has its name, or the only one there is."""
    if len(names) == 1 and names[0] not in voices:
        return dict.fromkeys(voices, names[0])
    assigned = {voice: voice for voice in voices if voice in names}
    if names and not assigned:
        raise InvalidParameter(
            f"none of the references {', '.join(names)} is named like a voice that is evaluated ({', '.join(voices)})"
        )
    return assigned


def _sentences(options: Options, entry: VoiceEntry, recordings: Sequence[Recording]) -> list[str]:
    languages = {OWN: [_language(entry)], ALL: list(LANGUAGES)}.get(options.language, [options.language])
    if options.sentences is not None:
        lines = [line.strip() for line in options.sentences.read_text(encoding="utf-8").splitlines()]
        texts = [line for line in lines if line and (options.language in (OWN, ALL) or language_of(line) in languages)]
        if not texts:
            raise InvalidParameter(f"{options.sentences}: holds no sentence to say")
        texts = spread(texts, options.num_sentences)
    else:
        texts = [text for each in languages for text in spread(everyday_sentences(each), options.num_sentences)]
    if options.says_references:
        texts += [clip.text for clip in recordings if clip.text]
    return list(dict.fromkeys(texts))


def _stress(options: Options, voices: Mapping[str, VoiceEntry]) -> dict[str, list[str]]:
    """The sentences dealt out among the voices of each language, so that every voice says short and long ones."""
    dealt: dict[str, list[str]] = {voice: [] for voice in voices}
    if options.stress <= 0:
        return dealt
    for language in LANGUAGES:
        speakers = [voice for voice, entry in voices.items() if options.language in (ALL, language)
                    or (options.language == OWN and _language(entry) == language)]  # fmt: skip
        for index, text in enumerate(stress_sentences(options.stress, language, options.seed) if speakers else []):
            dealt[speakers[index % len(speakers)]].append(text)
    return dealt


# ---- who listens


def _ears(options: Options, *, hears_mandarin: bool) -> tuple[Ears, list[str]]:
    words = PocketsphinxTranscriber(options.recogniser)
    builtin = words if options.recogniser is None else PocketsphinxTranscriber()
    phones = words if words.hears_phones else builtin
    name = "pocketsphinx en-us" if options.recogniser is None else f"pocketsphinx with {options.recogniser.name}"
    if options.recogniser is not None:
        name += f" ({_folder_digest(options.recogniser)})"
    if not hears_mandarin:
        return Ears(name, words, phones), []
    try:
        syllables = MandarinEar.load()
    except (FileNotFoundError, ValueError) as error:
        return Ears(name, words, phones), [f"Mandarin was not listened to: {error}"]
    syllables_name = f"Mandarin ear ({file_digest(MANDARIN_EAR / WEIGHTS_NAME)[:8]})"
    return Ears(name, words, phones, syllables, syllables_name), []


def _folder_digest(directory: Path) -> str:
    """By names and sizes: a language model may have gigabytes."""
    listing = "".join(f"{path.relative_to(directory)} {path.stat().st_size}\n" for path in files_below(directory))
    return hashlib.sha256(listing.encode()).hexdigest()[:8]


def _encoder() -> tuple[VoiceEncoder | None, list[str]]:
    try:
        return VoiceEncoder.load(), []
    except ModuleNotFoundError as error:
        return None, [f"Likeness was not measured: {error}"]


# ---- what is written


def _write(
    folder: Path, report: Report, plan: Plan, outcome: Outcome, most_players: int, on_line: Callable[[str], None]
) -> None:
    content: Mapping[str, Any] = report.to_json()
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(report_page(report, plan, outcome, most_players=most_players), encoding="utf-8")
    if importlib.util.find_spec("matplotlib") is None:
        on_line("no spectrograms with axes: they need matplotlib (pip install 'cosyforge[eval]')")
    else:
        _draw(folder / "spectrograms", plan, outcome)
    on_line(f"report: {folder / 'report.html'} and {folder / 'report.json'}")


def _draw(folder: Path, plan: Plan, outcome: Outcome) -> None:
    """A picture for each voice: the same text as a recording, as a copy and as synthesis; one of middling errors."""
    for voice in plan.voices:
        panels = []
        spoken = sorted(outcome.of(voice, "synthesis"), key=lambda clip: clip.figures.error_rate)
        name = plan.reference_of.get(voice, "")
        recorded = {clip.figures.text for clip in outcome.of(name, "source")}
        candidates = [clip for clip in spoken if clip.figures.text in recorded] or spoken
        if not candidates:
            continue
        text = candidates[len(candidates) // 2].figures.text
        for stage, title in _PICTURED.items():
            owner = voice if stage == "synthesis" else name
            same = [clip for clip in outcome.of(owner, stage) if clip.figures.text == text]
            panels += [Panel(f"{voice}, {title}: {text}", clip.samples, clip.sample_rate_hz) for clip in same[:1]]
        folder.mkdir(exist_ok=True)
        draw_spectrograms(folder / f"{voice}.png", panels)
