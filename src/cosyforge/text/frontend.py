"""Text as people write it to segments that a voice can speak: read this first.

    text or SSML -> sentences (segment.py) -> words in full (normalize/) -> text or phone tokens (lexicon.py) -> Segment

The engine says `prefix + segment.spoken` to the text tokenizer. The prefix is never part of the text: a control token
that somebody writes into the text has no power.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cosyforge.errors import InvalidMarkup, InvalidParameter
from cosyforge.text.lexicon import english_phones, fold_latin, letter_phones
from cosyforge.text.normalize import en, numbers, zh
from cosyforge.text.pronunciation import WRITTEN_PHONES, parse_cmu, parse_pinyin, phone_tokens
from cosyforge.text.segment import Sentence, SentenceSplitter
from cosyforge.text.ssml import MAX_BREAK_MS, is_ssml, parse_ssml

LANGUAGES = ("zh", "en", "fr", "de", "ja", "ko", "ru", "pt", "th", "id", "vi", "it", "es", "ms")
DEFAULT_PREFIX = "You are a helpful assistant.<|endofprompt|>"

NOTHING_TO_SAY = "Please ensure input text is valid."

PAUSES_MS = {"sentence": 150, "paragraph": 350, "cut": 60}
"""Silence between two segments, by how the first one ended."""

_KNOWN_KEYS = frozenset({"languages", "english", "prefix", "max_characters"})
_MAX_CHARACTERS = {"phones": 140, "text": 200}

_SCRIPTS = {
    "zh": "\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff", "ja": "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff々",
    "ko": "\uac00-\ud7af\u1100-\u11ff", "ru": "\u0400-\u04ff", "th": "\u0e00-\u0e7f",
}  # fmt: skip
_LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
_SCRIPT_OF = tuple(
    (language, re.compile(f"[{characters}]"))
    for language, characters in (
        ("ja", "\u3040-\u30ff"),
        *((language, _SCRIPTS[language]) for language in ("zh", "ko", "ru", "th")),
    )
)
_SIGNS_READ_BY_THE_MODEL = "%&€$£¥+=@#°/"
_NUMBERS_LIKE = {"ms": "id"}

_EVENTS = re.compile(
    r"\[(?:breath|noise|laughter|cough|clucking|accent|quick_breath|hissing|sigh|vocalized-noise|lipsmack|mn)\]"
    r"|</?(?:strong|laughter)>"
)
"""Sound events that the official tokenizer knows."""

_PAUSE_MARKS = re.compile(r"[:：、()（）\[\]{}【】《》|•·–—―]+|(?<!\w)-+|-+(?!\w)")
_QUOTES = re.compile(r"[\"“”„«»「」『』`]|(?<!\w)'|'(?!\w)")
_MARKS = re.compile(r"[\s,.;!?…]*[,.;!?…][\s,.;!?…]*")
_PLAIN_MARKS = str.maketrans("，。；！？", ",.;!?")
_FULL_WIDTH_MARKS = str.maketrans(",.;!?", "，。；！？")
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_FIRST_PLACEHOLDER = 0xE100
_PLACEHOLDERS = "\ue100-\uf8ff"
_TOKENS = re.compile(rf"[{_PLACEHOLDERS}]|[{_LATIN}]+(?:'[A-Za-z]+)*|[,.;!?]")
_HUMPS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class Segment:
    """One sentence, or a piece of a long one.

    text: what the user wrote; spoken: what the text tokenizer gets, empty when the segment is only a pause
    asked_pause: the user asked for the pause (a break), so it counts at the very end, too
    Units: pause_ms is the silence after it
    """

    text: str
    spoken: str
    pause_ms: int = 0
    language: str = "en"
    asked_pause: bool = False


@dataclass(frozen=True)
class _Span:
    """Visible characters start to end are spoken as this text, or as these tokens of the text tokenizer."""

    start: int
    end: int
    alias: str | None = None
    tokens: str | None = None


class Frontend:
    """The text front end that a model was trained with, as its manifest names it."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """Read the manifest's `frontend` section.

        Raises: ValueError for unknown keys or values
        """
        unknown = sorted(set(settings) - _KNOWN_KEYS)
        if unknown:
            raise ValueError(f"frontend: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(_KNOWN_KEYS))}")
        self.languages = tuple(settings.get("languages", ("zh", "en")))
        self.english = str(settings.get("english", "text"))
        self.prefix = str(settings.get("prefix", DEFAULT_PREFIX))
        if self.english not in _MAX_CHARACTERS:
            raise ValueError(f"frontend: english must be phones or text (got {self.english!r})")
        for language in self.languages:
            if language not in LANGUAGES:
                raise ValueError(f"frontend: unknown language {language!r}; known are {', '.join(LANGUAGES)}")
        if not self.languages:
            raise ValueError("frontend: languages is empty")
        self.max_characters = int(settings.get("max_characters", _MAX_CHARACTERS[self.english]))
        letters = _LATIN + "".join(_SCRIPTS.get(language, "") for language in self.languages)
        signs = _SIGNS_READ_BY_THE_MODEL if set(self.languages) - {"zh", "en"} else ""
        self._speakable = re.compile(f"[{letters}{_PLACEHOLDERS}]")
        self._unspeakable = re.compile(rf"[^{letters}{_PLACEHOLDERS}\s\u0300-\u036f,.;!?…'{re.escape(signs)}-]")

    def segments(self, text: str, language_hint: str | None = None, ssml: bool = False) -> list[Segment]:
        """Cut and spell out a whole text; see plan for what could not be spoken."""
        return self.plan(text, language_hint, ssml)[0]

    def plan(self, text: str, language_hint: str | None = None, ssml: bool = False) -> tuple[list[Segment], list[str]]:
        """Cut and spell out a whole text; the second part says in sentences what had to be left out.

        Text that does not begin with <speak is plain text even when ssml is true.
        Raises: InvalidParameter when nothing can be spoken; InvalidMarkup for bad SSML
        """
        stream = TextStream(self, language_hint)
        is_marked_up = ssml and is_ssml(text)
        segments = self._marked_up(text, stream) if is_marked_up else stream.push(text) + stream.finish()
        if not any(segment.spoken for segment in segments):
            raise InvalidParameter(NOTHING_TO_SAY)
        if not segments[-1].asked_pause:
            segments[-1] = replace(segments[-1], pause_ms=0)
        return segments, stream.warnings

    def stream(self, language_hint: str | None = None) -> TextStream:
        """Take plain text piece by piece; sentences come out as they are complete."""
        return TextStream(self, language_hint)

    def check_language(self, hint: str | None) -> str | None:
        """Let a hint pass that this model can follow, None for one that it cannot.

        Raises: InvalidParameter for a code that is no language of the service
        """
        if hint is None:
            return None
        if hint not in LANGUAGES:
            raise InvalidParameter(f"language_hints: {hint!r} is not one of {', '.join(LANGUAGES)}")
        return hint if hint in self.languages else None

    # ---- SSML

    def _marked_up(self, text: str, stream: TextStream) -> list[Segment]:
        """Speak SSML: a break ends a segment, replaced words are opaque to the sentence splitter."""
        segments: list[Segment] = []
        for piece in parse_ssml(text):
            if piece.break_ms:
                segments = _with_break(segments + stream.finish(), piece.break_ms)
            elif piece.alias is not None:
                segments += stream.push_alias(piece.text, piece.alias)
            elif piece.cmu is not None:
                phones = parse_cmu(piece.cmu, keep_stress=self.english == "text")
                segments += stream.push_tokens(piece.text, phone_tokens(phones))
            elif piece.pinyin is not None:
                segments += stream.push_tokens(piece.text, self._pinyin(piece.pinyin))
            else:
                segments += stream.push(piece.text)
        return segments + stream.finish()

    def _pinyin(self, symbols: str) -> str:
        if "zh" not in self.languages:
            raise InvalidMarkup(f'<phoneme alphabet="py" ph="{symbols}">: this model does not speak Mandarin')
        return phone_tokens(parse_pinyin(symbols))

    # ---- one sentence

    def language_of(self, text: str, hint: str | None) -> str:
        """Name the language by its script; Latin letters are the hint's, else English, else the model's first."""
        found = next((language for language, script in _SCRIPT_OF if script.search(text)), None)
        if found == "zh" and hint == "ja":
            return "ja"
        if found is not None and found in self.languages:
            return found
        if hint is not None:
            return hint
        return "en" if "en" in self.languages else self.languages[0]

    def spell_out(self, text: str, language: str, literal: list[str]) -> tuple[str, list[str]]:
        """Turn one sentence into what the tokenizer gets, and list the characters that were left out.

        literal: the tokens that the placeholders in the text stand for; the ones written in plain text are added to it
        """

        def keep(match: re.Match[str]) -> str:
            token = match[0] if self.english == "text" else re.sub(r"\d", "", match[0])
            literal.append(token)
            return f" {_placeholder(len(literal) - 1)} "

        text = WRITTEN_PHONES.sub(keep, text)
        text = _EVENTS.sub(keep, text) if self.english == "text" else text
        clean, left_out = self._clean(self._normalize(text, language))
        spoken = _phones_sentence(clean) if self.english == "phones" else _text_sentence(clean, language)
        for index, token in enumerate(literal):
            spoken = spoken.replace(_placeholder(index), token)
        return spoken, left_out

    def _normalize(self, text: str, language: str) -> str:
        if language == "zh":
            return zh.normalize_mandarin(text)
        if language == "en":
            return en.normalize_english(text)
        return numbers.spell_numbers(unicodedata.normalize("NFC", text), _NUMBERS_LIKE.get(language, language))

    def _clean(self, text: str) -> tuple[str, list[str]]:
        """Bring punctuation to commas and sentence ends, and drop what cannot be spoken, naming it."""
        text = text.replace("’", "'").translate(_PLAIN_MARKS)
        text = _QUOTES.sub(" ", _PAUSE_MARKS.sub(", ", text))
        left_out = sorted(set(self._unspeakable.findall(text)))
        text = self._unspeakable.sub(" ", text)
        return _MARKS.sub(lambda run: f"{_strongest(run[0])} ", text).strip(), left_out

    def is_speakable(self, text: str) -> bool:
        """Say whether anything in it makes a sound: a letter of the model's scripts, a digit, or a replaced word."""
        return self._speakable.search(text) is not None


