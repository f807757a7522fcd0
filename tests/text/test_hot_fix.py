import pytest

from cosyforge.errors import InvalidParameter
from cosyforge.text.frontend import Frontend

OFFICIAL = Frontend({"languages": ["zh", "en"], "english": "text"})
PHONES = Frontend({"languages": ["en"], "english": "phones"})


def words(text, **options):
    return OFFICIAL.plan(text, **options)[0][0].words


def test_replacements_are_spoken_and_the_written_word_is_shown():
    (segment,), _ = OFFICIAL.plan("The W3C met", replacements=(("W3C", "World Wide Web Consortium"),))
    assert segment.text == "The W3C met"
    assert segment.words == "The World Wide Web Consortium met."


def test_the_longest_written_form_wins():
    assert words("阿里云和阿里", replacements=(("阿里", "甲"), ("阿里云", "乙"))) == "乙和甲。"


def test_a_latin_word_is_not_found_inside_another_one():
    assert words("cat concatenate cat's Cat", replacements=(("cat", "dog"),)) == "dog concatenate dog's Cat."


def test_the_replacement_is_read_like_any_text():
    assert words("It costs XX", replacements=(("XX", "$5"),)) == "It costs five dollars."


def test_pinyin_and_cmu_phones_become_tokens():
    assert words("重庆火锅", pronunciations=(("重庆", "chong2 qing4"),)) == "[ch][óng][q][ìng]火锅。"
    assert words("a tomato", pronunciations=(("tomato", "T AH0 M EY1 T OW0"),)) == "a [T][AH0][M][EY1][T][OW0]."
    (segment,), _ = PHONES.plan("a tomato", pronunciations=(("tomato", "T AH0 M EY1 T OW0"),))
    assert segment.spoken == "[AH] [T][AH][M][EY][T][OW]."


def test_replacements_go_first_and_may_bring_words_with_a_pronunciation():
    fixes = {"replacements": (("渝", "重庆市"),), "pronunciations": (("重庆", "chong2 qing4"), ("渝", "yu2"))}
    assert words("去渝吧", **fixes) == "去[ch][óng][q][ìng]市吧。"


@pytest.mark.parametrize(
    ("word", "symbols"),
    [("重庆", "chong2"), ("重庆", "xx2 qing4"), ("tomato", "T QQ"), ("tomato", "  "), ("重庆", "chong qing")],
)
def test_a_bad_pronunciation_is_refused_by_its_word(word, symbols):
    with pytest.raises(InvalidParameter, match=word):
        OFFICIAL.plan("hello", pronunciations=((word, symbols),))
    with pytest.raises(InvalidParameter, match=word):
        OFFICIAL.stream(pronunciations=((word, symbols),))


def test_pinyin_is_refused_by_a_model_that_speaks_no_mandarin():
    with pytest.raises(InvalidParameter, match="Mandarin"):
        PHONES.plan("hello", pronunciations=(("重庆", "chong2 qing4"),))


@pytest.mark.parametrize("pair", [("", "x"), (" ", "x"), ("w" * 101, "x"), ("w", "x" * 301)])
def test_replacements_have_limits(pair):
    with pytest.raises(InvalidParameter, match="hot_fix"):
        OFFICIAL.plan("hello", replacements=(pair,))


def test_long_replacements_do_not_make_long_segments():
    segments, _ = OFFICIAL.plan("好" * 40, replacements=(("好", "very good " * 29),))
    assert max(len(segment.spoken) for segment in segments) < 700
    assert sum(segment.spoken.count("very") for segment in segments) == 40 * 29


def test_a_word_that_arrives_in_pieces_is_found():
    stream = OFFICIAL.stream(replacements=(("cat", "dog"), ("catalogue", "list")))
    segments = [segment for char in "My cat has a catalogue. Fine" for segment in stream.push(char)] + stream.finish()
    assert [segment.words for segment in segments] == ["My dog has a list.", "Fine."]
