import subprocess
import sys

import pytest

from cosyforge.text.lexicon import PHONES, english_phones, letter_phones


def spelled(word: str) -> str:
    phones = english_phones(word)
    assert phones is not None, word
    return " ".join(phones)


def test_a_word_of_the_dictionary_has_its_first_pronunciation_without_stress():
    assert english_phones("Hello") == ["HH", "AH", "L", "OW"]
    assert spelled("world") == "W ER L D"


def test_there_are_39_phones():
    assert len(PHONES) == 39


@pytest.mark.parametrize(
    ("word", "stem", "ending"),
    [
        ("kubrick's", "kubrick", "S"),
        ("selfies", "selfie", "Z"),
        ("blog's", "blog", "Z"),
        ("unfollowed", "unfollow", "D"),
        ("google's", "google", "Z"),
        ("dogs'", "dog", "Z"),
        ("retweets", "retweet", "S"),
    ],
)
def test_endings_are_said_as_the_last_sound_of_the_stem_wants(word, stem, ending):
    assert spelled(word) == f"{spelled(stem)} {ending}"


def test_the_past_of_a_stem_in_t_has_its_own_syllable():
    assert spelled("reboot") + " IH D" == spelled("rebooted")


def test_a_doubled_consonant_and_a_dropped_e_find_their_stem():
    assert spelled("blogged") == "B L AO G D"
    assert spelled("rezoning") == spelled("rezone") + " IH NG"


def test_capitals_are_spelled_out_unless_they_make_a_word():
    assert spelled("FBI") == "EH F B IY AY"
    assert spelled("US") == "Y UW EH S"
    assert spelled("us") == "AH S"
    assert spelled("NASA") == "N AE S AH"
    assert spelled("LLMs") == "EH L EH L EH M Z"


def test_a_compound_of_two_known_words_is_known():
    assert spelled("cosyforge") == f"{spelled('cosy')} {spelled('forge')}"
    assert spelled("well-known") == f"{spelled('well')} {spelled('known')}"


def test_accents_and_curly_apostrophes_do_not_matter():
    assert english_phones("café") == english_phones("cafe")
    assert english_phones("don’t") == ["D", "OW", "N", "T"]


@pytest.mark.parametrize("word", ["zxqv", "qwyxz", "", "你好", "4"])
def test_an_unknown_word_is_none_and_never_guessed(word):
    assert english_phones(word) is None


def test_letters_have_names():
    assert letter_phones("ABC") == ["EY", "B", "IY", "S", "IY"]
    assert letter_phones("A1") is None


def test_the_recogniser_itself_is_not_imported():
    code = (
        "import sys; from cosyforge.text.lexicon import english_phones as phones; "
        "phones('a'); print('pocketsphinx' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )
