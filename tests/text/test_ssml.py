import random
import time

import pytest

from cosyforge.audio import voice_effects
from cosyforge.errors import InvalidMarkup, InvalidParameter
from cosyforge.text import ssml_attributes
from cosyforge.text.frontend import Frontend
from cosyforge.text.pronunciation import parse_pinyin
from cosyforge.text.say_as import SAY_AS
from cosyforge.text.ssml import MAX_ELEMENTS, MAX_SSML_CHARACTERS, Piece, parse_ssml

PHONES = Frontend({"languages": ["en"], "english": "phones"})
OFFICIAL = Frontend({"languages": ["zh", "en"], "english": "text"})
WAV = "https://sounds.example.org/bell.wav"


def _spoken(ssml, frontend=OFFICIAL, hint=None):
    return [segment.spoken for segment in frontend.segments(ssml, hint, ssml=True)]


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
    assert _spoken(ssml, PHONES) == ["[S][EY] [T][AH][M][EY][T][OW] [N][AW]."]
    assert _spoken(ssml) == ["Say [T][AH0][M][EY1][T][OW0] now."]


def test_pinyin_becomes_initials_and_finals_with_tone_marks():
    ssml = '<speak><phoneme alphabet="py" ph="chong2 qing4">重庆</phoneme>很好</speak>'
    assert _spoken(ssml) == ["[ch][óng][q][ìng]很好。"]
    assert parse_pinyin("lv4 lue4 lve4 wo3 er2 hao3 gui4 dou1 ma5") == [
        "l", "ǜ", "l", "uè", "l", "vè", "w", "ǒ", "ér", "h", "ǎo", "g", "uì", "d", "ōu", "m", "a",
    ]  # fmt: skip


def test_pinyin_for_a_model_without_mandarin_is_refused_with_its_place():
    with pytest.raises(InvalidMarkup, match=r"line 1, column 8.*Mandarin"):
        PHONES.plan('<speak><phoneme alphabet="py" ph="ni3">你</phoneme></speak>', ssml=True)


def test_escapes_are_resolved():
    assert _spoken("<speak>Tom &amp; Jerry</speak>") == ["Tom and Jerry."]


def test_several_speak_elements_follow_each_other():
    segments = PHONES.segments("<speak>Good morning to you</speak>\n<speak>and good night</speak>", ssml=True)
    assert [s.text for s in segments] == ["Good morning to you", "and good night"]
    assert [s.speak for s in segments] == [0, 1]


def test_text_that_is_no_markup_is_plain_even_with_ssml_on():
    assert OFFICIAL.segments("AT&T", ssml=True)[0].spoken == "AT and T."


def test_an_xml_declaration_may_stand_in_front():
    header = '<?xml version="1.0" encoding="gb2312"?>\n'
    assert _spoken(f"{header}<speak>你好</speak>") == ["你好。"]
    with pytest.raises(InvalidMarkup, match="line 2, column 8: unknown tag"):
        OFFICIAL.plan(f"{header}<speak><b/></speak>", ssml=True)
    with pytest.raises(InvalidMarkup, match="line 1, column 17"):
        OFFICIAL.plan(f"<speak>x</speak>{header}<speak>y</speak>", ssml=True)


# ---- what speak asks for


def test_each_speak_asks_for_its_segments_and_no_others():
    ssml = (
        '<speak rate="1.25" pitch="0.8" volume="70" effect="robot">First one. Second one.<break/></speak>'
        f'<speak bgm="{WAV}" backgroundMusicVolume="30">Music plays here.</speak><speak>Plain.</speak>'
    )
    segments = PHONES.segments(ssml, ssml=True)
    asked = [(s.speak, s.rate, s.pitch, s.volume, s.effect, s.background, s.background_volume) for s in segments]
    assert set(asked) == {
        (0, 1.25, 0.8, 70, ("robot", ()), None, 50),
        (1, None, None, None, None, WAV, 30),
        (2, None, None, None, None, None, 50),
    }


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ('effect="eq" effectValue="1 -2 3 -4 5 -6 20 -20"', ("eq", (1, -2, 3, -4, 5, -6, 20, -20))),
        ('effect="eq" effectValue="0,0,0,0,0,0,0,0"', ("eq", (0,) * 8)),
        ('effect="lpfilter" effectValue="800"', ("lpfilter", (800,))),
        ('effect="hpfilter" effectValue="24000"', ("hpfilter", (24000,))),
        ('effect="lolita"', ("lolita", ())),
    ],
)
def test_effects_and_their_values(attributes, expected):
    (speak,) = parse_ssml(f"<speak {attributes}>x</speak>")
    assert speak.effect == expected
    voice_effects.check_effect(*speak.effect, sample_rate_hz=48000)


