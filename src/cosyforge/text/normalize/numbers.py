"""Numbers as words: English by our own rules, other languages through num2words. Strings of digits in, words out."""

from __future__ import annotations

import re

from num2words import num2words

from cosyforge.text.ribbon import Ribbon

SPELLED_LANGUAGES = frozenset({"de", "fr", "ja", "ko", "ru", "it", "es", "pt", "th", "id", "vi"})
"""Languages beside English and Mandarin whose numbers can be spelled out."""

MAX_CARDINAL_DIGITS = 15
"""Longer numbers are read digit by digit: nobody follows a quintillion."""

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))
_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_POINT = {
    "de": "Komma", "fr": "virgule", "es": "coma", "it": "virgola", "pt": "vírgula", "ru": "запятая", "ja": "点", "ko": "점",
    "th": "จุด", "id": "koma", "vi": "phẩy",
}  # fmt: skip
"""The word for the decimal sign; the digits behind it are said one by one, which num2words gets wrong in Vietnamese."""

_MINUS = {
    "de": "minus", "fr": "moins", "es": "menos", "it": "meno", "pt": "menos", "ru": "минус", "ja": "マイナス",
    "ko": "마이너스", "th": "ลบ", "id": "minus", "vi": "âm",
}  # fmt: skip
_WITHOUT_SPACES = frozenset({"ja", "th"})


def cardinal(number: int) -> str:
    """1234 -> one thousand two hundred thirty four."""
    if number < 0:
        return f"minus {cardinal(-number)}"
    if number >= 10**MAX_CARDINAL_DIGITS:
        return digits(str(number))
    words: list[str] = []
    for value, name in _SCALES:
        if number >= value:
            words += [_below_thousand(number // value), name]
            number %= value
    if number or not words:
        words.append(_below_thousand(number))
    return " ".join(words)


def _below_thousand(number: int) -> str:
    if number >= 100:
        rest = number % 100
        return f"{_ONES[number // 100]} hundred" + (f" {_below_thousand(rest)}" if rest else "")
    if number >= 20:
        return _TENS[number // 10] + (f" {_ONES[number % 10]}" if number % 10 else "")
    return _ONES[number]


def ordinal(number: int) -> str:
    """21 -> twenty first."""
    head, _, last = cardinal(number).rpartition(" ")
    regular = f"{last.removesuffix('y')}ieth" if last.endswith("y") else f"{last}th"
    return f"{head} {_ORDINALS.get(last, regular)}".strip()


def digits(text: str) -> str:
    """Read every digit by itself; anything else in the text is left out."""
    return " ".join(_ONES[int(char)] for char in text if char.isascii() and char.isdigit())


def decimal(text: str) -> str:
    """Read a number with thousands commas and a decimal point: -1,234.50 -> minus one thousand … point five zero."""
    sign = "minus " if text[:1] in "-−–" and text[:1] else ""
    whole, point, fraction = text.lstrip("-−–+").replace(",", "").partition(".")
    if len(whole) > 1 and whole.startswith("0") and not point:
        return sign + digits(whole)
    words = cardinal(int(whole or "0"))
    return sign + words + (f" point {digits(fraction)}" if point else "")


def year(number: int) -> str:
    """1984 -> nineteen eighty four, 2005 -> two thousand five, 1905 -> nineteen oh five."""
    if not 1000 <= number <= 2099 or 2000 <= number < 2010 or number % 1000 == 0:
        return cardinal(number)
    century, rest = divmod(number, 100)
    if rest == 0:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} " + (f"oh {_ONES[rest]}" if rest < 10 else cardinal(rest))


def decade(number: int) -> str:
    """1980 -> nineteen eighties, 2000 -> two thousands, 1900 -> nineteen hundreds."""
    words = year(number)
    return words.removesuffix("y") + "ies" if words.endswith("y") else f"{words}s"


def fraction(numerator: int, denominator: int) -> str:
    """1/2 -> one half, 3/4 -> three quarters, 7/100 -> seven over one hundred."""
    names = {2: "half", 4: "quarter"}
    if denominator not in names and not 3 <= denominator <= 20:
        return f"{cardinal(numerator)} over {cardinal(denominator)}"
    name = names.get(denominator) or ordinal(denominator)
    if numerator != 1:
        name = "halves" if denominator == 2 else f"{name}s"
    return f"{cardinal(numerator)} {name}"


_NUMBER = re.compile(r"(?:(?<![\w.,)])[-−])?\d+(?:[.,]\d+)*")
_COMMA_IS_DECIMAL = frozenset({"de", "fr", "ru", "it", "es", "pt", "id", "vi"})


def spell_numbers(text: str, language: str) -> str:
    """Replace every number by its words in one of SPELLED_LANGUAGES; percent and the euro keep their sign.

    Raises: ValueError for a language that is not in SPELLED_LANGUAGES
    """
    ribbon = Ribbon.of(text)
    rewrite(ribbon, language)
    return ribbon.text


def rewrite(ribbon: Ribbon, language: str) -> None:
    """As spell_numbers, in place."""
    if language not in SPELLED_LANGUAGES:
        raise ValueError(f"numbers in {language!r} cannot be spelled; known are {', '.join(sorted(SPELLED_LANGUAGES))}")
    ribbon.sub(_NUMBER, lambda match: _foreign_number(match[0], language))


def _foreign_number(written: str, language: str) -> str:
    thousands, point = (".", ",") if language in _COMMA_IS_DECIMAL else (",", ".")
    sign, plain = ("-", written[1:]) if written[0] in "-−" else ("", written)
    if re.fullmatch(rf"\d{{1,3}}(?:\{thousands}\d{{3}})+(?:\{point}\d+)?", plain):
        plain = plain.replace(thousands, "")
    parts = re.split("[.,]", plain)
    if len(parts) == 2 and point in plain:
        words = [_foreign_cardinal(parts[0], language), _POINT[language], *_foreign_digits(parts[1], language)]
    else:  # several are a version or a date: one number after the other
        words = [_foreign_cardinal(part, language) for part in parts]
    return ("" if language in _WITHOUT_SPACES else " ").join([_MINUS[language]] * bool(sign) + words)


def _foreign_cardinal(written: str, language: str) -> str:
    if len(written) > MAX_CARDINAL_DIGITS or (len(written) > 1 and int(written[0]) == 0):
        return " ".join(_foreign_digits(written, language))
    return str(num2words(int(written), lang=language))


def _foreign_digits(written: str, language: str) -> list[str]:
    return [str(num2words(int(digit), lang=language)) for digit in written]
