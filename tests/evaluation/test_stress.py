from __future__ import annotations

import pytest

from cosyforge.dataset.sentences import training_sentences
from cosyforge.evaluation.phones import wanted_phones
from cosyforge.evaluation.sentences import EVERYDAY_ZH, everyday_sentences
from cosyforge.evaluation.stress import num_words, stress_sentences
from cosyforge.text.lexicon import english_phones, known_words
from cosyforge.text.mandarin import pinyin_syllables


@pytest.mark.parametrize(("language", "longest"), [("en", 40), ("zh", 80)])
def test_lengths_go_evenly_from_the_shortest_to_the_longest(language: str, longest: int) -> None:
    sentences = stress_sentences(60, language)
    lengths = [num_words(text) for text in sentences]

    assert len(set(sentences)) == 60
    assert min(lengths) <= 4
    assert max(lengths) >= longest - 2
    # one in three is short, one in three long
    assert sorted(lengths)[20] == pytest.approx(longest * 0.37, abs=3)
    assert sorted(lengths)[40] == pytest.approx(longest * 0.69, abs=3)


def test_the_same_seed_gives_the_same_sentences_and_another_seed_others() -> None:
    assert stress_sentences(10) == stress_sentences(10)
    assert not set(stress_sentences(30)[10:]) & set(stress_sentences(30, seed=1)[10:])


def test_every_word_can_be_pronounced() -> None:
    assert all(wanted_phones(text) for text in stress_sentences(100))
    assert all(len(pinyin_syllables(text)) == num_words(text) for text in stress_sentences(40, "zh"))


def test_none_is_in_the_training_corpus() -> None:
    corpus = set(training_sentences(3000, lambda word: english_phones(word) is not None, known_words()))

    assert not corpus & set(stress_sentences(200))


def test_a_language_without_clauses_is_refused() -> None:
    with pytest.raises(ValueError, match="en and zh"):
        stress_sentences(3, "fr")
    with pytest.raises(ValueError, match="no everyday sentences"):
        everyday_sentences("fr")


def test_everyday_mandarin_has_sixty_sentences_of_handy_length_with_all_tones_and_initials() -> None:
    syllables = [syllable for text in EVERYDAY_ZH for syllable in pinyin_syllables(text)]
    initials = {syllable[: 2 if syllable[1:2] == "h" else 1] for syllable in syllables}

    assert len(set(EVERYDAY_ZH)) == 60
    assert all(8 <= len(pinyin_syllables(text)) <= 18 for text in EVERYDAY_ZH)
    assert {syllable[-1] for syllable in syllables} == set("12345")
    assert initials >= {*"bpmfdtnlgkhjqxrzcsyw", "zh", "ch", "sh"}
    assert not any(char.isascii() for text in EVERYDAY_ZH for char in text)
