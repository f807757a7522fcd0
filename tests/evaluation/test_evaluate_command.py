"""The whole evaluation: once with the built-in model and real ears, and with a scripted speaker for what goes wrong."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from evaluation_clips import tone
from typer.testing import CliRunner

from cosyforge.audio.pcm import to_pcm16
from cosyforge.audio.wav import read_wav
from cosyforge.cli import app
from cosyforge.cosyvoice.manifest import (
    Manifest,
    VoiceEntry,
    base_entry,
    builtin_model_directory,
    manifest_digest,
    read_manifest,
    write_manifest,
)
from cosyforge.demo_recordings import demo_recordings, pack
from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.clip_store import ClipStore
from cosyforge.evaluation.figures import Ears
from cosyforge.evaluation.record import record_figures
from cosyforge.evaluation.report import make_report
from cosyforge.evaluation.report_page import report_page
from cosyforge.evaluation.run import Options, make_plan, run_evaluation
from cosyforge.evaluation.yardstick import Outcome, Plan, Yardstick
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

MODEL = builtin_model_directory()
TEXTS = ["Good morning, <b>everybody</b>.", "This one fails.", "The cat sat on the mat."]


class Page(HTMLParser):
    """Which addresses a page names, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_a_model_is_evaluated_stage_by_stage_and_leaves_a_page_to_listen_to(tmp_path: Path) -> None:
    recordings = demo_recordings("heldout")[:2]
    pack(recordings, tmp_path / "speaker.zip")
    texts = tmp_path / "texts.txt"
    texts.write_text(recordings[0].text + "\n", encoding="utf-8")
    voice, out = next(iter(read_manifest(MODEL).voices)), tmp_path / "out"
    command = ["evaluate", "--voice", voice, "--reference", str(tmp_path / "speaker.zip"), "--sentences", str(texts)]

    result = CliRunner().invoke(app, [*command, "--reference-texts", "--num-threads", "1", "--out", str(out)])

    assert result.exit_code == 0, result.output
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    stages = report["voices"][voice]["en"]
    assert list(stages) == ["source", "griffin_lim", "vocoder", "copy", "synthesis"]
    assert {name: stage["num_clips"] for name, stage in stages.items()} == dict.fromkeys(stages, 2)
    # codes and mel take from recordings of a stranger, and a mel keeps words and voice; what the model says itself may be clearer
    assert stages["source"]["word_error_rate"] <= 0.2
    assert stages["source"]["phone_error_rate"] < stages["copy"]["phone_error_rate"]
    assert stages["synthesis"]["word_error_rate"] <= 0.2
    assert stages["griffin_lim"]["word_error_rate"] <= 0.3
    assert stages["griffin_lim"]["similarity"] > stages["synthesis"]["similarity"]
    assert stages["copy"]["duration_ratio"] == pytest.approx(1.0, abs=0.1)
    assert stages["source"]["duration_ratio"] is None
    assert not report["failures"]
    samples, _ = read_wav(out / report["clips"][-1]["file"])
    assert len(samples) > 12000
    page = Page((out / "report.html").read_text(encoding="utf-8"))
    kinds = {address.partition(";")[0] for address in page.addresses}
    assert kinds == {"data:image/webp", "data:audio/mpeg"}
    assert page.tags.count("audio") == page.tags.count("img") == 10
    assert "script" not in page.tags
    sound = next(address for address in page.addresses if address.startswith("data:audio"))
    heard, rate_hz = read_wav(base64.b64decode(sound.partition(",")[2]))
    assert len(heard) > rate_hz


class ScriptedModel:
    """Speaks tones, a pitch for each voice, and fails at one text; notes what it was asked."""

    sample_rate_hz = 24000

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def voices(self) -> dict[str, VoiceEntry]:
        return read_manifest(MODEL).voices  # type: ignore[return-value]

    def synthesize(self, request: SynthesisRequest, text: Iterable[str]) -> Iterator[AudioChunk]:
        said = "".join(text)
        self.asked.append((request.voice, said))
        if "fails" in said:
            raise InvalidParameter("this text cannot be said")
        report = {"resampled": 1, "failed_checks": ["skipped_text"] if "cat" in said else []}
        duration_s = 3.0 if request.instruction == "slowly" else 1.5
        yield AudioChunk(
            to_pcm16(tone(100 + 40 * (request.voice == VOICES[1]), duration_s, 24000)), 0, said, report=report
        )


