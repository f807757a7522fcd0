"""Written English to spoken English: numbers, dates, times, money, units, abbreviations and signs as words.

The rules run from the most particular to the most general, each over the whole sentence, so that what an early rule
has turned into words no later rule sees as digits. Sentence punctuation stays. Nothing is dropped here: a character
that no rule knows stays in the text, and the front end decides about it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from cosyforge.text.normalize import numbers

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_NOT_INSIDE = r"(?<![\w.,])"

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_MONTH_SHORT = {month[:3]: month for month in MONTHS if month != "May"} | {"Sept": "September"}
_MONTH = "|".join([*MONTHS, *(f"{short}\\.?" for short in (*_MONTH_SHORT, "May"))])
_WEEKDAY_SHORT = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip

ABBREVIATIONS = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Messrs": "Messieurs", "Dr": "Doctor", "Prof": "Professor",
    "Jr": "Junior", "Sr": "Senior", "vs": "versus", "etc": "et cetera", "approx": "approximately", "dept": "department",
    "Dept": "Department", "est": "established", "Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation",
    "Ave": "Avenue", "Blvd": "Boulevard", "Rd": "Road", "Mt": "Mount", "Ft": "Fort", "Gen": "General", "Col": "Colonel",
    "Sgt": "Sergeant", "Capt": "Captain", "Lt": "Lieutenant", "Cmdr": "Commander", "Adm": "Admiral", "Rev": "Reverend",
    "Hon": "Honorable", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Pres": "President",
    "Fig": "Figure", "fig": "figure", "Eq": "Equation", "Sec": "Section", "Ch": "Chapter",
    "Vol": "Volume", "vol": "volume",
    "pp": "pages", "misc": "miscellaneous", "tel": "telephone", "Tel": "Telephone", "ext": "extension",
    "Ext": "Extension",
    "Assn": "Association", "Univ": "University", "Bros": "Brothers", "cf": "compare", "ca": "circa",
}  # fmt: skip
"""Read in full when a full stop follows; the stop belongs to the abbreviation."""

_TITLES_WITHOUT_STOP = ("Mr", "Mrs", "Ms", "Dr", "Prof")
_LATIN = {"e.g.": "for example", "i.e.": "that is", "a.k.a.": "also known as", "w/o": "without", "w/": "with"}

_UNITS = {
    "km/h": ("kilometer per hour", "kilometers per hour"), "kph": ("kilometer per hour", "kilometers per hour"),
    "mph": ("mile per hour", "miles per hour"), "m/s": ("meter per second", "meters per second"),
    "km²": ("square kilometer", "square kilometers"), "m²": ("square meter", "square meters"),
    "m³": ("cubic meter", "cubic meters"), "cm²": ("square centimeter", "square centimeters"),
    "cm³": ("cubic centimeter", "cubic centimeters"), "km2": ("square kilometer", "square kilometers"),
    "m2": ("square meter", "square meters"), "m3": ("cubic meter", "cubic meters"),
    "km": ("kilometer", "kilometers"), "cm": ("centimeter", "centimeters"), "mm": ("millimeter", "millimeters"),
    "μm": ("micrometer", "micrometers"), "nm": ("nanometer", "nanometers"),
    "m": ("meter", "meters"), "ft": ("foot", "feet"), "yd": ("yard", "yards"), "mi": ("mile", "miles"),
    "sq ft": ("square foot", "square feet"), "kg": ("kilogram", "kilograms"), "mg": ("milligram", "milligrams"),
    "g": ("gram", "grams"), "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
    "L": ("liter", "liters"), "l": ("liter", "liters"), "ml": ("milliliter", "milliliters"),
    "mL": ("milliliter", "milliliters"), "gal": ("gallon", "gallons"), "°C": ("degree Celsius", "degrees Celsius"),
    "°F": ("degree Fahrenheit", "degrees Fahrenheit"), "°": ("degree", "degrees"),
    "ms": ("millisecond", "milliseconds"), "s": ("second", "seconds"),
    "sec": ("second", "seconds"), "min": ("minute", "minutes"), "h": ("hour", "hours"), "hr": ("hour", "hours"),
    "hrs": ("hour", "hours"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"), "kB": ("kilobyte", "kilobytes"),
    "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes"), "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"), "Mbps": ("megabit per second", "megabits per second"),
    "kbps": ("kilobit per second", "kilobits per second"), "Gbps": ("gigabit per second", "gigabits per second"),
    "W": ("watt", "watts"), "kW": ("kilowatt", "kilowatts"), "MW": ("megawatt", "megawatts"),
    "kWh": ("kilowatt hour", "kilowatt hours"), "V": ("volt", "volts"), "mA": ("milliampere", "milliamperes"),
    "mAh": ("milliampere hour", "milliampere hours"), "dB": ("decibel", "decibels"),
    "hPa": ("hectopascal", "hectopascals"),
    "Pa": ("pascal", "pascals"), "cal": ("calorie", "calories"), "kcal": ("kilocalorie", "kilocalories"),
    "px": ("pixel", "pixels"), "ha": ("hectare", "hectares"), "%": ("percent", "percent"),
    "‰": ("per mille", "per mille"),
}  # fmt: skip

_CURRENCIES = {
    "US$": ("dollar", "dollars", "cent", "cents"), "HK$": ("Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "$": ("dollar", "dollars", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"), "¥": ("yuan", "yuan", "fen", "fen"), "₩": ("won", "won", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
}  # fmt: skip
_CURRENCY_CODES = {"USD": "$", "GBP": "£", "EUR": "€", "CNY": "¥", "RMB": "¥"}
_MAGNITUDES = {"k": "thousand", "K": "thousand", "M": "million", "m": "million", "bn": "billion", "B": "billion"}

_SIGNS = {
    "&": "and", "@": "at", "+": "plus", "=": "equals", "×": "times", "÷": "divided by", "±": "plus or minus",
    "≈": "approximately", "≠": "is not equal to", "≤": "is at most", "≥": "is at least", "<": "less than",
    ">": "greater than", "√": "square root of", "∞": "infinity", "π": "pi", "α": "alpha", "β": "beta", "γ": "gamma",
    "δ": "delta", "λ": "lambda", "μ": "mu", "σ": "sigma", "ω": "omega", "Ω": "ohm", "§": "section", "©": "copyright",
    "®": "registered", "→": "to", "←": "from", "\\": "backslash", "_": "underscore", "^": "to the power of",
    "%": "percent", "°": "degrees", "$": "dollars", "£": "pounds", "€": "euros", "¥": "yuan", "#": "hash",
    "~": "about", "*": "asterisk", "/": "slash",
}  # fmt: skip
"""What a sign that no earlier rule took is called."""

_ROMAN_AFTER = (
    "Chapter|Part|Volume|Act|Scene|Section|Phase|Type|Class|War|Book|Level|Stage|Appendix|Article|Title|Grade"
)
_KINGS = (
    "Henry|Louis|Elizabeth|George|Charles|William|Edward|James|Richard|Philip|Francis|Frederick|Napoleon|Nicholas|Paul|"
    "Pius|Benedict|Leo|John|Alexander|Catherine|Peter|Ferdinand|Gustav|Christian|Margaret|Mary"
)
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def normalize_english(text: str) -> str:
    """Write one sentence the way it is spoken; words stay as they are written, sentence punctuation stays."""
    text = _tidy(text)
    for pattern, words in _RULES:
        text = pattern.sub(words, text)
    return re.sub(r"\s+", " ", text).strip()


def _tidy(text: str) -> str:
    """Fold look-alikes: full width, ligatures, curly quotes and odd dashes; squares and halves keep their sense."""
    for sign, kept in (("²", "\ue002"), ("³", "\ue003"), ("™", " trademark "), ("…", "\ue004"), ("µ", "μ")):
        text = text.replace(sign, kept)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = unicodedata.normalize("NFKC", text)
    for kept, sign in (
        ("\ue002", "²"),
        ("\ue003", "³"),
        ("\ue004", "…"),
        ("\u2044", "/"),
        ("−", "-"),
        ("‐", "-"),
        ("‑", "-"),
    ):
        text = text.replace(kept, sign)
    return text.translate(str.maketrans("‘’ʼ“”„«»", '\'\'\'"""""'))


