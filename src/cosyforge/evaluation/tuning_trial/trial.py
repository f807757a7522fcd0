"""Does tuning pay? Strangers to the base are recorded, cloned and tuned, and every way to their voice is measured alike.

    presets -> per speaker: recordings -> clone -> copy-synthesis -> per setting: tuning -> speech -> copy-synthesis

All of them say the same everyday sentences, and all are compared with the same recordings of other sentences, so that
only the voice differs. Every step leaves its figures in the work folder; a trial that was stopped goes on after the last.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosyforge.audio.wav import write_wav
from cosyforge.cosyvoice.manifest import (
    FileEntry,
    Manifest,
    VoiceEntry,
    base_entry,
    manifest_digest,
    read_manifest,
    replacing,
    write_manifest,
)
from cosyforge.cosyvoice.model import Voice
from cosyforge.cosyvoice.weights import load_model, write_voices
from cosyforge.dataset.features import FeatureExtractor
from cosyforge.dataset.synthetic import check_engines
from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.sentences import EVERYDAY
from cosyforge.evaluation.similarity import Clip, VoiceEncoder, similarity
from cosyforge.evaluation.transcriber import PocketsphinxTranscriber
from cosyforge.evaluation.tuning_trial.recordings import (
    NUM_REFERENCES,
    SPEAKERS,
    held_out_speaker,
    opening_clips,
    read_clips,
    record_speaker,
)
from cosyforge.evaluation.tuning_trial.table import Heard, SpeakerResult, TunedVoice, trial_json, trial_markdown
from cosyforge.evaluation.wer import WordErrors, word_errors
from cosyforge.synthesis.engine import Engine
from cosyforge.training.combine import VOICE
from cosyforge.training.events import TrainingEvent
from cosyforge.training.finetune import finetune
from cosyforge.training.hyper_parameters import HyperParameters

SETTINGS = {"quick": (4, 4), "full": (30, 30)}
"""Name -> epochs of LM and flow; others are written LM+FLOW, as in 8+12."""
LM_BATCH, FLOW_BATCH = 1000, 2000
"""As `cosyforge finetune` takes them unless told otherwise."""

CLONE_S = 8.0
_KEPT_CLIPS = 3
"""So many clips of every step are kept as WAV files to listen to."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class TrialPlan:
    """What a trial does.

    speakers: see held_out_speaker; settings: see SETTINGS
    num_sentences: everyday sentences that every voice says
    """

    base: Path
    speakers: tuple[str, ...] = SPEAKERS
    settings: tuple[str, ...] = tuple(SETTINGS)
    minutes: float = 8.0
    num_sentences: int = len(EVERYDAY)

    def __post_init__(self) -> None:
        """Raises: InvalidParameter naming all that is wrong"""
        problems: list[str] = []
        if not self.speakers or not self.settings:
            problems.append("name at least one speaker and one setting")
        if not 0 < self.minutes <= 60:
            problems.append(f"minutes must lie above 0 and at most 60 (got {self.minutes})")
        if not 1 <= self.num_sentences <= len(EVERYDAY):
            problems.append(f"there are 1 to {len(EVERYDAY)} sentences to say (got {self.num_sentences})")
        checks: list[tuple[Callable[[str], Any], str]] = [(held_out_speaker, name) for name in self.speakers]
        checks += [(epochs_of, name) for name in self.settings]
        for check, name in checks:
            try:
                check(name)
            except InvalidParameter as error:
                problems.append(error.message)
        if problems:
            raise InvalidParameter("; ".join(problems))

    def identity(self) -> dict[str, Any]:
        """What figures in a work folder must agree on; speakers and settings may be added later."""
        return {"base": manifest_digest(self.base), "minutes": self.minutes, "num_sentences": self.num_sentences}


def epochs_of(setting: str) -> tuple[int, int]:
    """Epochs of LM and flow.

    Raises: InvalidParameter
    """
    if setting in SETTINGS:
        return SETTINGS[setting]
    match = re.fullmatch(r"([1-9]\d{0,3})\+([1-9]\d{0,3})", setting)
    if match is None:
        raise InvalidParameter(
            f"setting {setting!r} must be {', '.join(SETTINGS)}, or epochs of LM and flow as in 8+12"
        )
    return int(match[1]), int(match[2])


