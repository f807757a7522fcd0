from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyforge.text.segment import SentenceSplitter

TEXT = (
    'Dr. Smith paid $3.50 to J. R. Miller at 5 p.m. on Monday. He was glad! "Really?" she asked. Yes. Wait... what? '
    "It costs 1,234.5 in the U.S. Senate, e.g. in No. 5, etc. Then he left the U.S. He was done.\n"
    "A new line\nwrapped here. 今天是星期五。你好吗？“很好！”他说。\n\nLast words, " + "and on and on, " * 20 + "end"
)


def cut(text: str, **limits: int) -> list[str]:
    splitter = SentenceSplitter(**limits)
    sentences = splitter.push(text) + splitter.finish()
    return [text[sentence.start : sentence.end] for sentence in sentences]


def test_decimals_abbreviations_initials_and_quotes_do_not_end_a_sentence():
    assert cut('Dr. Smith paid $3.50 to J. R. Miller, etc. in No. 5. "Really?" she asked.') == [
        "Dr. Smith paid $3.50 to J. R. Miller, etc. in No. 5.",
        '"Really?" she asked.',
    ]


def test_a_short_form_ends_a_sentence_when_a_new_one_clearly_begins():
    assert cut("He lives in the U.S. He likes the U.S. Senate.") == [
        "He lives in the U.S.",
        "He likes the U.S. Senate.",
    ]
    assert cut("Bring apples, pears, etc. Then come home.") == ["Bring apples, pears, etc.", "Then come home."]


def test_chinese_marks_end_sentences_without_a_space():
    assert cut("今天是星期五。你好吗？“很好！”他说。", min_length=1) == [
        "今天是星期五。",
        "你好吗？",
        "“很好！”",
        "他说。",
    ]


def test_very_short_sentences_join_the_next_one():
    assert cut("Hi! How are you today? Fine.") == ["Hi! How are you today?", "Fine."]


def test_a_sentence_over_the_limit_is_cut_where_one_may_breathe():
    pieces = cut("one two three, " * 30, max_length=60)
    assert all(len(piece) <= 60 * 1.25 for piece in pieces)
    assert all(piece.rstrip().endswith(",") for piece in pieces)


def test_text_without_any_space_is_cut_at_the_limit_and_kept_whole():
    pieces = cut("x" * 1000, max_length=60)
    assert "".join(pieces) == "x" * 1000
    assert max(map(len, pieces)) <= 75


def test_single_characters_give_the_sentences_of_the_whole():
    splitter = SentenceSplitter()
    arrived = [sentence for char in TEXT for sentence in splitter.push(char)] + splitter.finish()
    assert [TEXT[s.start : s.end] for s in arrived] == cut(TEXT)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, len(TEXT)), max_size=12), st.sampled_from([40, 160]))
def test_sentences_do_not_depend_on_how_the_text_arrives(cuts, max_length):
    splitter = SentenceSplitter(max_length=max_length)
    places = [0, *sorted(cuts), len(TEXT)]
    arrived = [s for a, b in pairwise(places) for s in splitter.push(TEXT[a:b])] + splitter.finish()
    assert [TEXT[s.start : s.end] for s in arrived] == cut(TEXT, max_length=max_length)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aB .!?,;\n\"'5。！”你-…", max_size=80), st.integers(0, 80), st.integers(5, 30))
def test_any_text_is_covered_whole_and_in_order_however_it_arrives(text, where, max_length):
    whole = cut(text, max_length=max_length)
    assert "".join("".join(whole).split()) == "".join(text.split())
    splitter = SentenceSplitter(max_length=max_length)
    arrived = splitter.push(text[:where]) + splitter.push(text[where:]) + splitter.finish()
    assert [text[s.start : s.end] for s in arrived] == whole


def test_a_sentence_comes_out_as_soon_as_it_is_complete():
    splitter = SentenceSplitter()
    assert splitter.push("This is the first sen") == []
    assert len(splitter.push("tence. And")) == 1


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_no_text_gives_no_sentence(text):
    assert cut(text) == []