def _say_number(written: str) -> str:
    whole = written.replace(",", "")
    if "." not in whole and len(whole) > numbers.MAX_CARDINAL_DIGITS:
        return numbers.digits(whole)
    return numbers.decimal(written)


# ---- addresses of the net


def _url(match: re.Match[str]) -> str:
    address = match[0].rstrip(".,;:!?)")
    rest = match[0][len(address) :]
    names = {".": "dot", "/": "slash", ":": "colon", "-": "dash", "_": "underscore", "@": "at", "?": "question mark",
             "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus", "~": "tilde"}  # fmt: skip
    parts = re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d\s]", address)
    words = [names.get(part) or (numbers.digits(part) if part.isdigit() else _net_word(part)) for part in parts]
    return " ".join(words) + rest


def _net_word(part: str) -> str:
    return part.upper() if part.lower() in ("http", "https", "www", "ftp", "html", "php") else part


# ---- dates, times, years


def _iso_date(match: re.Match[str]) -> str:
    return _date(int(match["y"]), int(match["m"]), int(match["d"])) or match[0]


def _slash_date(match: re.Match[str]) -> str:
    first, second, year = int(match["a"]), int(match["b"]), int(match["y"])
    year += 2000 if year < 50 else 1900 if year < 100 else 0
    month, day = (second, first) if first > 12 or match["sep"] == "." else (first, second)
    return _date(year, month, day) or match[0]


