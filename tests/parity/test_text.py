"""Text cases of the reference. Its splitting and its odd readings (a decimal point in Chinese as a full stop, "20m平方") are
documentation: we decide to do better. What must hold for each case is what a listener would notice: it is spoken exactly when the
reference speaks it, and every word that needs no reading out (no digit at it) is still there, in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from cosyforge.errors import InvalidParameter
from cosyforge.text.frontend import Frontend

FRONTEND = Frontend(
    {"languages": ["zh", "en"], "english": "text", "prefix": "You are a helpful assistant.<|endofprompt|>"}
)
LONGEST = 400
"""Characters of a piece: far above what our splitter should ever give, far below an unsplit paragraph."""

SIGNS_WITH_NAMES = "$€£¥+=&@#%"
"""Signs that the reference drops and that people do say."""


@pytest.fixture
def cases(load_json: Callable[[str], Any]) -> dict[str, Any]:
    return load_json("text")


def plain_words(text: str) -> list[str]:
    """The words that are spoken as they are written: Latin words and single hanzi without a digit or sign joined to them."""
    without_tokens = re.sub(r"<\|.*?\|>", " ", text)
    plain = re.sub(r"[A-Za-z]*[\d²³%][\d²³%A-Za-z]*", " ", without_tokens)
    return re.findall(r"[A-Za-z]{2,}|[一-鿿]", plain)


def test_cases_are_spoken_when_the_reference_speaks_and_lose_no_word(cases: dict[str, Any]) -> None:
    assert cases["text_normalize"]
    for case in cases["text_normalize"]:
        if not case["split"]:
            with pytest.raises(InvalidParameter):
                FRONTEND.segments(case["text"])
            continue
        segments = FRONTEND.segments(case["text"])
        rest = "".join(segment.spoken + " " for segment in segments).lower()
        for word in plain_words(case["text"]):
            _, found, rest = rest.partition(word.lower())
            assert found, f"{word!r} of {case['text']!r} is not spoken: {[segment.spoken for segment in segments]}"
        assert max(len(segment.spoken) for segment in segments) <= LONGEST


def test_what_is_more_than_punctuation_is_spoken_and_mere_marks_are_not(cases: dict[str, Any]) -> None:
    for text, is_only_punctuation in pairs(cases["is_only_punctuation"]):
        if not is_only_punctuation:
            assert FRONTEND.segments(text), text
        elif not set(text) & set(SIGNS_WITH_NAMES):
            with pytest.raises(InvalidParameter):
                FRONTEND.segments(text)


def test_paragraph_cases_keep_their_text(cases: dict[str, Any]) -> None:
    for case in cases["split_paragraph"]:
        ours = "".join(segment.text for segment in FRONTEND.segments(case["text"]))
        assert re.sub(r"\W", "", ours) == re.sub(r"\W", "", "".join(case["out"]))


def pairs(recorded: Any) -> list[tuple[str, bool]]:
    """The recorded answers, whether kept as a mapping or as a list of records."""
    if isinstance(recorded, dict):
        return list(recorded.items())
    return [(row["text"], row["out"]) if isinstance(row, dict) else (row[0], row[1]) for row in recorded]
