"""The readings of `<say-as>` in Mandarin; see `say_as.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from cosyforge.text.normalize import zh
from cosyforge.text.said import NUMBER, RANGE, Said, digit_groups, grouped, identity_groups, number_value
from cosyforge.text.say_as_tables import CURRENCIES, CURRENCY_SIGNS, MARKS, SURNAMES, SYMBOLS, UNITS

_PAUSE = "，"
_MAGNITUDES = {"万": "万", "亿": "亿", "k": "千", "K": "千", "M": "百万", "m": "百万", "bn": "十亿", "B": "十亿"}
_HALVES = {"am": "上午", "pm": "下午"}
_UNIT = "|".join(sorted((re.escape(unit) for unit in UNITS), key=len, reverse=True))
_SIGN = "|".join(sorted((re.escape(sign) for sign in CURRENCY_SIGNS), key=len, reverse=True))
_DATE = r"(?:\d{4})[-/.](?:\d{1,2})[-/.](?:\d{1,2})"


def _cardinal(text: str) -> list[Said] | None:
    if re.fullmatch(rf"[+-]?(?:{NUMBER})", text):
        return [Said(text, _number(text))]
    if match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text):
        return [Said(text, f"{zh.cardinal(int(match[2]))}分之{zh.cardinal(int(match[1]))}")]
    if match := re.fullmatch(rf"({NUMBER}){RANGE}({NUMBER})", text):
        return [Said(text, f"{_number(match[1])}到{_number(match[2])}")]
    return None


def _number(written: str, *, two: str = "二") -> str:
    """two: 两 before what is counted"""
    sign, whole, fraction = number_value(written)
    spoken = zh.cardinal(int(whole)) + (f"点{zh.digits(fraction)}" if fraction else "")
    return {"+": "正", "-": "负"}.get(sign, "") + (two if spoken == "二" else spoken)


def _digits(text: str) -> list[Said] | None:
    if re.fullmatch(r"[+-]?\d+\.\d+", text):
        whole, _, fraction = text.lstrip("+-").partition(".")
        return [Said(text, _sign(text) + f"{zh.digits(whole)}点{zh.digits(fraction)}")]
    groups = digit_groups(text)
    if groups is None:
        return None
    return [Said(text, _sign(text) + _PAUSE.join(zh.digits(group) for group in groups))]


def _sign(text: str) -> str:
    return {"+": "正", "-": "负"}.get(text[0], "")


# ---- telephone


def _telephone(text: str) -> list[Said] | None:
    match = re.fullmatch(
        r"(?P<plus>\+|00(?=\d{2} ))?(?P<body>\(?\d[\d ()/.-]*)(?:(?:转|分机|ext\.?|x|#|,)+ ?(?P<extension>\d{1,8}))?",
        text,
        re.IGNORECASE,
    )
    if match is None:
        return None
    groups = re.findall(r"\d+", match["body"])
    if match["plus"] and len(groups) == 1 and groups[0].startswith("86"):
        groups = ["86", groups[0][2:]]
    spoken = [zh.digits(part, one="幺") for group in groups for part in _telephone_groups(group)]
    words = ("加" if match["plus"] else "") + _PAUSE.join(spoken)
    if match["extension"]:
        words += f"{_PAUSE}转{zh.digits(match['extension'], one='幺')}"
    return [Said(text, words)]


def _telephone_groups(number: str) -> list[str]:
    """Mobile numbers 3-4-4, area codes by themselves, service numbers 3-3-4, eight digits 4-4."""
    if re.fullmatch(r"1[3-9]\d{9}", number):
        return [number[:3], number[3:7], number[7:]]
    if re.fullmatch(r"[48]00\d{7}", number):
        return [number[:3], number[3:6], number[6:]]
    if match := re.fullmatch(r"(0[12]\d|0[3-9]\d{2})(\d{3,4})(\d{4})", number):
        return [match[1], match[2], match[3]]
    if len(number) == 8:
        return [number[:4], number[4:]]
    return grouped(number)


# ---- names, addresses, identifiers


def _name(text: str) -> list[Said]:
    for length in (2, 1):
        surname = text[:length]
        if surname in SURNAMES and (length == 2 or not text[1:2] or zh_character(text[1])):
            rest = [Said(text[length:])] if text[length:] else []
            return [Said(surname, pinyin=SURNAMES[surname]), *rest]
    return [Said(text)]


def zh_character(char: str) -> bool:
    return "\u3400" <= char <= "\u9fff"


_STREET_NUMBER = re.compile(r"(?<=[路街巷弄道里村])(\d+)(?=号)")
_COUNTED_PART = re.compile(r"(\d+)(?=号楼|号院|栋|幢|座|单元|门|楼|层|弄|巷|组|队|村|区|期|号线|大街|路|街|环)")
_PLACE_NUMBER = re.compile(r"\d+")


def _address(text: str) -> list[Said] | None:
    """Street, building, entrance and floor are numbers; rooms and post codes are read digit by digit, with 幺."""
    words = _STREET_NUMBER.sub(lambda match: zh.cardinal(int(match[1])), text)
    words = _COUNTED_PART.sub(lambda match: zh.cardinal(int(match[1])), words)
    words = _PLACE_NUMBER.sub(lambda match: _place_number(match[0]), words)
    return [Said(text, re.sub(r"(?<=\S)[-#](?=\S)", lambda match: "杠" if match[0] == "-" else "号", words))]


def _place_number(digits: str) -> str:
    if len(digits) > 2 or digits.startswith("0"):
        return zh.digits(digits, one="幺")
    return zh.cardinal(int(digits))


def _id(text: str) -> list[Said]:
    groups = identity_groups(text)
    said = []
    for index, group in enumerate(groups):
        said += _spelled(group)
        if index + 1 < len(groups) and said[-1].words is not None:
            said[-1] = Said(said[-1].text, said[-1].words + _PAUSE)
    return said


def _spelled(text: str) -> list[Said]:
    return list(_spelled_parts(text))


def _spelled_parts(text: str) -> Iterator[Said]:
    for match in re.finditer(r"[A-Za-z]+|\d+|\s+|.", text, re.DOTALL):
        part = match[0]
        if part.isascii() and part.isalpha():
            yield Said(part, letters=part)
        elif part.isascii() and part.isdigit():
            yield Said(part, zh.digits(part))
        elif part.isspace():
            yield Said(part, _PAUSE)
        else:
            name = SYMBOLS.get(part) or MARKS.get(part)
            yield Said(part, name[0] if name else None)


def _punctuation(text: str) -> list[Said] | None:
    said = []
    for match in re.finditer(r"\.{3,}|…+|—+|[^\w\s]|[\w\s]+", text):
        part = match[0]
        name = MARKS.get(part[0]) or SYMBOLS.get(part[0])
        if part.startswith("..."):
            name = MARKS["…"]
        elif part == ".":
            name = ("句号", "")
        said.append(Said(part, name[0] if name and not part[0].isalnum() else None))
    return said if any(part.words for part in said) else None


# ---- dates and times


def _date(text: str) -> list[Said] | None:
    if (single := _one_date(text)) is not None:
        return [Said(text, single)]
    for separator in (r" ?(?:~|至|到) ?", r" - ", r"(?<=日)-|(?<=月)-|(?<=年)-", r"(?<=\d)-(?=\d{4}[-/.年])"):
        parts = re.split(separator, text)
        if len(parts) == 2:
            first, last = _one_date(parts[0]), _one_date(parts[1])
            if first is not None and last is not None:
                return [Said(text, f"{first}到{last}")]
    years = re.fullmatch(r"(\d{4})-(\d{4})(年?)", text)
    if years:
        return [Said(text, f"{zh.digits(years[1])}到{zh.digits(years[2])}{years[3] or '年'}")]
    return None


def _one_date(text: str) -> str | None:
    forms: list[tuple[str, Callable[[re.Match[str]], str | None]]] = [
        (r"(\d{4}|\d{2})[-/.](\d{1,2})[-/.](\d{1,2})", lambda m: _year(m[1]) + (_month_day(m[2], m[3]) or "\0")),
        (
            r"(\d{4}|\d{2})年(\d{1,2})月(\d{1,2})([日号])",
            lambda m: _year(m[1]) + (_month_day(m[2], m[3], m[4]) or "\0"),
        ),
        (r"(\d{4})(\d{2})(\d{2})", lambda m: _year(m[1]) + (_month_day(m[2], m[3]) or "\0")),
        (r"(\d{4})[-/.年](\d{1,2})月?", lambda m: _year(m[1]) + (_month(m[2]) or "\0")),
        (r"(\d{1,2})[-/.](\d{1,2})", lambda m: _month_day(m[1], m[2])),
        (r"(\d{1,2})月(\d{1,2})([日号])", lambda m: _month_day(m[1], m[2], m[3])),
        (r"(\d{4}|\d{2})年?", lambda m: _year(m[1])),
        (r"(\d{1,2})月", lambda m: _month(m[1])),
        (r"(\d{1,2})([日号])", lambda m: f"{zh.cardinal(int(m[1]))}{m[2]}" if 1 <= int(m[1]) <= 31 else None),
    ]
    for form, words in forms:
        if match := re.fullmatch(form, text.strip()):
            spoken = words(match)
            if spoken is not None and "\0" not in spoken:
                return spoken
    return None


def _year(written: str) -> str:
    return f"{zh.digits(written)}年"


def _month(written: str) -> str | None:
    return f"{zh.cardinal(int(written))}月" if 1 <= int(written) <= 12 else None


def _month_day(month: str, day: str, unit: str = "日") -> str | None:
    if not 1 <= int(day) <= 31 or _month(month) is None:
        return None
    return f"{_month(month)}{zh.cardinal(int(day))}{unit}"


def _time(text: str) -> list[Said] | None:
    parts = re.split(r" ?(?:~|至|到|-) ?", text)
    spoken = [_one_time(part) for part in parts]
    if len(parts) > 2 or None in spoken:
        return None
    return [Said(text, "到".join(part for part in spoken if part))]


def _one_time(text: str) -> str | None:
    match = re.fullmatch(
        r"(?P<before>上午|下午|晚上|早上|中午|凌晨)? ?(?P<h>[01]?\d|2[0-4])(?::(?P<m>[0-5]\d))?(?::(?P<s>[0-5]\d))?"
        r" ?(?P<half>[ap]\.? ?m\.?)?",
        text.strip(),
        re.IGNORECASE,
    )
    if match is None or (match["m"] is None and match["half"] is None):
        return None
    hour, minute, second = int(match["h"]), int(match["m"] or 0), int(match["s"] or 0)
    half = re.sub(r"[. ]", "", match["half"] or "").lower()
    if half and not 1 <= hour <= 12:
        return None
    before = match["before"] or _half_of_day(hour, half)
    clock = f"{'两' if hour == 2 else zh.cardinal(hour)}点"
    if not minute and not second:
        return f"{before}{clock}"
    return before + clock + f"{_two_places(minute)}分" + (f"{_two_places(second)}秒" if match["s"] else "")


def _half_of_day(hour: int, half: str) -> str:
    if hour == 12 and half:
        return "中午" if half == "pm" else "凌晨"
    return _HALVES.get(half, "")


def _two_places(number: int) -> str:
    if not number:
        return "零"
    return ("零" if number < 10 else "") + zh.cardinal(number)


# ---- money and measures


def _currency(text: str) -> list[Said] | None:
    magnitude = "万|亿|k|K|M|m|bn|B"
    before = rf"(?P<minus>-)?(?P<sign>{_SIGN}) ?(?P<minus2>-)?(?P<amount>{NUMBER}) ?(?P<magnitude>{magnitude})?"
    after = rf"(?P<minus>-)?(?P<minus2>)(?P<amount>{NUMBER}) ?(?P<magnitude>{magnitude})? ?(?P<sign>{_SIGN})"
    for form in (before, after):
        if match := re.fullmatch(form, text):
            minus = "负" if match["minus"] or match["minus2"] else ""
            money = CURRENCIES[CURRENCY_SIGNS[match["sign"]]][0]
            amount = _number(match["amount"], two="两" if not match["magnitude"] else "二")
            return [Said(text, f"{minus}{amount}{_MAGNITUDES.get(match['magnitude'] or '', '')}{money}")]
    if match := re.fullmatch(rf"(?P<amount>{NUMBER})(?P<money>元|块|角|分|美元|欧元|英镑|日元|港元|港币)", text):
        return [Said(text, _number(match["amount"], two="两") + match["money"])]
    return None


def _measure(text: str) -> list[Said] | None:
    # squares and cubes came as ² and ³ and have been folded to digits
    if match := re.fullmatch(rf"(-?)({NUMBER}) ?(%|‰)", text):
        share = "百分之" if match[3] == "%" else "千分之"
        return [Said(text, f"{'负' if match[1] else ''}{share}{_number(match[2])}")]
    if match := re.fullmatch(rf"(-?(?:{NUMBER}))(?:{RANGE}({NUMBER}))? ?({_UNIT})", text):
        unit = UNITS[match[3]][0]
        first = _number(match[1], two="两")
        return [Said(text, f"{first}到{_number(match[2], two='两')}{unit}" if match[2] else first + unit)]
    if match := re.fullmatch(rf"(\d{{1,4}})/(\d{{1,4}}) ?({_UNIT})", text):
        return [Said(text, f"{zh.cardinal(int(match[2]))}分之{zh.cardinal(int(match[1]))}{UNITS[match[3]][0]}")]
    if match := re.fullmatch(rf"({NUMBER})([\u4e00-\u9fff]{{1,5}})", text):
        return [Said(text, _number(match[1], two="两") + match[2])]
    return None


READINGS: dict[str, Callable[[str], list[Said] | None]] = {
    "cardinal": _cardinal,
    "digits": _digits,
    "telephone": _telephone,
    "name": _name,
    "address": _address,
    "id": _id,
    "characters": _spelled,
    "punctuation": _punctuation,
    "date": _date,
    "time": _time,
    "currency": _currency,
    "measure": _measure,
}
