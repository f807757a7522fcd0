from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosyforge.evaluation.alignment import Step, align
from cosyforge.evaluation.wer import count_errors, sequence_errors

UNITS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=6)


def test_each_heard_unit_is_given_to_the_word_that_it_fits() -> None:
    steps = align([["dog"], ["cat"]], list("dgcaat"))

    assert steps == [
        *(Step(0, "d", "d"), Step(0, "o", None), Step(0, "g", "g")),
        *(Step(1, "c", "c"), Step(1, None, "a"), Step(1, "a", "a"), Step(1, "t", "t")),
    ]


def test_the_pronunciation_that_fits_best_counts() -> None:
    words = [[("t", "uw"), ("t", "ah")], [("g", "ow")]]

    assert count_errors(align(words, ["t", "ah", "g", "ow"])).errors == 0
    assert count_errors(align(words, ["t", "uw", "g", "ow"])).errors == 0
    assert count_errors(align(words, ["t", "ih", "g", "ow"])).substitutions == 1


def test_units_before_the_first_word_belong_to_none() -> None:
    assert align([["a"]], ["x", "a"])[0] == Step(-1, None, "x")


def test_of_equally_short_ways_the_likely_one_is_taken() -> None:
    def is_like(one: str, other: str) -> bool:
        return one.isupper() == other.isupper()

    # either consonant may be the one left out; the vowel is never taken for a consonant
    steps = align([["tAk"]], ["E"], is_like)

    assert Step(0, "A", "E") in steps


@given(st.lists(UNITS, min_size=1, max_size=4), st.lists(st.sampled_from("abcd"), max_size=12))
def test_an_alignment_is_as_short_as_the_distance_and_spells_both_sides(
    words: list[list[str]], heard: list[str]
) -> None:
    steps = align([[word] for word in words], heard)
    wanted = [unit for word in words for unit in word]

    assert [step.wanted for step in steps if step.wanted] == wanted
    assert [step.heard for step in steps if step.heard] == heard
    assert count_errors(steps).errors == sequence_errors(wanted, heard).errors
    indexes = [step.word_index for step in steps]
    assert indexes == sorted(indexes)


@given(UNITS, UNITS, st.lists(st.sampled_from("abcd"), max_size=8))
def test_two_pronunciations_are_as_good_as_the_better_one(one: list[str], other: list[str], heard: list[str]) -> None:
    both = count_errors(align([[one, other]], heard)).errors

    assert both == min(sequence_errors(one, heard).errors, sequence_errors(other, heard).errors)


def test_a_word_that_cannot_be_said_is_refused() -> None:
    with pytest.raises(ValueError, match="without any pronunciation"):
        align([[]], ["a"])
