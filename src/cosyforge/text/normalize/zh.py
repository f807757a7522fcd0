"""Written Mandarin to spoken Mandarin: numbers, dates, times, percent, money, units and telephone numbers become hanzi.

Like the English rules: the particular before the general, punctuation stays, nothing is dropped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

_DIGITS = "零一二三四五六七八九"
_SMALL_PLACES = ("", "十", "百", "千")
_LARGE_PLACES = ("", "万", "亿", "万亿")
_MAX_DIGITS = 16

_CURRENCIES = {
    "¥": "元", "￥": "元", "RMB": "元", "CNY": "元", "$": "美元", "US$": "美元", "USD": "美元", "€": "欧元",
    "£": "英镑", "HK$": "港元",
}  # fmt: skip
_UNITS = {
    "km/h": "公里每小时", "m/s": "米每秒", "km²": "平方公里", "m²": "平方米", "m³": "立方米", "km": "公里",
    "cm": "厘米",
    "mm": "毫米", "m": "米", "kg": "公斤", "mg": "毫克", "g": "克", "ml": "毫升", "mL": "毫升", "L": "升",
    "°C": "摄氏度",
    "°F": "华氏度", "°": "度", "kWh": "千瓦时", "kW": "千瓦", "W": "瓦", "V": "伏", "Hz": "赫兹", "kHz": "千赫",
    "MHz": "兆赫", "GHz": "吉赫", "dB": "分贝", "min": "分钟", "h": "小时", "s": "秒",
}  # fmt: skip
_SIGNS = {
    "+": "加", "=": "等于", "×": "乘", "÷": "除以", "±": "正负", "≈": "约等于", "≠": "不等于",
    "≤": "小于等于", "≥": "大于等于",
    "<": "小于", ">": "大于", "&": "和", "@": "艾特", "#": "井号", "°": "度", "%": "百分号", "$": "美元", "€": "欧元",
    "£": "英镑", "¥": "元", "~": "至", "→": "到", "_": "下划线", "^": "的次方", "\\": "反斜杠", "*": "星号", "/": " ",
}  # fmt: skip
_MEASURE_WORDS = "个只条张位名件本台辆家块头匹间座层次遍天年周分秒杯瓶碗斤元块人岁倍种部把双对套米里升吨克度"


def normalize_mandarin(text: str) -> str:
    """Write one sentence the way it is spoken; words stay as they are written, sentence punctuation stays."""
    text = _tidy(text)
    for pattern, words in _RULES:
        text = pattern.sub(words, text)
    # a space counts only where it keeps two Latin words apart
    text = re.sub(r"(?<![A-Za-z,.!?;:'])\s+|\s+(?![A-Za-z])", "", text)
    return text.strip()


def cardinal(number: int) -> str:
    """10 -> 十, 105 -> 一百零五, 20000 -> 两万 is left to the caller's taste: 二万."""
    if number < 0:
        return f"负{cardinal(-number)}"
    written = str(number)
    if len(written) > _MAX_DIGITS:
        return digits(written)
    groups = [int(written[max(0, end - 4) : end]) for end in range(len(written), 0, -4)]
    spoken = ""
    for place in range(len(groups) - 1, -1, -1):
        group = groups[place]
        if not group:
            continue
        if spoken and (group < 1000 or not groups[place + 1]):
            spoken += "零"
        spoken += _group(group) + _LARGE_PLACES[place]
    spoken = spoken or _DIGITS[0]
    return spoken[1:] if spoken.startswith("一十") else spoken


def _group(number: int) -> str:
    spoken, gap = "", False
    for place in range(3, -1, -1):
        digit = number // 10**place % 10
        if digit:
            spoken += ("零" if gap and spoken else "") + _DIGITS[digit] + _SMALL_PLACES[place]
            gap = False
        else:
            gap = True
    return spoken


def digits(text: str, *, one: str = "一") -> str:
    """Read every digit by itself; telephone numbers say 幺 for one."""
    return "".join(_DIGITS[int(char)] if char != "1" else one for char in text if char.isdigit())


def decimal(written: str) -> str:
    """-1,234.50 -> 负一千二百三十四点五零; 007 -> 零零七."""
    sign = "负" if written[:1] == "-" else ""
    whole, point, fraction = written.lstrip("-+").replace(",", "").partition(".")
    if len(whole) > 1 and whole.startswith("0") and not point:
        return sign + digits(whole)
    return sign + cardinal(int(whole or "0")) + (f"点{digits(fraction)}" if point else "")


def _tidy(text: str) -> str:
    for sign, kept in (("²", "\ue002"), ("³", "\ue003"), ("…", "\ue004"), ("℃", "°C"), ("％", "%"), ("￥", "¥")):
        text = text.replace(sign, kept)
    # full-width letters and digits become plain, full-width punctuation stays
    text = "".join(
        unicodedata.normalize("NFKC", char) if "０" <= char <= "ｚ" and char.isalnum() else char for char in text
    )
    for kept, sign in (("\ue002", "²"), ("\ue003", "³"), ("\ue004", "…"), ("−", "-")):
        text = text.replace(kept, sign)
    return re.sub(r"(?<=\d)：(?=\d)", ":", text)