@dataclass(frozen=True)
class Step:
    """One piece of work whose figures are kept: kind "preset" (name is a voice of the base), or of a speaker
    "recordings", "clone", "copy", and for a setting "tuning", "speech", "tuned-copy"."""

    kind: str
    name: str
    setting: str = ""

    def file(self, work: Path) -> Path:
        if self.kind == "preset":
            return work / "presets" / f"{self.name}.json"
        return work / self.name / f"{'-'.join(filter(None, (self.setting, self.kind)))}.json"

    def __str__(self) -> str:
        return " ".join(filter(None, (self.name, self.setting, self.kind)))


def trial_steps(presets: Iterable[str], speakers: Iterable[str], settings: Sequence[str]) -> list[Step]:
    """All steps in the order in which each finds what it needs."""
    steps = [Step("preset", name) for name in presets]
    for name in speakers:
        steps += [Step(kind, name) for kind in ("recordings", "clone", "copy")]
        steps += [Step(kind, name, setting) for setting in settings for kind in ("tuning", "speech", "tuned-copy")]
    return steps


def remaining_steps(work: Path, steps: Sequence[Step]) -> list[Step]:
    """Those that have left no figures yet."""
    return [step for step in steps if not step.file(work).is_file()]


def run_trial(work: Path, plan: TrialPlan, *, on_log: Log = print) -> list[SpeakerResult]:
    """Do what is not done yet; after every speaker write trial.json and trial.md, of the speakers so far.

    Raises: InvalidParameter when the folder holds another trial or the base has no voice; FileNotFoundError when a
        speech engine is missing; what tuning raises
    """
    presets = preset_voices(read_manifest(plan.base))
    steps = trial_steps(presets, plan.speakers, plan.settings)
    _claim(work, plan)
    check_engines()
    left = remaining_steps(work, steps)
    on_log(f"{len(steps) - len(left)} of {len(steps)} steps are done")
    trial = _Trial(work, plan, on_log)
    for step in left:
        started_at = time.monotonic()
        figures = trial.figures(step)
        seconds = time.monotonic() - started_at
        _write_json(step.file(work), {**figures, "seconds": round(seconds, 2)})
        on_log(f"{step}: {_summary(figures)}{seconds:.0f} s")
        if step == _last_of(step.name, steps):
            write_tables(work, plan, presets)
    return write_tables(work, plan, presets)


def preset_voices(manifest: Manifest) -> list[str]:
    """The base's voices whose language the sentences are in; all when it names no language.

    Raises: InvalidParameter when there is none, or the model is a tuned one
    """
    if manifest.base is not None:
        raise InvalidParameter(f"{manifest.name}: is a tuned model; a trial tunes a base")
    if not manifest.voices:
        raise InvalidParameter(f"{manifest.name}: has no voices to compare a speaker with")
    english = [name for name, entry in manifest.voices.items() if entry.language.lower().startswith("en")]
    return english or list(manifest.voices)


def write_tables(work: Path, plan: TrialPlan, presets: Sequence[str]) -> list[SpeakerResult]:
    """Write trial.json and trial.md of the speakers that are done; returns them."""
    done = [name for name in plan.speakers if not remaining_steps(work, trial_steps(presets, [name], plan.settings))]
    results = [_result(work, name, presets, plan.settings) for name in done]
    if results:
        base = base_entry(plan.base)
        facts = {
            "base": {"name": base.name, "sha256": base.sha256},
            "minutes": plan.minutes,
            "num_sentences": plan.num_sentences,
            "settings": {name: dict(zip(("lm", "flow"), epochs_of(name), strict=True)) for name in plan.settings},
            "presets": list(presets),
            "recogniser": "pocketsphinx en-us",
            "encoder": "resemblyzer",
        }
        _write_json(work / "trial.json", trial_json(results, facts))
        with replacing(work / "trial.md") as partial:
            partial.write_text(trial_markdown(results, _introduction(plan)), encoding="utf-8")
    return results


# --- figures ----------------------------------------------------------------------------------------------------------


