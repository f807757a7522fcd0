from __future__ import annotations

from evaluation_clips import Say

from cosyforge.evaluation.phones import count_phones, phone_errors, pronunciations
from cosyforge.evaluation.transcriber import PocketsphinxTranscriber


def test_a_word_may_be_said_in_every_way_of_the_dictionary_the_usual_one_first() -> None:
    ways = pronunciations("the")

    assert ways[0] == ("DH", "AH")
    assert ("DH", "IY") in ways
    assert pronunciations("xqzzt") == []


def test_either_way_of_a_word_is_right() -> None:
    for vowel in ("AH", "IY"):
        errors = phone_errors("The cat.", ["DH", vowel, "K", "AE", "T"])
        assert errors is not None
        assert (errors.errors, errors.num_words) == (0, 5)


def test_a_text_with_an_unknown_word_has_no_phone_errors() -> None:
    assert phone_errors("the xqzzt", []) is None
    assert count_phones("the xqzzt") is None
    assert count_phones("The cat.") == 5


def test_phones_are_heard_without_a_dictionary(say: Say) -> None:
    clip = say("rms", "My brother plays the guitar in a small band.")
    ear = PocketsphinxTranscriber()

    heard = ear.phones(clip.samples, clip.sample_rate_hz)
    errors = phone_errors(clip.text, heard)

    assert errors is not None
    assert errors.rate < 0.4  # a free decoder; words of a dictionary would hide half of it
    assert ear.phones(clip.samples[:0], 16000) == []
    # what another text would have: the figure does tell right from wrong
    other = phone_errors("The library has more than a thousand books.", heard)
    assert other is not None
    assert other.rate > errors.rate + 0.3
