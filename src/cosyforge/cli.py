"""The command line: serve, keys, finetune, synthesize, evaluate, demo, import-weights, export-weights, pretrain.

Translates and delegates. Commands that make sound import the speech column inside, so that `--help` and `serve` never load torch.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cosyforge.cli_platform import app
from cosyforge.errors import InvalidDataset, InvalidParameter, PlatformError

if TYPE_CHECKING:
    from cosyforge.synthesis.request import SynthesisRequest
    from cosyforge.training.events import TrainingEvent

_Model = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Model directory; default is the built-in base.")
]
_Base = Annotated[
    Path | None, typer.Option(exists=True, file_okay=False, help="Base of a tuned model when it has moved.")
]
_Epochs = Annotated[int, typer.Option(min=1, help="Epochs.")]


def main() -> None:
    """Run the command; what a person did wrong ends in one clear line, not in a trace."""
    try:
        app()
    except InvalidDataset as error:
        report = error.fields.get("report")
        _fail(error.message if report is None else f"the training package breaks rules\n{report.to_text()}")  # type: ignore[attr-defined]
    except PlatformError as error:
        _fail(error.message)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)


def _base_directory(base: Path | None) -> Path:
    from cosyforge.cosyvoice.manifest import builtin_model_directory

    return base or builtin_model_directory()


@app.command()
def finetune(
    package: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Zip: data.jsonl and train/*.wav.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints.")],
    base: Annotated[Path | None, typer.Option(help="Base model directory; default is the built-in one.")] = None,
    lm_max_epoch: _Epochs = 8,
    lm_step: _Epochs = 4,
    lm_num: _Epochs = 2,
    lm_batch_size: _Epochs = 1000,
    fm_max_epoch: _Epochs = 12,
    fm_step: _Epochs = 4,
    fm_num: _Epochs = 2,
    fm_batch_size: _Epochs = 2000,
) -> None:
    """Tune the base model to one speaker; goes on where it was when it is started again with the same folder."""
    from cosyforge.training.finetune import finetune as run
    from cosyforge.training.hyper_parameters import HyperParameters

    hyper_parameters = HyperParameters(
        lm_max_epoch=lm_max_epoch,
        lm_step=lm_step,
        lm_num=lm_num,
        lm_batch_size=lm_batch_size,
        fm_max_epoch=fm_max_epoch,
        fm_step=fm_step,
        fm_num=fm_num,
        fm_batch_size=fm_batch_size,
    )
    # beside the result, so that a stopped run goes on; gone when it is done or the package is no good
    work = out.with_name(f"{out.name}.work")
    try:
        result = _with_progress(
            lambda on_event: run(
                package, _base_directory(base), out, hyper_parameters, on_event=on_event, work_directory=work
            )
        )
    except InvalidParameter:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(work)
    for checkpoint in result.checkpoints:
        typer.echo(f"{checkpoint.name}  {checkpoint.directory}")
    typer.echo(f"{result.tokens} tokens")


def _with_progress(work: Callable[[Callable[[TrainingEvent], None]], Any]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=1.0)

        def show(event: TrainingEvent) -> None:
            if event.kind == "state":
                return
            if event.kind != "progress":
                progress.console.print(event.message, highlight=False, markup=False)
                return
            figures = " ".join(f"{name} {value:.3f}" for name, value in event.metrics.items())
            epoch = f" {event.epoch}/{event.max_epoch}" if event.max_epoch else ""
            progress.update(bar, completed=event.progress, description=f"{event.stage}{epoch} {figures}")

        return work(show)


@app.command()
def synthesize(
    text: Annotated[str, typer.Option(help="What to say; - reads standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="WAV, MP3 or Ogg file to write, by its ending.")],
    model: _Model = None,
    base: _Base = None,
    voice: Annotated[str | None, typer.Option(help="Voice of the model; default is its first.")] = None,
    sample_rate: Annotated[int, typer.Option(help="Samples per second of the file.")] = 24000,
    rate: Annotated[float, typer.Option(min=0.5, max=2.0, help="Tempo.")] = 1.0,
    pitch: Annotated[float, typer.Option(min=0.5, max=2.0, help="Pitch.")] = 1.0,
    volume: Annotated[int, typer.Option(min=0, max=100, help="Loudness.")] = 50,
    seed: Annotated[int, typer.Option(min=0, max=65535, help="Same seed, same audio.")] = 0,
    ssml: Annotated[bool, typer.Option(help="The text is SSML.")] = False,
    streaming: Annotated[bool, typer.Option(help="Work piece by piece, as for a listener; same samples.")] = False,
) -> None:
    """Speak a text to a file, with no server."""
    from cosyforge.cosyvoice.manifest import replacing
    from cosyforge.synthesis.engine import Engine
    from cosyforge.synthesis.request import SynthesisRequest

    formats = {".wav": "wav", ".mp3": "mp3", ".ogg": "opus", ".opus": "opus", ".pcm": "pcm"}
    if out.suffix.lower() not in formats:
        raise typer.BadParameter(f"{out.name}: the ending must be one of {', '.join(formats)}")
    engine = Engine(_base_directory(model), base_directory=base)
    request = SynthesisRequest(
        voice=voice or next(iter(engine.voices())),
        format=formats[out.suffix.lower()],
        streaming=streaming,
        sample_rate_hz=sample_rate,
        rate=rate,
        pitch=pitch,
        volume=volume,
        seed=seed,
        enable_ssml=ssml,
    )
    whole = sys.stdin.read() if text == "-" else text
    with _with_sounds(request, whole) as complete, replacing(out) as partial, partial.open("wb") as file:
        for chunk in engine.synthesize(complete, [whole]):
            file.write(chunk.audio)


@contextmanager
def _with_sounds(request: SynthesisRequest, text: str) -> Iterator[SynthesisRequest]:
    """Fetch what SSML names into a directory that goes afterwards; the settings say from where it may come.

    Raises: InvalidMarkup
    """
    if not request.enable_ssml:
        yield request
        return
    from cosyforge.bootstrap import make_sounds
    from cosyforge.settings import load_settings

    with TemporaryDirectory(prefix="cosyforge-") as directory:
        yield make_sounds(load_settings(), Path(directory)).attach(request, text)


@app.command()
def evaluate(
    model: _Model = None,
    base: _Base = None,
    voice: Annotated[str | None, typer.Option(help="Voice of the model; default is its first.")] = None,
    references: Annotated[Path | None, typer.Option(help="Folder of WAV files of the real speaker.")] = None,
    sentences: Annotated[Path | None, typer.Option(help="Text file, one sentence per line.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Measure a voice: words understood by a recogniser, likeness to recordings, pitch, pace, faults."""
    from cosyforge.audio.wav import read_wav
    from cosyforge.evaluation.scorecard import Recording, evaluate_model
    from cosyforge.evaluation.sentences import EVERYDAY
    from cosyforge.evaluation.similarity import VoiceEncoder
    from cosyforge.evaluation.transcriber import PocketsphinxTranscriber
    from cosyforge.synthesis.engine import Engine

    engine = Engine(_base_directory(model), base_directory=base)
    lines = sentences.read_text(encoding="utf-8").splitlines() if sentences else list(EVERYDAY)
    clips = [Recording(*read_wav(path), "") for path in sorted(references.glob("*.wav"))] if references else []
    card = evaluate_model(
        engine,
        [line.strip() for line in lines if line.strip()],
        clips,
        PocketsphinxTranscriber(),
        VoiceEncoder.load() if clips else None,
        voice=voice or next(iter(engine.voices())),
    )
    text = json.dumps(card.to_json(), indent=2, ensure_ascii=False)
    if out:
        out.write_text(text + "\n", encoding="utf-8")
    typer.echo(text)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the WAVs and the picture.")] = Path("demo-out"),
    dataset: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Your own zip instead of the recordings shipped.")
    ] = None,
) -> None:
    """The main job end to end: server, upload, tuning, deployment, speech, figures; tidies up."""
    from cosyforge.demo import run_demo

    run_demo(out, dataset)


