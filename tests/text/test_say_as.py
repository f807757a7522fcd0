"""say-as readings. Sources: P the markup page of DashScope as the contract summarises it (145, digits, 幺 in telephone
numbers); W the numbers and units in 汉语 and English usage as dictionaries and style guides give them; D 现代汉语词典."""

import random

import pytest

from cosyforge.text.normalize.en import normalize_english
from cosyforge.text.normalize.zh import normalize_mandarin
from cosyforge.text.said import Said
from cosyforge.text.say_as import SAY_AS, read_as

MANDARIN = [
    ("cardinal", "145", "一百四十五", "P"),
    ("cardinal", "0", "零", "W"),
    ("cardinal", "10", "十", "W"),
    ("cardinal", "105", "一百零五", "W"),
    ("cardinal", "-1,234.50", "负一千二百三十四点五零", "P"),
    ("cardinal", "007", "七", "W"),
    ("cardinal", "100,000,000", "一亿", "W"),
    ("cardinal", "3.14", "三点一四", "W"),
    ("cardinal", "１２", "十二", "W"),
    ("cardinal", "1/2", "二分之一", "W"),
    ("cardinal", "10-20", "十到二十", "W"),
    ("digits", "145", "一四五", "P"),
    ("digits", "0017", "零零一七", "W"),
    ("digits", "1234567890", "一二三四五六七八九零", "P"),
    ("digits", "12345678901", "一二三，四五六七，八九零一", "P"),
    ("digits", "123-456", "一二三，四五六", "W"),
    ("digits", "3.14", "三点一四", "W"),
    ("telephone", "114", "幺幺四", "P"),
    ("telephone", "13812345678", "幺三八，幺二三四，五六七八", "P"),
    ("telephone", "010-12345678", "零幺零，幺二三四，五六七八", "P"),
    ("telephone", "01012345678", "零幺零，幺二三四，五六七八", "W"),
    ("telephone", "+86 138 1234 5678", "加八六，幺三八，幺二三四，五六七八", "P"),
    ("telephone", "400-810-1234", "四零零，八幺零，幺二三四", "W"),
    ("telephone", "(021)5555-1111转123", "零二幺，五五五五，幺幺幺幺，转幺二三", "P"),
    ("address", "富路国际1号楼3单元304", "富路国际一号楼三单元三零四", "P"),
    ("address", "中山路128号12层1101室", "中山路一百二十八号十二层幺幺零幺室", "D"),
    ("address", "幸福小区2栋5-301", "幸福小区二栋五杠三零幺", "D"),
    ("date", "2026-05-05", "二零二六年五月五日", "P"),
    ("date", "2026/5/5", "二零二六年五月五日", "P"),
    ("date", "2026.05.05", "二零二六年五月五日", "W"),
    ("date", "20260505", "二零二六年五月五日", "W"),
    ("date", "2026年5月5号", "二零二六年五月五号", "W"),
    ("date", "2026-05", "二零二六年五月", "P"),
    ("date", "10-01", "十月一日", "W"),
    ("date", "1998", "一九九八年", "W"),
    ("date", "2026-05-01~2026-05-03", "二零二六年五月一日到二零二六年五月三日", "P"),
    ("date", "1998-2002", "一九九八到二零零二年", "P"),
    ("date", "5月1日至5月3日", "五月一日到五月三日", "W"),
    ("time", "12:00", "十二点", "P"),
    ("time", "12:00:00", "十二点", "P"),
    ("time", "8:05", "八点零五分", "W"),
    ("time", "2:30", "两点三十分", "W"),
    ("time", "21:45:09", "二十一点四十五分零九秒", "W"),
    ("time", "3:20pm", "下午三点二十分", "P"),
    ("time", "9 am", "上午九点", "P"),
    ("time", "9:00-17:30", "九点到十七点三十分", "W"),
    ("currency", "¥100", "一百元", "P"),
    ("currency", "$12.50", "十二点五零美元", "P"),
    ("currency", "EUR 2", "两欧元", "P"),
    ("currency", "1000 JPY", "一千日元", "P"),
    ("currency", "HK$3.5", "三点五港元", "W"),
    ("currency", "-£1,200", "负一千二百英镑", "W"),
    ("currency", "$5亿", "五亿美元", "W"),
    ("measure", "2kg", "两千克", "P"),
    ("measure", "120km/h", "一百二十公里每小时", "P"),
    ("measure", "36.5℃", "三十六点五摄氏度", "W"),
    ("measure", "-5°C", "负五摄氏度", "W"),
    ("measure", "20m²", "二十平方米", "W"),
    ("measure", "10-20cm", "十到二十厘米", "W"),
    ("measure", "50%", "百分之五十", "W"),
    ("measure", "1/2 km", "二分之一公里", "W"),
    ("measure", "512MB", "五百一十二兆字节", "W"),
    ("measure", "3个", "三个", "W"),
]

