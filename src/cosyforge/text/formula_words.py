"""How fractions, powers, roots and the like are put into words, per language."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from cosyforge.text import formula_signs
from cosyforge.text.formula_signs import Signs
from cosyforge.text.normalize import en, numbers, zh


class Wording(ABC):
    """How one language puts mathematics."""

    def __init__(self, signs: Signs) -> None:
        self.signs = signs

    @abstractmethod
    def join(self, words: list[str]) -> str: ...

    @abstractmethod
    def number(self, written: str) -> str: ...

    @abstractmethod
    def measure(self, number: str, unit: str) -> str | None:
        """A number with a unit; None when it is no unit."""

    @abstractmethod
    def unit(self, unit: str) -> str | None: ...

    @abstractmethod
    def spell_letter(self, letter: str) -> str: ...

    @abstractmethod
    def mixed(self, whole: str, fraction: str) -> str: ...

    @abstractmethod
    def percent(self, number: str) -> str: ...

    @abstractmethod
    def numeric_fraction(self, upper: str, lower: str) -> str: ...

    @abstractmethod
    def fraction(self, upper: str, lower: str, is_single: bool) -> str: ...

    @abstractmethod
    def root(self, inside: str, degree: str, degree_words: str, is_single: bool) -> str: ...

    @abstractmethod
    def power(self, base: str, exponent: str, exponent_words: str) -> str: ...

    @abstractmethod
    def index(self, base: str, index: str, index_words: str) -> str: ...

    @abstractmethod
    def primes(self, base: str, number: int) -> str: ...

    @abstractmethod
    def accent(self, kind: str, inside: str) -> str: ...

    @abstractmethod
    def degrees(self, inside: str) -> str: ...

    @abstractmethod
    def absolute(self, inside: str) -> str: ...

    @abstractmethod
    def logarithm(self, base: str, argument: str) -> str: ...

    @abstractmethod
    def limits(self, kind: str, lower: str, upper: str) -> str: ...


class _Mandarin(Wording):
    def join(self, words: list[str]) -> str:
        return re.sub(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])", "", " ".join(word for word in words if word)).strip()

    def number(self, written: str) -> str:
        return zh.decimal(written)

    def measure(self, number: str, unit: str) -> str | None:
        return zh.measure(number, unit)

    def unit(self, unit: str) -> str | None:
        return zh.unit_name(unit) if len(unit) > 1 else None

    def spell_letter(self, letter: str) -> str:
        return letter

    def mixed(self, whole: str, fraction: str) -> str:
        return f"{whole}又{fraction}"

    def percent(self, number: str) -> str:
        return f"百分之{number}"

    def numeric_fraction(self, upper: str, lower: str) -> str:
        return f"{zh.decimal(lower)}分之{zh.decimal(upper)}"

    def fraction(self, upper: str, lower: str, is_single: bool) -> str:
        return f"{lower}分之{upper}"

    def root(self, inside: str, degree: str, degree_words: str, is_single: bool) -> str:
        under = "根号" if is_single else "根号下"
        return f"{under}{inside}" if degree == "2" else f"{degree_words}次{under}{inside}"

    def power(self, base: str, exponent: str, exponent_words: str) -> str:
        if base in self.signs.functions.values():
            return base + {"2": "平方", "3": "立方"}.get(exponent, f"的{exponent_words}次方")
        return f"{base}的" + {"2": "平方", "3": "立方"}.get(exponent, f"{exponent_words}次方")

    def index(self, base: str, index: str, index_words: str) -> str:
        return self.join([base, index_words]) if index.isalnum() else f"{base}下标{index_words}"

    def primes(self, base: str, number: int) -> str:
        return base + ("撇" if number == 1 else f"{zh.cardinal(number, counting=True)}撇")

    def accent(self, kind: str, inside: str) -> str:
        before = {"vector": "向量", "arc": "弧"}.get(kind)
        return f"{before}{inside}" if before else inside + {"bar": "拔", "hat": "帽", "tilde": "波浪"}[kind]

    def degrees(self, inside: str) -> str:
        return f"{inside}度"

    def absolute(self, inside: str) -> str:
        return f"{inside}的绝对值"

    def logarithm(self, base: str, argument: str) -> str:
        return f"以{base}为底{argument}的对数"

    def limits(self, kind: str, lower: str, upper: str) -> str:
        if kind == "limit":
            return f"当{lower}时的极限，"
        span = (f"从{lower}" if lower else "") + (f"到{upper}" if upper else "")
        return f"{self.signs.big[kind]}{span}，" if span else self.signs.big[kind]


class _English(Wording):
    def join(self, words: list[str]) -> str:
        return " ".join(word for word in words if word).replace(" ,", ",")

    def number(self, written: str) -> str:
        return numbers.decimal(written)

    def measure(self, number: str, unit: str) -> str | None:
        return en.measure(number, unit)

    def unit(self, unit: str) -> str | None:
        return en.unit_name(unit) if len(unit) > 1 else None

    def spell_letter(self, letter: str) -> str:
        return "A" if letter == "a" else letter if len(letter) == 1 or not letter.isupper() else " ".join(letter)

    def mixed(self, whole: str, fraction: str) -> str:
        return f"{whole} and {re.sub('^one half$', 'a half', fraction)}"

    def percent(self, number: str) -> str:
        return f"{number} percent"

    def numeric_fraction(self, upper: str, lower: str) -> str:
        return numbers.fraction(int(upper), int(lower))

    def fraction(self, upper: str, lower: str, is_single: bool) -> str:
        return f"{upper} over {lower}" if is_single else f"{upper}, all over {lower}"

    def root(self, inside: str, degree: str, degree_words: str, is_single: bool) -> str:
        if degree in ("2", "3"):
            return f"the {'square' if degree == '2' else 'cube'} root of {inside}"
        ordinal = numbers.ordinal(int(degree)) if degree.isdecimal() and len(degree) < 4 else f"{degree_words} th"
        return f"the {ordinal} root of {inside}"

    def power(self, base: str, exponent: str, exponent_words: str) -> str:
        short = {"2": "squared", "3": "cubed"}.get(exponent)
        return f"{base} {short}" if short else f"{base} to the power of {exponent_words}"

    def index(self, base: str, index: str, index_words: str) -> str:
        return f"{base} sub {index_words}"

    def primes(self, base: str, number: int) -> str:
        return f"{base} " + ("prime", "double prime", "triple prime")[number - 1]

    def accent(self, kind: str, inside: str) -> str:
        before = {"vector": "vector", "arc": "arc"}.get(kind)
        return f"{before} {inside}" if before else f"{inside} {kind}"

    def degrees(self, inside: str) -> str:
        return f"{inside} degrees"

    def absolute(self, inside: str) -> str:
        return f"the absolute value of {inside}"

    def logarithm(self, base: str, argument: str) -> str:
        return f"log base {base} of {argument}"

    def limits(self, kind: str, lower: str, upper: str) -> str:
        if kind == "limit":
            return f"the limit as {lower} of"
        span = (f" from {lower}" if lower else "") + (f" to {upper}" if upper else "")
        return f"{self.signs.big[kind]}{span} of"


MANDARIN: Wording = _Mandarin(formula_signs.MANDARIN)
ENGLISH: Wording = _English(formula_signs.ENGLISH)
