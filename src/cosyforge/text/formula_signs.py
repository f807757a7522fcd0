"""What the signs and names of formulas are called, per language."""

from __future__ import annotations

from dataclasses import dataclass

_GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
_GREEK_ENGLISH = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega"
).split()
_GREEK_MANDARIN = (
    "阿尔法 贝塔 伽马 德尔塔 艾普西龙 泽塔 伊塔 西塔 约塔 卡帕 兰姆达 缪 纽 克西 奥密克戎 派 柔 西格马 套 宇普西龙 斐 希 普西 欧米伽"
).split()
_VARIANTS = {"ϵ": "ε", "ϑ": "θ", "ϖ": "π", "ϱ": "ρ", "ς": "σ", "ϕ": "φ", "ϰ": "κ"}
_UPPER = {"Γ": "γ", "Δ": "δ", "Θ": "θ", "Λ": "λ", "Ξ": "ξ", "Π": "π", "Σ": "σ", "Φ": "φ", "Ψ": "ψ", "Ω": "ω", "Υ": "υ"}


def _greek(names: list[str]) -> dict[str, str]:
    by_letter = dict(zip(_GREEK, names, strict=True))
    return by_letter | {letter: by_letter[plain] for letter, plain in (_VARIANTS | _UPPER).items()}


@dataclass(frozen=True)
class Signs:
    """Sign or name -> words.

    leading_signs: at the beginning of a term; figures: said before what follows; big: sums and integrals
    """

    negative: str
    leading_signs: dict[str, str]
    functions: dict[str, str]
    figures: dict[str, str]
    operators: dict[str, str]
    letters: dict[str, str]
    big: dict[str, str]


MANDARIN = Signs(
    negative="负",
    leading_signs={"+": "正", "±": "正负", "∓": "负正"},
    functions={
        "sin": "正弦", "cos": "余弦", "tan": "正切", "cot": "余切", "sec": "正割", "csc": "余割", "arcsin": "反正弦",
        "arccos": "反余弦", "arctan": "反正切", "sinh": "双曲正弦", "cosh": "双曲余弦", "tanh": "双曲正切",
        "log": "log", "lg": "lg", "ln": "ln", "exp": "exp", "max": "最大值", "min": "最小值", "lim": "极限", "det": "行列式",
        "mod": "模", "gcd": "最大公约数", "lcm": "最小公倍数",
    },
    figures={
        "∠": "角", "△": "三角形", "⊙": "圆", "▱": "平行四边形", "□": "正方形", "√": "根号", "Rt": "直角", "∀": "任意", "∃": "存在",
        "∂": "偏", "∇": "梯度", "¬": "非",
    },
    operators={
        "+": "加", "−": "减", "-": "减", "±": "加减", "∓": "减加", "×": "乘", "÷": "除以", "·": "乘", "⋅": "乘", "∗": "乘", "*": "乘",
        "/": "除以", "=": "等于", "≠": "不等于", "<": "小于", ">": "大于", "≤": "小于等于", "≥": "大于等于", "⩽": "小于等于",
        "⩾": "大于等于", "≪": "远小于", "≫": "远大于", "≈": "约等于", "≡": "恒等于", "∼": "相似于", "~": "相似于", "≅": "全等于",
        "∝": "正比于", "⊥": "垂直于", "⟂": "垂直于", "∥": "平行于", "‖": "平行于", "∈": "属于", "∉": "不属于", "⊂": "包含于",
        "⊆": "包含于", "⊃": "包含", "⊇": "包含", "∪": "并", "∩": "交", "∖": "减去", "∅": "空集", "∧": "且", "∨": "或", "∞": "无穷大",
        "→": "趋向于", "⇒": "推出", "⟹": "推出", "⇔": "等价于", "⟺": "等价于", "↔": "等价于", "∵": "因为", "∴": "所以",
        "!": "的阶乘", "%": "百分号", "(": "左括号", ")": "右括号", "[": "左中括号", "]": "右中括号", "{": "左大括号", "}": "右大括号",
        ",": "，", ";": "，", ":": "比", "…": "省略号", "⋯": "省略号", "′": "撇", "∘": "度", "°": "度", ".": "，",
    },
    letters=_greek(_GREEK_MANDARIN) | {"ℝ": "实数集", "ℕ": "自然数集", "ℤ": "整数集", "ℚ": "有理数集", "ℂ": "复数集"},
    big={"sum": "求和", "product": "连乘", "integral": "积分"},
)  # fmt: skip

ENGLISH = Signs(
    negative="minus",
    leading_signs={"+": "plus", "±": "plus or minus", "∓": "minus or plus"},
    functions={
        "sin": "sine", "cos": "cosine", "tan": "tangent", "cot": "cotangent", "sec": "secant", "csc": "cosecant",
        "arcsin": "arc sine", "arccos": "arc cosine", "arctan": "arc tangent", "sinh": "hyperbolic sine",
        "cosh": "hyperbolic cosine", "tanh": "hyperbolic tangent", "log": "log", "lg": "log", "ln": "natural log of",
        "exp": "exponential of", "max": "maximum", "min": "minimum", "lim": "limit", "det": "determinant of",
        "mod": "modulo", "gcd": "greatest common divisor of", "lcm": "least common multiple of",
    },
    figures={
        "∠": "angle", "△": "triangle", "⊙": "circle", "▱": "parallelogram", "□": "square", "√": "square root of",
        "Rt": "right", "∀": "for all", "∃": "there exists", "∂": "partial", "∇": "gradient of", "¬": "not",
    },
    operators={
        "+": "plus", "−": "minus", "-": "minus", "±": "plus or minus", "∓": "minus or plus", "×": "times",
        "÷": "divided by", "·": "times", "⋅": "times", "∗": "times", "*": "times", "/": "over", "=": "equals",
        "≠": "is not equal to", "<": "is less than", ">": "is greater than", "≤": "is less than or equal to",
        "≥": "is greater than or equal to", "⩽": "is less than or equal to", "⩾": "is greater than or equal to",
        "≪": "is much less than", "≫": "is much greater than", "≈": "is approximately equal to",
        "≡": "is identical to", "∼": "is similar to", "~": "is similar to", "≅": "is congruent to",
        "∝": "is proportional to", "⊥": "is perpendicular to", "⟂": "is perpendicular to", "∥": "is parallel to",
        "‖": "is parallel to", "∈": "is in", "∉": "is not in", "⊂": "is a subset of", "⊆": "is a subset of",
        "⊃": "is a superset of", "⊇": "is a superset of", "∪": "union", "∩": "intersection", "∖": "without",
        "∅": "the empty set", "∧": "and", "∨": "or", "∞": "infinity", "→": "approaches", "⇒": "implies",
        "⟹": "implies", "⇔": "if and only if", "⟺": "if and only if", "↔": "if and only if", "∵": "because",
        "∴": "therefore", "!": "factorial", "%": "percent", "(": "open parenthesis", ")": "close parenthesis",
        "[": "open bracket", "]": "close bracket", "{": "open brace", "}": "close brace", ",": ",", ";": ",",
        ":": "to", "…": "and so on", "⋯": "and so on", "′": "prime", "∘": "degrees", "°": "degrees", ".": ",",
    },
    letters=_greek(_GREEK_ENGLISH) | {
        "ℝ": "the real numbers", "ℕ": "the natural numbers", "ℤ": "the integers", "ℚ": "the rational numbers",
        "ℂ": "the complex numbers",
    },
    big={"sum": "the sum", "product": "the product", "integral": "the integral"},
)  # fmt: skip
