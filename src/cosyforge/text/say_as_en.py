"""The readings of `<say-as>` in English; see `say_as.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from cosyforge.text.normalize import numbers
from cosyforge.text.normalize.en import MONTHS
from cosyforge.text.said import NUMBER, RANGE, Said, digit_groups, grouped, identity_groups, number_value
from cosyforge.text.say_as_tables import CURRENCIES, CURRENCY_SIGNS, IRREGULAR_PLURALS, MARKS, SYMBOLS, UNITS

_PAUSE = ", "
_MAGNITUDES = {
    "k": "thousand", "K": "thousand", "M": "million", "m": "million", "bn": "billion", "B": "billion",
    "thousand": "thousand", "million": "million", "billion": "billion", "trillion": "trillion",
}  # fmt: skip
_UNIT = "|".join(sorted((re.escape(unit) for unit in UNITS), key=len, reverse=True))
_SIGN = "|".join(sorted((re.escape(sign) for sign in CURRENCY_SIGNS), key=len, reverse=True))
_MONTH_NUMBER = {name.lower(): index + 1 for index, month in enumerate(MONTHS) for name in (month, month[:3])} | {
    "sept": 9
}
_MONTH_NAME = "(" + "|".join(sorted(_MONTH_NUMBER, key=len, reverse=True)) + r")\.?"


def _cardinal(text: str) -> list[Said] | None:
    if re.fullmatch(rf"[+-]?(?:{NUMBER})", text):
        return [Said(text, _number(text))]
    if (match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)) and int(match[2]):
        return [Said(text, numbers.fraction(int(match[1]), int(match[2])))]
    if match := re.fullmatch(rf"({NUMBER}){RANGE}({NUMBER})", text):
        return [Said(text, f"{_number(match[1])} to {_number(match[2])}")]
    return None


def _number(written: str) -> str:
    sign, whole, fraction = number_value(written)
    words = numbers.cardinal(int(whole)) + (f" point {numbers.digits(fraction)}" if fraction else "")
    return {"+": "plus ", "-": "minus "}.get(sign, "") + words


def _digits(text: str) -> list[Said] | None:
    if re.fullmatch(r"[+-]?\d+\.\d+", text):
        whole, _, fraction = text.lstrip("+-").partition(".")
        return [Said(text, _sign(text) + f"{numbers.digits(whole)} point {numbers.digits(fraction)}")]
    groups = digit_groups(text)
    if groups is None:
        return None
    return [Said(text, _sign(text) + _PAUSE.join(numbers.digits(group) for group in groups))]


def _sign(text: str) -> str:
    return {"+": "plus ", "-": "minus "}.get(text[0], "")


# ---- telephone


def _telephone(text: str) -> list[Said] | None:
    match = re.fullmatch(
        r"(?P<plus>\+)?(?P<body>\(?\d[\d ()/.-]*)(?:(?:extension|ext\.?|x|#|,)+ ?(?P<extension>\d{1,8}))?",
        text,
        re.IGNORECASE,
    )
    if match is None:
        return None
    groups = [part for group in re.findall(r"\d+", match["body"]) for part in _telephone_groups(group)]
    words = ("plus " if match["plus"] else "") + _PAUSE.join(numbers.digits(group) for group in groups)
    if match["extension"]:
        words += f"{_PAUSE}extension {numbers.digits(match['extension'])}"
    return [Said(text, words)]


def _telephone_groups(number: str) -> list[str]:
    """Ten digits 3-3-4, eleven with the country code 1 in front, seven 3-4."""
    if match := re.fullmatch(r"(1?)(\d{3})(\d{3})(\d{4})", number):
        return [group for group in match.groups() if group]
    if len(number) == 7:
        return [number[:3], number[3:]]
    return grouped(number)


# ---- names, addresses, identifiers


def _name(text: str) -> list[Said]:
    return [Said(text)]


_STREET_WORDS = {
    "St": "Street", "Rd": "Road", "Ave": "Avenue", "Blvd": "Boulevard", "Dr": "Drive", "Ln": "Lane", "Ct": "Court",
    "Pl": "Place", "Sq": "Square", "Hwy": "Highway", "Pkwy": "Parkway", "Apt": "Apartment", "Ste": "Suite",
    "Bldg": "Building", "Fl": "Floor", "Rm": "Room", "Fwy": "Freeway", "Ter": "Terrace",
    "N": "North", "S": "South", "E": "East", "W": "West", "NE": "Northeast", "NW": "Northwest", "SE": "Southeast",
    "SW": "Southwest",
}  # fmt: skip
_STREET_WORD = re.compile(r"\b(" + "|".join(sorted(_STREET_WORDS, key=len, reverse=True)) + r")\b\.?")


def _address(text: str) -> list[Said] | None:
    """House and room numbers are read in pairs (twelve thirty four), post codes digit by digit."""
    words = _STREET_WORD.sub(lambda match: _street_word(match, text), text)
    words = re.sub(r"#\s?(?=\w)", "number ", words)
    words = re.sub(r"\b(\d{1,4})(st|nd|rd|th)\b", lambda match: numbers.ordinal(int(match[1])), words)
    words = re.sub(
        r"\b(\d{5})-(\d{4})\b", lambda match: f"{numbers.digits(match[1])}, {numbers.digits(match[2])}", words
    )
    words = re.sub(r"\b(\d+)([A-Za-z])\b", lambda match: f"{_house(match[1])} {match[2]}", words)
    words = re.sub(r"\b([A-Za-z])-?(\d+)\b", lambda match: f"{match[1]} {_house(match[2])}", words)
    words = re.sub(r"\d+", lambda match: _house(match[0]), words)
    return [Said(text, re.sub(r"(?<=\w)-(?=\w)", " ", words))]


def _street_word(match: re.Match[str], text: str) -> str:
    is_saint = match[1] == "St" and re.match(r"\s[A-Z][a-z]", text[match.end() :]) and match.start() == 0
    return "Saint" if is_saint else _STREET_WORDS[match[1]]


def _house(digits: str) -> str:
    """105 -> one oh five, 1600 -> sixteen hundred, 90210 -> digit by digit."""
    if digits.startswith("0") or len(digits) > 4:
        return numbers.digits(digits)
    if len(digits) < 3 or digits.endswith("000"):
        return numbers.cardinal(int(digits))
    first, last = numbers.cardinal(int(digits[:-2])), int(digits[-2:])
    if not last:
        return f"{first} hundred"
    return f"{first} {'oh ' if last < 10 else ''}{numbers.cardinal(last)}"


def _id(text: str) -> list[Said]:
    groups = identity_groups(text)
    said = []
    for index, group in enumerate(groups):
        said += _spelled(group)
        if index + 1 < len(groups) and said[-1].words is not None:
            said[-1] = Said(said[-1].text, said[-1].words + ",")
    return said


def _spelled(text: str) -> list[Said]:
    return list(_spelled_parts(text))


def _spelled_parts(text: str) -> Iterator[Said]:
    for match in re.finditer(r"[A-Za-z]+|\d+|\s+|.", text, re.DOTALL):
        part = match[0]
        if part.isascii() and part.isalpha():
            yield Said(part, letters=part)
        elif part.isascii() and part.isdigit():
            yield Said(part, numbers.digits(part))
        elif part.isspace():
            yield Said(part, ",")
        else:
            name = SYMBOLS.get(part) or MARKS.get(part)
            yield Said(part, name[1] if name else None)


def _punctuation(text: str) -> list[Said] | None:
    said = []
    for match in re.finditer(r"\.{3,}|…+|—+|[^\w\s]|[\w\s]+", text):
        part = match[0]
        name = MARKS.get(part[0]) or SYMBOLS.get(part[0])
        if part.startswith("..."):
            name = MARKS["…"]
        elif part in (".", "-"):
            name = ("", "period" if part == "." else "hyphen")
        said.append(Said(part, name[1] if name and not part[0].isalnum() else None))
    return said if any(part.words for part in said) else None


# ---- dates and times


def _date(text: str) -> list[Said] | None:
    if (single := _one_date(text)) is not None:
        return [Said(text, single)]
    for separator in (r" ?(?:~|to|until) ?", r" - ", r"(?<=\d)-(?=\d{1,2}/)|(?<=/\d{4})-"):
        parts = re.split(separator, text)
        if len(parts) == 2:
            first, last = _one_date(parts[0]), _one_date(parts[1])
            if first is not None and last is not None:
                return [Said(text, f"{first} to {last}")]
    if years := re.fullmatch(r"(\d{4})-(\d{4})", text):
        return [Said(text, f"{numbers.year(int(years[1]))} to {numbers.year(int(years[2]))}")]
    return None


def _one_date(text: str) -> str | None:
    forms: list[tuple[str, Callable[[re.Match[str]], str | None]]] = [
        (r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})", lambda m: _day(int(m[2]), int(m[3]), int(m[1]))),
        (r"(\d{4})(\d{2})(\d{2})", lambda m: _day(int(m[2]), int(m[3]), int(m[1]))),
        (r"(\d{1,2})[-/](\d{1,2})[-/](\d{4}|\d{2})", _american),
        (r"(\d{1,2})\.(\d{1,2})\.(\d{4}|\d{2})", lambda m: _day(int(m[2]), int(m[1]), _full_year(m[3]))),
        (r"(\d{4})[-/.](\d{1,2})", lambda m: _month_of(int(m[2]), int(m[1]))),
        (r"(\d{1,2})[-/](\d{4})", lambda m: _month_of(int(m[1]), int(m[2]))),
        (r"(\d{1,2})[-/](\d{1,2})", lambda m: _day(int(m[1]), int(m[2])) or _day(int(m[2]), int(m[1]))),
        (_MONTH_NAME + r" (\d{1,2})(?:st|nd|rd|th)?(?:,? (\d{4}))?", lambda m: _named(m[1], m[2], m[3])),
        (r"(\d{1,2})(?:st|nd|rd|th)? (?:of )?" + _MONTH_NAME + r"(?:,? (\d{4}))?", lambda m: _named(m[2], m[1], m[3])),
        (_MONTH_NAME + r",? (\d{4})", lambda m: _month_of(_MONTH_NUMBER[m[1].lower()], int(m[2]))),
        (_MONTH_NAME, lambda m: MONTHS[_MONTH_NUMBER[m[1].lower()] - 1]),
        (r"(\d{4})", lambda m: numbers.year(int(m[1]))),
    ]
    for form, words in forms:
        match = re.fullmatch(form, text.strip(), re.IGNORECASE)
        spoken = words(match) if match else None
        if spoken is not None:
            return spoken
    return None


def _day(month: int, day: int, year: int | None = None) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{MONTHS[month - 1]} {numbers.ordinal(day)}" + ("" if year is None else f", {numbers.year(year)}")


def _american(match: re.Match[str]) -> str | None:
    """Month first; the day where the first number is no month."""
    first, second, year = int(match[1]), int(match[2]), _full_year(match[3])
    return _day(first, second, year) or _day(second, first, year)


def _full_year(written: str) -> int:
    year = int(written)
    return year if len(written) == 4 else year + (2000 if year < 50 else 1900)


def _month_of(month: int, year: int) -> str | None:
    return f"{MONTHS[month - 1]} {numbers.year(year)}" if 1 <= month <= 12 else None


def _named(month: str, day: str, year: str | None) -> str | None:
    return _day(_MONTH_NUMBER[month.lower()], int(day), None if year is None else int(year))


def _time(text: str) -> list[Said] | None:
    parts = re.split(r" ?(?:~|\bto\b|-) ?", text)
    spoken = [_one_time(part) for part in parts]
    if len(parts) > 2 or None in spoken:
        return None
    return [Said(text, " to ".join(part for part in spoken if part))]


def _one_time(text: str) -> str | None:
    match = re.fullmatch(
        r"(?P<h>[01]?\d|2[0-4])(?::(?P<m>[0-5]\d))?(?::(?P<s>[0-5]\d))? ?(?P<half>[ap]\.? ?m\.?)?",
        text.strip(),
        re.IGNORECASE,
    )
    if match is None or (match["m"] is None and match["half"] is None):
        return None
    hour, minute, second = int(match["h"]), int(match["m"] or 0), int(match["s"] or 0)
    half = re.sub(r"[. ]", "", match["half"] or "").upper()
    if half and not 1 <= hour <= 12:
        return None
    words = numbers.cardinal(hour)
    if minute:
        words += f" {_two_places(minute)}"
    elif not half:
        words += " o'clock" if 1 <= hour <= 12 else " hundred hours"
    if second:
        words += f" and {numbers.cardinal(second)} {'second' if second == 1 else 'seconds'}"
    return f"{words} {half}".strip()


def _two_places(number: int) -> str:
    return numbers.cardinal(number) if number >= 10 else f"oh {numbers.cardinal(number)}"


# ---- money and measures


def _currency(text: str) -> list[Said] | None:
    magnitude = "thousand|million|billion|trillion|bn|k|K|M|m|B"
    before = rf"(?P<minus>-)?(?P<sign>{_SIGN}) ?(?P<minus2>-)?(?P<amount>{NUMBER}) ?(?P<magnitude>{magnitude})?"
    after = rf"(?P<minus>-)?(?P<minus2>)(?P<amount>{NUMBER}) ?(?P<magnitude>{magnitude})? ?(?P<sign>{_SIGN})"
    for form in (before, after):
        if match := re.fullmatch(form, text):
            minus = "minus " if match["minus"] or match["minus2"] else ""
            return [Said(text, minus + _money(match))]
    return None


def _money(match: re.Match[str]) -> str:
    _, one, many, small_one, small_many = CURRENCIES[CURRENCY_SIGNS[match["sign"]]]
    _, whole, fraction = number_value(match["amount"])
    if match["magnitude"]:
        return f"{_number(match['amount'])} {_MAGNITUDES[match['magnitude']]} {many}"
    if fraction and (len(fraction) > 2 or not small_one):
        return f"{_number(match['amount'])} {many}"
    small = int(fraction.ljust(2, "0")) if fraction else 0
    large_words = f"{numbers.cardinal(int(whole))} {one if whole == '1' else many}"
    if not small:
        return large_words
    small_words = f"{numbers.cardinal(small)} {small_one if small == 1 else small_many}"
    return small_words if whole == "0" else f"{large_words} and {small_words}"


def _measure(text: str) -> list[Said] | None:
    # squares and cubes came as ² and ³ and have been folded to digits
    if match := re.fullmatch(rf"(-?(?:{NUMBER})) ?(%|‰)", text):
        return [Said(text, f"{_number(match[1])} {'percent' if match[2] == '%' else 'per mille'}")]
    if match := re.fullmatch(rf"(-?(?:{NUMBER}))(?:{RANGE}({NUMBER}))? ?({_UNIT})", text):
        last = match[2] or match[1]
        unit = _unit(match[3], is_one=last.lstrip("-") == "1")
        return [Said(text, f"{_number(match[1])} to {_number(last)} {unit}" if match[2] else f"{_number(last)} {unit}")]
    if (match := re.fullmatch(rf"(?:(\d{{1,6}}) )?(\d{{1,3}})/(\d{{1,3}}) ?({_UNIT})", text)) and int(match[3]):
        part = numbers.fraction(int(match[2]), int(match[3]))
        if match[1]:
            part = f"{numbers.cardinal(int(match[1]))} and {part.replace('one half', 'a half')}"
        return [Said(text, f"{part} {_unit(match[4], is_one=not match[1])}")]
    return None


def _unit(written: str, *, is_one: bool) -> str:
    name = UNITS[written][1]
    if is_one:
        return name
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    head, per, rest = name.partition(" per ")
    return f"{head}s{per}{rest}"


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