ENGLISH = [
    ("cardinal", "145", "one hundred forty five", "P"),
    ("cardinal", "-1,234.5", "minus one thousand two hundred thirty four point five", "P"),
    ("cardinal", "1000000", "one million", "W"),
    ("cardinal", "3/4", "three quarters", "W"),
    ("cardinal", "10-20", "ten to twenty", "W"),
    ("digits", "145", "one four five", "P"),
    ("digits", "0.5", "zero point five", "W"),
    ("digits", "123456789012", "one two three four, five six seven eight, nine zero one two", "P"),
    ("telephone", "911", "nine one one", "W"),
    ("telephone", "5551234", "five five five, one two three four", "W"),
    ("telephone", "(555) 123-4567", "five five five, one two three, four five six seven", "P"),
    ("telephone", "5551234567", "five five five, one two three, four five six seven", "W"),
    ("telephone", "+44 20 7946 0958", "plus four four, two zero, seven nine four six, zero nine five eight", "P"),
    (
        "telephone",
        "555-123-4567 ext. 12",
        "five five five, one two three, four five six seven, extension one two",
        "P",
    ),
    ("address", "1234 Main St., Apt 4B", "twelve thirty four Main Street, Apartment four B", "W"),
    (
        "address",
        "105 5th Ave, New York, NY 10003",
        "one oh five fifth Avenue, New York, NY one zero zero zero three",
        "W",
    ),
    ("address", "1600 Pennsylvania Ave NW", "sixteen hundred Pennsylvania Avenue Northwest", "W"),
    ("date", "2026-05-05", "May fifth, twenty twenty six", "P"),
    ("date", "5/6/2026", "May sixth, twenty twenty six", "W"),
    ("date", "25/12/1999", "December twenty fifth, nineteen ninety nine", "W"),
    ("date", "2026-05", "May twenty twenty six", "P"),
    ("date", "July 4, 1776", "July fourth, seventeen seventy six", "W"),
    ("date", "4 July 1776", "July fourth, seventeen seventy six", "W"),
    ("date", "12/25", "December twenty fifth", "W"),
    ("date", "1905", "nineteen oh five", "W"),
    (
        "date",
        "2026-05-01 to 2026-05-03",
        "May first, twenty twenty six to May third, twenty twenty six",
        "P",
    ),
    ("date", "1998-2002", "nineteen ninety eight to two thousand two", "P"),
    ("time", "12:00", "twelve o'clock", "P"),
    ("time", "12:00:00", "twelve o'clock", "P"),
    ("time", "8:05", "eight oh five", "W"),
    ("time", "17:30", "seventeen thirty", "W"),
    ("time", "5:30 p.m.", "five thirty PM", "P"),
    ("time", "9am-5pm", "nine AM to five PM", "P"),
    ("time", "10:20:01", "ten twenty and one second", "W"),
    ("currency", "$1", "one dollar", "W"),
    ("currency", "$12.50", "twelve dollars and fifty cents", "P"),
    ("currency", "USD 3", "three US dollars", "P"),
    ("currency", "£3.05", "three pounds and five pence", "W"),
    ("currency", "$0.99", "ninety nine cents", "W"),
    ("currency", "JPY 1,000", "one thousand yen", "P"),
    ("currency", "$2.5 million", "two point five million dollars", "W"),
    ("currency", "-€5", "minus five euros", "W"),
    ("measure", "1kg", "one kilogram", "P"),
    ("measure", "5 ft", "five feet", "W"),
    ("measure", "60mph", "sixty miles per hour", "P"),
    ("measure", "98.6°F", "ninety eight point six degrees Fahrenheit", "W"),
    ("measure", "10-20 km", "ten to twenty kilometers", "W"),
    ("measure", "2 1/2 in", "two and a half inches", "W"),
    ("measure", "1/4 mi", "one quarter mile", "W"),
    ("measure", "20 m²", "twenty square meters", "W"),
    ("measure", "99.9%", "ninety nine point nine percent", "W"),
]


@pytest.mark.parametrize(("kind", "written", "spoken", "source"), MANDARIN)
def test_mandarin_readings(kind, written, spoken, source):
    assert read_as(kind, written, "zh") == [Said(written, spoken)]