class TextStream:
    """One text on its way in: pieces are pushed, segments come out; warnings collect what was left out."""

    def __init__(self, frontend: Frontend, language_hint: str | None = None) -> None:
        self._frontend = frontend
        self._hint = frontend.check_language(language_hint)
        self._splitter = SentenceSplitter(max_length=frontend.max_characters)
        self._visible = ""
        self._spans: list[_Span] = []
        self.warnings: list[str] = []
        if language_hint is not None and self._hint is None:
            spoken = ", ".join(frontend.languages)
            self.warnings.append(f"language hint {language_hint!r} was ignored: this model speaks {spoken}")

    def push(self, text: str) -> list[Segment]:
        """Add a piece of plain text; give out the segments that it completes."""
        self._visible += text
        return self._segments(self._splitter.push(text))

    def finish(self) -> list[Segment]:
        """Give out what is left, as at a flush or at the end; more text may follow."""
        return self._segments(self._splitter.finish())

    def push_alias(self, text: str, alias: str) -> list[Segment]:
        """Add words that are shown as text and spoken as alias."""
        return self._push_span(text, alias=_private_removed(alias)[0])

    def push_tokens(self, text: str, tokens: str) -> list[Segment]:
        """Add words that are shown as text and spoken as tokens of the text tokenizer."""
        return self._push_span(text, tokens=tokens)

    def _push_span(self, text: str, alias: str | None = None, tokens: str | None = None) -> list[Segment]:
        shown = text or alias or "-"
        start = len(self._visible)
        self._spans.append(_Span(start, start + len(shown), alias, tokens))
        self._visible += shown
        # letters hide its punctuation from the splitter, which must not cut inside
        return self._segments(self._splitter.push("x" * len(shown)))

    def _segments(self, sentences: list[Sentence]) -> list[Segment]:
        made = [self._segment(sentence) for sentence in sentences]
        return [segment for segment in made if segment is not None]

    def _segment(self, sentence: Sentence) -> Segment | None:
        literal: list[str] = []
        raw, left_out = self._with_spans(sentence, literal)
        shown = self._visible[sentence.start : sentence.end].rstrip()
        language = self._frontend.language_of(raw, self._hint)
        spoken, dropped = self._frontend.spell_out(raw, language, literal)
        for char in left_out + dropped:
            self._warn(f"left out {_name(char)}: this model cannot speak it")
        if not spoken:
            self._warn(f"left out {shown!r}: there is nothing in it to speak")
            return None
        return Segment(shown, spoken, PAUSES_MS[sentence.end_kind], language)

    def _with_spans(self, sentence: Sentence, literal: list[str]) -> tuple[str, list[str]]:
        """Put aliases and placeholders where replaced words stand; private-use characters of the user go first."""
        left_out: list[str] = []
        raw, position = "", sentence.start
        for span in self._spans:
            if not sentence.start <= span.start < sentence.end:
                continue
            plain, found = _private_removed(self._visible[position : span.start])
            raw += plain
            left_out += found
            if span.tokens is not None:
                literal.append(span.tokens)
                raw += _placeholder(len(literal) - 1)
            raw += span.alias or ""
            position = span.end
        plain, found = _private_removed(self._visible[position : sentence.end])
        return raw + plain, left_out + found

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)


