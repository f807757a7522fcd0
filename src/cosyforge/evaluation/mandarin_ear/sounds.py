"""Mandarin syllables as the recogniser hears them: initial, final and tone as they sound, not as pinyin abbreviates them.

yan2 -> y + ian, zhi1 -> zh + ir, xue2 -> x + üe, wen4 -> w + un
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SILENCE = "SIL"
INITIALS = tuple("b p m f d t n l g k h j q x zh ch sh r z c s y yu w".split())
"""The glides y, yu (before ü) and w count as initials: they mark where a syllable begins."""
FINALS = tuple(
    "a ai an ang ao e ei en eng er i ia ian iang iao ie in ing io iong iu iz ir o ong ou u ua uai uan uang ui un uo ueng "
    "ü üan üe ün".split()
)
UNITS = (SILENCE, *INITIALS, *FINALS)
NUM_TONES = 5

_PINYIN = re.compile("(zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])?([a-zü]+)")
_AFTER_Y = {
    "i": "i",
    "in": "in",
    "ing": "ing",
    "ong": "iong",
    "ou": "iu",
    "u": "ü",
    "ue": "üe",
    "uan": "üan",
    "un": "ün",
}
_AFTER_W = {"u": "u", "ei": "ui", "en": "un", "eng": "ueng"}
_ROUNDED = {"u": "ü", "ue": "üe", "uan": "üan", "un": "ün"}


def sounds_of(base: str) -> tuple[str, str] | None:
    """Initial ("" where there is none) and final of a syllable without its tone; None when it is no full syllable."""
    match = _PINYIN.fullmatch(base)
    if match is None:
        return None
    initial, final = match[1] or "", match[2]
    if initial == "y":
        initial = "yu" if final in _ROUNDED else "y"
        final = _AFTER_Y.get(final, f"i{final}")
    elif initial == "w":
        final = _AFTER_W.get(final, f"u{final}")
    elif initial in ("j", "q", "x"):
        final = _ROUNDED.get(final, final)
    elif final == "i" and initial in ("z", "c", "s"):
        final = "iz"
    elif final == "i" and initial in ("zh", "ch", "sh", "r"):
        final = "ir"
    elif final == "ue":
        final = "üe"
    return (initial, final) if final in FINALS else None


def split_tone(syllable: str) -> tuple[str, int]:
    """hao3 -> ("hao", 3).

    Raises: ValueError when it ends with no tone digit 1 to 5
    """
    if syllable[-1:] not in tuple("12345"):
        raise ValueError(
            f"{syllable!r} ends with no tone digit 1 to 5; write for example hao3, and 5 for the neutral tone"
        )
    return syllable[:-1], int(syllable[-1])


def with_third_tone_sandhi(syllables: Sequence[str], pause_after: Sequence[bool] | None = None) -> list[str]:
    """A third tone before a third tone is said as a second: ni3 hao3 -> ni2 hao3. A pause between them prevents it.

    pause_after: whether a pause follows each syllable; None for none
    """
    said = []
    for index, syllable in enumerate(syllables):
        follows_third = index + 1 < len(syllables) and syllables[index + 1].endswith("3")
        is_apart = pause_after is not None and pause_after[index]
        said.append(syllable[:-1] + "2" if syllable.endswith("3") and follows_third and not is_apart else syllable)
    return said
