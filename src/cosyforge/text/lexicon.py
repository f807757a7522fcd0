"""English pronunciations: the CMU dictionary inside the installed pocketsphinx package, 39 phones without stress.

Words that the dictionary lacks are derived from ones that it has (possessive, plural, past, -ing, a few prefixes and
endings, compounds); abbreviations in capitals are read letter by letter. Anything else is unknown: the caller decides,
nothing is guessed here.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

PHONES = frozenset(
    {
        *("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"),
        *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG"),
        *("P", "R", "S", "SH", "T", "TH", "V", "W", "Y", "Z", "ZH"),
    }
)
SIBILANTS = frozenset({"S", "Z", "SH", "ZH", "CH", "JH"})
VOICELESS = frozenset({"P", "T", "K", "F", "TH", "S", "SH", "CH"})

_SPELLED_IN_CAPITALS = frozenset({"AD", "AI", "AM", "AT", "ID", "LED", "UN", "US"})
"""Capitals whose small form is another word in the dictionary and which are nevertheless spelled out."""

_LETTERS_IN_CAPITALS = re.compile(r"[A-Z]{2,6}")
_PREFIXES = {"un": "AH N", "re": "R IY", "mis": "M IH S", "dis": "D IH S", "pre": "P R IY", "co": "K OW"}
_ENDINGS = {
    "ly": "L IY", "ness": "N AH S", "less": "L AH S", "ful": "F AH L", "er": "ER", "ers": "ER Z", "able": "AH B AH L",
}  # fmt: skip
_SHORTEST_PART = 3


def english_phones(word: str) -> list[str] | None:
    """Say how one English word is pronounced; None when neither the dictionary nor a rule knows.

    Case matters in one way: "US" and "FBI" are spelled out where "us" is a word. Accents are ignored (café), hyphens
    join parts.
    """
    plain = fold_latin(word)
    if not plain:
        return None
    spelled = _abbreviation(plain)
    if spelled is not None:
        return spelled
    return _phones_of(plain.lower())


def letter_phones(letters: str) -> list[str] | None:
    """Name the letters one by one, as in F-B-I; None when something is no letter A-Z."""
    names = [_dictionary().get(f"{letter}.") for letter in fold_latin(letters).lower()]
    if not names or None in names:
        return None
    return [phone for name in names if name for phone in name.split()]


def dictionary_path() -> Path:
    """Find the dictionary without importing pocketsphinx (its C code is of no use here).

    Raises: FileNotFoundError when the package or the file is missing
    """
    spec = find_spec("pocketsphinx")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder, "model", "en-us", "cmudict-en-us.dict")
        if path.is_file():
            return path
    raise FileNotFoundError("no English dictionary: install the package pocketsphinx, which brings cmudict-en-us.dict")


_LETTERS_THAT_DO_NOT_DECOMPOSE = str.maketrans(
    {
        "’": "'", "ʼ": "'", "ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ł": "l",
        "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i",
    }
)  # fmt: skip


def known_words() -> list[str]:
    """Every plain word of the dictionary, lower case, in its order."""
    return [word for word in _dictionary() if word.isalpha()]


def fold_latin(word: str) -> str:
    """Bring Latin letters to plain A-Z: café -> cafe, Straße -> Strasse; other scripts stay what they are."""
    decomposed = unicodedata.normalize("NFKD", word.strip().translate(_LETTERS_THAT_DO_NOT_DECOMPOSE))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


@cache
def _dictionary() -> dict[str, str]:
    """Word -> its phones in one string; second pronunciations, written word(2), are left out."""
    entries: dict[str, str] = {}
    with dictionary_path().open(encoding="ascii") as lines:
        for line in lines:
            word, _, phones = line.rstrip("\n").partition(" ")
            if not word.endswith(")"):
                entries[word] = phones
    return entries


def _abbreviation(word: str) -> list[str] | None:
    """Read FBI, CDs, USA's letter by letter, unless the capitals make a word (NASA, HELLO)."""
    letters, ending = word, ""
    for candidate in ("'s", "s"):
        if word.endswith(candidate):
            letters, ending = word.removesuffix(candidate), candidate
            break
    if not _LETTERS_IN_CAPITALS.fullmatch(letters):
        return None
    if letters not in _SPELLED_IN_CAPITALS and _cached_phones(letters.lower()) is not None:
        return None
    names = letter_phones(letters)
    return names and names + (_plural_ending(names[-1]) if ending else [])