def _with_break(segments: list[Segment], break_ms: int) -> list[Segment]:
    """Let the last segment be followed by a break; breaks with nothing between them add up."""
    last = segments[-1] if segments else Segment("", "", 0, asked_pause=True)
    pause_ms = min(MAX_BREAK_MS, break_ms + (last.pause_ms if last.asked_pause else 0))
    return [*segments[:-1], replace(last, pause_ms=pause_ms, asked_pause=True)]


def _placeholder(index: int) -> str:
    return chr(_FIRST_PLACEHOLDER + index)


def _private_removed(text: str) -> tuple[str, list[str]]:
    return _PRIVATE.sub(" ", text), _PRIVATE.findall(text)


def _name(char: str) -> str:
    return f"{char!r} (U+{ord(char):04X} {unicodedata.name(char, 'without a name')})"


def _strongest(run: str) -> str:
    """One mark for a run of them: a question stays a question, dots that trail off are a comma."""
    for mark in "?!":
        if mark in run:
            return mark
    if "…" in run or ".." in run:
        return ","
    return next(mark for mark in ".;," if mark in run)


def _ended(spoken: str, stop: str) -> str:
    """Close the sentence; nothing to speak gives nothing."""
    spoken = spoken.rstrip(" ,;")
    if not spoken.strip(" .!?"):
        return ""
    return spoken if spoken[-1] in ".!?" else spoken + stop


