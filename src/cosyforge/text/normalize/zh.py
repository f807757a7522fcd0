"""Written Mandarin to spoken Mandarin: numbers, dates, times, money, units, telephone numbers and signs become hanzi.

The rules run from the most particular to the most general, each over the whole sentence, so that what an early rule has
turned into words no later rule sees as digits. Sentence punctuation stays. Nothing is dropped here: a character that no
rule knows stays in the text, and the front end decides about it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal

from cosyforge.text.normalize.zh_numbers import (
    NUMBER,
    cardinal,
    clock,
    date,
    decimal,
    digits,
    fraction,
    percent,
    power,
)
from cosyforge.text.normalize.zh_tables import (
    CURRENCIES,
    CURRENCY_CODES,
    MEASURE_WORDS,
    NET_SIGNS,
    NUMBERED_DAYS,
    NUMBERED_WORDS,
    ONLY_IN_FORMULAS,
    SCORE_WORDS,
    SIGNS,
    UNITS,
    WIN_WORDS,
)
from cosyforge.text.ribbon import CJK, Ribbon

__all__ = ["cardinal", "decimal", "digits", "measure", "normalize_mandarin", "rewrite", "unit_name"]

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


def normalize_mandarin(text: str) -> str:
    """Write one sentence the way it is spoken; words stay as they are written, sentence punctuation stays."""
    ribbon = Ribbon.of(text)
    rewrite(ribbon)
    return ribbon.text


def rewrite(ribbon: Ribbon) -> None:
    """As normalize_mandarin, in place."""
    for pattern, words in (*_TIDY, *_RULES):
        ribbon.sub(pattern, words)
    # a space counts only where it keeps two Latin words apart
    ribbon.sub(_SPACE_OF_NO_USE, lambda match: "")
    ribbon.strip(" \t\n")


def measure(number: str, unit: str) -> str | None:
    """5, km -> 五公里; None when the unit is none."""
    name = unit_name(unit)
    return None if name is None else decimal(number, counting=True) + name


def unit_name(unit: str) -> str | None:
    """km/h -> 公里每小时; None when it is none."""
    first, slash, second = unit.partition("/")
    if unit not in UNITS and slash and first in UNITS and second in UNITS:
        return f"{UNITS[first]}每{UNITS[second]}"
    return UNITS.get(unit)


_SPACE_OF_NO_USE = re.compile(r"(?<![A-Za-z,.!?;:'])\s+|\s+(?![A-Za-z])")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOOK_ALIKES = {"℃": "°C"} | dict(zip("％￥−﹣＋＝＜＞／＃＆＠～〜", "%¥--+=<>/#&@~~", strict=True))
_ROMAN = "ⅠⅡⅢⅣⅤⅥⅦⅧⅨⅩⅪⅫ"

_SIGN = "|".join(sorted((re.escape(sign) for sign in CURRENCIES), key=len, reverse=True))
_CODE = "|".join(CURRENCY_CODES)
_UNIT = "|".join(sorted((re.escape(unit) for unit in UNITS.keys() - ONLY_IN_FORMULAS), key=len, reverse=True))
_MAGNITUDE = r"(?P<magnitude>[百千]?[万亿]|百|千|[kKMB](?![A-Za-z])|bn)?"
_FOREIGN_MAGNITUDES = {"k": (3, ""), "K": (3, ""), "M": (2, "万"), "B": (1, "亿"), "bn": (1, "亿")}
"""What comes after $85.8B in Mandarin: so many places to the left, and a unit."""

_START = r"(?<![\dA-Za-z.,])"
_MINUS = r"(?:(?<![\dA-Za-z.)）])-)?"
_TO = r"\s?[-~～—–至到]+\s?"
_TIME = r"(?:[01]?\d|2[0-4]):[0-5]\d"


def _folded(match: re.Match[str]) -> str:
    folded = unicodedata.normalize("NFKC", match[0]).replace("\u2044", "/")
    return re.sub(r"(?<=m)[23]$", lambda digit: "²³"[int(digit[0]) - 2], folded)


def _net(match: re.Match[str]) -> str:
    address = match[0].rstrip(".,;:!?)")
    parts = re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d\s]", address)
    words = [NET_SIGNS.get(part) or (digits(part) if part.isdigit() else part) for part in parts]
    return " ".join(words) + match[0][len(address) :]


def _date(match: re.Match[str]) -> str:
    return date(match["y"], match["m"], match["d"]) or match[0]


def _clock(match: re.Match[str]) -> str:
    half = {"a": "上午", "p": "下午"}.get((match["half"] or "")[:1].lower(), "")
    return half + clock(match["h"], match["m"], match["s"])


def _clock_range(match: re.Match[str]) -> str:
    first, second = (clock(*time.split(":")) for time in (match[1], match[2]))
    return f"{first}到{second}"


def _phone(match: re.Match[str]) -> str:
    """Groups as they are written, with a short pause between them."""
    groups = re.findall(r"\d+", match[0])
    plus = "加" if match[0].startswith("+") else ""
    return plus + "，".join(digits(group, one="幺") for group in groups)


def _money(match: re.Match[str]) -> str:
    fields = match.groupdict()
    currency = CURRENCIES.get(fields["sign"]) or CURRENCY_CODES[fields["sign"].upper()]
    minus = "负" if fields.get("minus") else ""
    to = f"到{decimal(fields['to'], counting=True)}" if fields.get("to") else ""
    amount, magnitude = fields["amount"], fields.get("magnitude") or ""
    if magnitude in _FOREIGN_MAGNITUDES and not to:
        power_of_ten, magnitude = _FOREIGN_MAGNITUDES[magnitude]
        amount = f"{Decimal(amount.replace(',', '')).scaleb(power_of_ten).normalize():f}"
    return minus + decimal(amount, counting=not to) + to + magnitude + currency


def _ratio(match: re.Match[str]) -> str:
    return "比".join(decimal(part) for part in re.split(r"\s?:\s?", match[0]))


def _range(match: re.Match[str]) -> str:
    """The second number is left for the rules of its unit."""
    is_ordinal = match.string[max(0, match.start() - 1) : match.start()] == "第"
    counted = not is_ordinal and re.match(rf"\s?(?:{MEASURE_WORDS}|{_UNIT})", match.string[match.end() :]) is not None
    return f"{decimal(match[1], counting=counted)}到{match[2]}"


def _version(match: re.Match[str]) -> str:
    parts = match[0].split(".")
    is_address = len(parts) > 3 or any(len(part) > 2 for part in parts)
    return "点".join(digits(part) if is_address else decimal(part) for part in parts)


def _after_letters(match: re.Match[str]) -> str:
    number = match[1]
    return digits(number) if len(number) > 2 and "." not in number else decimal(number)


def _power(match: re.Match[str]) -> str:
    return power(match[1].translate(_SUPERSCRIPTS))


def _scientific(match: re.Match[str]) -> str:
    return f"{decimal(match[1])}乘十{power(str(int(match[2])))}"


def _rule(pattern: str, words: Callable[[re.Match[str]], str], flags: int = 0) -> Rule:
    return re.compile(pattern, flags), words


def _tidy_rules() -> list[Rule]:
    """Full-width letters and digits, circled numbers and squared units become plain; full-width punctuation stays."""
    return [
        _rule(f"[{re.escape(''.join(_LOOK_ALIKES))}]", lambda m: _LOOK_ALIKES[m[0]]),
        _rule(r"[０-９Ａ-Ｚａ-ｚ]", lambda m: chr(ord(m[0]) - 0xFEE0)),
        _rule(f"[{_ROMAN}]", lambda m: str(_ROMAN.index(m[0]) + 1)),
        _rule(r"(?<=\d)(?=[¼-¾⅐-⅞])", lambda m: " "),
        _rule(r"[\u2460-\u249b\u3200-\u33ff¼-¾⅐-⅞\u2100-\u215fﬀ-ﬆµ]", _folded),
        _rule(r"(?<=\d)\s?：\s?(?=\d)", lambda m: ":"),
    ]


def _name_rules() -> list[Rule]:
    """Addresses of the net, telephone numbers and numbers that name something: their digits are nobody else's."""
    return [
        _rule(rf"(?:https?://|ftp://|www\.)[^\s<>\"'{CJK}，。；！？、）]+", _net, re.IGNORECASE),
        _rule(r"[A-Za-z\d._+-]+@[A-Za-z\d-]+(?:\.[A-Za-z\d-]+)+", _net),
        _rule(
            r"(?<![A-Za-z\d.-])(?:[A-Za-z\d-]+\.)+(?:com|org|net|io|cn|edu|gov|ai|dev)(?:\.cn)?(?:/[\w/.?=&%-]*)?(?![A-Za-z\d])",
            _net,
        ),
        _rule(r"(?<![\dA-Za-z-])(?:\+?86[- ]?)?1[3-9]\d(?:([- ]?)\d{4}\1\d{4})(?!\d)", _phone),
        _rule(r"(?<![\dA-Za-z-])(?:\(0\d{2,3}\)\s?|（0\d{2,3}）\s?|0\d{2,3}-)\d{7,8}(?:-\d{1,5})?(?!\d)", _phone),
        _rule(r"(?<![\dA-Za-z-])[48]00(?:-?\d{3}-?\d{4}|-\d{4}-\d{3}|-\d{7})(?![\d])", _phone),
        _rule(
            rf"(?<=[{CJK}])(?<=[打电话线服警救拨式])([:：是为]?\s?)((?:1[012]|9[56])\d{{1,4}})(?![\d.%]|[年月日元个])",
            lambda m: m[1] + digits(m[2], one="幺"),
        ),
        _rule(r"(?<![\d.])(\d{3,6})(?=(?:服务)?热线|报警电话|急救)", lambda m: digits(m[1], one="幺")),
        _rule(
            r"(?<![\d.])(1\d{4})(?=客服|官网|网站|平台|网上|投诉|购票|抢票)|(?<=登录)(1\d{4})(?!\d)",
            lambda m: digits(m[0], one="幺"),
        ),
        _rule(
            rf"(?<=[{CJK}Q])((?:{NUMBERED_WORDS})(?:号码?)?(?:是|为|[:：])?\s?[A-Za-z]*)(\d{{2,}})(?=[A-Za-z\d]*)(?!\.\d|[元个万亿%])",
            lambda m: m[1] + digits(m[2]),
        ),
        _rule(
            rf"^((?:{NUMBERED_WORDS})(?:号码?)?(?:是|为|[:：])?\s?[A-Za-z]*)(\d{{2,}})(?!\.\d|[元个万亿%])",
            lambda m: m[1] + digits(m[2]),
        ),
        _rule(r"(?<![\d.])(\d{3,4})(?=室|号房|房间)", lambda m: digits(m[1])),
        _rule(r"(?<=[零一二三四五六七八九幺]转)\d{1,6}(?!\d)", lambda m: digits(m[0], one="幺")),
        _rule(rf"(?<![\d.])(?:{NUMBERED_DAYS})", lambda m: digits(m[0])),
        _rule(r"(?<![\d.])\d0(?=后(?![来面天]))", lambda m: digits(m[0])),
    ]


