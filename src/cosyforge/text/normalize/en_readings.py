"""What the English rules make of what they find: one function per kind of writing, from a match to words."""

from __future__ import annotations

import re

from cosyforge.text.normalize import numbers
from cosyforge.text.normalize.en_tables import (
    ABBREVIATIONS,
    CURRENCIES,
    CURRENCY_CODES,
    MAGNITUDES,
    MONTH_SHORT,
    MONTHS,
    ROMAN_VALUES,
    UNITS,
)

UNIT = "|".join(sorted((re.escape(unit) for unit in UNITS), key=len, reverse=True))
"""Every unit, the longest first (regular expression)."""


def say_number(written: str) -> str:
    """1,234.5 -> one thousand two hundred thirty four point five; very long numbers digit by digit."""
    whole = written.replace(",", "")
    if "." not in whole and len(whole) > numbers.MAX_CARDINAL_DIGITS:
        return numbers.digits(whole)
    return numbers.decimal(written)


# ---- addresses of the net


def url(match: re.Match[str]) -> str:
    """example.com/a1. -> example dot com slash a one, and the marks behind it as they are."""
    address = match[0].rstrip(".,;:!?)")
    rest = match[0][len(address) :]
    names = {".": "dot", "/": "slash", ":": "colon", "-": "dash", "_": "underscore", "@": "at", "?": "question mark",
             "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus", "~": "tilde"}  # fmt: skip
    parts = re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d\s]", address)
    words = [names.get(part) or (numbers.digits(part) if part.isdigit() else net_word(part)) for part in parts]
    return " ".join(words) + rest


def net_word(part: str) -> str:
    """www -> WWW, so that it is spelled."""
    return part.upper() if part.lower() in ("http", "https", "www", "ftp", "html", "php") else part


# ---- dates, times, years


def iso_date(match: re.Match[str]) -> str:
    """2026-05-05 -> May fifth, twenty twenty six."""
    return date(int(match["y"]), int(match["m"]), int(match["d"])) or match[0]


def slash_date(match: re.Match[str]) -> str:
    """5/6/2026 is month first unless only day first makes a date; 5.6.2026 is day first."""
    first, second, year = int(match["a"]), int(match["b"]), int(match["y"])
    year += 2000 if year < 50 else 1900 if year < 100 else 0
    month, day = (second, first) if first > 12 or match["sep"] == "." else (first, second)
    return date(year, month, day) or match[0]


def date(year: int, month: int, day: int) -> str | None:
    """Name a day; None when the calendar has no such one."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{MONTHS[month - 1]} {numbers.ordinal(day)}, {numbers.year(year)}"


def month_name(written: str) -> str:
    """Sept. -> September."""
    short = written.rstrip(".").title()
    return MONTH_SHORT.get(short, short)


def month_day(match: re.Match[str]) -> str:
    """May 5, 2026 -> May fifth, twenty twenty six."""
    year = f", {numbers.year(int(match['y']))}" if match["y"] else ""
    return f"{month_name(match['month'])} {numbers.ordinal(int(match['d']))}{year}"


def day_month(match: re.Match[str]) -> str:
    """5 May -> the fifth of May."""
    year = f" {numbers.year(int(match['y']))}" if match["y"] else ""
    return f"the {numbers.ordinal(int(match['d']))} of {month_name(match['month'])}{year}"


def clock(match: re.Match[str]) -> str:
    """5:30 p.m. -> five thirty PM; 3:45:20 names its seconds."""
    half = re.sub(r"[.\s]", "", match["half"] or "").upper()
    words = time(match["h"], match["m"], half)
    if int(match["s"] or 0):
        words += f" and {counted(match['s'].lstrip('0') or '0', 'second', 'seconds')}"
    if not half:
        return words
    # the stop of "p.m." at the end of a sentence is the sentence's own, too
    stop = "." if match["half"].endswith(".") and not match.string[match.end() :].strip() else ""
    return f"{words} {half}{stop}"


def time(hour: str, minute: str, half: str = "") -> str:
    """9:05 -> nine oh five; full hours are o'clock up to twelve, then hundred hours."""
    hours, minutes = numbers.cardinal(int(hour)), int(minute or 0)
    if minutes:
        return f"{hours} {'oh ' if minutes < 10 else ''}{numbers.cardinal(minutes)}"
    if half:
        return hours
    return f"{hours} o'clock" if 1 <= int(hour) <= 12 else f"{hours} hundred hours"


def clock_range(match: re.Match[str]) -> str:
    """9:00-17:00 -> nine o'clock to seventeen hundred hours."""
    return f"{time(match['h'], match['m'])} to {time(match['h2'], match['m2'])}"


# ---- money, measures


def money(match: re.Match[str]) -> str:
    """$1,234.50, $5-$10, €5 million: amount, size and currency, hundredths by their own name."""
    fields = match.groupdict()
    sign = fields["sign"].strip()
    currency = CURRENCIES[CURRENCY_CODES.get(sign, sign)]
    amount, to, minus = fields["amount"], fields.get("to"), "minus " if fields["minus"] else ""
    if fields["magnitude"]:
        size = f"{MAGNITUDES.get(fields['magnitude'], fields['magnitude'])} {currency[1]}"
        return minus + " to ".join(say_number(part) for part in (amount, to) if part) + f" {size}"
    if to and "." in amount + to:
        return f"{minus}{amount_of(amount, currency)} to {amount_of(to, currency)}"
    if to:
        return f"{minus}{say_number(amount)} to {say_number(to)} {currency[1]}"
    return minus + amount_of(amount, currency)


