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

import cosyforge.cli_tuning_trial  # noqa: F401 its command
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
    voice: Annotated[
        list[str] | None, typer.Option(help="Voice of the model, repeatable; default is its first.")
    ] = None,
    all_voices: Annotated[bool, typer.Option("--all-voices", help="Every voice of the model.")] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            "--references",
            exists=True,
            help="Recordings: zip or folder (data.jsonl, train/*.wav), folder of such ones by voice, or of WAV files.",
        ),
    ] = None,
    num_references: Annotated[int | None, typer.Option(min=1, help="Of each reference at most so many clips.")] = None,
    reference_texts: Annotated[bool, typer.Option("--reference-texts", help="Say the recordings' texts, too.")] = False,
    sentences: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Text file, one sentence per line.")
    ] = None,
    language: Annotated[str, typer.Option(help="en, zh, all, or own: each voice its own language.")] = "own",
    num_sentences: Annotated[int | None, typer.Option(min=1, help="At most so many sentences per language.")] = None,
    stress: Annotated[int, typer.Option(min=0, help="Besides, so many sentences of 2 to 40 words.")] = 0,
    instruction: Annotated[
        list[str] | None,
        typer.Option(help="Besides, say the sentences as told (slowly, in a high voice); repeatable."),
    ] = None,
    clones: Annotated[bool, typer.Option("--clones", help="Besides, clone each reference from 8 seconds.")] = False,
    recogniser: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            envvar="COSYFORGE_RECOGNISER",
            help="Larger English recogniser in pocketsphinx layout (acoustic model, *.lm.bin, *.dict).",
        ),
    ] = None,
    players: Annotated[int, typer.Option(min=0, help="Of each voice so many texts can be heard on the page.")] = 12,
    seed: Annotated[int, typer.Option(min=0, max=65535, help="Same seed, same audio.")] = 0,
    num_threads: Annotated[int | None, typer.Option(min=1, help="Threads; default is torch's choice.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write the averages into the model's model.json; it gets a new digest.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html, report.json and clips; goes on where it was.")
    ] = None,
) -> None:
    """Measure voices: words and phones understood, likeness, pitch, pace, pauses, noise, faults; by stage, as JSON and page."""
    import torch

    from cosyforge.evaluation.run import Options, run_evaluation

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    options = Options(
        model=model,
        base=base,
        voices=voice or (),
        all_voices=all_voices,
        reference=reference,
        num_references=num_references,
        says_references=reference_texts,
        sentences=sentences,
        language=language,
        num_sentences=num_sentences,
        stress=stress,
        instructions=instruction or (),
        clones=clones,
        recogniser=recogniser,
        players=players,
        seed=seed,
        records=record,
        out=out,
    )
    report = run_evaluation(options, lambda line: typer.echo(line, err=True))
    typer.echo(json.dumps(report.to_json() if out is None else report.headline(), indent=2, ensure_ascii=False))


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
    work: Annotated[Path, typer.Option(help="Folder for corpus, features and checkpoints (about 6 GB).")],
    out: Annotated[Path | None, typer.Option(help="Model directory to write; default WORK/nano.")] = None,
    stage: Annotated[str, typer.Option(help="One stage, or all.")] = "all",
    quick: Annotated[
        bool, typer.Option("--quick", help="A small corpus and few steps: about a quarter of an hour.")
    ] = False,
    extra_corpus: Annotated[
        Path | None, typer.Option(exists=True, help="Recordings to mix in: packages or LibriTTS (docs/pretraining.md).")
    ] = None,
    num_clips: Annotated[
        int | None, typer.Option(min=100, help="Size of the corpus; 20,000 are seventeen hours of speech.")
    ] = None,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Steps of one stage instead of its plan's.")] = None,
    num_processes: Annotated[int, typer.Option(min=1, help="Processes for corpus, features and networks.")] = 2,
    num_threads: Annotated[int, typer.Option(min=1, help="Threads for training.")] = 2,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 …; default is a GPU where there is one.")
    ] = None,
) -> None:
    """The built-in base model from nothing; stopped and started again it goes on."""
    import torch

    from cosyforge.cosyvoice.devices import usable_device
    from cosyforge.training.pretrain.run import Workshop, run_all, run_stage

    torch.set_num_threads(num_threads)
    workshop = Workshop(
        work,
        num_clips=num_clips,
        num_processes=num_processes,
        on_log=typer.echo,
        quick=quick,
        extra_corpus=extra_corpus,
        device=usable_device(device),
    )
    if stage == "all":
        if num_steps is not None:
            raise InvalidParameter("--num-steps is for one stage: name it with --stage")
        run_all(workshop, num_threads=num_threads, out=out)
    else:
        run_stage(workshop, stage, num_steps=num_steps, out=out)


if __name__ == "__main__":
    main()
