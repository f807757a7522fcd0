"""What is wrong with a training package: problems as plain data in one report. Knows no rule and no audio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cosyforge.errors import InvalidDataset

ERROR, WARNING = "error", "warning"

_SHOWN_IN_MESSAGE = 20


@dataclass(frozen=True)
class Problem:
    """One broken rule.

    Units: line counts from 1, as editors do; None where the problem is not in a line of data.jsonl
    """

    severity: str
    rule: str
    found: str
    """What is wrong, with the value found."""
    advice: str
    """What the person should do."""
    line: int | None = None
    file: str | None = None

    @property
    def where(self) -> str:
        if self.line is None:
            return self.file or "package"
        return f"data.jsonl line {self.line}" + (f" ({self.file})" if self.file else "")

    def __str__(self) -> str:
        return f"{self.where}: {self.found}; {self.advice}"


@dataclass(frozen=True)
class Report:
    """All problems of one package, and how much usable audio it holds."""

    problems: tuple[Problem, ...]
    num_clips: int = 0
    total_seconds: float = 0.0

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == ERROR]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == WARNING]

    @property
    def is_valid(self) -> bool:
        return not self.errors

    @property
    def summary(self) -> str:
        return (
            f"{_counted(self.num_clips, 'clip')}, {self.total_seconds / 60:.1f} minutes, "
            f"{_counted(len(self.errors), 'error')}, {_counted(len(self.warnings), 'warning')}"
        )

    def to_text(self) -> str:
        """The report for people: a summary line, then the errors, then the warnings, each with its rule."""
        lines = [self.summary]
        for title, problems in (("Errors", self.errors), ("Warnings", self.warnings)):
            if problems:
                lines += ["", f"{title} (training {'cannot start' if title == 'Errors' else 'goes on'}):"]
                lines += [f"  [{problem.rule}] {problem}" for problem in problems]
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        return {
            "is_valid": self.is_valid,
            "num_clips": self.num_clips,
            "total_seconds": self.total_seconds,
            "counts": dict(Counter(problem.rule for problem in self.problems)),
            "problems": [{**asdict(problem), "where": problem.where} for problem in self.problems],
        }

    def raise_if_invalid(self) -> None:
        """Raises: InvalidDataset whose message names the first errors and whose `report` field holds all of them."""
        if not self.is_valid:
            raise invalid_dataset(self)


def invalid_dataset(report: Report) -> InvalidDataset:
    errors = report.errors
    shown = "; ".join(str(problem) for problem in errors[:_SHOWN_IN_MESSAGE])
    rest = f"; and {len(errors) - _SHOWN_IN_MESSAGE} more" if len(errors) > _SHOWN_IN_MESSAGE else ""
    return InvalidDataset(f"The training package has {_counted(len(errors), 'error')}: {shown}{rest}", report=report)


def refuse(problems: Sequence[Problem]) -> InvalidDataset:
    """The error to raise when nothing more can be read."""
    return invalid_dataset(Report(tuple(problems)))


def report_of(error: InvalidDataset) -> Report:
    """The report that an InvalidDataset carries."""
    report = error.fields["report"]
    assert isinstance(report, Report)
    return report


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
