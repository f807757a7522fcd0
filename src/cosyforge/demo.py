"""`make demo`: the whole way of the product document over HTTP, from recordings to a deployed voice and its figures.

A server is started for it and ended with it. What is left are WAV files, a picture, and a report in the output folder.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cosyforge.audio.wav import read_wav
from cosyforge.demo_client import DashScope, DemoError, Json, wait_for
from cosyforge.demo_progress import follow_job
from cosyforge.demo_recordings import demo_recordings, pack, recordings_in
from cosyforge.demo_report import DemoReport, draw_voices, print_report, write_report
from cosyforge.demo_server import DemoServer
from cosyforge.errors import PlatformError
from cosyforge.evaluation.scorecard import Judge, Recording, Scorecard
from cosyforge.evaluation.similarity import VoiceEncoder
from cosyforge.evaluation.transcriber import PocketsphinxTranscriber

HYPER_PARAMETERS = {
    "lm_max_epoch": 8,
    "lm_step": 4,
    "lm_num": 2,
    "lm_batch_size": 1000,
    "fm_max_epoch": 12,
    "fm_step": 4,
    "fm_num": 2,
    "fm_batch_size": 2000,
}
"""Chosen so that two processor cores need about three minutes for the built-in recordings."""

SENTENCES = (
    "There is a large garden behind my house.",
    "The morning train was full of people.",
    "Please bring me a glass of cold water.",
    "My mother is reading a book in the garden.",
    "We walked along the river after dinner.",
    "The store on the corner sells fresh fruit.",
)
"""What both voices say; none of it is in the training recordings."""

BASE_MODEL = "cosyvoice-v3-flash"
BASE_MANIFEST = Path(__file__).parent / "assets" / "nano" / "model.json"
MOST_REFERENCES = 12
"""Of a person's own zip so many recordings are compared with, spread over all of it."""
PERMANENT_ADDRESS = "http://127.0.0.1:8000"
"""Where `make serve` listens."""

_JOB_S = 3600.0
_DEPLOY_S = 180.0