def test_the_effects_that_may_be_written_are_those_that_can_be_made():
    assert ssml_attributes.EFFECTS == voice_effects.EFFECTS


def test_the_cut_off_is_bound_by_the_sample_rate_of_the_request():
    ssml = '<speak effect="lpfilter" effectValue="5000">x</speak>'
    assert parse_ssml(ssml, sample_rate_hz=16000)[0].effect == ("lpfilter", (5000,))
    with pytest.raises(InvalidMarkup, match="at most 4000 Hz"):
        parse_ssml(ssml, sample_rate_hz=8000)


@pytest.mark.parametrize(("written", "passes"), [("default", True), ("alto", True), ("basso", False), ("", False)])
def test_a_speak_has_the_voice_of_its_request(written, passes):
    ssml = f'<speak voice="{written}">x</speak>'
    if passes:
        assert parse_ssml(ssml, voice="alto")[0].voice == written
    else:
        with pytest.raises(InvalidMarkup, match="voice"):
            parse_ssml(ssml, voice="alto")


def test_a_sound_stands_between_two_segments():
    segments = PHONES.segments(f'<speak>Listen now<soundEvent src="{WAV}"/>that was it</speak>', ssml=True)
    assert [(s.text, s.sound) for s in segments] == [("Listen now", None), ("", WAV), ("that was it", None)]


def test_every_sound_is_named_with_its_place():
    (speak,) = parse_ssml(f'<speak bgm="{WAV}">\n <soundEvent src="http://a.example/b"/></speak>')
    found = [(url, purpose, place.line, place.column) for url, purpose, place in speak.sounds]
    assert found == [(WAV, "bgm", 1, 1), ("http://a.example/b", "soundEvent", 2, 2)]


# ---- say-as in a sentence


@pytest.mark.parametrize(
    ("ssml", "frontend", "spoken"),
    [
        ('<speak>查号请拨<say-as interpret-as="telephone">114</say-as>。</speak>', OFFICIAL, "查号请拨幺幺四。"),
        ('<speak>Call <say-as interpret-as="digits">114</say-as> now.</speak>', OFFICIAL, "Call one one four now."),
        ('<speak>收件人<say-as interpret-as="name">单雄信</say-as></speak>', OFFICIAL, "收件人[sh][àn]雄信。"),
        ('<speak>密码<say-as interpret-as="characters">aB3-x</say-as></speak>', OFFICIAL, "密码A B三杠X。"),
        (
            '<speak>Type <say-as interpret-as="characters">a1@b</say-as> here.</speak>',
            PHONES,
            "[T][AY][P] [EY] [W][AH][N] [AE][T] [B][IY] [HH][IY][R].",
        ),
        ('<speak><say-as interpret-as="address">富路国际1号楼</say-as></speak>', OFFICIAL, "富路国际一号楼。"),
        (
            '<speak>会议在<say-as interpret-as="date">2026/5/5</say-as><say-as interpret-as="time">9:30</say-as></speak>',
            OFFICIAL,
            "会议在二零二六年五月五日九点三十分。",
        ),
        ('<speak>标点<say-as interpret-as="punctuation">，</say-as></speak>', OFFICIAL, "标点逗号。"),
        ('<speak>It is <say-as interpret-as="date">soon</say-as>.</speak>', OFFICIAL, "It is soon."),
    ],
)
def test_say_as_follows_the_language_of_its_sentence(ssml, frontend, spoken):
    assert " ".join(_spoken(ssml, frontend)) == spoken


