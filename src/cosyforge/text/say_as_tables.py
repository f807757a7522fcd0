"""Names of symbols, marks, money and units in Mandarin and English, and surnames with a reading of their own."""

from __future__ import annotations

SYMBOLS = {
    "+": ("加", "plus"), "-": ("杠", "dash"), "*": ("星号", "asterisk"), "/": ("斜杠", "slash"), "=": ("等于", "equals"),
    "\\": ("反斜杠", "backslash"), "|": ("竖线", "vertical bar"), "_": ("下划线", "underscore"), "&": ("和", "ampersand"),
    "@": ("艾特", "at"), "#": ("井号", "hash"), "$": ("美元符号", "dollar sign"), "%": ("百分号", "percent sign"),
    "^": ("脱字符", "caret"), "~": ("波浪号", "tilde"), "`": ("反引号", "backtick"), "<": ("小于", "less than"),
    ">": ("大于", "greater than"), "€": ("欧元符号", "euro sign"), "£": ("英镑符号", "pound sign"),
    "¥": ("人民币符号", "yuan sign"), "￥": ("人民币符号", "yuan sign"), "¢": ("分币符号", "cent sign"),
    "°": ("度", "degree sign"), "℃": ("摄氏度", "degrees Celsius"), "℉": ("华氏度", "degrees Fahrenheit"),
    "‰": ("千分号", "per mille sign"), "×": ("乘", "times"), "÷": ("除以", "divided by"), "±": ("正负", "plus minus"),
    "≈": ("约等于", "approximately equals"), "≠": ("不等于", "not equal to"), "≤": ("小于等于", "less than or equal to"),
    "≥": ("大于等于", "greater than or equal to"), "√": ("根号", "square root"), "∞": ("无穷大", "infinity"),
    "∑": ("求和", "sum"), "∫": ("积分", "integral"), "∵": ("因为", "because"), "∴": ("所以", "therefore"),
    "→": ("右箭头", "right arrow"), "←": ("左箭头", "left arrow"), "↑": ("上箭头", "up arrow"),
    "↓": ("下箭头", "down arrow"), "©": ("版权符号", "copyright sign"), "®": ("注册商标", "registered sign"),
    "™": ("商标", "trademark sign"), "§": ("章节号", "section sign"), "№": ("编号", "number sign"),
    "②": ("圈二", "circled two"), "①": ("圈一", "circled one"), "③": ("圈三", "circled three"),
}  # fmt: skip
"""Symbol -> (Mandarin, English)."""

MARKS = {
    ".": ("点", "dot"), "。": ("句号", "full stop"), ",": ("逗号", "comma"), "，": ("逗号", "comma"),
    "、": ("顿号", "enumeration comma"), ";": ("分号", "semicolon"), "；": ("分号", "semicolon"),
    ":": ("冒号", "colon"), "：": ("冒号", "colon"), "?": ("问号", "question mark"), "？": ("问号", "question mark"),
    "!": ("感叹号", "exclamation mark"), "！": ("感叹号", "exclamation mark"),
    "…": ("省略号", "ellipsis"), "—": ("破折号", "dash"), "–": ("连接号", "dash"), "·": ("间隔号", "middle dot"),
    "'": ("单引号", "apostrophe"), '"': ("双引号", "quotation mark"),
    "‘": ("左单引号", "left single quote"), "’": ("右单引号", "right single quote"),
    "“": ("左双引号", "left quote"), "”": ("右双引号", "right quote"),
    "「": ("左引号", "left quote"), "」": ("右引号", "right quote"),
    "(": ("左括号", "left parenthesis"), ")": ("右括号", "right parenthesis"),
    "（": ("左括号", "left parenthesis"), "）": ("右括号", "right parenthesis"),
    "[": ("左中括号", "left bracket"), "]": ("右中括号", "right bracket"),
    "【": ("左中括号", "left bracket"), "】": ("右中括号", "right bracket"),
    "{": ("左大括号", "left brace"), "}": ("右大括号", "right brace"),
    "《": ("左书名号", "left title mark"), "》": ("右书名号", "right title mark"),
    "〈": ("左书名号", "left title mark"), "〉": ("右书名号", "right title mark"),
}  # fmt: skip
"""Punctuation mark -> (Mandarin, English)."""

_GREEK = (
    "阿尔法 alpha|贝塔 beta|伽马 gamma|德尔塔 delta|艾普西龙 epsilon|泽塔 zeta|伊塔 eta|西塔 theta|约塔 iota|卡帕 kappa|"
    "拉姆达 lambda|缪 mu|纽 nu|克西 xi|奥密克戎 omicron|派 pi|柔 rho|西格马 sigma|陶 tau|宇普西龙 upsilon|斐 phi|希 chi|"
    "普西 psi|欧米伽 omega"
).split("|")
for _letters in ("αβγδεζηθικλμνξοπρστυφχψω", "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"):
    for _letter, _names in zip(_letters, _GREEK, strict=True):
        _mandarin, _english = _names.split()
        SYMBOLS[_letter] = (_mandarin, _english)