@dataclass
class _Journey:
    """What was learned on the way, stage by stage."""

    out_dir: Path
    console: Console
    stage_s: dict[str, float] = field(default_factory=dict)
    job: Json = field(default_factory=dict)
    checkpoints: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage and take its time."""
        self.console.print(f"[bold]{len(self.stage_s) + 1}. {name}[/bold]")
        started = time.monotonic()
        yield
        self.stage_s[name] = time.monotonic() - started

    def say(self, message: str, style: str | None = None) -> None:
        # what a server says may hold brackets: no markup
        self.console.print(f"   {message}", style=style, highlight=False, markup=False, soft_wrap=True)


def run_demo(out_dir: Path, dataset: Path | None = None) -> None:
    """Train, deploy and hear a voice: of the built-in demo speaker, or of a training zip in the document's layout.

    Raises: SystemExit with status 1 after the server's last lines and the reason were printed
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    journey = _Journey(out_dir, Console())
    server = DemoServer(out_dir / "server.log")
    # a demo that is told to end must not leave its server behind
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        _run(journey, server, dataset)
    except (DemoError, PlatformError) as error:
        if tail := server.log_tail():
            journey.say(f"The last lines of {server.log}:")
            journey.say(tail)
        journey.say(f"The demo stopped: {error}", style="red")
        raise SystemExit(1) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(journey: _Journey, server: DemoServer, dataset: Path | None) -> None:
    encoder = _load_encoder(journey)
    with journey.stage("Pack the recordings"):
        package = _package(journey, dataset)
    with ExitStack() as running:
        with journey.stage("Start the server"):
            running.enter_context(server)
            journey.say(f"listening on {server.address}, log in {server.log}")
        with DashScope(server.address, server.api_key) as client:
            _train(journey, client, package)
            deployed_model, template = _deploy(journey, client)
            base, tuned = _speak(journey, client, deployed_model)
            _scale_and_delete(journey, client, deployed_model, template)
    with journey.stage("Judge the voices"):
        references = recordings_in(dataset, MOST_REFERENCES) if dataset else demo_recordings("heldout")
        judge = Judge(references, PocketsphinxTranscriber(), encoder)
        base_card, tuned_card = judge.score(base), judge.score(tuned)
        _show_what_was_heard(journey, tuned_card)
        _draw(journey, references, base[0], tuned[0])
    report = DemoReport(
        hyper_parameters=HYPER_PARAMETERS,
        checkpoints=journey.checkpoints,
        tokens=int(journey.job["usage"]),
        stage_s=journey.stage_s,
        base=base_card,
        tuned=tuned_card,
        is_held_out=dataset is None,
    )
    write_report(journey.out_dir / "report.json", report)
    print_report(journey.console, report)
    journey.console.print(
        f"WAV files, picture and report.json: {journey.out_dir.resolve()}\n"
        f"For a server that stays: make serve, then talk to {PERMANENT_ADDRESS}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _load_encoder(journey: _Journey) -> VoiceEncoder | None:
    # asked before the training, so that what is missing is known in the first second and not after minutes
    try:
        return VoiceEncoder.load()
    except ModuleNotFoundError as error:
        journey.say(f"The likeness of the voices will not be measured: {error}", style="yellow")
        return None


def _package(journey: _Journey, dataset: Path | None) -> Path:
    if dataset is not None:
        if not dataset.is_file():
            raise DemoError(f"{dataset}: no such file; give a zip with data.jsonl and train/*.wav")
        journey.say(f"{dataset}, {dataset.stat().st_size / 1e6:.1f} MB")
        return dataset
    recordings = demo_recordings("train")
    package = journey.out_dir / "train_data.zip"
    pack(recordings, package)
    seconds = sum(len(clip.samples) / clip.sample_rate_hz for clip in recordings)
    journey.say(f"{len(recordings)} recordings of the demo speaker, {seconds / 60:.1f} minutes, in {package}")
    return package


def _train(journey: _Journey, client: DashScope, package: Path) -> None:
    with journey.stage("Upload the zip and create the job"):
        file_id = client.upload(package)
        job = client.create_job(file_id, HYPER_PARAMETERS)
        journey.say(f"file {file_id}")
        journey.say(f"job {job['job_id']} {job['status']}, it will make {job['finetuned_output']}")
    with journey.stage("Fine-tune"):
        epochs = HYPER_PARAMETERS["lm_max_epoch"] + HYPER_PARAMETERS["fm_max_epoch"]
        journey.job = follow_job(client, job["job_id"], epochs, _JOB_S, journey.console)
        if journey.job["status"] != "SUCCEEDED":
            raise DemoError(
                f"job {job['job_id']} {journey.job['status']}: {journey.job.get('message', 'no reason given')}"
            )
        rows = client.checkpoints(job["job_id"])
        journey.checkpoints = [row["checkpoint"] for row in rows]
        journey.say(f"{len(rows)} checkpoints, best first: {', '.join(journey.checkpoints)}")


def _deploy(journey: _Journey, client: DashScope) -> tuple[str, Json]:
    with journey.stage("Deploy"):
        model_name = journey.job["finetuned_output"]
        template = _cheapest_template(client.deployable_models(), model_name)
        unit = template["roles"]["unified"]
        deployment = client.deploy(model_name, template["template_id"], unit["capacity_unit_per_instance"])
        deployed_model = str(deployment["deployed_model"])
        journey.say(f"{deployed_model} {deployment['status']}, {template['template_name']} ({unit['model_unit_spec']})")
        _wait_running(client, deployed_model, unit["capacity_unit_per_instance"])
        journey.say(f"{deployed_model} RUNNING")
        return deployed_model, template


def _cheapest_template(models: list[Json], model_name: str) -> Json:
    plans = [plan for model in models if model["model_name"] == model_name for plan in model["plans"]]
    templates = [template for plan in plans if plan["plan"] == "mu" for template in plan["templates"]]
    if not templates:
        known = ", ".join(model["model_name"] for model in models) or "none"
        raise DemoError(f"{model_name} is not among the deployable models ({known})")
    return min(templates, key=lambda template: int(template["roles"]["unified"]["capacity_unit_per_instance"]))


def _wait_running(client: DashScope, deployed_model: str, capacity: int) -> None:
    def running() -> Json | None:
        deployment = client.deployment(deployed_model)
        if deployment is None or deployment["status"] in ("FAILED", "STOPPED", "DELETING"):
            raise DemoError(f"deployment {deployed_model} does not come up: {deployment}")
        is_ready = deployment["status"] == "RUNNING" and deployment["ready_capacity"] == capacity
        return deployment if is_ready else None

    wait_for(running, seconds=_DEPLOY_S, every_s=0.5, what=f"deploying {deployed_model} with {capacity} model units")


def _speak(journey: _Journey, client: DashScope, deployed_model: str) -> tuple[list[Recording], list[Recording]]:
    with journey.stage("Speak with the base voice and with the tuned voice"):
        base_voice = _first_base_voice()
        base = [_say(journey, client, "base", BASE_MODEL, base_voice, i) for i in range(len(SENTENCES))]
        tuned = [_say(journey, client, "tuned", deployed_model, "default", i) for i in range(len(SENTENCES))]
        journey.say(f"{len(base)} sentences with {BASE_MODEL}/{base_voice}, {len(tuned)} with {deployed_model}/default")
        return base, tuned


def _first_base_voice() -> str:
    if not BASE_MANIFEST.is_file():
        raise DemoError(f"{BASE_MANIFEST}: the built-in base model is missing; install the package again")
    voices = json.loads(BASE_MANIFEST.read_text(encoding="utf-8"))["voices"]
    return str(next(iter(voices)))


def _say(journey: _Journey, client: DashScope, name: str, model: str, voice: str, index: int) -> Recording:
    text = SENTENCES[index]
    path = journey.out_dir / f"{name}-{index + 1}.wav"
    path.write_bytes(client.speak(model, voice, text))
    return Recording(*read_wav(path), text)


def _scale_and_delete(journey: _Journey, client: DashScope, deployed_model: str, template: Json) -> None:
    units = int(template["roles"]["unified"]["capacity_unit_per_instance"])
    with journey.stage("Scale to two replicas, then delete"):
        client.scale(deployed_model, 2 * units)
        _wait_running(client, deployed_model, 2 * units)
        journey.say(f"{deployed_model} RUNNING with {2 * units} model units")
        client.delete_deployment(deployed_model)
        wait_for(
            lambda: True if client.deployment(deployed_model) is None else None,
            seconds=_DEPLOY_S,
            every_s=0.5,
            what=f"deleting {deployed_model}",
        )
        journey.say(f"{deployed_model} is gone")


def _show_what_was_heard(journey: _Journey, card: Scorecard) -> None:
    for clip in card.spoken_clips:
        journey.say(f"said:  {clip.text}")
        journey.say(f"heard: {clip.heard or '(nothing)'}" + (f"  ({clip.fault})" if clip.fault else ""))


def _draw(journey: _Journey, references: list[Recording], base: Recording, tuned: Recording) -> None:
    path = journey.out_dir / "spectrograms.png"
    try:
        draw_voices(path, references, base, tuned)
    except ModuleNotFoundError as error:
        journey.say(f"No picture: {error}", style="yellow")
    else:
        journey.say(f"picture: {path}")