def _date(year: int, month: int, day: int) -> str | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return f"{MONTHS[month - 1]} {numbers.ordinal(day)}, {numbers.year(year)}"


def _month_name(written: str) -> str:
    short = written.rstrip(".")
    return _MONTH_SHORT.get(short, short)


def _month_day(match: re.Match[str]) -> str:
    year = f", {numbers.year(int(match['y']))}" if match["y"] else ""
    return f"{_month_name(match['month'])} {numbers.ordinal(int(match['d']))}{year}"


def _day_month(match: re.Match[str]) -> str:
    year = f" {numbers.year(int(match['y']))}" if match["y"] else ""
    return f"the {numbers.ordinal(int(match['d']))} of {_month_name(match['month'])}{year}"


def _clock(match: re.Match[str]) -> str:
    hour, minute = int(match["h"]), int(match["m"] or 0)
    half = re.sub(r"[.\s]", "", match["half"] or "").upper()
    if minute:
        words = f"{numbers.cardinal(hour)} " + (
            f"oh {numbers.cardinal(minute)}" if minute < 10 else numbers.cardinal(minute)
        )
    elif half:
        words = numbers.cardinal(hour)
    else:
        words = f"{numbers.cardinal(hour)} o'clock" if 1 <= hour <= 12 else f"{numbers.cardinal(hour)} hundred hours"
    if match["s"]:
        words += f" and {_counted(match['s'], 'second', 'seconds')}"
    if not half:
        return words
    # the stop of "p.m." at the end of a sentence is the sentence's own, too
    stop = "." if match["half"].endswith(".") and not match.string[match.end() :].strip() else ""
    return f"{words} {half}{stop}"


# ---- money, measures


def _money(match: re.Match[str]) -> str:
    sign = _CURRENCY_CODES.get(match["sign"].strip(), match["sign"])
    amount, magnitude = match["amount"], match["magnitude"]
    minus = "minus " if match["minus"] else ""
    one, many, small_one, small_many = _CURRENCIES[sign]
    if magnitude:
        return f"{minus}{_say_number(amount)} {_MAGNITUDES.get(magnitude, magnitude)} {many}"
    whole, point, cents = amount.partition(".")
    if point and (len(cents) != 2 or not small_one):
        return f"{minus}{_say_number(amount)} {many}"
    words = [] if cents.strip("0") and not whole.strip("0,") else [_counted(whole, one, many)]
    if cents.strip("0"):
        words.append(_counted(cents.lstrip("0"), small_one, small_many))
    return minus + " and ".join(words)


def _counted(amount: str, one: str, many: str) -> str:
    return f"{_say_number(amount)} {one if amount == '1' else many}"


def _measure(match: re.Match[str]) -> str:
    one, many = _UNITS[match["unit"]]
    minus = "minus " if match["minus"] else ""
    if match["magnitude"]:
        return f"{minus}{_say_number(match['amount'])} {match['magnitude']} {many}"
    return f"{minus}{_counted(match['amount'], one, many)}"


# ---- the rest


