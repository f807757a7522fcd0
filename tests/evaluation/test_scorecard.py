from __future__ import annotations

import json

import numpy as np
import pytest
from evaluation_clips import tone

from cosyforge.evaluation.scorecard import Recording, count_phones, evaluate_model, score_clips
from cosyforge.evaluation.similarity import VoiceEncoder

TEXTS = ("the cat sat", "we go home")


class ScriptedEar:
    """Hears by the length of a clip, and notes nothing else."""

    def __init__(self, heard_by_length: dict[int, str]) -> None:
        self.heard_by_length = heard_by_length

    def transcribe(self, samples: np.ndarray, sample_rate_hz: int) -> str:
        return self.heard_by_length.get(len(samples), "")


class PitchEncoder(VoiceEncoder):
    """Two voices are alike when their clips are equally loud: enough to see what is compared with what."""

    def embed(self, samples: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        level = float(np.abs(samples).max())
        return np.array([np.cos(level), np.sin(level)], dtype=np.float32)


class ToneEngine:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, int]] = []

    def speak(self, text: str, voice: str, seed: int) -> tuple[np.ndarray, int]:
        self.asked.append((text, voice, seed))
        return tone(200, 1.0, 24000), 24000


def test_a_model_speaks_every_sentence_and_is_judged_by_words_pitch_pace_and_faults() -> None:
    engine = ToneEngine()

    card = evaluate_model(engine, TEXTS, [], ScriptedEar({24000: "the cat sat"}), None, voice="alto", seed=7)

    assert engine.asked == [(TEXTS[0], "alto", 7), (TEXTS[1], "alto", 7)]
    assert card.spoken.words.errors == 3
    assert card.spoken.word_error_rate == pytest.approx(0.5)
    assert card.spoken.median_f0_hz == pytest.approx(200, rel=0.01)
    assert card.spoken.phones_per_s == pytest.approx(7.5, rel=0.05)  # 8 and 7 phones in one second
    assert card.spoken.num_faults == 0
    assert card.spoken.similarity is None
    assert card.recorded is None
    assert json.loads(json.dumps(card.to_json()))["spoken"]["words"]["num_words"] == 6


def test_likeness_compares_with_the_recordings_and_recordings_with_the_other_ones() -> None:
    spoken = [Recording(tone(200, 1.0, level=0.9), 16000, TEXTS[0])]
    references = [Recording(tone(100, 2.0, level=level), 16000, "we go home") for level in (0.2, 0.4, 0.3, 0.3)]

    card = score_clips(spoken, references, ScriptedEar({}), PitchEncoder())

    assert card.spoken.similarity == pytest.approx(np.cos(0.9 - 0.3), abs=1e-3)
    assert card.spoken_clips[0].similarity == card.spoken.similarity
    assert card.recorded is not None
    # clips 1 and 3 against clips 2 and 4
    assert card.recorded.similarity == pytest.approx(np.cos(0.35 - 0.25), abs=1e-3)
    # clip 1 against the mean of the others
    assert card.recorded_clips[0].similarity == pytest.approx(np.cos(1 / 3 - 0.2), abs=1e-3)


def test_length_is_compared_with_the_recording_of_the_same_text() -> None:
    spoken = [Recording(tone(200, 1.5), 16000, "The cat sat."), Recording(tone(200, 1.5), 16000, "another text")]
    references = [Recording(tone(100, 1.0), 16000, "the cat sat")]

    card = score_clips(spoken, references, ScriptedEar({}), None)

    assert card.spoken_clips[0].duration_ratio == pytest.approx(1.5, rel=0.03)
    assert card.spoken_clips[1].duration_ratio is None


def test_recordings_without_texts_give_a_likeness_and_no_word_errors() -> None:
    recordings = [Recording(tone(100, 1.0, level=level), 16000) for level in (0.3, 0.5)]

    card = evaluate_model(ToneEngine(), TEXTS, recordings, ScriptedEar({16000: "noise"}), PitchEncoder())

    assert card.recorded is not None
    assert card.recorded.word_error_rate is None
    assert card.recorded_clips[0].heard == ""
    assert card.spoken.similarity == pytest.approx(np.cos(0.4 - 0.3), abs=1e-3)


def test_a_silent_model_is_a_fault_and_not_a_crash() -> None:
    silent = [Recording(np.zeros(16000, dtype=np.float32), 16000, TEXTS[0])]

    card = score_clips(silent, [Recording(tone(100, 1.0), 16000, "x")], ScriptedEar({}), PitchEncoder())

    assert card.spoken_clips[0].fault == "silent"
    assert card.spoken_clips[0].similarity is None
    assert card.spoken.words.deletions == 3


def test_phones_are_counted_by_the_dictionary_and_unknown_words_have_no_count() -> None:
    assert count_phones("The cat sat.") == 8
    assert count_phones("The cat xqzzt.") is None


def test_nothing_to_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sentence"):
        score_clips([], [], ScriptedEar({}), None)