def _text_sentence(text: str, language: str) -> str:
    """Finish a sentence for a model that reads text: marks of the language, one space between words."""
    spoken = _ended(
        re.sub(r"\s+", " ", re.sub(r"\s+(?=[,.;!?])", "", text)).strip(" ,.;!?" if not text else " ,;"), "."
    )
    if language not in ("zh", "ja"):
        return spoken
    return re.sub(r"([,.;!?]) ?", lambda mark: mark[1].translate(_FULL_WIDTH_MARKS), spoken)


def _phones_sentence(text: str) -> str:
    """Finish a sentence for a model that reads phones: [HH][AH][L][OW], [W][ER][L][D]."""
    tokens = _TOKENS.findall(_unshouted(text))
    words: list[str] = []
    for index, token in enumerate(tokens):
        if token not in ",.;!?":
            following = tokens[index + 1] if index + 1 < len(tokens) else "."
            words += _said(token, is_first=not words or words[-1][-1] in ",.;!?", following=following)
        elif words:
            words[-1] = words[-1].rstrip(",.;!?") + token
    return _ended(" ".join(words), ".")


def _said(token: str, *, is_first: bool, following: str) -> list[str]:
    """Write one word as phones; an unknown one by its parts if all are known (OpenAI), else as small letters."""
    if _PRIVATE.match(token):
        return [token]
    if token == "A" and not is_first and not following[:1].isupper():
        return [phone_tokens(letter_phones("A") or [])]  # the letter, as in "plan A", not the article
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
    return text.lower() if is_shouted else text
