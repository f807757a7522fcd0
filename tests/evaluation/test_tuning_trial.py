"""The tuning trial: its arithmetic, its tables, what it goes on with, and one run on a base of random weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_model import TINY

from cosyforge.cosyvoice.manifest import FrontendEntry, Manifest, VoiceEntry
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.cosyvoice.weights import build_network, save_model
from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.sentences import EVERYDAY
from cosyforge.evaluation.tuning_trial import trial
from cosyforge.evaluation.tuning_trial.recordings import free_sentences, held_out_speaker
from cosyforge.evaluation.tuning_trial.table import (
    Heard,
    SpeakerResult,
    TunedVoice,
    bars,
    gap_closed,
    gaps,
    mean_gaps,
    pooled_gaps,
    trial_json,
    trial_markdown,
)
from cosyforge.evaluation.tuning_trial.trial import (
    Step,
    TrialPlan,
    epochs_of,
    preset_voices,
    remaining_steps,
    run_trial,
    trial_steps,
)


def heard(similarity: float, errors: int = 10) -> Heard:
    return Heard(similarity, errors, 100)


ANN = SpeakerResult(
    name="ann",
    recorded_s=480.0,
    halves=0.97,
    recordings=heard(0.95, 4),
    random=Heard(0.5, 30, 300),
    clone=heard(0.6, 12),
    copy=heard(0.7, 15),
    tuned={
        "quick": TunedVoice(heard(0.72, 11), heard(0.75), 60.0),
        "full": TunedVoice(heard(0.76, 15), heard(0.8), 300.0, is_whole_time=False),
    },
)
"""A speaker whose clone comes half the way to the base's copy-synthesis, and a third of it to the tuned one's."""
BOB = replace(
    ANN,
    name="bob",
    # the recogniser does not understand him
    recordings=heard(0.95, 90),
    copy=heard(0.61, 90),
    tuned={name: replace(voice, spoken=heard(0.7, 80)) for name, voice in ANN.tuned.items()},
)


@pytest.mark.parametrize(
    ("value", "low", "high", "share"),
    [
        (0.75, 0.5, 1.0, 0.5),
        (0.4, 0.5, 1.0, -0.2),
        (1.1, 0.5, 1.0, 1.2),
        (0.7, 0.5, 0.515, None),
        (0.7, 0.8, 0.6, None),
    ],
)
def test_a_gap_is_closed_by_the_share_of_the_way_and_too_short_ways_say_nothing(
    value: float, low: float, high: float, share: float | None
) -> None:
    assert gap_closed(value, low, high) == (None if share is None else pytest.approx(share))


def test_the_clone_comes_from_a_random_voice_and_tuning_from_the_clone() -> None:
    shares = gaps(ANN)

    assert shares["clone"].to_base_mark == pytest.approx(0.5)
    assert shares["clone"].to_best_mark == pytest.approx(1 / 3)
    # the best mark is the copy through the better tuned flow, also for the weaker setting
    assert shares["quick"].to_base_mark == pytest.approx(1.2)
    assert shares["quick"].to_best_mark == pytest.approx(0.6)
    assert shares["full"].to_best_mark == pytest.approx(0.8)


def test_means_leave_out_shares_that_say_nothing_and_pooled_ones_are_of_the_mean_likenesses() -> None:
    # bob's clone is as good as the base's copy: nothing is left to close before the base's mark
    assert gaps(BOB)["quick"].to_base_mark is None
    assert mean_gaps([ANN, BOB])["quick"].to_base_mark == pytest.approx(1.2)
    assert mean_gaps([ANN, BOB])["quick"].to_best_mark == pytest.approx((0.6 + 0.5) / 2)
    # (.71 - .6) / (.655 - .6)
    assert pooled_gaps([ANN, BOB])["quick"].to_base_mark == pytest.approx(2.0)


def test_word_errors_are_judged_by_speakers_whose_recordings_are_understood() -> None:
    reached = {name: value for name, _, value in bars([ANN, BOB])}
    assert reached["quick: most word error added to the base's"] == pytest.approx(0.01)
    assert reached["full: most word error added to the base's"] == pytest.approx(0.05)
    assert dict((name, value) for name, _, value in bars([BOB]))["full: most word error added to the base's"] is None


def test_the_tables_show_every_speaker_and_the_means() -> None:
    text = trial_markdown([ANN, BOB], "A trial.")

    assert text.startswith("A trial.\n\n")
    assert "| ann | 0.950 | 0.500 | 0.600 | 0.700 | 0.720 | 0.750 | 0.760 | 0.800 |" in text
    assert "| ann | 33 % (50 %) | 60 % (120 %) | 80 % (160 %) |" in text
    assert "| bob | 33 % (91 %) | 50 % (-) | 50 % (-) |" in text
    assert "| bob | 0.900 | 0.100 | 0.120 | 0.900 | 0.800 | 0.800 |" in text
    # the mean word error is of ann alone
    assert "| mean | 0.040 | 0.100 | 0.120 | 0.150 | 0.110 | 0.150 |" in text
    assert "| ann | 8.0 | 1.0 | over 5.0 |" in text
    for table in text.split("\n\n"):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, table


def test_the_json_holds_what_the_tables_show() -> None:
    content = json.loads(json.dumps(trial_json([ANN, BOB], {"minutes": 8.0})))

    assert content["minutes"] == 8.0
    assert content["speakers"]["ann"]["tuned"]["full"]["word_error"] == 0.15
    assert content["speakers"]["bob"]["gap_closed"]["full"] == {"to_base_copy": None, "to_best_copy": 0.5}
    assert content["mean"]["recordings"]["similarity"] == 0.95


def test_a_trial_goes_on_after_the_steps_that_left_figures(tmp_path: Path) -> None:
    steps = trial_steps(["duncan"], ["rms", "linda"], ["quick", "8+12"])
    done = [Step("preset", "duncan"), Step("recordings", "rms"), Step("tuning", "rms", "8+12")]
    for step in done:
        step.file(tmp_path).parent.mkdir(exist_ok=True)
        step.file(tmp_path).write_text("{}")

    assert len(steps) == len({step.file(tmp_path) for step in steps}) == 19
    assert remaining_steps(tmp_path, steps) == [step for step in steps if step not in done]
    # what a step needs comes before it
    assert steps.index(Step("clone", "rms")) < steps.index(Step("copy", "rms"))
    assert steps.index(Step("tuning", "rms", "quick")) < steps.index(Step("speech", "rms", "quick"))


def test_settings_are_named_or_written_as_epochs() -> None:
    assert (epochs_of("quick"), epochs_of("full"), epochs_of("8+12")) == ((4, 4), (30, 30), (8, 12))
    with pytest.raises(InvalidParameter, match="'fast' must be quick, full, or epochs"):
        epochs_of("fast")


def test_a_plan_names_everything_that_is_wrong_with_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter) as error:
        TrialPlan(tmp_path, speakers=("slt", "rms-2.5"), settings=("0+4",), minutes=0, num_sentences=100)
    for part in ("'slt'", "'rms-2.5'", "'0+4'", "minutes", "1 to 60 sentences"):
        assert part in error.value.message


def test_a_held_out_speaker_may_be_another_size() -> None:
    assert (held_out_speaker("rms").engine, held_out_speaker("linda").engine) == ("flite", "espeak")
    assert (held_out_speaker("rms-1.18").voice, held_out_speaker("rms-1.18").factor) == ("rms", 1.18)


def test_the_yardsticks_sentences_are_not_tuned_on() -> None:
    sentences = free_sentences(100)
    assert len(set(sentences)) == 100
    assert not set(sentences) & set(EVERYDAY)


def test_only_the_english_voices_of_a_base_stand_for_a_random_voice() -> None:
    voices = {
        "duncan": VoiceEntry(language="en"),
        "mei": VoiceEntry(language="zh"),
        "amy": VoiceEntry(language="en-GB"),
    }
    assert preset_voices(Manifest("nano", networks=TINY, voices=voices)) == ["duncan", "amy"]
    assert preset_voices(Manifest("other", networks=TINY, voices={"x": VoiceEntry()})) == ["x"]
    with pytest.raises(InvalidParameter, match="no voices"):
        preset_voices(Manifest("mute", networks=TINY))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of random weights with one voice."""
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(7)
    names = ("lm", "flow", "hift", "speech_tokenizer", "speaker_encoder")
    networks = {name: build_network(name, TINY).eval() for name in names}
    frontend = FrontendEntry(("en",), "phones", "<|endofprompt|>")
    manifest = Manifest("tiny", networks=TINY, frontend=frontend, training={"lm_prompt": False})
    voices = {"one": Voice(torch.randn(192))}
    tokenizer = TextTokenizer.byte_level()
    save_model(CosyVoice(networks, tokenizer, manifest, voices, TINY.sampling, TINY, frontend), directory)
    return directory