def _phone(match: re.Match[str]) -> str:
    groups = re.findall(r"\d+", match[0])
    plus = "plus " if match[0].startswith("+") else ""
    return plus + ", ".join(numbers.digits(group) for group in groups)


def _abbreviation(match: re.Match[str]) -> str:
    ends_sentence = not match.string[match.end() :].strip(" \"')")
    return ABBREVIATIONS[match[1]] + ("." if ends_sentence else "")


def _saint_or_street(match: re.Match[str]) -> str:
    rest = match.string[match.end() :]
    if re.match(r"\s+[A-Z]", rest) and not re.search(r"\d\s+\w+\s*$|[A-Z]\w+\s*$", match.string[: match.start()]):
        return "Saint"
    return "Street" + ("." if not rest.strip() else "")


def _drive_or_doctor(match: re.Match[str]) -> str:
    return f"{match[1]} Drive"


def _initials(match: re.Match[str]) -> str:
    """U.S. -> US; the last stop stays when the sentence ends there."""
    letters = match[0].replace(".", "")
    return letters + ("." if not match.string[match.end() :].strip(" \"')") else "")


def _roman(written: str) -> int:
    values = [_ROMAN_VALUES[letter] for letter in written]
    return sum(-value if value < max(values[index:]) else value for index, value in enumerate(values))


def _range(match: re.Match[str]) -> str:
    unit = f" {_UNITS[match['unit']][1]}" if match["unit"] else ""
    return f"{_say_number(match['a'])} to {_say_number(match['b'])}{unit}"


def _year_range(match: re.Match[str]) -> str:
    return f"{numbers.year(int(match[1]))} to {numbers.year(int(match[2]))}"


def _mixed_fraction(match: re.Match[str]) -> str:
    numerator, denominator = int(match["n"]), int(match["d"])
    if denominator == 0:
        return match[0]
    words = numbers.fraction(numerator, denominator)
    if not match["whole"]:
        return words
    return f"{numbers.cardinal(int(match['whole']))} and {words.replace('one half', 'a half')}"


def _split_letters_and_digits(match: re.Match[str]) -> str:
    """MP3 -> MP 3, 4K -> 4 K, iPhone15 -> iPhone 15."""
    return re.sub(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])", " ", match[0])


_UNIT = "|".join(sorted((re.escape(unit) for unit in _UNITS), key=len, reverse=True))
_CURRENCY = "|".join(re.escape(sign) for sign in _CURRENCIES)
_CODE = "|".join(_CURRENCY_CODES)
_AMOUNT = rf"(?P<amount>{_NUMBER})"
_MINUS = r"(?P<minus>(?<![\w.,)])-)?"
_MAGNITUDE = r"(?:\s?(?P<magnitude>thousand|million|billion|trillion|bn|[kKmMB])\b)?"
_YEAR_BEFORE = (
    r"(?:(?<=\bin\s)|(?<=\bIn\s)|(?<=\bsince\s)|(?<=\bSince\s)|(?<=\bby\s)|(?<=\bBy\s)|(?<=\buntil\s)|(?<=\byear\s)"
    r"|(?<=\bduring\s)|(?<=\bbefore\s)|(?<=\bafter\s)|(?<=\bcirca\s)|(?<=\bspring\s)|(?<=\bsummer\s)|(?<=\bautumn\s)"
    r"|(?<=\bwinter\s)|(?<=\bJanuary\s)|(?<=\bFebruary\s)|(?<=\bMarch\s)|(?<=\bApril\s)|(?<=\bMay\s)|(?<=\bJune\s)"
    r"|(?<=\bJuly\s)|(?<=\bAugust\s)|(?<=\bSeptember\s)|(?<=\bOctober\s)|(?<=\bNovember\s)|(?<=\bDecember\s))"
)


def _decade(match: re.Match[str]) -> str:
    number = int(match[1])
    if number % 10 or (number < 100 and number < 20):
        return match[0]
    return numbers.decade(number) if number >= 100 else numbers.decade(1900 + number).split(" ", 1)[1]


def _rule(pattern: str, words: Callable[[re.Match[str]], str], flags: int = 0) -> Rule:
    return re.compile(pattern, flags), words