def test_the_hint_decides_where_the_text_does_not():
    ssml = '<speak><say-as interpret-as="cardinal">145</say-as></speak>'
    assert _spoken(ssml, hint="zh") == ["一百四十五。"]
    assert _spoken(ssml, hint="en") == ["one hundred forty five."]


def test_what_does_not_fit_its_reading_is_read_with_a_warning():
    segments, warnings = OFFICIAL.plan('<speak>It is <say-as interpret-as="date">soon</say-as>.</speak>', ssml=True)
    assert [segment.text for segment in segments] == ["It is soon."]
    assert any("'soon'" in warning for warning in warnings)


# ---- what is refused


@pytest.mark.parametrize("syllable", ["shui5", "lve3", "ma6", "xyz1", "ma"])
def test_a_syllable_without_tokens_is_refused(syllable):
    with pytest.raises(ValueError, match=f"'{syllable}'"):
        parse_pinyin(syllable)


@pytest.mark.parametrize(
    ("markup", "line", "column", "reason"),
    [
        ("<speak>a <b>x</b></speak>", 1, 10, "unknown tag <b>; known are speak, break"),
        ('<speak>\n <say-as interpret-as="sung">5</say-as></speak>', 2, 2, "takes cardinal, digits, telephone"),
        ('<speak>\n <say-as interpret-as="date"> </say-as></speak>', 2, 2, "has no text"),
        (f'<speak><say-as interpret-as="id">{"x" * 201}</say-as></speak>', 1, 8, "longer than 200"),
        ("<speak><say-as>5</say-as></speak>", 1, 8, "needs the attribute interpret-as"),
        ('<speak><say-as interpret-as="date" format="ymd">5</say-as></speak>', 1, 8, "unknown attribute format"),
        ('<speak><say-as interpret-as="id">a<break/></say-as></speak>', 1, 35, "it holds text only"),
        ('<speak>x<soundEvent src="a"/></speak>', 1, 9, "16 kHz, mono, 16-bit"),
        ('<speak>x<soundEvent src="file:///etc/passwd"/></speak>', 1, 9, "must begin with http:// or https://"),
        ('<speak>x<soundEvent src="http://a.example/b">y</soundEvent></speak>', 1, 46, "must be empty"),
        ("<speak>x<soundEvent/></speak>", 1, 9, "needs the attribute src"),
        ('<speak rate="2.1">x</speak>', 1, 1, "between 0.5 and 2"),
        ('<speak rate="nan">x</speak>', 1, 1, "between 0.5 and 2"),
        ('<speak pitch="0.49">x</speak>', 1, 1, "between 0.5 and 2"),
        ('<speak volume="101">x</speak>', 1, 1, "between 0 and 100"),
        ('<speak volume="5.5">x</speak>', 1, 1, "whole number"),
        ('<speak effect="choir">x</speak>', 1, 1, "one of robot, lolita"),
        ('<speak effect="robot" effectValue="3">x</speak>', 1, 1, "takes no effectValue"),
        ('<speak effectValue="3">x</speak>', 1, 1, "goes with effect"),
        ('<speak effect="eq" effectValue="1 2 3">x</speak>', 1, 1, "eight whole numbers between -20 and 20"),
        ('<speak effect="eq" effectValue="1 2 3 4 5 6 7 21">x</speak>', 1, 1, "eight whole numbers"),
        ('<speak effect="lpfilter">x</speak>', 1, 1, "needs effectValue"),
        ('<speak effect="hpfilter" effectValue="0">x</speak>', 1, 1, "above 0"),
        ('<speak effect="hpfilter" effectValue="24001">x</speak>', 1, 1, "at most 24000 Hz"),
        ('<speak bgm="ftp://a.example/b">x</speak>', 1, 1, "http://"),
        ('<speak backgroundMusicVolume="5">x</speak>', 1, 1, "goes with bgm"),
        ('<speak bgm="http://a.example/b" backgroundMusicVolume="-1">x</speak>', 1, 1, "between 0 and 100"),
        ('<speak colour="red">x</speak>', 1, 1, "unknown attribute"),
        ("<speak>a", 1, 9, "mismatched tag"),
        ("<speak>a\r\rb", 3, 2, "mismatched tag"),
        ("<speak>你好吗<b>x</b></speak>", 1, 11, "unknown tag"),
        ("<speak>&foo;</speak>", 1, 8, "undefined entity"),
        ('<speak><break time="20s"/></speak>', 1, 8, "50ms to 10000ms or 1s to 10s"),
        ('<speak><break time="1.5s"/></speak>', 1, 8, "50ms to 10000ms or 1s to 10s"),
        ('<speak><break length="1s"/></speak>', 1, 8, "unknown attribute"),
        ("<speak><sub>x</sub></speak>", 1, 8, "needs the attribute alias"),
        (f'<speak><sub alias="{"y" * 301}">x</sub></speak>', 1, 8, "longer than 300"),
        ('<speak><sub alias="y"><break/></sub></speak>', 1, 23, "text only"),
        ('<speak><phoneme alphabet="ipa" ph="x">x</phoneme></speak>', 1, 8, 'alphabet="py" or "cmu"'),
        ('<speak><phoneme alphabet="cmu" ph="QQ">x</phoneme></speak>', 1, 8, "no CMU phone"),
        ('<speak><phoneme alphabet="py" ph="ni3">你好</phoneme></speak>', 1, 8, "1 syllables for 2 characters"),
        ("<speak><speak>x</speak></speak>", 1, 8, "must not stand inside"),
        ("<speak>x</speak><break/>", 1, 17, "must stand inside <speak>"),
        ("<speak>x</speak> y", 1, 17, "must stand inside <speak>"),
        ("<speak>x</speak></document><document>", 1, 28, "junk after"),
        ("<speak><?php x?></speak>", 1, 8, "processing instruction"),
        ("<speak>a\n\ud800</speak>", 2, 1, "surrogate"),
        ("<speak>a\x00</speak>", 1, 9, "not well-formed"),
    ],
)
def test_bad_markup_is_refused_with_its_place(markup, line, column, reason):
    with pytest.raises(InvalidMarkup) as refused:
        OFFICIAL.plan(markup, ssml=True)
    assert reason in refused.value.message
    assert (refused.value.fields["line"], refused.value.fields["column"]) == (line, column)
    assert f"line {line}, column {column}" in refused.value.message


