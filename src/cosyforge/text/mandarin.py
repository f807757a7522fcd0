"""Mandarin as it sounds: hanzi to pinyin in context, and pinyin to the tokens of the CosyVoice 3 tokenizer.

    你好 -> ["ni3", "hao3"] -> [n][ǐ] [h][ǎo]

A model that reads Mandarin by its sounds is trained on exactly these tokens, so what is chosen here for a syllable
that the tokenizer lacks belongs to the model. Tone sandhi is left to the model, but for the few phrases whose entry
in the pronouncing dictionary has it (一个 is yi2 ge4 there).
"""

from __future__ import annotations

import re

from cosyforge.text.language import SCRIPTS
from cosyforge.text.pronunciation import parse_pinyin

HAN = re.compile(f"[{SCRIPTS['zh']}]")

_FINALS = (
    "a ai an ang ao e ei en eng er i ia ian iang iao ie in ing iong iu o ong ou u ua uai uan uang ue ui un uo ü üe"
).split()
_SYLLABLE = re.compile(
    rf"(?P<base>m|hm|n|h?ng|ê|(?:zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])?(?:{'|'.join(_FINALS)}))(?P<suffix>(?<!^e)r)?(?P<tone>[1-5])"
)
_NEEDLESS_DOTS = re.compile("(?<=[jqxy])ü")

_SYLLABIC = {"m": "mu", "hm": "hen", "n": "en", "ng": "eng", "hng": "heng", "ê": "ei"}
"""Interjections that are a consonant alone (呣, 噷, 嗯) or an open e (誒): the nearest syllable with a vowel."""

_CORRECTIONS = (
    (re.compile("(?<=[一二两三四五六七八九十百千万几每这那])只(?![有能要是好想会])"), "zhi1"),  # 三只猫, but 这只有
    (re.compile(r"(?<!天)(.)(?:\1|然)地(?![区带方点])"), "de5"),  # 慢慢地走, 突然地
    (re.compile("(?:高兴|开心|快乐|认真|仔细|努力|安静|大声|小声)地(?![区带方点])"), "de5"),
    # 做得好, but 获得很多 and 我得快走
    (
        re.compile(
            "(?<=[^获取赢夺求所心难博我你他她它您们谁就还总都也必非可只])得(?=[很太真最更非好快慢多高大早晚远近极这那像])"
        ),
        "de5",
    ),
    (re.compile("跑(?=得)"), "pao3"),
)
"""Common words of grammar that pypinyin reads like the nouns and verbs that share their hanzi; the last one counts."""

_SUFFIX = "ér"
"""The r of 花儿: its own citation tone, as it is written by itself."""


def pinyin_syllables(text: str) -> list[str]:
    """Read hanzi as pinyin with tone digits, one syllable for each, as the words around it ask for.

    The neutral tone is 5, and ü is written ü. Everything but hanzi, and a hanzi without a known reading, yields nothing.
    """
    return [syllable for syllable in pinyin_of_each(text) if syllable]


def pinyin_of_each(text: str) -> list[str]:
    """As pinyin_syllables, with one entry for every character; it is empty where there is no syllable."""
    # imported here: its tables are large, and models that read hanzi do without
    from pypinyin import Style, lazy_pinyin

    read = lazy_pinyin(
        text,
        style=Style.TONE3,
        v_to_u=True,
        neutral_tone_with_five=True,
        errors=lambda characters: [""] * len(characters),  # type: ignore[arg-type, return-value]  # its types forget lists
    )
    assert len(read) == len(text), text
    for pattern, reading in _CORRECTIONS:
        for match in pattern.finditer(text):
            read[match.end() - 1] = reading
    return [syllable if HAN.match(char) else "" for char, syllable in zip(text, read, strict=True)]


def has_reading(hanzi: str) -> bool:
    """Whether it is known how one hanzi is said."""
    return pinyin_of_each(hanzi) != [""]


def spell_pinyin(symbols: str) -> list[str]:
    """The tokens of syllables with spaces between them, as mandarin_tokens has them.

    Raises: ValueError naming the syllable that is none
    """
    syllables = symbols.split()
    if not syllables:
        raise ValueError("there is no syllable in it")
    return [token for syllable in syllables for token in mandarin_tokens(syllable)]


def mandarin_tokens(syllable: str) -> list[str]:
    """Spell one syllable with its tone digit as tokens: `xiang3` -> ["x", "iǎng"], both of which the tokenizer has.

    Where it lacks the final in that tone, the nearest that it has stands in:
    a neutral tone becomes the fourth, low and falling like it (`jie5` -> `jiè`); that of `er5` the second, for it is
    always the 儿 of 花儿; `lüe2` becomes `l` and the `ué` that is üé after j, q, x and y; `lü1` the rising `lǘ`;
    a syllable without a vowel gets one (`m2` -> `mú`, `ng4` -> `èng`); `huar1` becomes `huā` and `ér`.
    Raises: ValueError when it is no pinyin syllable with a tone digit 1 to 5
    """
    written = _NEEDLESS_DOTS.sub("u", syllable.lower().replace("u:", "ü").replace("v", "ü"))
    match = _SYLLABLE.fullmatch(written)
    if match is None:
        raise ValueError(f"{syllable!r} is no pinyin syllable with a tone digit 1 to 5, such as ji3")
    base, tone = _SYLLABIC.get(match["base"], match["base"]), int(match["tone"])
    suffix = [_SUFFIX] if match["suffix"] else []
    if base == "er" and tone in (1, 5):
        tone = 2
    if base.endswith("üe") and tone != 4:
        base = f"{base[:-2]}ue"
    if base.endswith("ü") and tone == 1:
        tone = 2
    try:
        return [*parse_pinyin(f"{base}{tone}"), *suffix]
    except ValueError:
        assert tone == 5, syllable
        return [*parse_pinyin(f"{base}4"), *suffix]
