"""One sentence, its language known, to what the text tokenizer gets: words in full, then text or phone tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cosyforge.text.language import LATIN, SCRIPTS
from cosyforge.text.lexicon import english_phones, fold_latin, letter_phones
from cosyforge.text.mandarin import HAN, has_reading, mandarin_tokens, pinyin_of_each
from cosyforge.text.normalize import en, numbers, zh
from cosyforge.text.pronunciation import WRITTEN_PHONES, phone_tokens
from cosyforge.text.ribbon import Ribbon

PRIVATE = re.compile("[\ue000-\uf8ff]")
_FIRST_PLACEHOLDER = 0xE100
_PLACEHOLDERS = "\ue100-\uf8ff"
MAX_LITERALS = 0xF8FF - _FIRST_PLACEHOLDER

_SIGNS_READ_BY_THE_MODEL = "%&€$£¥+=@#°/"
_NUMBERS_LIKE = {"ms": "id"}

_EVENTS = re.compile(
    r"\[(?:breath|noise|laughter|cough|clucking|accent|quick_breath|hissing|sigh|vocalized-noise|lipsmack|mn)\]"
    r"|</?(?:strong|laughter)>"
)
"""Sound events that the official tokenizer knows."""

_FORMATS = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]")
"""Characters without a shape of their own: joiners, directions, variants."""

_PAUSE_MARKS = re.compile(r"[:：、()（）\[\]{}【】《》|•·–—―]+|(?<!\w)-+|-+(?!\w)")
_QUOTES = re.compile(r"[\"“”„«»「」『』`]|(?<!\w)'|'(?!\w)")
_MARKS = re.compile(r"[\s,.;!?…]*[,.;!?…][\s,.;!?…]*")
_PLAIN_MARKS = str.maketrans({"’": "'", "，": ",", "。": ".", "；": ";", "！": "!", "？": "?"})
_FULL_WIDTH_MARKS = str.maketrans(",.;!?", "，。；！？")
_SPACE_BEFORE_MARK = re.compile(r"\s+(?=[,.;!?])")
_MARK_AND_SPACE = re.compile(r"([,.;!?]) ?")
_TOKENS = re.compile(rf"[{_PLACEHOLDERS}]|[{LATIN}]+(?:'[A-Za-z]+)*|[{SCRIPTS['zh']}]+|[,.;!?]")
_MANDARIN_TOKENS = re.compile(r"(?:\[[^\sA-Z\[\]]+\])+")
_HUMPS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")

_AFTER_A_LETTER = frozenset(
    {"plus", "minus", "times", "over", "equals", "squared", "cubed", "sub", "prime", "factorial"}
)


@dataclass(frozen=True)
class Spelled:
    """spoken: what the tokenizer gets; words: the same before phones, for people; left_out: characters nobody can say."""

    spoken: Ribbon
    words: Ribbon
    left_out: tuple[str, ...]


class Speller:
    """Spells sentences as a model was trained to read them."""

    def __init__(self, languages: tuple[str, ...], english: str, mandarin: str = "text") -> None:
        """english: "text" or "phones"; mandarin: "text" or "pinyin"; as in the manifest"""
        self._english = english
        self._mandarin = mandarin
        if mandarin == "pinyin":
            has_reading("好")  # its tables come in now, so that the first sentence does not wait for them
        letters = LATIN + "".join(SCRIPTS.get(language, "") for language in languages)
        signs = _SIGNS_READ_BY_THE_MODEL if set(languages) - {"zh", "en"} else ""
        self._unspeakable = re.compile(rf"[^{letters}{_PLACEHOLDERS}\s\u0300-\u036f,.;!?…'{re.escape(signs)}-]")

    def spell(self, ribbon: Ribbon, language: str, literal: list[str]) -> Spelled:
        """Turn one sentence into words and tokens.

        literal: what the placeholders in the text stand for; tokens that are written in plain text are added to it
        """

        def keep(match: re.Match[str]) -> str:
            if len(literal) >= MAX_LITERALS:
                return " "
            literal.append(match[0] if self._english == "text" else re.sub(r"\d", "", match[0]))
            return f" {placeholder(len(literal) - 1)} "

        ribbon.sub(_FORMATS, lambda match: "")
        ribbon.sub(WRITTEN_PHONES, keep)
        if self._english == "text":
            ribbon.sub(_EVENTS, keep)
        normalize(ribbon, language)
        left_out = self._clean(ribbon)
        words = _with_literals(_text_sentence(ribbon.copy(), language), literal)
        reads_phones = self._english == "phones"
        spoken = _phones_sentence(ribbon, language, literal) if reads_phones else _text_sentence(ribbon, language)
        return Spelled(_with_literals(spoken, literal), words, tuple(left_out))

    def _clean(self, ribbon: Ribbon) -> list[str]:
        """Bring punctuation to commas and sentence ends, and drop what cannot be spoken, naming it."""
        ribbon.translate(_PLAIN_MARKS)
        ribbon.sub(_PAUSE_MARKS, lambda match: ", ")
        ribbon.sub(_QUOTES, lambda match: " ")
        left_out = set(self._unspeakable.findall(ribbon.text))
        ribbon.sub(self._unspeakable, lambda match: " ")
        if self._mandarin == "pinyin":
            unknown = {hanzi for hanzi in set(HAN.findall(ribbon.text)) if not has_reading(hanzi)}
            ribbon.translate(dict.fromkeys(map(ord, unknown), " "))
            left_out |= unknown
        ribbon.sub(_MARKS, lambda match: f"{_strongest(match[0])} ")
        ribbon.strip(" \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u2028\u2029\u3000")
        return sorted(left_out)


def normalize(ribbon: Ribbon, language: str) -> None:
    """Write numbers, signs and abbreviations as words of the language."""
    if language == "zh":
        zh.rewrite(ribbon)
    elif language == "en":
        en.rewrite(ribbon)
    else:
        ribbon.fold("NFC")
        numbers.rewrite(ribbon, _NUMBERS_LIKE.get(language, language))


def placeholder(index: int) -> str:
    """A character that stands for tokens while the words around it are rewritten."""
    return chr(_FIRST_PLACEHOLDER + index)


def _with_literals(spoken: Ribbon, literal: list[str]) -> Ribbon:
    spoken.sub(PRIVATE, lambda match: literal[ord(match[0]) - _FIRST_PLACEHOLDER])
    return spoken


def _strongest(run: str) -> str:
    """One mark for a run of them: a question stays a question, dots that trail off are a comma."""
    for mark in "?!":
        if mark in run:
            return mark
    if "…" in run or ".." in run:
        return ","
    return next(mark for mark in ".;," if mark in run)


def _end(spoken: Ribbon, stop: str) -> Ribbon:
    """Close the sentence; nothing to speak gives nothing."""
    while spoken.text and spoken.text[-1] in " ,;":
        spoken.strip(" ")
        spoken.strip_right(",;")
    if not spoken.text.strip(" .!?"):
        return Ribbon()
    if spoken.text[-1] not in ".!?":
        spoken.append(stop, *spoken.source(len(spoken.text), len(spoken.text)))
    return spoken


def _text_sentence(ribbon: Ribbon, language: str) -> Ribbon:
    """Finish a sentence for a model that reads text: marks of the language, one space between words."""
    ribbon.sub(_SPACE_BEFORE_MARK, lambda match: "")
    ribbon.squeeze()
    ribbon.strip(" ,;")
    spoken = _end(ribbon, ".")
    if language in ("zh", "ja"):
        spoken.sub(_MARK_AND_SPACE, lambda mark: mark[1].translate(_FULL_WIDTH_MARKS))
    return spoken


def _phones_sentence(ribbon: Ribbon, language: str, literal: list[str]) -> Ribbon:
    """Finish a sentence for a model that reads phones: [HH][AH][L][OW], [n][ǐ][h][ǎo].

    Words in Latin letters have blanks around them; Mandarin is written without any, so it has none inside.
    """
    text = _unshouted(ribbon.text)
    matches = list(_TOKENS.finditer(text))
    spoken = Ribbon()
    is_after_mandarin = False
    for index, match in enumerate(matches):
        token, source = match[0], ribbon.source(*match.span())
        if token in ",.;!?":
            if spoken.text:
                spoken.strip_right(",.;!?")
                spoken.append(token, *source)
            is_after_mandarin = False
            continue
        is_mandarin = HAN.match(token) is not None or _is_mandarin_literal(token, literal)
        following = matches[index + 1][0] if index + 1 < len(matches) else "."
        if HAN.match(token):
            parts = _said_in_mandarin(ribbon, match)
        elif language == "zh" and re.fullmatch("[A-Za-z]", token):
            parts = [(phone_tokens(letter_phones(token) or []), source)]  # the name of the letter, as in A计划
        else:
            is_first = spoken.text[-1:] in ("", *",.;!?")
            parts = [(said, source) for said in _said(token, is_first=is_first, following=following)]
        for said, place in parts:
            if spoken.text and not (is_mandarin and is_after_mandarin):
                spoken.append(" ", place[0], place[0])
            spoken.append(said, *place)
            is_after_mandarin = is_mandarin
    return _end(spoken, ".")


def _said_in_mandarin(ribbon: Ribbon, run: re.Match[str]) -> list[tuple[str, tuple[int, int]]]:
    """Write a run of hanzi as tokens, each with the stretch that its hanzi stands for."""
    return [
        (phone_tokens(mandarin_tokens(syllable)), ribbon.source(place, place + 1))
        for place, syllable in enumerate(pinyin_of_each(run[0]), run.start())
        if syllable
    ]


def _is_mandarin_literal(token: str, literal: list[str]) -> bool:
    """Whether a placeholder stands for pinyin."""
    return bool(PRIVATE.match(token) and _MANDARIN_TOKENS.fullmatch(literal[ord(token) - _FIRST_PLACEHOLDER]))


def _said(token: str, *, is_first: bool, following: str) -> list[str]:
    """Write one word as phones; an unknown one by its parts if all are known (OpenAI), else as small letters."""
    if PRIVATE.match(token):
        return [token]
    is_letter = following in _AFTER_A_LETTER or re.fullmatch("[A-Z]", following) or not following[:1].isupper()
    if token == "A" and is_letter and (not is_first or following in _AFTER_A_LETTER):
        return [phone_tokens(letter_phones("A") or [])]  # the letter, as in "plan A" or "A plus B", not the article
    phones = english_phones(token)
    if phones is not None:
        return [phone_tokens(phones)]
    parts = [(part, english_phones(part)) for part in _HUMPS.findall(token)]
    if len(parts) > 1 and all(part_phones for _, part_phones in parts):
        return [phone_tokens(part_phones or []) for _, part_phones in parts]
    letters = re.sub("[^a-z]", "", fold_latin(token).lower())
    return [letters] if letters else []


def _unshouted(text: str) -> str:
    """Lower a sentence that is all capitals, where LET US GO holds no abbreviation."""
    words = re.findall(r"[A-Za-z]+", text)
    is_shouted = len(words) >= 3 and text.upper() == text and any(len(word) >= 4 for word in words)
    lowered = text.lower()
    return lowered if is_shouted and len(lowered) == len(text) else text
