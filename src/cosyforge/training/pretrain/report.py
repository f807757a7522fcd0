"""What a pretraining run did, for people and programs: `report.html` and `report.json` in the work folder.

Reads what the stages left (`work/STAGE.curve.json`, `work/STAGE.facts.json`, the listings of the corpus) and nothing else, so it may be
written at any time, also of a run that was stopped. The page needs no network: its curves are drawn here as SVG.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cosyforge.cosyvoice.manifest import replacing
from cosyforge.dataset.synthetic import SAMPLE_RATE_HZ, shard_listings
from cosyforge.training.pretrain.extra_corpus import LEDGER

RECORDED = "recordings"
"""The group of the speakers that were imported; synthetic ones are grouped by the beginning of their name, their engine or voice."""

_PACKAGES = (
    "cosyforge",
    "torch",
    "numpy",
    "safetensors",
    "tokenizers",
    "soundfile",
    "soxr",
    "pypinyin",
    "pocketsphinx",
)
_ENGINES = (("flite", ("flite", "--version")), ("espeak-ng", ("espeak-ng", "--version")))
_STAGE_TITLES = ("stage", "#steps", "#million parameters", "#minutes", "#runs", "#seed", "device", "final figures")
_WIDTH, _HEIGHT, _EDGE = 300, 120, 6
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1f24; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2 } h3 { margin: 1.6rem 0 .4rem }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid #d8dce2 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: 0 1.2rem .8rem 0 } figcaption { font-size: .85rem; color: #4a515c }
svg { background: #f4f6f8; display: block } polyline { fill: none; stroke: #1a6fb5; stroke-width: 1.5 }
"""


def note_stage(
    work: Path, stage: str, *, duration_s: float, num_steps: int, seed: int, num_parameters: int, device: str
) -> None:
    """Keep what the curve of a stage does not tell; the time of a run that goes on is added to the time before.

    work: the folder of the curves; num_steps: the step that the stage has reached; device: of the last run
    """
    path = work / f"{stage}.facts.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"duration_s": 0.0, "num_runs": 0}
    facts = {
        "duration_s": round(before["duration_s"] + duration_s, 1),
        "num_runs": before["num_runs"] + 1,
        "num_steps": num_steps,
        "seed": seed,
        "num_parameters": num_parameters,
        "device": device,
    }
    with replacing(path) as partial:
        partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def write_report(directory: Path, settings: Mapping[str, Any] | None = None) -> Path:
    """Write both reports of a work folder; returns the page.

    settings: what the run was asked for, shown as it is
    Raises: FileNotFoundError when the folder holds neither a corpus nor a curve
    """
    facts = collect(directory, settings)
    if not facts["corpus"]["num_clips"] and not facts["stages"]:
        raise FileNotFoundError(f"{directory} holds no corpus and no curve: run a stage of `cosyforge pretrain` first")
    for name, text in (
        ("report.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n"),
        ("report.html", page(facts)),
    ):
        with replacing(directory / name) as partial:
            partial.write_text(text, encoding="utf-8")
    return directory / "report.html"


# --- what there is to tell -------------------------------------------------------------------------------------------------------------


