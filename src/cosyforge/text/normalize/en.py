"""Written English to spoken English: numbers, dates, times, money, units, abbreviations and signs as words.

The rules run from the most particular to the most general, each over the whole sentence, so that what an early rule
has turned into words no later rule sees as digits. Sentence punctuation stays. Nothing is dropped here: a character
that no rule knows stays in the text, and the front end decides about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from cosyforge.text.normalize import en_readings as readings
from cosyforge.text.normalize import numbers
from cosyforge.text.normalize.en_tables import (
    ABBREVIATIONS,
    CURRENCIES,
    CURRENCY_CODES,
    DIALLED,
    KINGS,
    LATIN,
    MONTH_SHORT,
    MONTHS,
    NUMBERED_NAMES,
    NUMBERED_PLACES,
    ROMAN_AFTER,
    SIGNS,
    SOFTWARE,
    TITLES_WITHOUT_STOP,
    UNITS,
    WEEKDAY_SHORT,
)
from cosyforge.text.ribbon import Ribbon

__all__ = ["ABBREVIATIONS", "MONTHS", "measure", "normalize_english", "rewrite", "unit_name"]

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_NOT_INSIDE = r"(?<![\w.,])"


def normalize_english(text: str) -> str:
    """Write one sentence the way it is spoken; words stay as they are written, sentence punctuation stays."""
    ribbon = Ribbon.of(text)
    rewrite(ribbon)
    return ribbon.text


def rewrite(ribbon: Ribbon) -> None:
    """As normalize_english, in place."""
    _tidy(ribbon)
    for pattern, words in _RULES:
        ribbon.sub(pattern, words)
    ribbon.squeeze()


def measure(number: str, unit: str) -> str | None:
    """5, km -> five kilometers; None when the unit is none."""
    return readings.counted(number, *UNITS[unit]) if unit in UNITS else None


def unit_name(unit: str) -> str | None:
    """km/h -> kilometers per hour."""
    return UNITS[unit][1] if unit in UNITS else None


_MONTH_NAMES = (*MONTHS, *MONTH_SHORT, "May")
_MONTH = "|".join(
    f"{name}\\.?"
    for name in sorted(
        # "may" and "march" in small letters are words
        {*_MONTH_NAMES, *map(str.upper, _MONTH_NAMES), *map(str.lower, {*_MONTH_NAMES} - {"May", "March", "Mar"})},
        key=len,
        reverse=True,
    )
)
_BEFORE_VULGAR_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_LOOK_ALIKES = str.maketrans(
    {"™": " trademark ", "µ": "μ", "\u2044": "/", "−": "-", "‐": "-", "‑": "-", **dict.fromkeys("‘’ʼ", "'"),
     **dict.fromkeys("“”„«»", '"')}
)  # fmt: skip


def _tidy(ribbon: Ribbon) -> None:
    """Fold look-alikes: full width, ligatures, curly quotes and odd dashes; squares and halves keep their sense."""
    ribbon.sub(_BEFORE_VULGAR_FRACTION, lambda match: " ")
    ribbon.translate(_LOOK_ALIKES)
    ribbon.fold("NFKC", keep="²³…")
    ribbon.translate(_LOOK_ALIKES)


_CURRENCY = "|".join(re.escape(sign) for sign in CURRENCIES)
_CODE = "|".join(CURRENCY_CODES)
_AMOUNT = rf"(?P<amount>{_NUMBER}|\.\d+)"
_MINUS = r"(?P<minus>(?<![\w.,)])-)?"
_MAGNITUDE = r"(?:\s?(?P<magnitude>thousand|million|billion|trillion|bn|[kKmMbB])\b)?"
_YEAR_BEFORE = (
    r"(?:(?<=\bin\s)|(?<=\bIn\s)|(?<=\bsince\s)|(?<=\bSince\s)|(?<=\bby\s)|(?<=\bBy\s)|(?<=\buntil\s)|(?<=\byear\s)"
    r"|(?<=\bduring\s)|(?<=\bbefore\s)|(?<=\bafter\s)|(?<=\bcirca\s)|(?<=\bspring\s)|(?<=\bsummer\s)|(?<=\bautumn\s)"
    r"|(?<=\bwinter\s)|(?<=\bJanuary\s)|(?<=\bFebruary\s)|(?<=\bMarch\s)|(?<=\bApril\s)|(?<=\bMay\s)|(?<=\bJune\s)"
    r"|(?<=\bJuly\s)|(?<=\bAugust\s)|(?<=\bSeptember\s)|(?<=\bOctober\s)|(?<=\bNovember\s)|(?<=\bDecember\s))"
)


def _rule(pattern: str, words: Callable[[re.Match[str]], str], flags: int = 0) -> Rule:
    return re.compile(pattern, flags), words


def _address_rules() -> list[Rule]:
    """The net comes first: its dots, slashes and digits are nobody else's."""
    return [
        _rule(r"(?:https?://|ftp://|www\.)[^\s<>\"']+", readings.url),
        _rule(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", readings.url),
        _rule(
            r"\b(?:[a-z0-9-]+\.)+(?:com|org|net|io|cn|edu|gov|ai|dev)(?:\.[a-z]{2})?(?:/[\w/.?=&%-]*)?\b",
            readings.url,
            re.IGNORECASE,
        ),
        _rule(r"\b(e\.g\.|i\.e\.|a\.k\.a\.|w/o\b|w/(?=\s))", lambda m: LATIN[m[1]]),
    ]


def _date_rules() -> list[Rule]:
    """Dates, weekdays and times of the day."""
    return [
        _rule(_NOT_INSIDE + r"(?P<y>[12]\d{3})[-/](?P<m>\d{1,2})[-/](?P<d>\d{1,2})(?![\w/-])", readings.iso_date),
        _rule(
            _NOT_INSIDE + r"(?P<a>\d{1,2})(?P<sep>[/.-])(?P<b>\d{1,2})(?P=sep)(?P<y>\d{4}|\d{2})(?![\w/-]|\.\d)",
            readings.slash_date,
        ),
        _rule(r"\b(24/7|9/11)\b", lambda m: " ".join(numbers.cardinal(int(part)) for part in m[0].split("/"))),
        _rule(
            rf"\b(?P<month>{_MONTH})[\s-](?P<d>\d{{1,2}})(?:st|nd|rd|th)?\b(?:(?:,?\s|-)(?P<y>[12]\d{{3}})\b)?(?![:.,]\d|\s?%)",
            readings.month_day,
        ),
        _rule(
            rf"\b(?:the\s)?(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?(?P<month>{_MONTH})(?!\w)"
            r"(?:,?\s(?P<y>[12]\d{3})\b)?",
            readings.day_month,
        ),
        _rule(rf"\b({'|'.join((*MONTH_SHORT, 'Sept'))})\.?(?=\s[12]\d{{3}}\b)", lambda m: readings.month_name(m[1])),
        _rule(
            r"\b(" + "|".join(WEEKDAY_SHORT) + r")\.?\s?[-–—]\s?(" + "|".join(WEEKDAY_SHORT) + r")\b\.?",
            lambda m: f"{WEEKDAY_SHORT[m[1]]} to {WEEKDAY_SHORT[m[2]]}",
        ),
        _rule(r"\b(" + "|".join(WEEKDAY_SHORT) + r")\.(?=,\s|\s\d)", lambda m: WEEKDAY_SHORT[m[1]]),
        _rule(
            r"\b(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d)\s?[-–—]\s?(?P<h2>[01]?\d|2[0-3]):(?P<m2>[0-5]\d)"
            r"(?!\s?[aApP]\.?\s?[mM]\b)(?![:\d])",
            readings.clock_range,
        ),
        _rule(
            r"\b(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?"
            r"(?:\s?(?P<half>[aApP]\.?\s?[mM]\b\.?))?(?![:\d])",
            readings.clock,
        ),
        _rule(r"\b(?P<h>1[0-2]|0?[1-9])(?P<m>)(?P<s>)\s?(?P<half>[aApP]\.[mM]\.|[aApP][mM]\b)", readings.clock),
        _rule(r"(?<=\b[AP]M)\s?[-–—]\s?(?=[a-z])", lambda m: " to "),
    ]


def _phone_and_money_rules() -> list[Rule]:
    """Telephone numbers, amounts, and number signs."""
    return [
        _rule(
            r"(?:\+\d{1,3}[ -]?(?:\(\d{1,4}\)[ -]?)?\d{2,4}(?:[ -]\d{2,4}){1,4}"
            r"|\(\d{2,4}\)\s?\d{3,4}-\d{4})(?![\w-])",
            readings.phone,
        ),
        _rule(
            _NOT_INSIDE + r"(?<!-)(?:1-)?\d{3}[-.]\d{3}[-.]\d{4}(?![\w-])|(?<![\w.,-])\d{3}-\d{4}(?![\w-])",
            readings.phone,
        ),
        _rule(
            rf"{_MINUS}(?P<sign>{_CURRENCY}|\b(?:{_CODE})\s?(?=\d))\s?{_AMOUNT}"
            rf"(?:\s?[-–—]\s?(?:{_CURRENCY})?(?P<to>{_NUMBER}))?{_MAGNITUDE}",
            readings.money,
        ),
        _rule(
            rf"{_NOT_INSIDE}{_MINUS}{_AMOUNT}{_MAGNITUDE}\s?(?P<sign>{_CURRENCY}|\b(?:{_CODE})\b)(?!\d)", readings.money
        ),
        _rule(
            rf"\b((?:{DIALLED})\s)(\d{{3,6}})(?![\d%]|[.,:]\d|\s(?:people|times|of|customers|friends)\b)",
            lambda m: m[1] + numbers.digits(m[2]),
        ),
        _rule(
            rf"\b((?:{NUMBERED_NAMES})(?:\s[Cc]ode)?(?:\sis|:)?\s)(\d{{3,}})\b", lambda m: m[1] + numbers.digits(m[2])
        ),
        _rule(rf"\b((?:{NUMBERED_PLACES})\.?\s(?:[A-Z]{{1,2}}\s?)?)([1-9]\d{{2,3}})(?![\d%]|[.,:]\d)", readings.paired),
        _rule(r"\b(?:No|no|Nos|nos)\.\s?(?=\d)", lambda m: "number "),
        _rule(r"#\s?(?=\d)", lambda m: "number "),
    ]


def _name_rules() -> list[Rule]:
    """Roman numerals, titles, abbreviations and initials."""
    return [
        _rule(rf"\b({ROMAN_AFTER})\s([IVX]+)\b", lambda m: f"{m[1]} {numbers.cardinal(readings.roman(m[2]))}"),
        _rule(rf"\b({KINGS})\s([IVX]{{2,}}|[VX])\b", lambda m: f"{m[1]} the {numbers.ordinal(readings.roman(m[2]))}"),
        _rule(r"\bPh\.?\s?D\b\.?(?=\s|$|[,;])", lambda m: "PhD"),
        _rule(r"\b((?:\d+|[A-Z]\w+)\s[A-Z]\w+)\sDr\.(?!\s[A-Z][a-z])", readings.drive_or_doctor),
        _rule(r"\bSt\.", readings.saint_or_street),
        _rule(r"\b(" + "|".join(ABBREVIATIONS) + r")\.", readings.abbreviation),
        _rule(r"\b(" + "|".join(TITLES_WITHOUT_STOP) + r")(?=\s[A-Z])", lambda m: ABBREVIATIONS[m[1]]),
        _rule(r"\b(?:[A-Z]\.){2,}", readings.initials),
        _rule(r"\b([A-Z])\.(?=\s[A-Z](?:[a-z]|\.))", lambda m: m[1]),
    ]


def _measure_rules() -> list[Rule]:
    """Decades, ranges, sizes, measures, fractions and ratios."""
    return [
        _rule(r"(?<![\w'])'?(\d{2}|[12]\d{3})'?s\b", readings.decade),
        _rule(rf"{_NOT_INSIDE}(?P<a>-?\d+(?:\.\d+)?)[eE](?P<e>[+-]?\d{{1,3}})(?![\w.])", readings.scientific),
        _rule(rf"{_NOT_INSIDE}(?P<a>{_NUMBER})\s?[x×*]\s?10\s?\^\s?\(?(?P<e>-?\d{{1,3}})\)?", readings.scientific),
        _rule(
            r"(?<![\w.])(\d)'\s?(\d{1,2})(?:\"|'')",
            lambda m: f"{numbers.cardinal(int(m[1]))} foot {numbers.cardinal(int(m[2]))}",
        ),
        _rule(r"(?<=\d)-(?=[A-Za-z]{2})|(?<=[A-Za-z])-(?=\d)", lambda m: " "),
        _rule(rf"{_NOT_INSIDE}({_NUMBER})x\b(?!\s?\d)", lambda m: f"{readings.say_number(m[1])} times"),
        _rule(r"(?<=\d)\s?x\s?(?=\d[\d.,]*\s?=)", lambda m: " times "),
        _rule(r"\b50/50\b", lambda m: "fifty fifty"),
        _rule(
            r"(?<![\w./])(?:(?P<whole>\d+)\s)?(?P<n>\d{1,3})/(?P<d>\d{1,3})(?![\w/]|\.\d)"
            rf"(?:\s(?P<unit>{readings.UNIT})(?![\w/]))?",
            readings.mixed_fraction,
        ),
        _rule(
            rf"\b((?:{SOFTWARE}|v)\s?\d+)\.([1-9]\d)(?![\d.]|\s?%)",
            lambda m: f"{m[1]} point {numbers.cardinal(int(m[2]))}",
        ),
        _rule(r"(?<=\d)\s-\s(?=\d)", readings.spaced_hyphen),
        _rule(r"\b([12]\d{3})\s?[-–—]\s?([12]\d{3})\b(?![\w-])", readings.year_range),
        _rule(
            rf"{_NOT_INSIDE}(?P<a>{_NUMBER})\s?[-–]\s?(?P<b>{_NUMBER})(?:\s?(?P<unit>{readings.UNIT}))?(?![\w-])",
            readings.number_range,
        ),
        _rule(
            rf"{_NOT_INSIDE}(?P<a>{_NUMBER})\s?(?:x\s?(?P<b>{_NUMBER})\b|×\s?(?P<c>{_NUMBER})(?=\s?(?:{readings.UNIT})(?!\w)))",
            lambda m: f"{readings.say_number(m['a'])} by {m['b'] or m['c']}",
        ),
        _rule(
            rf"{_NOT_INSIDE}{_MINUS}{_AMOUNT}(?:\s(?P<magnitude>[mb]illion|thousand|trillion))?"
            rf"\s?(?P<unit>{readings.UNIT})(?![\w/])",
            readings.measure,
        ),
        _rule(
            r"(?<![\w.,:])(\d+):(\d+)(?![\w:])", lambda m: f"{readings.say_number(m[1])} to {readings.say_number(m[2])}"
        ),
    ]


def _number_rules() -> list[Rule]:
    """What is left of digits, and the signs between them."""
    return [
        _rule(r"(?<=[A-Za-z\d)])([²³])", lambda m: " squared" if m[1] == "²" else " cubed"),
        _rule(r"\b(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b", lambda m: numbers.ordinal(int(m[1].replace(",", "")))),
        _rule(
            r"(?<![\w.,])\d+(?:\.\d+){2,}(?!\w)",
            lambda m: " point ".join(numbers.cardinal(int(p)) for p in m[0].split(".")),
        ),
        _rule(r"\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z\d]+\b", readings.split_letters_and_digits),
        _rule(rf"{_YEAR_BEFORE}([12]\d{{3}})(?![\d,.]*\d|%)\b", lambda m: numbers.year(int(m[1]))),
        _rule(
            r"(?<![\w.,])((?:1[1-9]|20)\d{2})"
            r"(?=\s?(?:[,;.!?)]|$|[A-Z]|(?:was|is|were|will|had|saw|and|to|brought)\b))(?!,\d{3}|\.\d)",
            lambda m: numbers.year(int(m[1])),
        ),
        _rule(r"(?<=\d)\s?\*\s?(?=\d)", lambda m: " times "),
        _rule(r"(?<![\w)])-(?=\.?\d)", lambda m: " minus "),
        _rule(_NUMBER + r"|\.\d+", lambda m: f" {readings.say_number(m[0])} "),
        _rule(r"(?<=[A-Za-z])/(?=[A-Za-z])", lambda m: " "),
        _rule("[" + re.escape("".join(SIGNS)) + "]", lambda m: f" {SIGNS[m[0]]} "),
        _rule(r"\s+(?=[,.;:!?]|'s\b)", lambda m: ""),
    ]


_RULES = [
    *_address_rules(),
    *_date_rules(),
    *_phone_and_money_rules(),
    *_name_rules(),
    *_measure_rules(),
    *_number_rules(),
]
