from __future__ import annotations

import numpy as np
import pytest
from evaluation_clips import tone

from cosyforge.evaluation.figures import Ears, language_of, mean_figures, measure_clip, summarise

TEXT = "今天下午我们去菜市场。"
SAID = "jin1 tian1 xia4 wu3 wo3 men5 qu4 cai4 shi4 chang3"


class Scripted:
    """Hears what it was told to."""

    def __init__(self, heard: str) -> None:
        self.heard = heard

    def transcribe(self, samples: np.ndarray, sample_rate_hz: int) -> str:
        return self.heard

    def syllables(self, samples: np.ndarray, sample_rate_hz: int) -> list[str]:
        return self.heard.split()

    def phones(self, samples: np.ndarray, sample_rate_hz: int) -> list[str]:
        return self.heard.split()


def mandarin(heard: str, duration_s: float = 2.0):  # type: ignore[no-untyped-def]
    ears = Ears("scripted", Scripted(""), None, Scripted(heard))
    return measure_clip(tone(200, duration_s), 16000, TEXT, ears)


def test_mandarin_is_measured_by_its_syllables_and_their_tones() -> None:
    clip = mandarin(SAID.replace("qu4", "qu2").replace("cai4", "tai4"))

    assert (clip.language, clip.words, clip.phones) == ("zh", None, None)
    assert clip.syllables is not None
    assert clip.tones is not None
    assert clip.syllables.rate == pytest.approx(0.1)
    assert clip.tones.rate == pytest.approx(0.2)
    assert clip.pace == pytest.approx(12.5, rel=0.05)  # ten syllables, two and a half phones each, in two seconds
    assert clip.fault is None
    assert not clip.delivery.swallowed


def test_swallowed_hanzi_and_a_runaway_are_named() -> None:
    assert mandarin(SAID.replace(" qu4 cai4", "")).delivery.swallowed == ("去", "菜")
    assert mandarin(f"{SAID} shi4 chang3").delivery.repeated == ("市",)
    assert mandarin(SAID, duration_s=8.0).fault == "runaway"


def test_where_nobody_listens_there_is_no_figure() -> None:
    clip = measure_clip(tone(200, 2.0), 16000, TEXT, Ears("deaf", Scripted("")))

    assert (clip.syllables, clip.tones, clip.heard) == (None, None, "")
    assert clip.pace is not None
    assert summarise([clip]).syllable_error_rate is None


def test_clips_come_together_by_their_counts_and_voices_by_their_rates() -> None:
    ears = Ears("scripted", Scripted("the cat"), Scripted("DH AH K AE T"))
    short = summarise([measure_clip(tone(100, 0.5), 16000, "The cat.", ears)])
    long = summarise([measure_clip(tone(200, 0.6), 16000, "The cat sat.", ears)] * 2, similarity=0.8)

    assert (short.word_error_rate, long.word_error_rate) == (0.0, pytest.approx(1 / 3))
    assert long.phone_error_rate == pytest.approx(3 / 8)
    assert long.num_swallowed == 2
    mean = mean_figures([short, long])
    assert mean["word_error_rate"] == pytest.approx(1 / 6)
    assert mean["similarity"] == 0.8  # of the one that has it
    assert mean["num_clips"] == 1.5


def test_the_language_is_told_by_hanzi() -> None:
    assert [language_of(text) for text in ("Hello.", "你好", "OK 吗")] == ["en", "zh", "zh"]