def collect(directory: Path, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Everything in the report, as plain data."""
    work = directory / "work"
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": dict(settings or {}),
        "corpus": describe_corpus(directory / "corpus"),
        "stages": [_stage(path) for path in _curves(work)],
        "software": _software(),
        "machine": {"system": platform.platform(), "processor": _processor(), "num_cores": os.cpu_count()},
    }


def describe_corpus(corpus: Path) -> dict[str, Any]:
    """Sizes by language and speaker group, and what became of recordings that were imported."""
    ledger = json.loads((corpus / LEDGER).read_text(encoding="utf-8")) if (corpus / LEDGER).exists() else {}
    recorded, held_out = set(ledger.get("speakers", ())), set(ledger.get("held_out_speakers", ()))
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for listing in shard_listings(corpus):
        for line in listing.read_text(encoding="utf-8").splitlines():
            clip = json.loads(line)
            speaker = clip["speaker"]
            name = (
                f"{RECORDED}, held out"
                if speaker in held_out
                else RECORDED
                if speaker in recorded
                else speaker.split("-")[0]
            )
            key = (clip.get("language", "en"), name)
            group = groups.setdefault(key, {"speakers": set(), "num_clips": 0, "num_aligned": 0, "num_samples": 0})
            group["speakers"].add(speaker)
            group["num_clips"] += 1
            group["num_aligned"] += bool(clip["phones"])
            group["num_samples"] += clip["num_samples"]
    rows = [_group(language, name, group) for (language, name), group in sorted(groups.items())]
    return {
        "num_clips": sum(row["num_clips"] for row in rows),
        "duration_h": round(sum(row["duration_h"] for row in rows), 3),
        "num_speakers": len(set().union(*(group["speakers"] for group in groups.values()))),
        "groups": rows,
        "collections": list(ledger.get("collections", {}).values()),
        "held_out_speakers": sorted(held_out),
    }


def _group(language: str, name: str, group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "language": language,
        "group": name,
        "num_speakers": len(group["speakers"]),
        "num_clips": group["num_clips"],
        "num_aligned": group["num_aligned"],
        "duration_h": round(group["num_samples"] / SAMPLE_RATE_HZ / 3600, 3),
    }


def _curves(work: Path) -> list[Path]:
    """In the order in which the stages ended."""
    return sorted(work.glob("*.curve.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def _stage(curve: Path) -> dict[str, Any]:
    name = curve.name.removesuffix(".curve.json")
    rows = json.loads(curve.read_text(encoding="utf-8"))
    noted = curve.with_name(f"{name}.facts.json")
    facts = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
    last = dict(rows[-1]) if rows else {}
    num_steps = int(last.pop("step", 0))
    return {"name": name, **facts, "num_steps": num_steps, "figures": last, "curve": rows}


def _software() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    for name, command in _ENGINES:
        if shutil.which(command[0]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
            number = re.search(r"\d+\.\d+(?:\.\d+)?", done.stdout + done.stderr)
            found[name] = number[0] if number else "unknown"
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    match = (
        re.search(r"^model name\s*:\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE) if path.exists() else None
    )
    return match[1].strip() if match else platform.processor()


# --- the page --------------------------------------------------------------------------------------------------------------------------


def page(facts: Mapping[str, Any]) -> str:
    """The report as one HTML page without anything outside of it."""
    corpus, stages = facts["corpus"], facts["stages"]
    groups = [
        (g["language"], g["group"], g["num_speakers"], g["num_clips"], g["num_aligned"], f"{g['duration_h']:.2f}")
        for g in corpus["groups"]
    ]
    summary = f"{corpus['num_clips']:,} clips, {corpus['duration_h']:.2f} hours, {corpus['num_speakers']} speakers."
    held_out = ", ".join(corpus["held_out_speakers"])
    parts = [
        "<h1>Pretraining report</h1>",
        f"<p>Written {escape(facts['written'])}.</p>",
        _pairs("Asked for", facts["settings"]),
        f"<h2>Corpus</h2><p>{escape(summary)}</p>",
        _table(("language", "speakers of", "#speakers", "#clips", "#with phone times", "#hours"), groups),
        f"<p>Speakers kept from training: {escape(held_out)}.</p>" if held_out else "",
        _imported(corpus["collections"]),
        "<h2>Stages</h2>",
        _table(_STAGE_TITLES, map(_stage_row, stages)),
        *(_stage_curves(stage) for stage in stages),
        _pairs("Machine", facts["machine"]),
        _pairs("Software", facts["software"]),
    ]
    head = f'<meta charset="utf-8"><title>Pretraining report</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _stage_row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    parameters, duration_s = stage.get("num_parameters"), stage.get("duration_s")
    return (
        stage["name"],
        str(stage["num_steps"]),
        "unknown" if parameters is None else f"{parameters / 1e6:.2f}",
        "unknown" if duration_s is None else f"{duration_s / 60:.1f}",
        str(stage.get("num_runs", "unknown")),
        str(stage.get("seed", "unknown")),
        str(stage.get("device", "unknown")),
        ", ".join(f"{name} {value:.4g}" for name, value in stage["figures"].items()),
    )


def _imported(collections: Sequence[Mapping[str, Any]]) -> str:
    if not collections:
        return ""
    rows = [
        (c["name"], c["num_found"], ", ".join(f"{n} {reason}" for reason, n in sorted(c["dropped"].items())) or "none")
        for c in collections
    ]
    return "<h3>Recordings that were given</h3>" + _table(("collection", "#recordings", "left out"), rows)


def _table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Titles that begin with # are those of columns of figures, which stand to the right."""
    kinds = [" class=n" if title.startswith("#") else "" for title in titles]
    head = "".join(
        f"<th{kind}>{escape(title.removeprefix('#'))}</th>" for kind, title in zip(kinds, titles, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{escape(str(value))}</td>' for kind, value in zip(kinds, row, strict=True))}</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    return f"<h2>{title}</h2>{_table(('', ''), values.items())}" if values else ""


def _stage_curves(stage: Mapping[str, Any]) -> str:
    rows = stage["curve"]
    names = [name for name in (rows[0] if rows else ()) if name != "step"]
    figures = [draw_curve(name, [(row["step"], row[name]) for row in rows if name in row]) for name in names]
    return f"<h3>{escape(stage['name'])}</h3>" + "".join(figures)


def draw_curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    """One figure over the steps as inline SVG, between its least and its greatest value."""
    first, last = points[0], points[-1]
    steps, values = [step for step, _ in points], [value for _, value in points]
    line = " ".join(
        f"{_scaled(step, min(steps), max(steps), _EDGE, _WIDTH - _EDGE):.1f},"
        f"{_scaled(value, min(values), max(values), _HEIGHT - _EDGE, _EDGE):.1f}"
        for step, value in points
    )
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    words = f"{name}: {first[1]:.4g} at step {first[0]:.0f}, {last[1]:.4g} at step {last[0]:.0f}; {min(values):.4g} to {max(values):.4g}"
    return (
        f'<figure><svg {size} role="img" aria-label="{escape(words)}"><polyline points="{line}"/></svg>'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def _scaled(value: float, least: float, greatest: float, low: float, high: float) -> float:
    return low + (high - low) * (value - least) / (greatest - least) if greatest > least else (low + high) / 2
