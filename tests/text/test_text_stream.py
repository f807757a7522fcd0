"""Whatever is written gives a plan or is refused, nothing gets lost, and pieces give what the whole gives."""

import random
import time

import pytest

from cosyforge.errors import InvalidParameter
from cosyforge.text.frontend import Frontend
from random_texts import in_pieces, random_text

PHONES = Frontend({"languages": ["en"], "english": "phones"})
OFFICIAL = Frontend({"languages": ["zh", "en"], "english": "text"})
SOUNDS = Frontend({"languages": ["zh", "en"], "english": "phones", "mandarin": "pinyin"})
FRONTENDS = (PHONES, OFFICIAL, SOUNDS)
FIXES = {"replacements": (("世界", "World"), ("a b", "甲乙 a")), "pronunciations": (("world", "W ER1 L D"),)}


def settings_of(chance):
    fixes = FIXES if chance.random() < 0.3 else {}
    return chance.choice((None, None, "en")), {"markdown_filter": chance.random() < 0.4, **fixes}


def plan(frontend, text, hint, settings):
    try:
        return frontend.plan(text, hint, **settings)
    except InvalidParameter:
        return None


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_random_texts_give_plans_or_are_refused_and_nothing_is_lost(seed):
    chance = random.Random(seed)
    for number in range(1000):
        text = random_text(chance)
        planned = plan(FRONTENDS[number % 3], text, *settings_of(chance))
        if planned is None:
            continue
        segments, warnings = planned
        place, left = 0, ""
        for segment in segments:
            assert text[segment.start : segment.end] == segment.text, text
            assert segment.start >= place, text
            left += text[place : segment.start] + "\n"
            place = segment.end
            check_alignment(segment)
        named = " ".join(warnings)
        for char in "".join((left + text[place:]).split()):
            assert repr(char)[1:-1] in named, (text, char, warnings)


def check_alignment(segment):
    text_end = spoken_end = 0
    for entry in segment.alignment:
        assert text_end <= entry[0] < entry[1] <= len(segment.text), segment
        assert spoken_end <= entry[2] < entry[3] <= len(segment.spoken), segment
        text_end, spoken_end = entry[1], entry[3]


def test_pieces_give_the_segments_and_warnings_of_the_whole():
    chance = random.Random(17)
    for number in range(600):
        text, frontend = random_text(chance), FRONTENDS[number % 3]
        hint, settings = settings_of(chance)
        planned = plan(frontend, text, hint, settings)
        if planned is None:
            continue
        stream = frontend.stream(hint, **settings)
        arrived = [segment for piece in in_pieces(text, chance) for segment in stream.push(piece)] + stream.finish()
        assert [s.spoken for s in arrived] == [s.spoken for s in planned[0]], text
        assert [(s.start, s.end, s.alignment) for s in arrived] == [(s.start, s.end, s.alignment) for s in planned[0]]
        assert stream.warnings == planned[1], text


@pytest.mark.parametrize(
    "unit",
    ["a", "1.", "$", "$a ", "\\", "[a](", "*", "\n", "a-", "http://", "U.", "你", "\u0301a"],
)
def test_time_is_linear_in_the_length_of_the_text(unit):
    """Four times the text takes about four times as long, whatever it is made of; a square law would take 16 times."""

    def seconds(length):
        text = (unit * length)[:length]
        start = time.process_time()
        plan(OFFICIAL, text, None, {"markdown_filter": True})
        return time.process_time() - start

    seconds(500)
    least = max(0.02, min(seconds(2_000) for _ in range(2)))
    assert min(seconds(8_000) for _ in range(2)) < 10 * least


def test_a_long_piece_is_cut_and_stays_within_its_limit():
    text = "这是一个没有任何停顿的很长的句子" * 30 + "word " * 200 + "1234567890" * 30
    for segment in OFFICIAL.segments(text):
        assert len(segment.text) <= 250
        assert len(segment.spoken) <= 600


def test_the_flush_of_a_stream_speaks_what_is_there_and_goes_on():
    stream = OFFICIAL.stream()
    assert [segment.text for segment in stream.push("Is it $x") + stream.finish()] == ["Is it $x"]
    assert [segment.text for segment in stream.push("And more.") + stream.finish()] == ["And more."]
