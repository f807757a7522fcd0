import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyforge.text.frontend import Frontend
from cosyforge.text.ribbon import Ribbon, align, written_words

PHONES = Frontend({"languages": ["en"], "english": "phones"})
OFFICIAL = Frontend({"languages": ["zh", "en"], "english": "text"})


def aligned(frontend, text, **options):
    """(written, spoken) of every entry of the first segment."""
    (segment, *_), _ = frontend.plan(text, **options)
    return [(segment.text[a:b], segment.spoken[c:d]) for a, b, c, d in segment.alignment]


def test_plain_words_keep_their_places_and_rewritten_ones_stand_for_what_they_replace():
    assert aligned(OFFICIAL, "Dr. Smith (58) paid $5.50 today.") == [
        ("Dr", "Doctor"),
        ("Smith", "Smith"),
        ("58", "fifty eight"),
        ("paid", "paid"),
        ("$5.50", "five dollars and fifty cents"),
        ("today", "today"),
    ]


def test_hanzi_are_words_of_their_own_and_a_number_is_one():
    assert aligned(OFFICIAL, "我有12只猫，iPhone好") == [
        ("我", "我"),
        ("有", "有"),
        ("12", "十二"),
        ("只", "只"),
        ("猫", "猫"),
        ("iPhone", "iPhone"),
        ("好", "好"),
    ]


def test_places_count_in_phone_tokens_where_the_model_reads_phones():
    assert aligned(PHONES, "Hello, 2 cats!") == [
        ("Hello", "[HH][AH][L][OW]"),
        ("2", "[T][UW]"),
        ("cats", "[K][AE][T][S]"),
    ]


def test_formulas_and_replaced_words_are_one_entry():
    assert aligned(OFFICIAL, "令$a+b=2$成立")[1] == ("$a+b=2$", "a加b等于二")
    assert aligned(OFFICIAL, "The W3C said so", replacements=(("W3C", "web consortium"),))[1] == (
        "W3C",
        "web consortium",
    )
    ssml = '<speak>Say <phoneme alphabet="cmu" ph="T AH0">tomato</phoneme> now</speak>'
    assert aligned(OFFICIAL, ssml, ssml=True)[1] == ("tomato", "[T][AH0]")


def test_a_word_that_is_not_spoken_has_no_entry():
    assert aligned(OFFICIAL, "Good 😀 morning") == [("Good", "Good"), ("morning", "morning")]


@pytest.mark.parametrize(
    ("text", "words"),
    [("don't (stop)", ["don't", "stop"]), ("你好 world", ["你", "好", "world"]), ("AT&T—$5", ["AT&T", "$5"])],
)
def test_written_words_are_what_spaces_and_brackets_enclose(text, words):
    assert [text[begin:end] for begin, end in written_words(text)] == words


def test_a_rewrite_keeps_whole_words_at_its_edges():
    ribbon = Ribbon.of("on May 5 now")
    ribbon.sub(re.compile("May 5"), lambda match: "May fifth")
    assert ribbon.text == "on May fifth now"
    assert ribbon.source(3, 6) == (3, 6)
    assert ribbon.source(7, 12) == (7, 8)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="ab1 .,-你", max_size=30),
    st.sampled_from(["a", "1+", " ", "[.,]", "b?", "ab"]),
    st.text(max_size=4),
)
def test_a_ribbon_changes_its_text_as_strings_do_and_stays_in_order(text, pattern, new):
    ribbon = Ribbon.of(text)
    ribbon.sub(re.compile(pattern), lambda match: new)
    assert ribbon.text == re.sub(pattern, lambda match: new, text)
    assert len(ribbon.starts) == len(ribbon.ends) == len(ribbon.text)
    assert ribbon.starts == sorted(ribbon.starts)
    assert ribbon.ends == sorted(ribbon.ends)
    entries = align(text, ribbon, 0)
    assert all(first[1] <= second[0] and first[3] <= second[2] for first, second in pairwise(entries))
