"""Numbers as Mandarin words: strings of digits in, hanzi out."""

from __future__ import annotations

import re

_DIGITS = "零一二三四五六七八九"
_SMALL_PLACES = ("", "十", "百", "千")
_LARGE_PLACES = ("", "万", "亿", "万亿")
_MAX_DIGITS = 16

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"


def cardinal(number: int, *, counting: bool = False) -> str:
    """105 -> 一百零五, 2000 -> 两千, 20000 -> 两万, 200 -> 二百; longer than 16 digits: digit by digit.

    counting: something follows that is counted, and two is 两
    In common usage 二 stands before 十 and 百, 两 leads 千, 万 and 亿.
    """
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
        spoken += _group(group) + _large_place(place, groups)
    spoken = spoken or _DIGITS[0]
    if spoken.startswith("一十"):
        return spoken[1:]
    if spoken.startswith(("二千", "二万", "二亿")) or (counting and spoken == "二"):
        return f"两{spoken[1:]}"
    return spoken


def _large_place(place: int, groups: list[int]) -> str:
    """万亿 above a group of 亿 is 万 alone: 一万零一亿."""
    return "万" if place == 3 and groups[2] else _LARGE_PLACES[place]


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


def decimal(written: str, *, counting: bool = False) -> str:
    """-1,234.50 -> 负一千二百三十四点五零; 007 -> 零零七."""
    sign = "负" if written[:1] == "-" else ""
    whole, point, fraction = written.lstrip("-+").replace(",", "").partition(".")
    if len(whole) > 1 and whole.startswith("0") and not point:
        return sign + digits(whole)
    spoken = cardinal(int(whole or "0"), counting=counting and not point)
    return sign + spoken + (f"点{digits(fraction)}" if point else "")


def percent(written: str, of: str = "百") -> str:
    """12.5 -> 百分之十二点五, 100 -> 百分之百."""
    if of == "百" and written.replace(",", "") == "100":
        return "百分之百"
    sign = "负" if written[:1] == "-" else ""
    return f"{sign}{of}分之{decimal(written.lstrip('-'))}"


def fraction(numerator: str, denominator: str) -> str:
    """1/2 -> 二分之一."""
    return f"{decimal(denominator)}分之{decimal(numerator)}"


def power(exponent: str) -> str:
    """2 -> 的平方, 3 -> 的立方, -8 -> 的负八次方, n -> 的n次方."""
    short = {"2": "的平方", "3": "的立方"}.get(exponent)
    if short:
        return short
    is_number = re.fullmatch(r"-?\d+", exponent) is not None
    return f"的{decimal(exponent) if is_number else exponent}次方"


def clock(hour: str, minute: str, second: str | None = None) -> str:
    """8, 05 -> 八点零五分; 17, 00 -> 十七点."""
    spoken = f"{cardinal(int(hour), counting=True)}点"
    if int(minute):
        spoken += f"{'零' if int(minute) < 10 else ''}{cardinal(int(minute))}分"
    elif int(second or 0):
        spoken += "零分"
    return spoken + (f"{cardinal(int(second))}秒" if second and int(second) else "")


def date(year: str, month: str, day: str | None = None) -> str | None:
    """2026, 05, 05 -> 二零二六年五月五日; None when the calendar has no such day."""
    if not 1 <= int(month) <= 12 or not 1 <= int(day or 1) <= 31:
        return None
    return f"{digits(year)}年{cardinal(int(month))}月" + (f"{cardinal(int(day))}日" if day else "")