@app.command("import-weights")
def import_weights_command(
    official: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Official checkpoint directory (llm.pt, …).")
    ],
    out: Annotated[Path, typer.Argument(help="Model directory to write.")],
) -> None:
    """Convert official weights, strict in both directions; nothing in them is executed."""
    from cosyforge.cosyvoice.official import import_weights

    import_weights(official, out)
    typer.echo(f"wrote {out}")


@app.command("export-weights")
def export_weights_command(
    model: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Model directory; a tuned one is merged.")
    ],
    out: Annotated[Path, typer.Argument(help="Directory for llm.pt, flow.pt, hift.pt under official names.")],
) -> None:
    """Write a model back under the official names."""
    from cosyforge.cosyvoice.official import export_weights

    export_weights(model, out)
    typer.echo(f"wrote {out}")


@app.command()
def pretrain(
    work: Annotated[Path, typer.Option(help="Folder for corpus, features and checkpoints (about 4 GB).")],
    out: Annotated[Path | None, typer.Option(help="Model directory to write; default WORK/nano.")] = None,
    stage: Annotated[str, typer.Option(help="One stage, or all.")] = "all",
    num_clips: Annotated[
        int, typer.Option(min=100, help="Size of the corpus; 9,000 are seven hours of speech.")
    ] = 9000,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Steps of the stage instead of its plan's.")] = None,
    num_processes: Annotated[int, typer.Option(min=1, help="Processes for corpus and features.")] = 2,
    num_threads: Annotated[int, typer.Option(min=1, help="Threads for training.")] = 2,
) -> None:
    """The built-in base model from nothing; stopped and started again it goes on."""
    import torch

    from cosyforge.training.pretrain.run import STAGES, Workshop, run_stage

    torch.set_num_threads(num_threads)
    workshop = Workshop(work, num_clips=num_clips, num_processes=num_processes, on_log=typer.echo)
    for name in STAGES if stage == "all" else (stage,):
        run_stage(workshop, name, num_steps=num_steps, out=out)


if __name__ == "__main__":
    main()