@lru_cache(maxsize=50_000)
def _cached_phones(word: str) -> tuple[str, ...] | None:
    entry = _dictionary().get(word)
    if entry is not None:
        return tuple(entry.split())
    if "-" in word:
        parts = [_cached_phones(part) for part in word.split("-") if part]
        return _joined(parts)
    for rule in (_possessive, _plural, _past, _participle, _prefixed, _with_ending, _compound):
        phones = rule(word)
        if phones is not None:
            return phones
    return None


def _phones_of(word: str) -> list[str] | None:
    phones = _cached_phones(word)
    return None if phones is None else list(phones)


def _joined(parts: list[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    if not parts or any(part is None for part in parts):
        return None
    return tuple(phone for part in parts if part for phone in part)


def _known(*stems: str) -> tuple[str, ...] | None:
    """Give the phones of the first stem that the dictionary holds."""
    for stem in stems:
        entry = _dictionary().get(stem)
        if entry is not None and len(stem) >= _SHORTEST_PART:
            return tuple(entry.split())
    return None


def _plural_ending(last_phone: str) -> list[str]:
    if last_phone in SIBILANTS:
        return ["IH", "Z"]
    return ["S"] if last_phone in VOICELESS else ["Z"]


def _possessive(word: str) -> tuple[str, ...] | None:
    if word.endswith("s'"):
        return _cached_phones(word[:-1])
    if word.endswith("'s"):
        stem = _cached_phones(word[:-2])
        return stem and (*stem, *_plural_ending(stem[-1]))
    return None


def _plural(word: str) -> tuple[str, ...] | None:
    if not word.endswith("s") or word.endswith("ss"):
        return None
    stem = _known(word[:-1])
    if stem is None and word.endswith("ies"):
        stem = _known(word[:-3] + "y")
    if stem is None and word.endswith("es"):
        stem = _known(word[:-2])
    return stem and (*stem, *_plural_ending(stem[-1]))


def _past(word: str) -> tuple[str, ...] | None:
    if not word.endswith("ed"):
        return None
    stem = _known(word[:-2], word[:-1], *_undoubled(word[:-2]), *([word[:-3] + "y"] if word.endswith("ied") else []))
    if stem is None:
        return None
    if stem[-1] in ("T", "D"):
        return (*stem, "IH", "D")
    return (*stem, "T") if stem[-1] in VOICELESS else (*stem, "D")


def _participle(word: str) -> tuple[str, ...] | None:
    for ending, phones in (("ing", ("IH", "NG")), ("ings", ("IH", "NG", "Z"))):
        if word.endswith(ending):
            base = word.removesuffix(ending)
            stem = _known(base, base + "e", *_undoubled(base))
            if stem is not None:
                return stem + phones
    return None


def _undoubled(base: str) -> list[str]:
    """plann -> plan, for stopped, planning and the like."""
    return [base[:-1]] if len(base) > 3 and base[-1] == base[-2] else []


def _prefixed(word: str) -> tuple[str, ...] | None:
    for prefix, phones in _PREFIXES.items():
        if word.startswith(prefix) and len(word) >= len(prefix) + 4:
            stem = _known(word.removeprefix(prefix))
            if stem is not None:
                return (*phones.split(), *stem)
    return None


def _with_ending(word: str) -> tuple[str, ...] | None:
    for ending, phones in _ENDINGS.items():
        base = word.removesuffix(ending)
        if base != word and len(base) >= 4:
            stem = _known(base, base + "e") if ending in ("er", "ers", "able") else _known(base)
            if stem is not None:
                return (*stem, *phones.split())
    return None


def _compound(word: str) -> tuple[str, ...] | None:
    """Split into two known words; of several splits the most even one, for its parts are the least accidental."""
    splits = [
        (min(cut, len(word) - cut), cut)
        for cut in range(_SHORTEST_PART, len(word) - _SHORTEST_PART + 1)
        if word[:cut] in _dictionary() and _inflected(word[cut:]) is not None
    ]
    if not splits:
        return None
    cut = max(splits)[1]
    return _joined([_known(word[:cut]), _inflected(word[cut:])])


def _inflected(word: str) -> tuple[str, ...] | None:
    return _known(word) or _plural(word) or _past(word) or _participle(word)
