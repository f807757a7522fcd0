from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosyforge.evaluation.wer import (
    WordErrors,
    corpus_errors,
    normalise_words,
    repeated_words,
    syllable_errors,
    word_errors,
)

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "grey"]), max_size=8)
texts = WORDS.map(" ".join)


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert normalise_words("Don’t STOP, 'now' - well-known?") == ["don't", "stop", "now", "well", "known"]


@pytest.mark.parametrize(
    ("reference", "heard", "expected"),
    [
        ("the cat sat", "the cat sat", WordErrors(0, 0, 0, 3)),
        ("the cat sat", "the hat sat", WordErrors(1, 0, 0, 3)),
        ("the cat sat", "the big cat sat", WordErrors(0, 1, 0, 3)),
        ("the cat sat", "the sat", WordErrors(0, 0, 1, 3)),
        ("the cat sat", "", WordErrors(0, 0, 3, 3)),
        ("a b c d", "b c d e", WordErrors(0, 1, 1, 4)),
        ("", "hello there", WordErrors(0, 2, 0, 0)),
    ],
)
def test_each_kind_of_error_is_counted(reference: str, heard: str, expected: WordErrors) -> None:
    assert word_errors(reference, heard) == expected


@given(texts, texts)
def test_counts_fit_the_lengths_and_swapping_the_texts_swaps_insertions_and_deletions(one: str, other: str) -> None:
    counts = word_errors(one, other)
    swapped = word_errors(other, one)

    assert counts.insertions - counts.deletions == len(other.split()) - len(one.split())
    assert 0 <= counts.errors <= max(len(one.split()), len(other.split()))
    assert (counts.substitutions, counts.insertions, counts.deletions) == (
        swapped.substitutions,
        swapped.deletions,
        swapped.insertions,
    )


@given(texts, texts, texts)
def test_errors_are_a_distance(one: str, two: str, three: str) -> None:
    assert (word_errors(one, two).errors == 0) == (one == two)
    assert word_errors(one, three).errors <= word_errors(one, two).errors + word_errors(two, three).errors


def test_a_corpus_weighs_words_and_not_sentences() -> None:
    total = corpus_errors([("one", "two"), ("a b c d e f g h i", "a b c d e f g h i")])

    assert total.num_words == 10
    assert total.rate == pytest.approx(0.1)
    assert total.words_understood == 9


def test_no_reference_words_have_no_rate() -> None:
    with pytest.raises(ValueError, match="holds none"):
        _ = word_errors("...", "hello").rate


@pytest.mark.parametrize(
    ("reference", "heard", "expected"),
    [
        ("we go home", "we go we go home", 2),
        ("we go home", "we we we go home", 2),
        ("very very good", "very very good", 0),
        ("very good", "very good", 0),
        ("", "", 0),
    ],
)
def test_words_said_twice_are_found_unless_the_text_repeats_them(reference: str, heard: str, expected: int) -> None:
    assert repeated_words(reference, heard) == expected


def test_syllables_are_compared_with_and_without_their_tones() -> None:
    wanted, heard = ["ma1", "ma5", "hen3", "lü4"], ["ma3", "ma", "heng3", "lv4"]

    assert syllable_errors(wanted, heard, tones=False) == WordErrors(1, 0, 0, 4)
    assert syllable_errors(wanted, heard, tones=True) == WordErrors(2, 0, 0, 4)


@pytest.mark.parametrize(
    ("wanted", "heard", "errors"),
    [
        ("ni3 hao3", "ni2 hao3", 0),  # the first of two third tones rises
        ("hao3 ma5", "hao2 ma5", 1),  # no third tone behind it
        ("yi1 ge4", "yi2 ge4", 0),
        ("bu4 shi4", "bu2 shi4", 0),
        ("bu3 yi1", "bu2 yi1", 1),  # 补, not 不
        ("ta1 lai2", "ta1", 1),
        ("ta1", "ta1 ta1", 1),
    ],
)
def test_tones_that_fluent_speech_changes_are_right_either_way(wanted: str, heard: str, errors: int) -> None:
    assert syllable_errors(wanted.split(), heard.split(), tones=True).errors == errors