VOICES = list(read_manifest(MODEL).voices)[:2]


class NoEar:
    def transcribe(self, samples: np.ndarray, sample_rate_hz: int) -> str:
        return "good morning everybody" if len(samples) == 36000 else ""


def evaluated(folder: Path, model: ScriptedModel, lines: list[str]) -> tuple[Plan, Outcome]:
    plan = Plan(sentences={voice: TEXTS for voice in VOICES}, stress={VOICES[0]: ["The cat was here."]})
    yardstick = Yardstick(
        MODEL, Ears("none", NoEar()), None, ClipStore(folder), folder, on_line=lines.append,
        make_engine=lambda directory, base: model,
    )  # fmt: skip
    return plan, yardstick.run(plan)


def test_a_clip_that_fails_is_told_of_and_costs_no_other(tmp_path: Path) -> None:
    lines: list[str] = []
    plan, outcome = evaluated(tmp_path, ScriptedModel(), lines)

    report = make_report(plan, outcome, model={"name": "<i>nano</i>"}, recogniser="none")

    assert [(each.voice, each.text, each.error) for each in report.failures] == [
        (voice, TEXTS[1], "this text cannot be said") for voice in VOICES
    ]
    for voice in VOICES:
        assert report.voices[voice]["en"]["synthesis"].num_clips == 2
    assert report.stress["en"].by_alignment["swallowed"] == ["The cat was here."]
    assert report.stress["en"].num_resampled == 1
    assert any("FAILED: this text cannot be said" in line and TEXTS[1] in line for line in lines)
    assert lines[-1].startswith(f"[{len(lines)}/{len(lines)}]")
    page = report_page(report, plan, outcome)
    assert "&lt;b&gt;everybody&lt;/b&gt;" in page
    assert {"b", "i"}.isdisjoint(Page(page).tags)
    assert page.index("The cat sat on the mat.") < page.index("Good morning, &lt;b&gt;")  # worst first
    assert re.search(r"2 clips failed", page)


def test_what_an_instruction_changes_is_told_beside_the_plain_sentences(tmp_path: Path) -> None:
    plan = Plan(sentences={voice: TEXTS for voice in VOICES}, instructions=["slowly", "in your own way"])
    yardstick = Yardstick(
        MODEL, Ears("none", NoEar()), None, ClipStore(tmp_path), tmp_path,
        make_engine=lambda directory, base: ScriptedModel(),
    )  # fmt: skip

    report = make_report(plan, outcome := yardstick.run(plan), model={}, recogniser="none")

    assert {each.instruction for each in report.failures} == {"", "slowly", "in your own way"}
    slowly, plainly = report.instructed["en"]["slowly"], report.instructed["en"]["in your own way"]
    assert slowly.length is not None
    assert plainly.length is not None
    assert slowly.pitch is not None
    assert slowly.num_clips == 4  # one of three texts fails, with and without
    assert slowly.length.mean == pytest.approx(2.0, rel=0.05)
    assert slowly.length.up == 1.0
    assert plainly.length.mean == pytest.approx(1.0)
    assert plainly.length.up == 0.0
    assert slowly.pitch.mean == pytest.approx(0.0, abs=0.2)
    # the ear understands what lasts as long as the plain one
    assert plainly.word_error_rate == plainly.plain_word_error_rate == slowly.plain_word_error_rate
    assert slowly.word_error_rate == 1.0
    assert report.voices[VOICES[0]]["en"]["synthesis"].num_clips == 2
    page = report_page(report, plan, outcome)
    assert "2.00 (up in 100%)" in page
    assert "slowly" in page
    write_manifest(tmp_path, read_manifest(MODEL))
    record_figures(tmp_path, report)
    assert read_manifest(tmp_path).figures["en"]["instructed"]["slowly"]["length"]["up"] == 1.0
    again = yardstick.run(plan)
    assert [clip.instruction for _, clip in again.clips] == [clip.instruction for _, clip in outcome.clips]