def _date(match: re.Match[str]) -> str:
    month, day = int(match["m"]), int(match["d"])
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return match[0]
    return f"{digits(match['y'])}年{cardinal(month)}月{cardinal(day)}日"


def _clock(match: re.Match[str]) -> str:
    hour, minute, second = int(match["h"]), int(match["m"]), match["s"]
    spoken = f"{_two(cardinal(hour))}点"
    if minute:
        spoken += f"{'零' if minute < 10 else ''}{cardinal(minute)}分"
    elif not second:
        spoken += "整"
    return spoken + (f"{cardinal(int(second))}秒" if second else "")


def _money(match: re.Match[str]) -> str:
    return decimal(match["amount"]) + (match["magnitude"] or "") + _CURRENCIES[match["sign"].strip()]


def _counted(match: re.Match[str]) -> str:
    return _two(cardinal(int(match[1].replace(",", "")))) + match[2]


def _two(spoken: str) -> str:
    """A quantity of two is 两, the number two is 二."""
    return "两" if spoken == "二" else spoken


def _rules() -> list[Rule]:
    number = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
    signs = "|".join(sorted((re.escape(sign) for sign in _CURRENCIES), key=len, reverse=True))
    units = "|".join(sorted((re.escape(unit) for unit in _UNITS), key=len, reverse=True))
    magnitude = r"(?P<magnitude>[万亿千百]+)?"
    minus = r"(?:(?<![\w.)])-)?"
    start = r"(?<![\dA-Za-z.,])"

    def rule(pattern: str, words: Callable[[re.Match[str]], str]) -> Rule:
        return re.compile(pattern), words

    return [
        rule(r"(?<!\d)(?P<y>[12]\d{3})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?!\d)", _date),
        rule(r"(?<!\d)([12]\d{3})(?=年(?!前|后|来|间|以))", lambda m: digits(m[1])),
        rule(r"(?<!\d)(?P<h>[01]?\d|2[0-4]):(?P<m>[0-5]\d)(?::(?P<s>[0-5]\d))?(?!\d)", _clock),
        rule(r"(?<![\dA-Za-z-])(?:\+?86[- ]?)?1[3-9]\d(?:[- ]?\d{4}){2}(?!\d)", lambda m: digits(m[0], one="幺")),
        rule(r"(?<![\dA-Za-z-])0\d{2,3}-\d{7,8}(?!\d)", lambda m: digits(m[0], one="幺")),
        rule(rf"(?P<sign>{signs})\s?(?P<amount>{number}){magnitude}元?", _money),
        rule(rf"{start}(?P<amount>{number}){magnitude}\s?(?P<sign>{signs})", _money),
        rule(
            rf"({number})\s?%\s?[-~—至到]\s?({number})\s?%", lambda m: f"百分之{decimal(m[1])}到百分之{decimal(m[2])}"
        ),
        rule(rf"({minus})({number})\s?%", lambda m: f"{'负' if m[1] else ''}百分之{decimal(m[2])}"),
        rule(rf"({minus})({number})\s?‰", lambda m: f"{'负' if m[1] else ''}千分之{decimal(m[2])}"),
        rule(rf"{start}({number})\s?[-~～–]\s?({number})(?![\d-])", lambda m: f"{decimal(m[1])}到{m[2]}"),
        rule(rf"({minus}(?:{number}))\s?({units})(?![A-Za-z/])", lambda m: _two(decimal(m[1])) + _UNITS[m[2]]),
        rule(r"(?<![\d./])(\d{1,4})/(\d{1,4})(?![\d/])", lambda m: f"{cardinal(int(m[2]))}分之{cardinal(int(m[1]))}"),
        rule(r"(?<![\d.:])(\d+):(\d+)(?![\d:])", lambda m: f"{cardinal(int(m[1]))}比{cardinal(int(m[2]))}"),
        rule(r"(?<=第)(\d+)", lambda m: cardinal(int(m[1]))),
        rule(rf"(?<![\d.,第A-Za-z])(2)([{_MEASURE_WORDS}](?!月|号))", _counted),
        rule(r"(?<!\d)(?:\d+\.){2,}\d+", lambda m: "点".join(digits(part) for part in m[0].split("."))),
        rule(
            r"(?<=[A-Za-z])-?(\d+(?:\.\d+)?)",
            lambda m: digits(m[1]) if len(m[1]) > 2 and "." not in m[1] else decimal(m[1]),
        ),
        rule(r"(?<=[A-Za-z\d])\.(?=[A-Za-z])", lambda m: "点"),
        rule(r"(?<=[元块次个名]) ?/ ?", lambda m: "每"),
        rule(rf"{minus}(?:{number})", lambda m: decimal(m[0])),
        rule("[" + re.escape("".join(_SIGNS)) + "]", lambda m: _SIGNS[m[0]]),
    ]


_RULES = _rules()