def _address_rules() -> list[Rule]:
    """The net comes first: its dots, slashes and digits are nobody else's."""
    return [
        _rule(r"(?:https?://|ftp://|www\.)[^\s<>\"']+", _url),
        _rule(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", _url),
        _rule(
            r"\b(?:[a-z0-9-]+\.)+(?:com|org|net|io|cn|edu|gov|ai|dev)(?:\.[a-z]{2})?(?:/[\w/.?=&%-]*)?\b",
            _url,
            re.IGNORECASE,
        ),
        _rule(r"\b(e\.g\.|i\.e\.|a\.k\.a\.|w/o\b|w/(?=\s))", lambda m: _LATIN[m[1]]),
    ]


def _date_rules() -> list[Rule]:
    """Dates, weekdays and times of the day."""
    return [
        _rule(_NOT_INSIDE + r"(?P<y>[12]\d{3})[-/](?P<m>\d{1,2})[-/](?P<d>\d{1,2})(?![\w/-])", _iso_date),
        _rule(
            _NOT_INSIDE + r"(?P<a>\d{1,2})(?P<sep>[/.-])(?P<b>\d{1,2})(?P=sep)(?P<y>\d{4}|\d{2})(?![\w/-]|\.\d)",
            _slash_date,
        ),
        _rule(r"\b(24/7|9/11)\b", lambda m: " ".join(numbers.cardinal(int(part)) for part in m[0].split("/"))),
        _rule(
            rf"\b(?P<month>{_MONTH})\s(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s(?P<y>[12]\d{{3}})\b)?(?![:.,]\d|\s?%)",
            _month_day,
        ),
        _rule(
            rf"\b(?:the\s)?(?P<d>\d{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?(?P<month>{_MONTH})(?!\w)"
            r"(?:,?\s(?P<y>[12]\d{3})\b)?",
            _day_month,
        ),
        _rule(rf"\b({'|'.join((*_MONTH_SHORT, 'Sept'))})\.?(?=\s[12]\d{{3}}\b)", lambda m: _month_name(m[1])),
        _rule(r"\b(" + "|".join(_WEEKDAY_SHORT) + r")\.(?=,\s|\s\d)", lambda m: _WEEKDAY_SHORT[m[1]]),
        _rule(
            r"\b(?P<h>[01]?\d|2[0-3]):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?"
            r"(?:\s?(?P<half>[aApP]\.?\s?[mM]\b\.?))?(?![:\d])",
            _clock,
        ),
        _rule(r"\b(?P<h>1[0-2]|0?[1-9])(?P<m>)(?P<s>)\s?(?P<half>[aApP]\.[mM]\.|[aApP][mM]\b)", _clock),
    ]


def _phone_and_money_rules() -> list[Rule]:
    """Telephone numbers, amounts, and number signs."""
    return [
        _rule(
            r"(?:\+\d{1,3}[ -]?(?:\(\d{1,4}\)[ -]?)?\d{2,4}(?:[ -]\d{2,4}){1,4}"
            r"|\(\d{3}\)\s?\d{3}-\d{4})(?![\w-])",
            _phone,
        ),
        _rule(_NOT_INSIDE + r"(?<!-)(?:1-)?\d{3}[-.]\d{3}[-.]\d{4}(?![\w-])|(?<![\w.,-])\d{3}-\d{4}(?![\w-])", _phone),
        _rule(rf"{_MINUS}(?P<sign>{_CURRENCY}|\b(?:{_CODE})\s?(?=\d))\s?{_AMOUNT}{_MAGNITUDE}", _money),
        _rule(rf"{_NOT_INSIDE}{_MINUS}{_AMOUNT}{_MAGNITUDE}\s?(?P<sign>{_CURRENCY}|\b(?:{_CODE})\b)(?!\d)", _money),
        _rule(r"\b(?:No|no|Nos|nos)\.\s?(?=\d)", lambda m: "number "),
        _rule(r"#\s?(?=\d)", lambda m: "number "),
    ]


def _name_rules() -> list[Rule]:
    """Roman numerals, titles, abbreviations and initials."""
    return [
        _rule(rf"\b({_ROMAN_AFTER})\s([IVX]+)\b", lambda m: f"{m[1]} {numbers.cardinal(_roman(m[2]))}"),
        _rule(rf"\b({_KINGS})\s([IVX]{{2,}}|[VX])\b", lambda m: f"{m[1]} the {numbers.ordinal(_roman(m[2]))}"),
        _rule(r"\bPh\.?\s?D\b\.?(?=\s|$|[,;])", lambda m: "PhD"),
        _rule(r"\b((?:\d+|[A-Z]\w+)\s[A-Z]\w+)\sDr\.(?!\s[A-Z][a-z])", _drive_or_doctor),
        _rule(r"\bSt\.", _saint_or_street),
        _rule(r"\b(" + "|".join(ABBREVIATIONS) + r")\.", _abbreviation),
        _rule(r"\b(" + "|".join(_TITLES_WITHOUT_STOP) + r")(?=\s[A-Z])", lambda m: ABBREVIATIONS[m[1]]),
        _rule(r"\b(?:[A-Z]\.){2,}", _initials),
        _rule(r"\b([A-Z])\.(?=\s[A-Z][a-z])", lambda m: m[1]),
    ]


def _measure_rules() -> list[Rule]:
    """Decades, ranges, sizes, measures, fractions and ratios."""
    return [
        _rule(r"(?<![\w'])'?(\d{2}|[12]\d{3})'?s\b", _decade),
        _rule(r"\b([12]\d{3})\s?[-–—]\s?([12]\d{3})\b(?![\w-])", _year_range),
        _rule(
            rf"{_NOT_INSIDE}(?P<a>{_NUMBER})\s?[-–]\s?(?P<b>{_NUMBER})(?:\s?(?P<unit>{_UNIT}))?(?![\w-])",
            _range,
        ),
        _rule(
            rf"{_NOT_INSIDE}(?P<a>{_NUMBER})\s?[x×]\s?(?P<b>{_NUMBER})\b",
            lambda m: f"{_say_number(m['a'])} by {_say_number(m['b'])}",
        ),
        _rule(
            rf"{_NOT_INSIDE}{_MINUS}{_AMOUNT}(?:\s(?P<magnitude>[mb]illion|thousand|trillion))?"
            rf"\s?(?P<unit>{_UNIT})(?![\w/])",
            _measure,
        ),
        _rule(r"(?<![\w./])(?:(?P<whole>\d+)\s)?(?P<n>\d{1,3})/(?P<d>\d{1,3})(?![\w/]|\.\d)", _mixed_fraction),
        _rule(r"(?<![\w.,:])(\d+):(\d+)(?![\w:])", lambda m: f"{_say_number(m[1])} to {_say_number(m[2])}"),
    ]


def _number_rules() -> list[Rule]:
    """What is left of digits, and the signs between them."""
    return [
        _rule(r"\b(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b", lambda m: numbers.ordinal(int(m[1].replace(",", "")))),
        _rule(
            r"(?<![\w.,])\d+(?:\.\d+){2,}(?!\w)",
            lambda m: " point ".join(numbers.cardinal(int(p)) for p in m[0].split(".")),
        ),
        _rule(r"\b(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z\d]+\b", _split_letters_and_digits),
        _rule(rf"{_YEAR_BEFORE}([12]\d{{3}})(?![\d,.]*\d|%)\b", lambda m: numbers.year(int(m[1]))),
        _rule(
            r"(?<![\w.,])((?:1[1-9]|20)\d{2})"
            r"(?=\s?(?:[,;.!?)]|$|[A-Z]|(?:was|is|were|will|had|saw|and|to|brought)\b))(?!,\d{3}|\.\d)",
            lambda m: numbers.year(int(m[1])),
        ),
        _rule(r"(?<=\d)\s?\*\s?(?=\d)", lambda m: " times "),
        _rule(r"(?<=\d)\s-\s(?=\d)", lambda m: " minus "),
        _rule(r"(?<![\w)])-(?=\.?\d)", lambda m: " minus "),
        _rule(_NUMBER + r"|\.\d+", lambda m: f" {_say_number(m[0])} "),
        _rule(r"(?<=[A-Za-z])/(?=[A-Za-z])", lambda m: " "),
        _rule("[" + re.escape("".join(_SIGNS)) + "]", lambda m: f" {_SIGNS[m[0]]} "),
        _rule(r"\s+(?=[,.;:!?])", lambda m: ""),
    ]


_RULES = [
    *_address_rules(),
    *_date_rules(),
    *_phone_and_money_rules(),
    *_name_rules(),
    *_measure_rules(),
    *_number_rules(),
]