def _date_rules() -> list[Rule]:
    """Dates, years and times of the day; a score looks like a time and is known by the words at it."""
    return [
        _rule(r"(?<![\d.-])(?P<y>[12]\d{3})(?P<sep>[-/.])(?P<m>\d{1,2})(?P=sep)(?P<d>\d{1,2})(?![\d-]|\.\d)", _date),
        _rule(r"(?<![\d.-])(?P<y>(?:19|20)\d{2})[-/](?P<m>0[1-9]|1[0-2])(?P<d>)(?![\d/-]|\.\d)", _date),
        _rule(rf"(?<!\d)([12]\d{{3}})(年?){_TO}([12]\d{{3}})(?=年)", lambda m: f"{digits(m[1])}{m[2]}到{digits(m[3])}"),
        _rule(
            rf"(?<![\d.-])(1[0-9]\d\d|20\d\d)\s?[-~—–]\s?(1[0-9]\d\d|20\d\d)(?![\d.-]|\s?(?:{MEASURE_WORDS}|{_UNIT}))",
            lambda m: f"{digits(m[1])}到{digits(m[2])}" if m[1] < m[2] else m[0],
        ),
        _rule(r"(?<![\d.])((?:19|20)\d{2})(?=财年|赛季|版|款)", lambda m: digits(m[1])),
        _rule(r"(?<![\d.])([12]\d{3})(?=年(?!前|后|来|间|以))", lambda m: digits(m[1])),
        _rule(
            r"(?:^|(?<=[在于从自到至，。（(、和]))(0\d|[5-9]\d)(?=年(?!前|后|来|间|以|代|的?历史|时间|内|多))",
            lambda m: digits(m[1]),
        ),
        _rule(
            rf"((?:{SCORE_WORDS})[^\d，。；]{{0,3}})(\d+)\s?:\s?(\d+)(?!\d)",
            lambda m: f"{m[1]}{decimal(m[2])}比{decimal(m[3])}",
        ),
        _rule(rf"(?<![\d:])\d{{1,3}}:\d{{1,3}}(?=\s?(?:{WIN_WORDS}))", _ratio),
        _rule(rf"(?<![\d:])({_TIME}){_TO}({_TIME})(?![\d:])", _clock_range),
        _rule(
            r"(?<![\d:])(?P<h>[01]?\d|2[0-4]):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?(?![\d:])(?:\s?(?P<half>[AaPp]\.?[Mm])\b\.?)?",
            _clock,
        ),
        _rule(
            r"(?<![\d.:])(1[0-2]|0?[1-9])\s?([AaPp])\.?[Mm](?![A-Za-z])\.?",
            lambda m: ("上午" if m[2] in "aA" else "下午") + clock(m[1], "0"),
        ),
    ]


