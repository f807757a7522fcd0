"""The Mandarin recogniser: its decoding on scores made by hand, and the shipped weights on speech of espeak-ng when it is there."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cosyforge.evaluation.mandarin_ear.decoding import SyllableGraph, align
from cosyforge.evaluation.mandarin_ear.ear import CARD_NAME, DIRECTORY, NUM_FEATURES, WEIGHTS_NAME, MandarinEar, extract
from cosyforge.evaluation.mandarin_ear.sounds import UNITS, sounds_of, split_tone, with_third_tone_sandhi

BASES = ("a", "bao", "e", "er", "hao", "hen", "ma", "ni", "yan", "yi", "zhi")
FloatArray = npt.NDArray[np.float32]


def scores_of(*pieces: tuple[str, int]) -> tuple[FloatArray, FloatArray]:
    """Scores of frames that leave no doubt; each piece is a syllable or "" for a pause, and how many frames it lasts."""
    unit_names: list[str] = []
    tones: list[int] = []
    for syllable, num_frames in pieces:
        if not syllable:
            unit_names += ["SIL"] * num_frames
            tones += [0] * num_frames
            continue
        base, tone = split_tone(syllable)
        sounds = sounds_of(base)
        assert sounds is not None
        num_initial = 2 if sounds[0] else 0
        unit_names += [sounds[0]] * num_initial + [sounds[1]] * (num_frames - num_initial)
        tones += [tone] * num_frames
    unit = np.full((len(unit_names), len(UNITS)), -6.0, np.float32)
    unit[np.arange(len(unit)), [UNITS.index(name) for name in unit_names]] = -0.1
    tone_scores = np.full((len(tones), 5), -3.0, np.float32)
    tone_scores[np.arange(len(tones)), np.maximum(tones, 1) - np.int64(1)] = -0.2
    return unit, tone_scores


def heard(*pieces: tuple[str, int]) -> list[str]:
    return [piece.syllable for piece in SyllableGraph(BASES).decode(*scores_of(*pieces))]


needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed: nothing to listen to"
)


@pytest.mark.parametrize(
    ("base", "sounds"),
    [
        ("yan", ("y", "ian")),
        ("yue", ("yu", "üe")),
        ("xue", ("x", "üe")),
        ("lüe", ("l", "üe")),
        ("lu", ("l", "u")),
        ("wen", ("w", "un")),
        ("zhi", ("zh", "ir")),
        ("si", ("s", "iz")),
        ("li", ("l", "i")),
        ("er", ("", "er")),
        ("hng", None),
        ("xyz", None),
    ],
)
def test_a_syllable_is_taken_apart_as_it_sounds(base: str, sounds: tuple[str, str] | None) -> None:
    assert sounds_of(base) == sounds


def test_third_tones_in_a_row_rise_but_for_the_last_and_before_a_pause() -> None:
    syllables = ["wo3", "hen3", "hao3", "ma5", "ni3", "hao3"]
    assert with_third_tone_sandhi(syllables) == ["wo2", "hen2", "hao3", "ma5", "ni2", "hao3"]
    pauses = [False, False, False, False, True, False]
    assert with_third_tone_sandhi(syllables, pauses)[4:] == ["ni3", "hao3"]


def test_a_syllable_without_a_tone_digit_is_refused() -> None:
    with pytest.raises(ValueError, match="'hao' ends with no tone digit"):
        split_tone("hao")


def test_clear_scores_are_written_down_with_tones_and_pauses() -> None:
    assert heard(("", 5), ("ni3", 8), ("hao3", 12), ("", 9), ("zhi1", 10), ("er2", 6), ("", 4)) == [
        "ni3", "hao3", "zhi1", "er2",
    ]  # fmt: skip


def test_a_syllable_said_twice_is_heard_twice() -> None:
    assert heard(("", 2), ("yi1", 8), ("yi4", 8), ("ma1", 8), ("ma5", 6), ("", 2)) == ["yi1", "yi4", "ma1", "ma5"]


def test_a_pair_of_sounds_that_is_no_syllable_becomes_the_nearest_that_is() -> None:
    unit, tone = scores_of(("", 2), ("hao3", 10), ("", 2))
    h, b = UNITS.index("h"), UNITS.index("b")
    unit[2:4, [h, b]] = [[-3.0, -0.1]] * 2
    assert [piece.syllable for piece in SyllableGraph(("hao", "ba"), 0.0).decode(unit, tone)] == ["hao3"]
    assert [piece.syllable for piece in SyllableGraph(("hao", "bao"), 0.0).decode(unit, tone)] == ["bao3"]


def test_a_flicker_of_another_sound_makes_no_syllable() -> None:
    unit, tone = scores_of(("", 4), ("ma1", 20), ("", 4))
    unit[15, [UNITS.index("a"), UNITS.index("e")]] = [-2.5, -0.1]
    assert [piece.syllable for piece in SyllableGraph(BASES).decode(unit, tone)] == ["ma1"]


def test_silence_and_clips_shorter_than_a_syllable_hold_no_syllable() -> None:
    assert heard(("", 30)) == []
    assert heard(("", 2)) == []


def test_alignment_finds_the_places_of_known_syllables() -> None:
    unit, tone = scores_of(("", 5), ("ni3", 8), ("hao3", 12), ("", 9), ("er2", 6), ("", 4))
    known = [("ni3", ("n", "i"), 3), ("hao3", ("h", "ao"), 3), ("er2", ("", "er"), 2)]
    found = align(unit, tone, known)
    assert [(piece.start, piece.end) for piece in found] == [(5, 13), (13, 25), (34, 40)]
    assert all(piece.score == pytest.approx(-0.1) and piece.tone_score == pytest.approx(-0.2) for piece in found)


def test_alignment_scores_a_syllable_low_that_was_not_said() -> None:
    unit, tone = scores_of(("", 5), ("ni3", 8), ("hao3", 12), ("", 5))
    ni, hen = align(unit, tone, [("ni3", ("n", "i"), 3), ("hen4", ("h", "en"), 4)])
    assert ni.score > -0.5
    assert hen.score < -3
    assert hen.tone_score < -2


def test_alignment_refuses_more_syllables_than_the_clip_has_room_for() -> None:
    unit, tone = scores_of(("ni3", 8))
    with pytest.raises(ValueError, match=r"0\.16 s is too short for 3 syllables"):
        align(unit, tone, [("ni3", ("n", "i"), 3)] * 3)


def test_a_syllable_graph_names_what_is_no_syllable() -> None:
    with pytest.raises(ValueError, match="xyz"):
        SyllableGraph(("ma", "xyz"))


def test_the_shipped_weights_are_small_and_are_those_that_the_card_describes() -> None:
    card = json.loads((DIRECTORY / CARD_NAME).read_text(encoding="utf-8"))
    weights = (DIRECTORY / WEIGHTS_NAME).read_bytes()
    assert len(weights) <= 2_000_000
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert card["licence"] == "Apache-2.0"
    assert {"clean", "spoilt", "griffin_lim"} <= set(card["recipe"]["figures"])


def test_the_recogniser_hears_nothing_where_nothing_is() -> None:
    ear = MandarinEar.load()
    assert ear.syllables(np.zeros(0, np.float32), 24_000) == []
    assert ear.syllables(np.zeros(24_000, np.float32), 24_000) == []


def test_a_folder_without_weights_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"mandarin_ear\.training --out"):
        MandarinEar.load(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "ear")
    card_path = tmp_path / "ear" / CARD_NAME
    card = json.loads(card_path.read_text(encoding="utf-8"))
    card["network"]["num_blocks"] += 1
    card_path.write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ValueError, match="does not fit the network"):
        MandarinEar.load(tmp_path / "ear")


def test_features_are_50_a_second_and_forget_the_level() -> None:
    # half a second of noise, then half a second of a quieter one
    samples = np.random.default_rng(3).standard_normal(16_000).astype(np.float32) * 0.1
    samples[8000:] *= 0.3
    features = extract(samples)
    assert features.shape == (50, NUM_FEATURES)
    np.testing.assert_allclose(extract(samples * 0.25), features, atol=1e-3)


@needs_espeak
def test_everyday_sentences_of_a_voice_that_it_never_heard_are_understood() -> None:
    from cosyforge.evaluation.mandarin_ear.training import TEST_VOICES, errors, say_everyday

    ear = MandarinEar.load()
    found = errors(ear, say_everyday(TEST_VOICES[:2], every=15))
    assert found["syllables"] >= 60
    assert found["syllable_error"] <= 0.12
    assert found["with_tone"] <= 0.25


@needs_espeak
def test_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cosyforge.evaluation.mandarin_ear import training
    from cosyforge.evaluation.mandarin_ear.training import make_corpus, train

    monkeypatch.setattr(training, "_BATCH", 2)
    monkeypatch.setattr(training, "_SEGMENT_FRAMES", 64)
    make_corpus(tmp_path / "corpus", 3, 1, print)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for folder in ("straight", "stopped"):
            (tmp_path / folder).mkdir()
        straight = train(tmp_path / "corpus", tmp_path / "straight", 4, print)
        train(tmp_path / "corpus", tmp_path / "stopped", 4, print, stop_after=2)
        stopped = train(tmp_path / "corpus", tmp_path / "stopped", 4, print)
    finally:
        torch.set_num_threads(threads)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, stopped.state_dict()[name]), name


@needs_espeak
def test_no_sentence_that_figures_are_quoted_for_is_trained_on_nor_a_voice_of_the_model() -> None:
    from cosyforge.dataset.synthetic import spoken_pinyin
    from cosyforge.evaluation.mandarin_ear.corpus import legal_syllables, plan_texts
    from cosyforge.evaluation.sentences import EVERYDAY_ZH
    from cosyforge.text.mandarin import pinyin_syllables

    texts = plan_texts(300, legal_syllables(), 4711)
    assert not {spoken_pinyin(sentence, pinyin_syllables) for sentence in EVERYDAY_ZH} & set(texts)
    assert len(set(texts)) > 295
