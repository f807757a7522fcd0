"""The report at the end of the recipe: what there is in the work folder, as a page and as data."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cosyforge.demo_recordings import demo_recordings, pack
from cosyforge.training.pretrain.extra_corpus import import_recordings
from cosyforge.training.pretrain.report import draw_curve, note_stage, write_report


def synthetic_clip(speaker: str, language: str, duration_s: float, phones: list[tuple[str, float]]) -> str:
    row = {"text": "Hi.", "speaker": speaker, "phones": phones, "language": language, "offset": 0}
    return json.dumps(row | {"num_samples": round(16_000 * duration_s)})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A work folder with two synthetic shards, an import of five people, and the curve of one stage."""
    for name in ("corpus", "work"):
        (tmp_path / name).mkdir()
    rows = [
        synthetic_clip("slt-1.00", "en", 3.6, [("HH", 0.1)]),
        synthetic_clip("slt-0.86", "en", 3.6, [("HH", 0.1)]),
        synthetic_clip("espeak-m1-50", "zh", 7.2, []),
    ]
    (tmp_path / "corpus" / "000.jsonl").write_text("\n".join(rows[:2]) + "\n", encoding="utf-8")
    (tmp_path / "corpus" / "001.jsonl").write_text(rows[2] + "\n", encoding="utf-8")
    (tmp_path / "people").mkdir()
    for index, clip in enumerate(demo_recordings("heldout")[:5]):
        pack([clip], tmp_path / "people" / f"<p{index}>.zip")
    import_recordings(tmp_path / "people", tmp_path / "corpus", num_processes=1)
    curve = [{"step": 50.0, "loss": 3.0, "accuracy": 0.2}, {"step": 100.0, "loss": 1.5, "accuracy": 0.6}]
    (tmp_path / "work" / "lm.curve.json").write_text(json.dumps(curve), encoding="utf-8")
    return tmp_path


def test_the_corpus_is_counted_by_language_and_kind_of_speaker(run: Path) -> None:
    write_report(run)
    corpus = json.loads((run / "report.json").read_text(encoding="utf-8"))["corpus"]
    groups = {
        (g["language"], g["group"]): (g["num_speakers"], g["num_clips"], g["num_aligned"]) for g in corpus["groups"]
    }
    assert groups[("en", "slt")] == (2, 2, 2)
    assert groups[("zh", "espeak")] == (1, 1, 0)
    num_held_out = len(corpus["held_out_speakers"])
    assert groups[("en", "recordings, held out")] == (num_held_out, num_held_out, 0)
    assert groups[("en", "recordings")] == (5 - num_held_out, 5 - num_held_out, 0)
    assert {g["group"]: g["duration_h"] for g in corpus["groups"]}["slt"] == 0.002
    assert corpus["num_clips"] == 8
    assert [(c["num_found"], c["dropped"]) for c in corpus["collections"]] == [(1, {})] * 5


def test_the_time_of_a_stage_that_was_stopped_counts_together(run: Path) -> None:
    note_stage(run / "work", "lm", duration_s=30.0, num_steps=50, seed=7, num_parameters=2_800_000, device="cpu")
    note_stage(run / "work", "lm", duration_s=12.0, num_steps=100, seed=7, num_parameters=2_800_000, device="cpu")
    write_report(run)
    (stage,) = json.loads((run / "report.json").read_text(encoding="utf-8"))["stages"]
    assert (stage["name"], stage["num_steps"], stage["duration_s"], stage["num_runs"], stage["seed"]) == (
        "lm", 100, 42.0, 2, 7
    )  # fmt: skip
    assert stage["figures"] == {"loss": 1.5, "accuracy": 0.6}


class Reader(HTMLParser):
    """Checks that tags close in order, and keeps what a browser would fetch and show."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_needs_nothing_else(run: Path) -> None:
    note_stage(run / "work", "lm", duration_s=90.0, num_steps=100, seed=7, num_parameters=2_800_000, device="cpu")
    page = write_report(run, {"num_clips": 3}).read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert (reader.open, reader.fetched) == ([], [])
    assert "url(" not in page
    assert page.count("<svg") == 2
    for words in ("lm", "2.80", "1.5", "loss 1.5, accuracy 0.6", "<p0>", "torch", "num_clips"):
        assert words in reader.text


def test_a_curve_runs_from_its_greatest_to_its_least_value() -> None:
    svg = draw_curve("loss", [(0.0, 4.0), (10.0, 1.0), (20.0, 2.5)])
    match = re.search(r'points="([^"]+)"', svg)
    assert match is not None
    points = [tuple(map(float, pair.split(","))) for pair in match[1].split()]
    assert points == [(6.0, 6.0), (150.0, 114.0), (294.0, 60.0)]
    assert "4 at step 0, 2.5 at step 20; 1 to 4" in svg


def test_a_curve_of_one_point_is_drawn() -> None:
    assert 'points="150.0,60.0"' in draw_curve("loss", [(1.0, 2.0)])


def test_a_folder_that_nothing_was_run_in_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no corpus and no curve"):
        write_report(tmp_path)
