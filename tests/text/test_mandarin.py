"""Hanzi to pinyin in context, and pinyin to tokens that the tokenizer has."""

from __future__ import annotations

import pytest
from pypinyin import Style, lazy_pinyin
from pypinyin.constants import PHRASES_DICT, PINYIN_DICT
from pypinyin.style import convert

from cosyforge.cosyvoice.text_tokenizer import PINYIN
from cosyforge.errors import InvalidMarkup, InvalidParameter
from cosyforge.text.frontend import Frontend
from cosyforge.text.mandarin import mandarin_tokens, pinyin_syllables

SOUNDS = Frontend({"languages": ["zh", "en"], "english": "phones", "mandarin": "pinyin"})


@pytest.mark.parametrize(
    ("text", "syllables"),
    [
        ("你好", "ni3 hao3"),
        ("银行行长", "yin2 hang2 hang2 zhang3"),
        ("绿色的女孩", "lü4 se4 de5 nü3 hai2"),
        ("我们，ABC 12 走了！", "wo3 men5 zou3 le5"),
        ("略", "lüe4"),
        # little words that the dictionary takes for others
        ("三只猫", "san1 zhi1 mao1"),
        ("这只有一个", "zhe4 zhi3 you3 yi2 ge4"),
        ("慢慢地走", "man4 man4 de5 zou3"),
        ("高兴地说", "gao1 xing4 de5 shuo1"),
        ("这里的土地", "zhe4 li3 de5 tu3 di4"),
        ("跑得快", "pao3 de5 kuai4"),
        ("获得很多", "huo4 de2 hen3 duo1"),
    ],
)
def test_hanzi_are_read_as_their_words_ask_for(text, syllables):
    assert pinyin_syllables(text) == syllables.split()


@pytest.mark.parametrize("text", ["", "Hello, 42!", "ひらがな", "\U0003fffd"])
def test_what_has_no_reading_yields_nothing(text):
    assert pinyin_syllables(text) == []


@pytest.mark.parametrize(
    ("syllable", "tokens"),
    [
        ("xiang3", "x iǎng"),
        ("lü4", "l ǜ"),
        ("nv3", "n ǚ"),
        ("de5", "d e"),
        ("er4", "èr"),
        ("lüe4", "l vè"),
        ("yue4", "y uè"),
        # the nearest where the tokenizer lacks it
        ("lüe3", "l uě"),
        ("lü1", "l ǘ"),
        ("ju:1", "j ū"),
        ("jie5", "j iè"),
        ("quan5", "q uàn"),
        ("lü5", "l ǜ"),
        ("er5", "ér"),
        ("er1", "ér"),
        ("huar1", "h uā ér"),
        ("m2", "m ú"),
        ("hm5", "h en"),
        ("hng5", "h eng"),
        ("ng4", "èng"),
        ("n2", "én"),
        ("ê3", "ěi"),
    ],
)
def test_a_syllable_becomes_tokens(syllable, tokens):
    assert mandarin_tokens(syllable) == tokens.split()


def test_every_known_hanzi_and_phrase_becomes_tokens_of_the_tokenizer():
    known = {reading for readings in PINYIN_DICT.values() for reading in readings.split(",")}
    known |= {reading for phrase in PHRASES_DICT.values() for readings in phrase for reading in readings}
    syllables = {convert(reading, Style.TONE3, False, neutral_tone_with_five=True, v_to_u=True) for reading in known}
    # the converter's own way to the digits, for the neutral tone
    syllables |= {syllable for char in map(chr, PINYIN_DICT) for syllable in pinyin_syllables(char)}

    tokens = {token for syllable in syllables for token in mandarin_tokens(_with_digit(syllable))}

    assert len(syllables) > 1400
    assert tokens <= set(PINYIN)


def test_every_phrase_has_one_syllable_for_each_character():
    uneven = [phrase for phrase in PHRASES_DICT if len(lazy_pinyin(phrase)) != len(phrase)]

    assert uneven == []


@pytest.mark.parametrize("syllable", ["", "ma", "hello1", "ma6", "zz3", "好", "maiai3", "r5"])
def test_what_is_no_syllable_is_refused(syllable):
    with pytest.raises(ValueError, match="pinyin syllable"):
        mandarin_tokens(syllable)


# ---- sentences for a model that reads phones and pinyin