class _Trial:
    """What the steps share: the ear, the eye for voices, and the networks that hear for the model."""

    def __init__(self, work: Path, plan: TrialPlan, on_log: Log) -> None:
        self._work = work
        self._plan = plan
        self._log = on_log
        self._texts = EVERYDAY[: plan.num_sentences]

    def figures(self, step: Step) -> dict[str, Any]:
        """Do one step."""
        folder = self._work / step.name
        if step.kind == "preset":
            return self._speech(self._plan.base, step.name, self._work / "presets" / step.name)
        if step.kind == "recordings":
            return self._recordings(step.name)
        if step.kind == "clone":
            self._make_clone(folder)
            return self._speech(folder / "clone", VOICE, folder / "clips" / "clone")
        if step.kind == "copy":
            return self._copy(folder, folder / "clone", folder / "clips" / "copy")
        tuned = folder / f"{step.setting}-tuned"
        if step.kind == "tuning":
            return self._tune(step, folder / "package.zip", tuned)
        model = tuned / json.loads(Step("tuning", step.name, step.setting).file(self._work).read_text())["checkpoint"]
        clips = folder / "clips" / f"{step.setting}-{step.kind}"
        return self._speech(model, VOICE, clips) if step.kind == "speech" else self._copy(folder, model, clips)

    @cached_property
    def _encoder(self) -> VoiceEncoder:
        return VoiceEncoder.load()

    @cached_property
    def _transcriber(self) -> PocketsphinxTranscriber:
        return PocketsphinxTranscriber()

    @cached_property
    def _extractor(self) -> FeatureExtractor:
        networks = ("speech_tokenizer", "speaker_encoder")
        return FeatureExtractor(load_model(self._plan.base, networks=networks), self._work / "features")

    def _heard(self, clips: Sequence[Clip], listen: Path) -> dict[str, Any]:
        """Whose voice it is and how many words are misheard; some clips are kept for people to listen to."""
        listen.parent.mkdir(parents=True, exist_ok=True)
        for number, clip in enumerate(clips[:_KEPT_CLIPS], start=1):
            write_wav(listen.with_name(f"{listen.name}-{number}.wav"), *clip)
        words = WordErrors()
        for text, clip in zip(self._texts, clips, strict=True):
            words += word_errors(text, self._transcriber.transcribe(*clip))
        return {"voice": self._voice(clips), "errors": words.errors, "num_words": words.num_words}

    def _voice(self, clips: Sequence[Clip]) -> list[float]:
        # a sentence that was swallowed whole has no voice; its words count as errors all the same
        sounding = [clip for clip in clips if np.any(clip[0])]
        return [round(float(value), 6) for value in self._encoder.embed_speaker(sounding)]

    def _speech(self, model: Path, voice: str, listen: Path) -> dict[str, Any]:
        engine = Engine(model, base_directory=None if model == self._plan.base else self._plan.base)
        return self._heard([engine.speak(text, voice) for text in self._texts], listen)

    def _recordings(self, name: str) -> dict[str, Any]:
        folder = self._work / name
        seconds = record_speaker(folder, name, self._plan.minutes, self._texts)
        references = read_clips(folder / "references")
        return {
            **self._heard(read_clips(folder / "everyday"), folder / "clips" / "recordings"),
            "reference": self._voice(references),
            "half_to_half": similarity(
                np.asarray(self._voice(references[::2])), np.asarray(self._voice(references[1::2]))
            ),
            "recorded_s": round(seconds, 3),
        }

    def _make_clone(self, folder: Path) -> None:
        """The base with one more voice: embedding and prompt of some seconds of recordings, nothing trained."""
        clips, texts = opening_clips(folder, CLONE_S)
        features = self._extractor.extract(np.concatenate([samples for samples, _ in clips]), clips[0][1])
        base = read_manifest(self._plan.base)
        prompt_text = " ".join(texts) if base.training.get("lm_prompt", True) else None
        voice = Voice(features.speaker_embedding, prompt_text, features.speech_token, features.mel)
        directory = folder / "clone"
        digest = write_voices(directory / "voices.safetensors", {VOICE: voice})
        manifest = Manifest(
            name="clone",
            files={"voices": FileEntry("voices.safetensors", digest)},
            voices={VOICE: VoiceEntry(prompt_text=prompt_text)},
            base=base_entry(self._plan.base),
            licence=base.licence,
        )
        write_manifest(directory, manifest)

    @torch.no_grad()
    def _copy(self, folder: Path, directory: Path, listen: Path) -> dict[str, Any]:
        """Real speech as tokens, and back through flow and vocoder as the engine runs them."""
        model = load_model(directory, base_directory=self._plan.base, networks=("flow", "hift"))
        model.hift.fuse()
        voice = model.voices[VOICE]
        assert voice.prompt_token is not None
        assert voice.prompt_mel is not None
        prompt = voice.prompt_token[None], voice.prompt_mel[None], voice.speaker_embedding[None]
        copies = []
        for clip in read_clips(folder / "everyday"):
            token = self._extractor.extract(*clip).speech_token[None]
            mel = model.flow.sample(token, *prompt, streaming=True)
            copies.append((model.hift(mel)[0].numpy(), model.config.hift.sample_rate_hz))
        return self._heard(copies, listen)

    def _tune(self, step: Step, package: Path, out: Path) -> dict[str, Any]:
        """The very run that a job makes; only its last checkpoint is kept."""
        lm_epochs, flow_epochs = epochs_of(step.setting)
        hyper_parameters = HyperParameters(
            lm_max_epoch=lm_epochs,
            lm_step=lm_epochs,
            lm_num=1,
            lm_batch_size=LM_BATCH,
            fm_max_epoch=flow_epochs,
            fm_step=flow_epochs,
            fm_num=1,
            fm_batch_size=FLOW_BATCH,
        )
        unfinished = out.with_name(f"{out.name}.work")
        was_begun = unfinished.exists()

        def on_event(event: TrainingEvent) -> None:
            if event.kind in ("log", "resume"):
                self._log(f"{step}: {event.message}")

        result = finetune(package, self._plan.base, out, hyper_parameters, on_event=on_event, work_directory=unfinished)
        shutil.rmtree(unfinished)
        return {"checkpoint": result.checkpoints[0].name, "is_whole_time": not was_begun, "tokens": result.tokens}