@pytest.mark.parametrize(
    "markup",
    [
        '<speak><!DOCTYPE x [<!ENTITY a "aaaa">]>&a;</speak>',
        '<speak>x</speak><!DOCTYPE x SYSTEM "file:///etc/passwd">',
        '<speak xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="file:///etc/passwd"/></speak>',
        '<speak>%a;<![CDATA[<b>]]></speak><!ENTITY % a "x">',
    ],
)
def test_entities_and_inclusions_have_no_power(markup):
    with pytest.raises(InvalidMarkup):
        OFFICIAL.plan(markup, ssml=True)


def test_depth_number_and_length_are_limited():
    with pytest.raises(InvalidMarkup, match=f"more than {MAX_ELEMENTS} tags"):
        parse_ssml(f"<speak>{'<break/>' * MAX_ELEMENTS}</speak>")
    with pytest.raises(InvalidMarkup, match="longer than"):
        parse_ssml(f"<speak>{'x' * MAX_SSML_CHARACTERS}</speak>")
    with pytest.raises(InvalidMarkup, match="must not stand inside"):
        parse_ssml("<speak>" * 1000 + "</speak>" * 1000)


def test_only_breaks_are_nothing_to_speak():
    with pytest.raises(InvalidParameter, match="valid"):
        PHONES.plan("<speak><break/></speak>", ssml=True)


# ---- any tree


_WORDS = ["Hello there. ", "5 kg, ", "你好。", "&amp;", "&lt;", "$x^2$ ", "A&#x41;", "\n", "第3章 ", "“quoted” ", "🙂"]
_CHARACTERS = "<>&;\"'/= \n\r\t\0aé你\ud800\ue100🙂-!?[]"


_SPEAK_VALUES = {
    "voice": (["default", "alto"], []),
    "rate": (["0.5", "2", "1.0"], ["2.5", "x"]),
    "pitch": (["1", "1.5"], ["0.4"]),
    "volume": (["0", "100"], ["-1"]),
    "effect": (["robot", "echo"], ["none", "eq"]),
    "bgm": ([WAV], ["file:///x"]),
    "colour": ([], ["red"]),
}


