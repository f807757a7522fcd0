"""What comes out of `make demo`: the voices judged, a picture of them, tables on the screen and `report.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cosyforge.evaluation.scorecard import Recording, Scorecard, VoiceFigures
from cosyforge.evaluation.spectrogram import Panel, draw_spectrograms

CNY_PER_1000_TOKENS = 0.2


@dataclass(frozen=True)
class DemoReport:
    """Everything worth keeping of one journey.

    Units: stage_s holds seconds by stage, in order; tokens as billed by the job
    """

    hyper_parameters: Mapping[str, int]
    checkpoints: Sequence[str]
    tokens: int
    stage_s: Mapping[str, float]
    base: Scorecard
    tuned: Scorecard
    is_held_out: bool
    """Whether the recordings compared with were kept out of the training."""

    @property
    def cost_cny(self) -> float:
        return self.tokens / 1000 * CNY_PER_1000_TOKENS

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"cost_cny": self.cost_cny}


def draw_voices(path: Path, references: Sequence[Recording], base: Recording, tuned: Recording) -> None:
    """Draw a real recording, of the same text where there is one, above what the two voices said.

    Raises: ModuleNotFoundError saying what to install when matplotlib is missing
    """
    real = next((clip for clip in references if clip.text == tuned.text), references[0])
    clips = {"real recording": real, "base voice": base, "tuned voice": tuned}
    panels = [Panel(f"{name}: {clip.text}", clip.samples, clip.sample_rate_hz) for name, clip in clips.items()]
    draw_spectrograms(path, panels)


def print_report(console: Console, report: DemoReport) -> None:
    console.print(_voice_table(report))
    console.print(_time_table(report.stage_s))
    price = f"at {CNY_PER_1000_TOKENS} CNY per 1,000 that is {report.cost_cny:.2f} CNY"
    console.print(f"{report.tokens:,} training tokens; {price}", highlight=False)


def write_report(path: Path, report: DemoReport) -> None:
    path.write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _voice_table(report: DemoReport) -> Table:
    kind = "held-out recordings" if report.is_held_out else "training recordings"
    table = Table(title=f"Words understood, and likeness to {kind} of the speaker", title_justify="left")
    # of the real recordings, likeness is that of one half to the other: the mark that no voice can pass
    table.add_column("", no_wrap=True)
    for column in ("words", "errors", "likeness", "pitch", "phones/s", "faults"):
        table.add_column(column, justify="right")
    if report.tuned.recorded is not None:
        table.add_row("real recordings", *_cells(report.tuned.recorded))
    table.add_row("base voice", *_cells(report.base.spoken))
    table.add_row("tuned voice", *_cells(report.tuned.spoken))
    return table


def _time_table(stage_s: Mapping[str, float]) -> Table:
    table = Table(title="Where the time went", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for name, seconds in stage_s.items():
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("in all", f"{sum(stage_s.values()):.1f}")
    return table


def _cells(figures: VoiceFigures) -> list[str]:
    words = figures.words
    return [
        f"{words.words_understood} of {words.num_words}",
        "-" if figures.word_error_rate is None else f"{figures.word_error_rate:.0%}",
        "not measured" if figures.similarity is None else f"{figures.similarity:.2f}",
        "-" if figures.median_f0_hz is None else f"{figures.median_f0_hz:.0f} Hz",
        "-" if figures.phones_per_s is None else f"{figures.phones_per_s:.1f}",
        str(figures.num_faults),
    ]