@pytest.mark.parametrize(("kind", "written", "spoken", "source"), ENGLISH)
def test_english_readings(kind, written, spoken, source):
    assert read_as(kind, written, "en") == [Said(written, spoken)]


def test_no_normaliser_changes_the_words():
    for _, _, spoken, _ in MANDARIN:
        assert normalize_mandarin(spoken) == spoken
    for _, _, spoken, _ in ENGLISH:
        assert normalize_english(spoken) == spoken


@pytest.mark.parametrize(
    ("name", "pinyin"),
    [
        ("单雄信", "shan4"),
        ("解晓东", "xie4"),
        ("仇英", "qiu2"),
        ("任正非", "ren2"),
        ("华罗庚", "hua4"),
        ("区小姐", "ou1"),
        ("查良镛", "zha1"),
        ("朴先生", "piao2"),
        ("盖叫天", "ge3"),
        ("尉迟恭", "yu4 chi2"),
        ("万俟卨", "mo4 qi2"),
        ("长孙无忌", "zhang3 sun1"),
    ],
)
def test_surnames_have_their_own_reading(name, pinyin):
    surname, rest = read_as("name", name, "zh")
    assert surname == Said(name[: len(pinyin.split())], pinyin=pinyin)
    assert rest == Said(name.removeprefix(surname.text))


def test_other_names_are_read_as_any_text():
    assert read_as("name", "张三", "zh") == [Said("张三")]
    assert read_as("name", "Henry VIII", "en") == [Said("Henry VIII")]


@pytest.mark.parametrize(
    ("kind", "written", "mandarin", "english"),
    [
        ("characters", "A1", ["A", "一"], ["A", "one"]),
        ("characters", "x@y", ["x", "艾特", "y"], ["x", "at", "y"]),
        ("characters", "α≥β", ["阿尔法", "大于等于", "贝塔"], ["alpha", "greater than or equal to", "beta"]),
        (
            "characters",
            "$#%&",
            ["美元符号", "井号", "百分号", "和"],
            ["dollar sign", "hash", "percent sign", "ampersand"],
        ),
        ("characters", "Ω", ["欧米伽"], ["omega"]),
        ("id", "li_42", ["li", "下划线", "四二"], ["li", "underscore", "four two"]),
        ("id", "11010519491231002X", ["一一零一零五，", "一九四九一二三一，", "零零二", "X"], None),
        ("punctuation", "，", ["逗号"], ["comma"]),
        ("punctuation", "。", ["句号"], ["full stop"]),
        ("punctuation", "……", ["省略号"], ["ellipsis"]),
        ("punctuation", "《", ["左书名号"], ["left title mark"]),
        ("punctuation", "!", ["感叹号"], ["exclamation mark"]),
        ("punctuation", ".", ["句号"], ["period"]),
        ("punctuation", "Hi?", [None, "问号"], [None, "question mark"]),
    ],
)
def test_letters_symbols_and_marks(kind, written, mandarin, english):
    for language, expected in (("zh", mandarin), ("en", english)):
        if expected is not None:
            said = read_as(kind, written, language)
            assert [part.words or part.letters for part in said] == expected
            assert "".join(part.text for part in said) == written


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("cardinal", "many"),
        ("digits", "12a"),
        ("telephone", "call me"),
        ("date", "2026-13-01"),
        ("date", "2026-02-32"),
        ("time", "25:00"),
        ("time", "13:00 pm"),
        ("currency", "100"),
        ("measure", "5 bananas per"),
        ("punctuation", "words"),
    ],
)
def test_what_does_not_fit_is_left_to_the_others(kind, written):
    assert read_as(kind, written, "zh") is None
    assert read_as(kind, written, "en") is None


def test_other_languages_have_no_readings_here():
    assert read_as("cardinal", "145", "fr") is None


def test_an_unknown_value_is_named():
    with pytest.raises(ValueError, match="'sung' is unknown"):
        read_as("sung", "5", "zh")


def test_any_text_is_read_or_left_alone_and_nothing_is_lost():
    dice = random.Random(4)
    alphabet = "0123456789-/:.,+%$¥€ apmkgx年月日号点到至~AZ单()#@，。²½٣一"
    for _ in range(8000):
        written = "".join(dice.choice(alphabet) for _ in range(dice.randint(1, 14)))
        for language in ("zh", "en"):
            said = read_as(dice.choice(SAY_AS), written, language)
            if said is not None:
                assert "".join(part.text for part in said) == written.strip()
                assert all(not char.isascii() or not char.isdigit() for part in said for char in part.words or "")
                assert all(part.words is None or part.words.strip() for part in said)