def _tree(dice: random.Random) -> str:
    """SSML that is mostly right: every tag and attribute, rarely with a value that is not allowed."""
    parts = []
    for _ in range(dice.randint(1, 3)):
        attributes = "".join(
            f' {name}="{value}"'
            for name, values in _SPEAK_VALUES.items()
            if dice.random() < 0.2 and (value := _value(dice, *values))
        )
        inner = "".join(_inner(dice) for _ in range(dice.randint(0, 8)))
        parts.append(f"<speak{attributes}>{inner}</speak>")
    return dice.choice(["", " ", "\n"]).join(parts)


def _value(dice: random.Random, right: list[str], wrong: list[str]) -> str:
    values = wrong if wrong and dice.random() < 0.02 else right
    return dice.choice(values) if values else ""


def _inner(dice: random.Random) -> str:
    text = "".join(dice.choice(_WORDS) for _ in range(dice.randint(0, 3)))
    said = dice.choice([text, "145", "2026-05-05", "$5", "单于 A-1", "12:00"]) or "5"
    return dice.choice(
        [
            text,
            text,
            f'<break time="{_value(dice, ["50ms", "1s", "10s"], ["10001ms", "0s", "1.5s"])}"/>',
            "<break/>",
            f'<sub alias="{_value(dice, ["word", "三", "1,234.5 kg"], [" "])}">{text}</sub>',
            f'<phoneme alphabet="cmu" ph="{_value(dice, ["HH AH0 L OW1"], ["QQ"])}">{text}</phoneme>',
            f'<phoneme alphabet="py" ph="{_value(dice, ["ni3 hao3"], ["ni3"])}">你好</phoneme>',
            f'<soundEvent src="{_value(dice, [WAV], ["x"])}"/>',
            f'<say-as interpret-as="{dice.choice(SAY_AS)}">{said}</say-as>',
        ]
    )


def _mutated(dice: random.Random, text: str) -> str:
    for _ in range(dice.randint(0, 3)):
        place = dice.randrange(len(text))
        end = min(len(text), place + dice.randint(0, 12))
        text = text[:place] + dice.choice(["", dice.choice(_CHARACTERS), text[place:end] * 2]) + text[end:]
        if not text:
            return "<speak/>"
    return text


def test_any_tree_gives_segments_or_a_refusal_with_its_place():
    dice = random.Random(1986)
    num_spoken = num_refused = num_silent = 0
    for number in range(5000):
        tree = _tree(dice)
        text = tree if number % 2 else "<speak>" + _mutated(dice, tree.removeprefix("<speak>"))
        try:
            speaks = parse_ssml(text)
            segments = OFFICIAL.segments(text, ssml=True)
        except InvalidMarkup as refused:
            line, column = refused.fields["line"], refused.fields["column"]
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            assert 1 <= line <= len(lines), text
            assert 1 <= column <= len(lines[line - 1]) + 1, text
            num_refused += 1
        except InvalidParameter:
            # well-formed, and nothing in it to speak
            assert not any(piece.sound for speak in speaks for piece in speak.pieces), text
            num_silent += 1
        else:
            assert all(isinstance(piece, Piece) for speak in speaks for piece in speak.pieces)
            assert segments
            num_spoken += 1
    # neither is a rarity, so both were tried
    assert num_spoken > 1000
    assert num_silent < 1000
    assert num_refused > 1000


@pytest.mark.parametrize(
    "unit", ["你好，<break/>", "a<sub alias='b'>c</sub> ", "&amp;", "word. ", "<break/>", "\n", "x"]
)
def test_time_grows_no_faster_than_the_text(unit):
    def seconds(num_characters: int) -> float:
        text = f"<speak>{unit * (num_characters // len(unit))}</speak>"
        started = time.process_time()
        parse_ssml(text)
        return time.process_time() - started

    seconds(1000)
    fastest = min(seconds(5_000) for _ in range(3))
    # four times the text: quadratic work would take sixteen times as long
    assert min(seconds(20_000) for _ in range(3)) < 10 * fastest + 0.02