def _money_rules() -> list[Rule]:
    amount = rf"(?P<amount>{NUMBER})"
    to = rf"(?:{_TO}(?:{_SIGN})?(?P<to>{NUMBER}))?"
    return [
        _rule(
            rf"(?P<minus>(?<![\dA-Za-z.)）])-)?(?P<sign>{_SIGN})\s?{amount}{to}\s?{_MAGNITUDE}(?:美元|元|块)?", _money
        ),
        _rule(rf"(?<![A-Za-z])(?P<sign>{_CODE})\s?{amount}{to}\s?{_MAGNITUDE}(?:美元|元)?", _money, re.IGNORECASE),
        _rule(rf"{_START}{amount}{_MAGNITUDE}\s?(?P<sign>{_SIGN})(?!\d)", _money),
        _rule(rf"{_START}{amount}{_MAGNITUDE}\s?(?P<sign>{_CODE})(?![A-Za-z])", _money, re.IGNORECASE),
        _rule(r"(?<=角)2(?=分)", lambda m: "二"),
        _rule(r"(?<=[元块次个名]) ?/ ?", lambda m: "每"),
    ]


def _measure_rules() -> list[Rule]:
    """Percentages, powers, ranges, units, fractions and ratios."""
    return [
        _rule(rf"({NUMBER})(?:\s?%)?{_TO}({NUMBER})\s?%", lambda m: f"{percent(m[1])}到{percent(m[2])}"),
        _rule(rf"({_MINUS}{NUMBER})\s?%", lambda m: percent(m[1])),
        _rule(rf"({_MINUS}{NUMBER})\s?‰", lambda m: percent(m[1], "千")),
        _rule(rf"(?<![\dA-Za-z.])({_MINUS}\d+(?:\.\d+)?)[eE]([+-]?\d{{1,3}})(?![\dA-Za-z.])", _scientific),
        _rule(r"(?<=[\dA-Za-z)）])\^\s?[({]?\s?(-?\d{1,4}|-?[A-Za-z])\s?[)}]?", _power),
        _rule(
            rf"({_MINUS}{NUMBER})\s?({_UNIT})(?=\s?[×x*]\s?\d)", lambda m: decimal(m[1], counting=True) + UNITS[m[2]]
        ),
        _rule(r"(?<=\d)\s?[xX*]\s?(?=\d)", lambda m: "乘"),
        _rule(r"(?<![\d-])\d+(?:-\d+){2,}(?![\d-])", lambda m: "，".join(digits(part) for part in m[0].split("-"))),
        _rule(r"(?<=\d)\s?-\s?(?=\d+(?:\.\d+)?\s?=)|(?<=\d)\s-\s(?=\d)", lambda m: "减"),
        _rule(rf"(?<![\dA-Za-z.,-])({NUMBER})\s?(?:[-~—–]+|——)\s?({NUMBER})(?![\d-])", _range),
        _rule(
            rf"({_MINUS}{NUMBER})\s?((?:{_UNIT})/(?:{_UNIT})|{_UNIT})(?![A-Za-z/²³])",
            lambda m: measure(m[1], m[2]) or m[0],
        ),
        _rule(r"(?<=[\dA-Za-z)）])([⁰¹²³⁴-⁹⁺⁻ⁿ]+)", _power),
        _rule(rf"(?<=次方)\s?({_UNIT})(?![A-Za-z/²³])", lambda m: UNITS[m[1]]),
        _rule(
            r"(?<![\d./])(\d{1,9})\s(\d{1,4})/([1-9]\d{0,3})(?![\d/])",
            lambda m: f"{decimal(m[1])}又{fraction(m[2], m[3])}",
        ),
        _rule(r"(?<![\d./])(\d{1,6})/([1-9]\d{0,5})(?![\d/])", lambda m: fraction(m[1], m[2])),
        _rule(r"(?<![\d.:])\d+(?:\.\d+)?(?:\s?:\s?\d+(?:\.\d+)?)+(?![\d:])", _ratio),
    ]