class DeafToTheLastWord:
    """An ear that is done at once: the recogniser needs seconds for the noise of random weights."""

    def transcribe(self, samples: object, sample_rate_hz: int) -> str:
        return EVERYDAY[0].rsplit(" ", 1)[0]


@pytest.mark.skipif(
    shutil.which("flite") is None or shutil.which("espeak-ng") is None,
    reason="flite or espeak-ng is not installed (apt-get install flite espeak-ng); they speak what is tuned on",
)
def test_a_trial_on_a_small_base_writes_its_tables_and_does_nothing_twice(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "PocketsphinxTranscriber", DeafToTheLastWord)
    plan = TrialPlan(base, speakers=("linda",), settings=("1+1",), minutes=0.15, num_sentences=1)
    lines: list[str] = []

    results = run_trial(tmp_path, plan, on_log=lines.append)

    assert "0 of 7 steps are done" in lines
    result = results[0]
    assert (result.name, list(result.tuned)) == ("linda", ["1+1"])
    assert 9.0 <= result.recorded_s < 16.0
    # a recording is like the speaker's others; random weights are not
    assert result.recordings.similarity > 0.8
    assert result.clone.similarity < result.recordings.similarity - 0.1
    assert (result.copy.errors, result.copy.num_words) == (1, 8)
    assert json.loads((tmp_path / "trial.json").read_text())["speakers"]["linda"]["recordings"]["num_words"] == 8
    assert "| linda |" in (tmp_path / "trial.md").read_text()
    assert (tmp_path / "linda" / "clips" / "1+1-speech-1.wav").is_file()
    assert not (tmp_path / "linda" / "1+1-tuned.work").exists()

    lines.clear()
    assert run_trial(tmp_path, plan, on_log=lines.append) == results
    assert lines == ["7 of 7 steps are done"]
    with pytest.raises(InvalidParameter, match="another minutes"):
        run_trial(tmp_path, replace(plan, minutes=0.5), on_log=lines.append)