def spoken(text: str, **options: object) -> str:
    return " | ".join(segment.spoken for segment in SOUNDS.plan(text, **options)[0])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("你好，世界！", "[n][ǐ][h][ǎo], [sh][ì][j][iè]!"),
        ("5月5日", "[w][ǔ][y][uè][w][ǔ][r][ì]."),
        ("他在IBM上班。", "[t][ā][z][ài] [AY][B][IY][EH][M] [sh][àng][b][ān]."),
        ("我们说 hello", "[w][ǒ][m][en][sh][uō] [HH][AH][L][OW]."),
        ("A计划和b", "[EY] [j][ì][h][uà][h][é] [B][IY]."),
        ("The word 你好 means hello", "[DH][AH] [W][ER][D] [n][ǐ][h][ǎo] [M][IY][N][Z] [HH][AH][L][OW]."),
        ("Hello, 2 cats!", "[HH][AH][L][OW], [T][UW] [K][AE][T][S]!"),
        ("他走了……", "[t][ā][z][ǒu][l][e]."),
    ],
)
def test_mandarin_has_no_blanks_inside_and_english_words_have_them_around(text, tokens):
    assert spoken(text) == tokens


def test_plain_english_is_english_whatever_the_order_of_the_languages():
    text = "It costs $5 today."
    segments = SOUNDS.segments(text)

    assert [segment.language for segment in segments] == ["en"]
    assert segments[0].spoken == Frontend({"languages": ["en"], "english": "phones"}).segments(text)[0].spoken


def test_a_hint_decides_where_the_text_shows_no_language():
    assert spoken("42") == "[s][ì][sh][í][èr]."
    assert spoken("42", language_hint="en") == "[F][AO][R][T][IY] [T][UW]."


def test_every_hanzi_keeps_its_place_beside_its_two_tokens():
    (segment,) = SOUNDS.segments("我有12只猫，iPhone好")

    assert segment.words == "我有十二只猫，iPhone好。"
    assert [(segment.text[a:b], segment.spoken[c:d]) for a, b, c, d in segment.alignment] == [
        ("我", "[w][ǒ]"),
        ("有", "[y][ǒu]"),
        ("12", "[sh][í][èr]"),
        ("只", "[zh][ī]"),
        ("猫", "[m][āo]"),
        ("iPhone", "[AY][F][OW][N]"),
        ("好", "[h][ǎo]"),
    ]


def test_a_hanzi_without_a_known_reading_is_named():
    segments, warnings = SOUNDS.plan("你好𠮷")

    assert segments[0].spoken == "[n][ǐ][h][ǎo]."
    assert warnings == ["left out '𠮷' (U+20BB7 CJK UNIFIED IDEOGRAPH-20BB7): this model cannot speak it"]
    with pytest.raises(InvalidParameter):
        SOUNDS.plan("𠮷")


def test_a_pronunciation_of_ones_own_joins_the_mandarin_around_it():
    assert spoken("去重庆吧", pronunciations=(("重庆", "zhong4 qing5"),)) == "[q][ù][zh][òng][q][ing][b][a]."
    assert spoken("去单于吧", pronunciations=(("单于", "jie5 lüe2"),)) == "[q][ù][j][iè][l][ué][b][a]."
    assert spoken("去T恤吧", pronunciations=(("T恤", "ti4 xu4"),)) == "[q][ù][t][ì][x][ù][b][a]."


def test_phonemes_and_surnames_in_markup():
    ssml = (
        '<speak>去<phoneme alphabet="py" ph="jie5 qing4">重庆</phoneme>见<say-as interpret-as="name">单雄信</say-as>，'
        'a <phoneme alphabet="cmu" ph="T AH0">tomato</phoneme></speak>'
    )

    assert spoken(ssml, ssml=True) == ("[q][ù][j][iè][q][ìng][j][iàn][sh][àn][x][ióng][x][ìn], [EY] [T][AH].")


def test_a_syllable_that_the_tokenizer_lacks_is_refused_by_a_model_that_reads_text():
    reading = Frontend({"languages": ["zh", "en"]})
    with pytest.raises(InvalidMarkup, match="column 8: <phoneme"):
        reading.plan('<speak><phoneme alphabet="py" ph="jie5">姐</phoneme></speak>', ssml=True)
    with pytest.raises(InvalidParameter, match="jie5"):
        reading.plan("姐", pronunciations=(("姐", "jie5"),))


def test_a_long_mandarin_sentence_is_cut_within_the_limit():
    segments = SOUNDS.segments("我们今天一起去公园里面散步" * 20)

    assert "".join(segment.text for segment in segments) == "我们今天一起去公园里面散步" * 20
    assert max(len(segment.text) for segment in segments) <= SOUNDS.max_characters * 1.25 / 3 + 1


@pytest.mark.parametrize("settings", [{"english": "phones"}, {"mandarin": "pinyin"}])
def test_phones_and_pinyin_go_together(settings):
    with pytest.raises(ValueError, match="both languages"):
        Frontend({"languages": ["zh", "en"], **settings})


def _with_digit(syllable: str) -> str:
    return syllable if syllable[-1].isdigit() else f"{syllable}5"
