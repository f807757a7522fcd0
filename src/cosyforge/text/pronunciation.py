"""Pronunciations as text tokens: ARPAbet phones `[HH][AH]` and Mandarin initials and finals `[j][ǐ]`.

The token spellings are those of the CosyVoice 3 tokenizer; the nano model's tokenizer has the 39 phones without stress.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cosyforge.text.lexicon import PHONES

VOWELS = frozenset(phone for phone in PHONES if phone[0] in "AEIOU")

_TONE_MARKS = {"a": "āáǎà", "e": "ēéěè", "i": "īíǐì", "o": "ōóǒò", "u": "ūúǔù", "ü": "ǖǘǚǜ"}
_NEUTRAL_FINALS = frozenset(
    {
        *("a", "ai", "an", "ang", "ao", "e", "ei", "en", "eng", "i", "ian", "in", "ing", "iu"),
        *("o", "ong", "ou", "u", "uang", "ue", "un", "uo"),
    }
)
"""Finals that the tokenizer has without a tone mark."""

_SYLLABLE = re.compile(
    r"(?P<initial>zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])?(?P<final>[aeiouü][aeiouü]*(?:ng|n|r)?)(?P<tone>[1-5])"
)
_PHONE_WITH_STRESS = re.compile(r"([A-Z]{1,2})([012])?")

WRITTEN_PHONES = re.compile(r"(?:\[[A-Z]{1,2}[012]?\]){2,}")
"""Phone tokens that a user wrote into plain text; a single one may well be an ordinary bracket."""


def phone_tokens(phones: Iterable[str]) -> str:
    """Write phones as the text tokenizer wants them: ["HH", "AH"] -> [HH][AH]."""
    return "".join(f"[{phone}]" for phone in phones)


def parse_cmu(symbols: str, *, keep_stress: bool) -> list[str]:
    """Read CMU symbols separated by spaces, such as `HH AH0 L OW1`.

    Raises: ValueError naming the symbol that is none
    """
    phones = []
    for symbol in symbols.split():
        match = _PHONE_WITH_STRESS.fullmatch(symbol.upper())
        if match is None or match[1] not in PHONES or (match[2] and match[1] not in VOWELS):
            raise ValueError(f"{symbol!r} is no CMU phone; known are {' '.join(sorted(PHONES))}, vowels with 0, 1 or 2")
        phones.append(match[0] if keep_stress else match[1])
    if not phones:
        raise ValueError("there is no phone in it")
    return phones


def parse_pinyin(symbols: str) -> list[str]:
    """Read pinyin syllables separated by spaces, each with its tone digit, into initials and finals with tone marks.

    `ji3 lv4` -> ["j", "ǐ", "l", "ǜ"]; tone 5 is the neutral one and carries no mark.
    Raises: ValueError naming the syllable that is none
    """
    tokens: list[str] = []
    for syllable in symbols.split():
        written = syllable.lower().replace("u:", "ü").replace("v", "ü")
        match = _SYLLABLE.fullmatch(written)
        if match is None:
            raise ValueError(f"{syllable!r} is no pinyin syllable with a tone digit 1 to 5, such as ji3")
        tokens += [match["initial"]] if match["initial"] else []
        tokens.append(_final_token(match["final"], int(match["tone"]), syllable))
    if not tokens:
        raise ValueError("there is no syllable in it")
    return tokens


def _final_token(final: str, tone: int, syllable: str) -> str:
    if tone == 5 and final not in _NEUTRAL_FINALS:
        raise ValueError(f"{syllable!r} cannot be spoken: there is no neutral {final}; give it a tone from 1 to 4")
    if final == "üe":
        # the tokenizer knows it in the fourth tone alone, and writes it with v
        if tone != 4:
            raise ValueError(f"{syllable!r} cannot be spoken: üe exists in the fourth tone only")
        return "vè"
    return _marked(final, tone)


def _marked(final: str, tone: int) -> str:
    """Put the tone mark on a or e, on the o of ou, else on the last vowel."""
    if tone == 5:
        return final
    vowel = next((v for v in "ae" if v in final), None) or ("o" if "ou" in final else None)
    index = final.index(vowel) if vowel else max(i for i, char in enumerate(final) if char in _TONE_MARKS)
    return final[:index] + _TONE_MARKS[final[index]][tone - 1] + final[index + 1 :]