def _number_rules() -> list[Rule]:
    """What is left of digits, and the signs between them."""
    return [
        _rule(r"(?<=第)(\d+)", lambda m: cardinal(int(m[1])).replace("两", "二", 1) if m[1] == "2" else decimal(m[1])),
        _rule(rf"(?<![\d.,第A-Za-z周])2(?=\s?(?:多|几|余)?(?:{MEASURE_WORDS}))", lambda m: "两"),
        _rule(r"(?<![\d.])(?:\d+\.){2,}\d+(?![\d.])", _version),
        _rule(r"(?<=[A-Za-z])-?(\d+(?:\.\d+)?)(?![\d.]*\d)", _after_letters),
        _rule(r"(?<=[A-Za-z\d])\.(?=[A-Za-z])", lambda m: "点"),
        _rule(r"(?<![A-Za-z\d)）])\+(?=\d)", lambda m: "正"),
        _rule(r"(?<=[\d)）])\s?\*\s?(?=[\d(（])", lambda m: "乘"),
        _rule(rf"{_MINUS}{NUMBER}", lambda m: decimal(m[0])),
        _rule(r"\d", lambda m: digits(m[0])),
        _rule(rf"(?<=[{CJK}])\s?/\s?(?=[{CJK}])", lambda m: "、"),
        _rule(r"/", lambda m: " "),
        _rule(r"~+", lambda m: "，"),
        _rule("[" + re.escape("".join(SIGNS)) + "]", lambda m: SIGNS[m[0]]),
    ]


_TIDY = _tidy_rules()
_RULES = [*_name_rules(), *_date_rules(), *_money_rules(), *_measure_rules(), *_number_rules()]