def amount_of(amount: str, currency: tuple[str, str, str, str]) -> str:
    """3.05 -> three pounds and five pence; thousandths are a decimal."""
    one, many, small_one, small_many = currency
    whole, point, cents = amount.partition(".")
    cents = cents.rstrip("0")
    if point and (len(cents) > 2 or (cents and not small_one)):
        return f"{say_number(amount)} {many}"
    words = [] if cents and not whole.strip("0,") else [counted(whole, one, many)]
    if cents:
        words.append(counted(cents.ljust(2, "0").lstrip("0"), small_one, small_many))
    return " and ".join(words)


def counted(amount: str, one: str, many: str) -> str:
    """1 -> one dollar, 2 -> two dollars."""
    return f"{say_number(amount)} {one if amount == '1' else many}"


def measure(match: re.Match[str]) -> str:
    """-5 km -> minus five kilometers."""
    one, many = UNITS[match["unit"]]
    minus = "minus " if match["minus"] else ""
    if match["magnitude"]:
        return f"{minus}{say_number(match['amount'])} {match['magnitude']} {many}"
    return f"{minus}{counted(match['amount'], one, many)}"


# ---- the rest


def phone(match: re.Match[str]) -> str:
    """Digit by digit, a pause between groups."""
    groups = re.findall(r"\d+", match[0])
    plus = "plus " if match[0].startswith("+") else ""
    return plus + ", ".join(numbers.digits(group) for group in groups)


def abbreviation(match: re.Match[str]) -> str:
    """Dr. -> Doctor; the stop stays when the sentence ends there."""
    ends_sentence = not match.string[match.end() :].strip(" \"')")
    return ABBREVIATIONS[match[1]] + ("." if ends_sentence else "")


def saint_or_street(match: re.Match[str]) -> str:
    """St. Mary -> Saint, Main St. -> Street."""
    rest = match.string[match.end() :]
    if re.match(r"\s+[A-Z]", rest) and not re.search(r"\d\s+\w+\s*$|[A-Z]\w+\s*$", match.string[: match.start()]):
        return "Saint"
    return "Street" + ("." if not rest.strip() else "")


def drive_or_doctor(match: re.Match[str]) -> str:
    """Elm Dr. -> Elm Drive."""
    return f"{match[1]} Drive"


def initials(match: re.Match[str]) -> str:
    """U.S. -> US; the last stop stays when the sentence ends there."""
    letters = match[0].replace(".", "")
    return letters + ("." if not match.string[match.end() :].strip(" \"')") else "")


def roman(written: str) -> int:
    """XIV -> 14."""
    values = [ROMAN_VALUES[letter] for letter in written]
    return sum(-value if value < max(values[index:]) else value for index, value in enumerate(values))


def number_range(match: re.Match[str]) -> str:
    """10-20 km -> ten to twenty kilometers."""
    unit = f" {UNITS[match['unit']][1]}" if match["unit"] else ""
    return f"{say_number(match['a'])} to {say_number(match['b'])}{unit}"


def spaced_hyphen(match: re.Match[str]) -> str:
    """10 - 3 is a sum, pages 10 - 12 and 10 - 20 km are ranges."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    is_range = re.search(
        r"\b(?:[Pp]ages?|[Cc]hapters?|[Aa]ges?|[Ff]rom|[Yy]ears?|[Rr]ows?|[Ll]ines?)\s[\d.,]*\Z", before
    )
    is_range = is_range or re.match(rf"\d[\d.,]*\s?(?:{UNIT}|years|days|hours|minutes|people)(?![A-Za-z])", after)
    return " to " if is_range else " minus "


def scientific(match: re.Match[str]) -> str:
    """1.5e6 -> one point five times ten to the sixth."""
    exponent = int(match["e"])
    sign = "minus " if exponent < 0 else ""
    return f"{numbers.decimal(match['a'])} times ten to the {sign}{numbers.ordinal(abs(exponent))}"


def paired(match: re.Match[str]) -> str:
    """Room 101 -> one oh one, 1208 -> twelve oh eight."""
    head, tail = match[2][:-2], int(match[2][-2:])
    last = "hundred" if tail == 0 else f"oh {numbers.cardinal(tail)}" if tail < 10 else numbers.cardinal(tail)
    return f"{match[1]}{numbers.cardinal(int(head))} {last}"


def year_range(match: re.Match[str]) -> str:
    """1914-1918 -> nineteen fourteen to nineteen eighteen."""
    return f"{numbers.year(int(match[1]))} to {numbers.year(int(match[2]))}"


def mixed_fraction(match: re.Match[str]) -> str:
    """2 1/2 -> two and a half, with its unit."""
    numerator, denominator = int(match["n"]), int(match["d"])
    if denominator == 0:
        return match[0]
    words = numbers.fraction(numerator, denominator)
    if match["whole"]:
        words = f"{numbers.cardinal(int(match['whole']))} and {words.replace('one half', 'a half')}"
    return f"{words} {UNITS[match['unit']][bool(match['whole'])]}" if match["unit"] else words


def split_letters_and_digits(match: re.Match[str]) -> str:
    """MP3 -> MP 3, 4K -> 4 K, iPhone15 -> iPhone 15."""
    return re.sub(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", match[0])


def decade(match: re.Match[str]) -> str:
    """1980s -> nineteen eighties, '80s -> eighties."""
    number = int(match[1])
    if number % 10 or (number < 100 and number < 20):
        return match[0]
    return numbers.decade(number) if number >= 100 else numbers.decade(1900 + number).split(" ", 1)[1]