def _result(work: Path, name: str, presets: Sequence[str], settings: Sequence[str]) -> SpeakerResult:
    """Put the figures of a speaker's steps together."""

    def read(step: Step) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(step.file(work).read_text(encoding="utf-8"))
        return found

    recordings = read(Step("recordings", name))
    reference = np.asarray(recordings["reference"], dtype=np.float32)

    def heard(figures: dict[str, Any]) -> Heard:
        voice = np.asarray(figures["voice"], dtype=np.float32)
        return Heard(similarity(voice, reference), figures["errors"], figures["num_words"])

    others = [heard(read(Step("preset", preset))) for preset in presets]
    tuned = {}
    for setting in settings:
        tuning = read(Step("tuning", name, setting))
        speech, copy = (heard(read(Step(kind, name, setting))) for kind in ("speech", "tuned-copy"))
        tuned[setting] = TunedVoice(speech, copy, tuning["seconds"], tuning["is_whole_time"])
    return SpeakerResult(
        name=name,
        recorded_s=recordings["recorded_s"],
        halves=recordings["half_to_half"],
        recordings=heard(recordings),
        random=Heard(
            float(np.mean([other.similarity for other in others])),
            sum(other.errors for other in others),
            sum(other.num_words for other in others),
        ),
        clone=heard(read(Step("clone", name))),
        copy=heard(read(Step("copy", name))),
        tuned=tuned,
    )


def _claim(work: Path, plan: TrialPlan) -> None:
    """Take the folder for this trial, or go on with it.

    Raises: InvalidParameter when its figures were made otherwise
    """
    path = work / "plan.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name, value in plan.identity().items() if found.get(name) != value]
        if differing:
            raise InvalidParameter(
                f"{work}: holds a trial with another {' and '.join(differing)}; give a new folder, or the same settings"
            )
    else:
        _write_json(path, plan.identity())


def _last_of(name: str, steps: Sequence[Step]) -> Step:
    return [step for step in steps if step.name == name][-1]


def _summary(figures: dict[str, Any]) -> str:
    if not figures.get("num_words"):
        return ""
    return f"word error {figures['errors'] / figures['num_words']:.3f}, "


def _introduction(plan: TrialPlan) -> str:
    epochs = {name: "+".join(map(str, epochs_of(name))) for name in plan.settings}
    named = ", ".join(f"`{name}`" + (f" = {value}" if value != name else "") for name, value in epochs.items())
    return (
        f"Voices that the base never heard, each tuned on {plan.minutes:g} minutes (epochs of LM + flow: {named}). All say "
        f"the same {plan.num_sentences} everyday sentences and are compared with {NUM_REFERENCES} other recordings by an "
        f"encoder that took no part in training (Resemblyzer); the recogniser is pocketsphinx. The clone has {CLONE_S:g} s "
        "of recordings and no training."
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