CURRENCIES = {
    "CNY": ("元", "yuan", "yuan", "fen", "fen"),
    "USD": ("美元", "US dollar", "US dollars", "cent", "cents"),
    "EUR": ("欧元", "euro", "euros", "cent", "cents"),
    "GBP": ("英镑", "pound", "pounds", "penny", "pence"),
    "JPY": ("日元", "yen", "yen", "", ""),
    "KRW": ("韩元", "won", "won", "", ""),
    "HKD": ("港元", "Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "TWD": ("新台币", "new Taiwan dollar", "new Taiwan dollars", "cent", "cents"),
    "MOP": ("澳门元", "Macanese pataca", "Macanese patacas", "", ""),
    "AUD": ("澳元", "Australian dollar", "Australian dollars", "cent", "cents"),
    "CAD": ("加元", "Canadian dollar", "Canadian dollars", "cent", "cents"),
    "NZD": ("新西兰元", "New Zealand dollar", "New Zealand dollars", "cent", "cents"),
    "SGD": ("新加坡元", "Singapore dollar", "Singapore dollars", "cent", "cents"),
    "CHF": ("瑞士法郎", "Swiss franc", "Swiss francs", "centime", "centimes"),
    "INR": ("卢比", "rupee", "rupees", "paisa", "paise"),
    "THB": ("泰铢", "baht", "baht", "satang", "satang"),
    "RUB": ("卢布", "ruble", "rubles", "kopeck", "kopecks"),
    "VND": ("越南盾", "dong", "dong", "", ""),
    "MYR": ("林吉特", "ringgit", "ringgit", "sen", "sen"),
    "IDR": ("印尼盾", "rupiah", "rupiah", "", ""),
    "PHP": ("菲律宾比索", "Philippine peso", "Philippine pesos", "centavo", "centavos"),
    "BRL": ("雷亚尔", "real", "reais", "centavo", "centavos"),
    "MXN": ("墨西哥比索", "Mexican peso", "Mexican pesos", "centavo", "centavos"),
    "SEK": ("瑞典克朗", "Swedish krona", "Swedish kronor", "öre", "öre"),
    "DOLLAR": ("美元", "dollar", "dollars", "cent", "cents"),
}
"""ISO 4217 code -> (Mandarin, English one, many, small one, small many)."""

CURRENCY_SIGNS = {
    "RMB": "CNY", "¥": "CNY", "￥": "CNY", "US$": "USD", "HK$": "HKD", "NT$": "TWD", "A$": "AUD", "AU$": "AUD",
    "C$": "CAD", "CA$": "CAD", "NZ$": "NZD", "S$": "SGD", "R$": "BRL", "$": "DOLLAR", "€": "EUR", "£": "GBP",
    "₩": "KRW", "₹": "INR", "฿": "THB", "₽": "RUB", "₫": "VND", "₱": "PHP",
    **{code: code for code in CURRENCIES if code != "DOLLAR"},
}  # fmt: skip

UNITS = {
    "nm": ("纳米", "nanometer"), "μm": ("微米", "micrometer"), "um": ("微米", "micrometer"), "mm": ("毫米", "millimeter"),
    "cm": ("厘米", "centimeter"), "dm": ("分米", "decimeter"), "m": ("米", "meter"), "km": ("公里", "kilometer"),
    "in": ("英寸", "inch"), "ft": ("英尺", "foot"), "yd": ("码", "yard"), "mi": ("英里", "mile"),
    "nmi": ("海里", "nautical mile"),
    "mm2": ("平方毫米", "square millimeter"), "cm2": ("平方厘米", "square centimeter"), "m2": ("平方米", "square meter"),
    "km2": ("平方公里", "square kilometer"), "ha": ("公顷", "hectare"), "sq ft": ("平方英尺", "square foot"),
    "cm3": ("立方厘米", "cubic centimeter"), "m3": ("立方米", "cubic meter"), "cc": ("毫升", "cubic centimeter"),
    "ml": ("毫升", "milliliter"), "mL": ("毫升", "milliliter"), "l": ("升", "liter"), "L": ("升", "liter"),
    "gal": ("加仑", "gallon"),
    "μg": ("微克", "microgram"), "mg": ("毫克", "milligram"), "g": ("克", "gram"), "kg": ("千克", "kilogram"),
    "t": ("吨", "ton"), "lb": ("磅", "pound"), "lbs": ("磅", "pound"), "oz": ("盎司", "ounce"),
    "ns": ("纳秒", "nanosecond"), "μs": ("微秒", "microsecond"), "ms": ("毫秒", "millisecond"), "s": ("秒", "second"),
    "sec": ("秒", "second"), "min": ("分钟", "minute"), "h": ("小时", "hour"), "hr": ("小时", "hour"),
    "hrs": ("小时", "hour"), "d": ("天", "day"),
    "km/h": ("公里每小时", "kilometer per hour"), "kph": ("公里每小时", "kilometer per hour"),
    "m/s": ("米每秒", "meter per second"), "mph": ("英里每小时", "mile per hour"),
    "g/l": ("克每升", "gram per liter"), "g/L": ("克每升", "gram per liter"), "kg/m3": ("千克每立方米", "kilogram per cubic meter"),
    "m/s2": ("米每二次方秒", "meter per second squared"),
    "°C": ("摄氏度", "degree Celsius"), "°F": ("华氏度", "degree Fahrenheit"), "°": ("度", "degree"), "K": ("开尔文", "kelvin"),
    "Hz": ("赫兹", "hertz"), "kHz": ("千赫兹", "kilohertz"), "MHz": ("兆赫兹", "megahertz"), "GHz": ("吉赫兹", "gigahertz"),
    "bit": ("比特", "bit"), "B": ("字节", "byte"), "kB": ("千字节", "kilobyte"), "KB": ("千字节", "kilobyte"),
    "MB": ("兆字节", "megabyte"), "GB": ("吉字节", "gigabyte"), "TB": ("太字节", "terabyte"),
    "kbps": ("千比特每秒", "kilobit per second"), "Mbps": ("兆比特每秒", "megabit per second"),
    "Gbps": ("吉比特每秒", "gigabit per second"),
    "mA": ("毫安", "milliampere"), "A": ("安", "ampere"), "mAh": ("毫安时", "milliampere hour"),
    "mV": ("毫伏", "millivolt"), "V": ("伏", "volt"), "kV": ("千伏", "kilovolt"),
    "mW": ("毫瓦", "milliwatt"), "W": ("瓦", "watt"), "kW": ("千瓦", "kilowatt"), "MW": ("兆瓦", "megawatt"),
    "kWh": ("千瓦时", "kilowatt hour"), "Ω": ("欧姆", "ohm"), "kΩ": ("千欧", "kilohm"),
    "J": ("焦耳", "joule"), "kJ": ("千焦", "kilojoule"), "cal": ("卡", "calorie"), "kcal": ("千卡", "kilocalorie"),
    "N": ("牛", "newton"), "Pa": ("帕", "pascal"), "hPa": ("百帕", "hectopascal"), "kPa": ("千帕", "kilopascal"),
    "MPa": ("兆帕", "megapascal"), "dB": ("分贝", "decibel"), "mol": ("摩尔", "mole"), "px": ("像素", "pixel"),
}  # fmt: skip
"""Unit, squares and cubes with plain digits -> (Mandarin, English singular)."""

IRREGULAR_PLURALS = {
    "inch": "inches", "foot": "feet", "square foot": "square feet", "hertz": "hertz", "kilohertz": "kilohertz",
    "megahertz": "megahertz", "gigahertz": "gigahertz", "degree Celsius": "degrees Celsius",
    "degree Fahrenheit": "degrees Fahrenheit", "meter per second squared": "meters per second squared",
}  # fmt: skip

SURNAMES = {
    "单": "shan4", "解": "xie4", "仇": "qiu2", "任": "ren2", "华": "hua4", "区": "ou1", "查": "zha1", "曾": "zeng1",
    "朴": "piao2", "盖": "ge3", "翟": "zhai2", "燕": "yan1", "缪": "miao4", "冼": "xian3", "员": "yun4", "黑": "he4",
    "折": "she2", "秘": "bi4", "繁": "po2", "召": "shao4", "盛": "sheng4", "葛": "ge3", "种": "chong2", "祭": "zhai4",
    "那": "na1", "句": "gou1", "纪": "ji3", "应": "ying1", "訾": "zi1", "谌": "chen2", "乜": "nie4", "么": "yao1",
    "过": "guo1", "曲": "qu1", "卜": "bu3", "晟": "cheng2", "令": "ling2",
    "尉迟": "yu4 chi2", "万俟": "mo4 qi2", "长孙": "zhang3 sun1", "令狐": "ling2 hu2", "澹台": "tan2 tai2",
    "鲜于": "xian1 yu2", "单于": "chan2 yu2", "宰父": "zai3 fu3",
}  # fmt: skip
"""Surnames that are read otherwise than the character alone often is. Source: 现代汉语词典"""
