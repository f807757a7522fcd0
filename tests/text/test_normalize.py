import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosyforge.text.normalize import numbers
from cosyforge.text.normalize.en import normalize_english
from cosyforge.text.normalize.zh import cardinal, normalize_mandarin


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("I have 5 dogs.", "I have five dogs."),
        ("1,234.50", "one thousand two hundred thirty four point five zero"),
        ("-5 and 3.14 and 007", "minus five and three point one four and zero zero seven"),
        ("the 1st, 2nd, 21st", "the first, second, twenty first"),
        ("On 2026-05-05.", "On May fifth, twenty twenty six."),
        ("May 5, 2026", "May fifth, twenty twenty six"),
        ("5/6/2026", "May sixth, twenty twenty six"),
        ("25/12/1999", "December twenty fifth, nineteen ninety nine"),
        ("in 1984, 2005 and 1905.", "in nineteen eighty four, two thousand five and nineteen oh five."),
        ("2000 people", "two thousand people"),
        ("the 1990s", "the nineteen nineties"),
        ("1914-1918", "nineteen fourteen to nineteen eighteen"),
        ("5:30 p.m.", "five thirty PM."),
        ("at 17:05", "at seventeen oh five"),
        ("12:00", "twelve o'clock"),
        ("$1,234.50", "one thousand two hundred thirty four dollars and fifty cents"),
        ("$1 and £3.05", "one dollar and three pounds and five pence"),
        ("€5 million", "five million euros"),
        ("¥100", "one hundred yuan"),
        ("$0.50", "fifty cents"),
        ("50% off", "fifty percent off"),
        ("10-20 km", "ten to twenty kilometers"),
        ("1 kg, 5 km/h, 30°C", "one kilogram, five kilometers per hour, thirty degrees Celsius"),
        ("10 m²", "ten square meters"),
        ("555-123-4567", "five five five, one two three, four five six seven"),
        ("1/2 and 2 1/2 and 3½", "one half and two and a half and three and a half"),
        ("Mr. Smith met Dr. Jones.", "Mister Smith met Doctor Jones."),
        ("5 Main St. near St. Mary's", "five Main Street near Saint Mary's"),
        ("the U.S. economy", "the US economy"),
        ("apples, etc.", "apples, et cetera."),
        ("john.doe@example.org", "john dot doe at example dot org"),
        ("www.example.com/a1.", "WWW dot example dot com slash a one."),
        ("AT&T", "AT and T"),
        ("2 + 2 = 4", "two plus two equals four"),
        ("#5", "number five"),
        ("Henry VIII and World War II", "Henry the eighth and World War two"),
        ("I met Malcolm X. I am", "I met Malcolm X. I am"),
        ("MP3 B2B", "MP three B two B"),
        ("version 1.2.3", "version one point two point three"),
        ("12345678901234567890", "one two three four five six seven eight nine zero " * 2),
    ],
)
def test_english_is_written_as_it_is_spoken(written, spoken):
    assert normalize_english(written) == spoken.strip()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789.,:/-+$€%°kmKGBhxX()#' abIVstndrdth", max_size=24))
def test_no_digit_survives_english_normalisation(text):
    assert not any(char.isdigit() for char in normalize_english(text))


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("2026年5月5日", "二零二六年五月五日"),
        ("2026-05-05", "二零二六年五月五日"),
        ("20年前", "二十年前"),
        ("1,234.5元", "一千二百三十四点五元"),
        ("¥1,234.50", "一千二百三十四点五零元"),
        ("3.5亿元", "三点五亿元"),
        ("涨了12.5%", "涨了百分之十二点五"),
        ("-3%", "负百分之三"),
        ("08:05起床", "八点零五分起床"),
        ("17:00结束", "十七点结束"),
        ("13812345678", "幺三八幺二三四五六七八"),
        ("第2名有2个苹果，2月2号", "第二名有两个苹果，二月二号"),
        ("1/2，比分3:1", "二分之一，比分三比一"),
        ("5-10公里，100km/h", "五到十公里，一百公里每小时"),
        ("-5°C", "负五摄氏度"),
        ("１２３", "一百二十三"),
    ],
)
def test_mandarin_is_written_as_it_is_spoken(written, spoken):
    assert normalize_mandarin(written) == spoken


@pytest.mark.parametrize(
    ("number", "spoken"),
    [(0, "零"), (10, "十"), (110, "一百一十"), (1001, "一千零一"), (10001, "一万零一"), (100010000, "一亿零一万")],
)
def test_mandarin_numbers_name_their_gaps(number, spoken):
    assert cardinal(number) == spoken


def test_other_languages_spell_numbers_in_their_own_words():
    assert numbers.spell_numbers("3,5 und 1.234", "de") == "drei Komma fünf und eintausendzweihundertvierunddreißig"
    assert numbers.spell_numbers("12", "fr") == "douze"
    assert numbers.spell_numbers("3,50 và -7", "vi") == "ba phẩy năm không và âm bảy"


def test_a_language_without_number_words_is_refused():
    with pytest.raises(ValueError, match="'xx'"):
        numbers.spell_numbers("1", "xx")
