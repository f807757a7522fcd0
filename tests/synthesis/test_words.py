import numpy as np
import pytest
import torch

from cosyforge.synthesis.request import Word
from cosyforge.synthesis.words import Loudness, spoken_places, word_times

# "Pay 25 now" is spoken as five words; a character is a token
SPOKEN = "pay twenty five now"
SPANS = [(i, i + 1) for i in range(len(SPOKEN))]
ALIGNMENT = [(0, 3, 0, 3), (4, 6, 4, 15), (7, 10, 16, 19)]


def places_of(durations: list[int]) -> list[int]:
    """Speech tokens per character."""
    return [index for index, count in enumerate(durations) for _ in range(count)]


def times(places, *, begin_ms=0.0, end_ms=1e9, rate=1.0, alignment=ALIGNMENT) -> list[Word]:
    return list(
        word_times("Pay 25 now", alignment, SPANS, places, begin_ms=begin_ms, end_ms=end_ms, rate=rate)
    )  # fmt: skip


def test_a_written_word_lasts_as_long_as_all_that_is_spoken_for_it():
    words = times(places_of([2, 2, 2, 1] + [1] * 11 + [3, 2, 2, 2]))
    assert [(w.text, w.begin_index, w.end_index) for w in words] == [("Pay", 0, 3), ("25", 4, 6), ("now", 7, 10)]
    assert [(w.begin_ms, w.end_ms) for w in words] == [(0, 240), (280, 720), (840, 1080)]


def test_times_are_shifted_by_what_came_before_and_scaled_by_rate():
    words = times(places_of([2] * 19), begin_ms=1000.0, rate=2.0)
    assert [(w.begin_ms, w.end_ms) for w in words] == [(1000, 1120), (1160, 1600), (1640, 1760)]


def test_times_stay_inside_the_sentence():
    words = times(places_of([2] * 19), begin_ms=100.0, end_ms=500.0)
    assert words[-1].end_ms == 500
    assert all(100 <= w.begin_ms <= w.end_ms <= 500 for w in words)


def test_a_word_that_was_swallowed_has_no_duration_but_a_place():
    words = times([0, 1, 2, 16, 17, 18])
    assert [(w.begin_ms, w.end_ms) for w in words] == [(0, 120), (120, 120), (120, 240)]


def test_without_speech_all_words_are_at_the_beginning():
    assert {(w.begin_ms, w.end_ms) for w in times([], begin_ms=40.0, end_ms=40.0)} == {(40, 40)}


def test_chinese_characters_are_words():
    alignment = [(i, i + 1, i, i + 1) for i in range(3)]
    words = word_times("床前明", alignment, SPANS, [0, 0, 1, 2, 2], begin_ms=0, end_ms=200, rate=1.0)
    assert [(w.text, w.begin_ms, w.end_ms) for w in words] == [("床", 0, 80), ("前", 80, 120), ("明", 120, 200)]


def test_without_a_head_the_speech_is_shared_out():
    assert spoken_places(torch.zeros(8, 4), follows=False) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_spoken_has_no_places(shape):
    assert spoken_places(torch.zeros(*shape), follows=True) == []


def test_the_untaught_first_look_is_not_believed():
    attention = torch.eye(6)
    attention[0] = torch.tensor([0.0, 0, 0, 0, 0, 1.0])
    assert spoken_places(attention, follows=True) == [0, 1, 2, 3, 4, 5]


def test_a_word_does_not_begin_or_end_with_a_pause():
    audible = [False, False, True, True, True, False] + [True] * 11 + [True, False]
    words = times(places_of([1] * 19), alignment=ALIGNMENT)
    heard = word_times(
        "Pay 25 now", ALIGNMENT, SPANS, places_of([1] * 19), begin_ms=0, end_ms=1e9, rate=1.0, audible=audible
    )
    assert [(w.begin_ms, w.end_ms) for w in words] == [(0, 120), (160, 600), (640, 760)]
    assert [(w.begin_ms, w.end_ms) for w in heard] == [(80, 120), (160, 600), (640, 720)]


def test_what_is_30_db_below_the_loudest_moment_is_not_heard():
    loudness = Loudness(24000)
    for level in (0.0, 0.002, 0.5, 0.02, 0.001):
        loudness.push(np.full(600, level, dtype=np.float32))
        loudness.push(np.full(360, level, dtype=np.float32))
    assert loudness.audible() == [False, False, True, True, False]
    assert Loudness(24000).audible() == []
