from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyforge.text.segment import HELD, SentenceSplitter, held

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


def test_a_comma_just_beyond_the_limit_is_a_better_place_than_a_blank_before_it():
    text = "The twins collected a ladder in the old basement, so we waited outside in the rain for an hour."
    assert cut(text, max_length=45) == [
        "The twins collected a ladder in the old basement,",
        "so we waited outside in the rain for an hour.",
    ]
    assert cut("节日期间小区的保安在楼梯下面拍下了一只皮箱，同时表妹在灯塔附近拍下了一篮子李子。", max_length=60) == [
        "节日期间小区的保安在楼梯下面拍下了一只皮箱，",
        "同时表妹在灯塔附近拍下了一篮子李子。",
    ]


def test_without_a_mark_a_clause_or_a_phrase_is_kept_together():
    assert cut("The mayor praised the fresh bread because a tall stranger had bought all of it", max_length=50) == [
        "The mayor praised the fresh bread",
        "because a tall stranger had bought all of it",
    ]
    assert cut("我的同事昨天晚上已经把全部门票寄出去了但是年轻的护士还没有收到", max_length=66) == [
        "我的同事昨天晚上已经把全部门票寄出去了",
        "但是年轻的护士还没有收到",
    ]
    assert cut("楼上的邻居和一对老夫妻现在正在在地下室里归还羊毛毯子", max_length=60) == [
        "楼上的邻居和一对老夫妻现在正在",
        "在地下室里归还羊毛毯子",
    ]


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


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("See https://a.com/?Q=1 now. It works.", ["See https://a.com/?Q=1 now.", "It works."]),
        ("It is No. 5 of them. No. He left the house.", ["It is No. 5 of them.", "No.", "He left the house."]),
        ("他说：“好。”然后走了。再见！", ["他说：“好。”", "然后走了。", "再见！"]),
        ("One title\u2029small text", ["One title", "small text"]),
        ("wait… what is it? Fine!", ["wait… what is it?", "Fine!"]),
        ("He said (really.) Then he left.", ["He said (really.)", "Then he left."]),
        ("Is it e.g. 3.14 or i.e. 5? Yes, it is.", ["Is it e.g. 3.14 or i.e. 5?", "Yes, it is."]),
    ],
)
def test_addresses_numbers_and_closing_marks(text, sentences):
    assert cut(text, min_length=1) == sentences


def test_digits_weigh_as_much_as_they_sound():
    assert max(len(piece) for piece in cut("7" * 400, max_length=150)) <= 70


def test_a_stretch_that_is_held_together_is_never_cut():
    for place in (0, 10, 58):
        pieces = cut("a" * place + held(90, 90) + "b" * 90, max_length=60)
        assert sum(HELD in piece for piece in pieces) == 1


def test_stretches_beside_each_other_are_cut_apart_and_weigh_what_they_sound():
    pieces = cut(held(4, 300) * 3 + held(4, 4) * 20, max_length=60)
    assert [len(piece) for piece in pieces[:3]] == [4, 4, 4]
    assert all(len(piece) % 4 == 0 and len(piece) <= 40 for piece in pieces)
