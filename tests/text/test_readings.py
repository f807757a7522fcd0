"""Tables of readings: each row has its expected words from the document, the contract or an independent source."""

import json
import re
from pathlib import Path

import pytest

from cosyforge.text.frontend import Frontend

OFFICIAL = Frontend({"languages": ["zh", "en"], "english": "text"})
TABLES = Path(__file__).parent
DOCS = (TABLES.parents[1] / "docs" / "text.md").read_text(encoding="utf-8")
SOURCES = ("document", "contract", "independent: ")


def rows_of(language):
    lines = (TABLES / f"readings_{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


ROWS = [(language, row) for language in ("zh", "en") for row in rows_of(language)]


def said(row, language):
    segments = OFFICIAL.segments(row["written"], language, ssml=row["written"].startswith("<speak"))
    return plain(" ".join(segment.words for segment in segments), row["kind"], language)


def plain(words, kind, language):
    """Without the mark at the end; names of letters may stand with or without spaces between hanzi."""
    words = re.sub(r"[.。!！?？]+$", "", words)
    return re.sub(r"\s", "", words) if language == "zh" and kind.startswith(("latex", "say-as")) else words


def is_known_limit(row):
    return f"| `{row['written']}` |" in DOCS


@pytest.mark.parametrize(
    ("language", "row"), ROWS, ids=lambda value: value["written"] if isinstance(value, dict) else value
)
def test_every_row_is_said_as_expected_or_is_a_known_limit(language, row):
    is_right = said(row, language) == plain(row["spoken"], row["kind"], language)
    assert is_right != is_known_limit(row), said(row, language)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_tables_are_long_and_name_their_sources(language):
    rows = rows_of(language)
    assert len({row["written"] for row in rows}) == len(rows) >= 120
    assert all(row["source"].startswith(SOURCES) for row in rows)
    kinds = {row["kind"].split()[0] for row in rows}
    assert kinds >= {
        "cardinal",
        "ordinal",
        "date",
        "time",
        "money",
        "unit",
        "phone",
        "latex",
        "say-as",
        "percent",
        "url",
    }
    assert sum(map(is_known_limit, rows)) <= 0.05 * len(rows)
