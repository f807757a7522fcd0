"""The command that shows whether tuning pays; beside `cli.py`, which makes it known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cosyforge.cli_platform import app


@app.command("tuning-trial")
def tuning_trial(
    work: Annotated[Path, typer.Option(help="Folder for recordings, tuned models and figures.")],
    base: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Base model directory; default is the built-in one."),
    ] = None,
    speakers: Annotated[
        str | None,
        typer.Option(help="Held-out voices, perhaps with a size (rms-1.18), comma-separated; default is all."),
    ] = None,
    settings: Annotated[
        str, typer.Option(help="quick (4+4 epochs of LM and flow), full (30+30) or others as in 8+12, comma-separated.")
    ] = "quick,full",
    minutes: Annotated[float, typer.Option(help="Minutes of recordings to tune on.")] = 8.0,
    sentences: Annotated[int | None, typer.Option(help="Everyday sentences to say; default is all.")] = None,
    num_threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
) -> None:
    """Record voices that the base never heard, clone and tune them, and write a table of what that brings; stopped and
    started again it goes on."""
    import torch

    from cosyforge.cosyvoice.manifest import builtin_model_directory
    from cosyforge.evaluation.sentences import EVERYDAY
    from cosyforge.evaluation.tuning_trial.recordings import SPEAKERS
    from cosyforge.evaluation.tuning_trial.trial import TrialPlan, run_trial

    torch.set_num_threads(num_threads)
    plan = TrialPlan(
        base or builtin_model_directory(),
        SPEAKERS if speakers is None else _names(speakers),
        _names(settings),
        minutes,
        len(EVERYDAY) if sentences is None else sentences,
    )
    run_trial(work, plan, on_log=typer.echo)
    typer.echo((work / "trial.md").read_text(encoding="utf-8"))


def _names(listed: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