def test_started_again_it_goes_on_and_says_the_same(tmp_path: Path) -> None:
    first, second = ScriptedModel(), ScriptedModel()
    plan, before = evaluated(tmp_path, first, [])
    damaged = next(tmp_path.glob("*.json"))
    lost = json.loads(damaged.read_text(encoding="utf-8"))
    damaged.write_text("{", encoding="utf-8")

    _, after = evaluated(tmp_path, second, [])

    # what failed is tried again, what was damaged is made again, and nothing else
    again = [(voice, TEXTS[1]) for voice in VOICES]
    again += [] if lost["stage"] == "prompt" else [(lost["voice"], lost["figures"]["text"])]
    assert sorted(second.asked) == sorted(again)
    reports = [make_report(plan, outcome, model={}, recogniser="none").to_json() for outcome in (before, after)]
    assert reports[0] == reports[1]


def test_voices_and_references_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="no voice nobody; the model has"):
        make_plan(Options(voices=["nobody"]), MODEL)
    with pytest.raises(InvalidParameter, match="holds no recordings"):
        make_plan(Options(reference=tmp_path), MODEL)
    with pytest.raises(InvalidParameter, match="language must be"):
        make_plan(Options(language="fr"), MODEL)


def test_each_voice_is_compared_with_the_reference_that_has_its_name(tmp_path: Path) -> None:
    recordings = demo_recordings("heldout")
    for index, voice in enumerate(VOICES):
        pack(recordings[index : index + 2], tmp_path / f"{voice}.zip")
    pack(recordings[:1], tmp_path / "stranger.zip")

    plan = make_plan(Options(voices=VOICES, reference=tmp_path, num_sentences=3, language="en", stress=5), MODEL)

    assert plan.reference_of == {voice: voice for voice in VOICES}
    assert {name: len(clips) for name, clips in plan.references.items()} == dict.fromkeys(VOICES, 2)
    assert all(len(texts) == 3 for texts in plan.sentences.values())
    assert sorted(len(texts) for texts in plan.stress.values()) == [2, 3]
    both = make_plan(Options(voices=VOICES[:1], language="all", num_sentences=2), MODEL)
    assert len(both.sentences[VOICES[0]]) == 4


def test_figures_are_recorded_in_the_model_beside_those_of_other_languages(tmp_path: Path) -> None:
    plan, outcome = evaluated(tmp_path / "clips", ScriptedModel(), [])
    report = make_report(plan, outcome, model={}, recogniser="none")
    manifest = replace(read_manifest(MODEL), figures={"zh": {"recogniser": "another"}, "en": {"recogniser": "old"}})
    before = write_manifest(tmp_path, manifest)

    after = record_figures(tmp_path, report)

    assert after == manifest_digest(tmp_path) != before
    figures = read_manifest(tmp_path).figures
    assert figures["zh"] == {"recogniser": "another"}
    assert (figures["en"]["recogniser"], figures["en"]["voices"]) == ("none", sorted(VOICES))
    spoken = figures["en"]["stages"]["synthesis"]
    assert spoken["word_error_rate"] == pytest.approx(report.average["en"]["synthesis"]["word_error_rate"], abs=1e-3)
    assert figures["en"]["stress"]["by_alignment"]["swallowed"] == 1
    assert {**read_manifest(tmp_path).to_json(), "figures": {}} == {**manifest.to_json(), "figures": {}}


def test_figures_are_not_recorded_in_a_tuned_model(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest(name="tuned", base=base_entry(MODEL), voices={"mine": VoiceEntry("", "", "en")}))

    with pytest.raises(InvalidParameter, match="a tuned model is known by the digest"):
        run_evaluation(Options(model=tmp_path, records=True))


def test_what_was_heard_is_kept_under_those_who_listen_to_its_language() -> None:
    ears = Ears("words", NoEar(), None, None, "syllables")
    assert ears.name == "words; syllables"
    assert ears.name_for("Good morning.") == Ears("words", NoEar()).name_for("Good morning.") == "words"
    assert ears.name_for("早上好。") == "syllables"


def test_instructions_to_a_tuned_model_are_refused_at_once(tmp_path: Path) -> None:
    manifest = Manifest("tuned", base=base_entry(MODEL), voices=read_manifest(MODEL).voices)
    write_manifest(tmp_path, manifest)
    with pytest.raises(InvalidParameter, match=r"tuned model.*give its base"):
        make_plan(Options(model=tmp_path, instructions=["slow"]), tmp_path)
