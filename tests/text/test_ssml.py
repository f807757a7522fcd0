import pytest

from cosyforge.errors import InvalidMarkup, InvalidParameter
from cosyforge.text.frontend import Frontend
from cosyforge.text.pronunciation import parse_pinyin

PHONES = Frontend({"languages": ["en"], "english": "phones"})
OFFICIAL = Frontend({"languages": ["zh", "en"], "english": "text"})


def test_a_break_ends_the_segment_and_breaks_add_up():
    segments = PHONES.segments('<speak>Hello <break time="500ms"/> <break/>there<break time="2s"/></speak>', ssml=True)
    assert [(s.text, s.pause_ms) for s in segments] == [("Hello", 1500), ("there", 2000)]


def test_breaks_are_capped_at_ten_seconds():
    segments = PHONES.segments('<speak>Hi<break time="9s"/><break time="9s"/>there</speak>', ssml=True)
    assert segments[0].pause_ms == 10_000


def test_an_alias_is_spoken_and_the_written_word_is_shown():
    (segment,) = OFFICIAL.segments('<speak>The <sub alias="World Wide Web">W.W.W. It</sub> grows</speak>', ssml=True)
    assert segment.text == "The W.W.W. It grows"
    assert segment.spoken == "The World Wide Web grows."


def test_cmu_phones_lose_their_stress_only_where_the_model_has_none():
    ssml = '<speak>Say <phoneme alphabet="cmu" ph="T AH0 M EY1 T OW0">tomato</phoneme> now</speak>'
    assert PHONES.segments(ssml, ssml=True)[0].spoken == "[S][EY] [T][AH][M][EY][T][OW] [N][AW]."
    assert OFFICIAL.segments(ssml, ssml=True)[0].spoken == "Say [T][AH0][M][EY1][T][OW0] now."


def test_pinyin_becomes_initials_and_finals_with_tone_marks():
    ssml = '<speak><phoneme alphabet="py" ph="chong2 qing4">重庆</phoneme>很好</speak>'
    assert OFFICIAL.segments(ssml, ssml=True)[0].spoken == "[ch][óng][q][ìng]很好。"
    assert parse_pinyin("lv4 lue4 lve4 wo3 er2 hao3 gui4 dou1 ma5") == [
        "l", "ǜ", "l", "uè", "l", "vè", "w", "ǒ", "ér", "h", "ǎo", "g", "uì", "d", "ōu", "m", "a",
    ]  # fmt: skip


def test_escapes_are_resolved():
    assert OFFICIAL.segments("<speak>Tom &amp; Jerry</speak>", ssml=True)[0].spoken == "Tom and Jerry."


def test_several_speak_elements_follow_each_other():
    segments = PHONES.segments("<speak>Good morning to you</speak>\n<speak>and good night</speak>", ssml=True)
    assert [s.text for s in segments] == ["Good morning to you", "and good night"]


def test_text_that_is_no_markup_is_plain_even_with_ssml_on():
    assert OFFICIAL.segments("AT&T", ssml=True)[0].spoken == "AT and T."


@pytest.mark.parametrize("syllable", ["shui5", "lve3", "ma6", "xyz1", "ma"])
def test_a_syllable_without_tokens_is_refused(syllable):
    with pytest.raises(ValueError, match=f"'{syllable}'"):
        parse_pinyin(syllable)


@pytest.mark.parametrize(
    ("markup", "line", "column", "reason"),
    [
        ("<speak>a <b>x</b></speak>", 1, 10, "unknown tag <b>"),
        ('<speak>\n <say-as interpret-as="digits">5</say-as></speak>', 2, 2, "not supported yet"),
        ('<speak>x<soundEvent src="a"/></speak>', 1, 9, "not supported yet"),
        ('<speak rate="2">x</speak>', 1, 1, "not supported yet"),
        ('<speak colour="red">x</speak>', 1, 1, "unknown attribute"),
        ("<speak>a", 1, 9, "mismatched tag"),
        ("<speak>&foo;</speak>", 1, 8, "undefined entity"),
        ('<speak><break time="20s"/></speak>', 1, 8, "between 50ms"),
        ('<speak><break length="1s"/></speak>', 1, 8, "unknown attribute"),
        ("<speak><sub>x</sub></speak>", 1, 8, "needs the attribute alias"),
        (f'<speak><sub alias="{"y" * 301}">x</sub></speak>', 1, 8, "longer than 300"),
        ('<speak><sub alias="y"><break/></sub></speak>', 1, 23, "text only"),
        ('<speak><phoneme alphabet="ipa" ph="x">x</phoneme></speak>', 1, 8, "must be cmu or py"),
        ('<speak><phoneme alphabet="cmu" ph="QQ">x</phoneme></speak>', 1, 8, "no CMU phone"),
        ('<speak><phoneme alphabet="py" ph="ni3">你好</phoneme></speak>', 1, 8, "1 syllables for 2 characters"),
        ("<speak><speak>x</speak></speak>", 1, 8, "must not stand inside"),
        ("<speak>x</speak> y", 1, 17, "must stand inside <speak>"),
        ("<speak><?php x?></speak>", 1, 8, "processing instruction"),
    ],
)
def test_bad_markup_is_refused_with_its_place(markup, line, column, reason):
    with pytest.raises(InvalidMarkup) as refused:
        PHONES.plan(markup, ssml=True)
    assert reason in refused.value.message
    assert (refused.value.fields["line"], refused.value.fields["column"]) == (line, column)


def test_entities_cannot_be_declared():
    with pytest.raises(InvalidMarkup):
        PHONES.plan('<speak><!DOCTYPE x [<!ENTITY a "aaaa">]>&a;</speak>', ssml=True)


def test_only_breaks_are_nothing_to_speak():
    with pytest.raises(InvalidParameter, match="valid"):
        PHONES.plan("<speak><break/></speak>", ssml=True)
