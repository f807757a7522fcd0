"""The built-in base model from nothing: every stage in order, each resumable, each reading what the ones before left in the work folder.

    corpus -> features -> speech_tokenizer -> codes -> speaker -> vocoder -> flow -> lm -> assemble

A stage that is done is skipped; one that was stopped goes on. `assemble` may run at any time: it takes the best weights so far.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosyforge.cosyvoice.config import NANO
from cosyforge.cosyvoice.flow import Flow
from cosyforge.cosyvoice.hift import HiFT
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.speaker_encoder import SpeakerEncoder
from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.dataset.synthetic import Clip, generate_corpus, plan_corpus, shard_listings
from cosyforge.text.lexicon import english_phones, known_words
from cosyforge.training.pretrain.assemble import assemble
from cosyforge.training.pretrain.codes import load_or_encode
from cosyforge.training.pretrain.corpus import PreparedClip, prepare_corpus, split_held_out
from cosyforge.training.pretrain.flow_stage import FlowLossFunction
from cosyforge.training.pretrain.lm_stage import LMExample, LMLossFunction, load_or_make_examples
from cosyforge.training.pretrain.speaker_stage import SpeakerHead, SpeakerLoss, clips_by_speaker, embed_clips
from cosyforge.training.pretrain.speech_tokenizer_stage import SpeechTokenizerLoss, TokenReader
from cosyforge.training.pretrain.steps import StepPlan, load_averaged, run_steps
from cosyforge.training.pretrain.vocoder_stage import VocoderLoss

STAGES = ("corpus", "features", "speech_tokenizer", "codes", "speaker", "vocoder", "flow", "lm", "assemble")

PLANS = {
    "speech_tokenizer": StepPlan(5000, 1.5e-3, ema_decay=0.998),
    "speaker": StepPlan(400, 2e-3, log_every=20, save_every=100),
    "vocoder": StepPlan(8300, 1e-3, betas=(0.8, 0.99), warmup_steps=50, ema_decay=0.995, clip_norm=5.0, save_every=100),
    "flow": StepPlan(6000, 2e-3, ema_decay=0.998, save_every=250),
    "lm": StepPlan(5200, 2e-3, ema_decay=0.998, save_every=250),
}


@dataclass(frozen=True)
class Workshop:
    """The work folder of a run.

    num_clips: size of the corpus (9,000 clips are about seven hours of speech)
    """

    directory: Path
    num_clips: int = 9000
    num_processes: int = 2
    seed: int = 1986
    on_log: Callable[[str], None] = print

    def checkpoint(self, stage: str) -> Path:
        return self.directory / "work" / f"{stage}.pt"

    def clips(self) -> list[PreparedClip]:
        return prepare_corpus(self.directory / "corpus", self.directory / "features", num_processes=self.num_processes)

    def speech_tokenizer(self) -> SpeechTokenizer:
        network = SpeechTokenizer(_config("speech_tokenizer"))
        load_averaged(
            self.checkpoint("speech_tokenizer"),
            {"speech_tokenizer": network, "reader": TokenReader(network.config.fsq_dim)},
        )
        return network.eval()

    def codes(self, clips: list[PreparedClip]) -> list[Tensor]:
        return load_or_encode(self.directory / "work" / "codes.safetensors", self.speech_tokenizer(), clips)

    def speaker_encoder(self, clips: list[PreparedClip]) -> SpeakerEncoder:
        network = SpeakerEncoder(_config("speaker_encoder"))
        head = SpeakerHead(network.config.embedding_size, len(clips_by_speaker(split_held_out(clips)[0])))
        load_averaged(self.checkpoint("speaker"), {"speaker_encoder": network, "head": head})
        return network.eval()

    def vectors(self, clips: list[PreparedClip]) -> Tensor:
        """The speaker vector of every clip (num_clips, 192), kept on disk."""
        path = self.directory / "work" / "vectors.safetensors"
        if not path.exists():
            save_file({"vectors": embed_clips(self.speaker_encoder(clips), clips)}, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        return load_file(path)["vectors"]

    def lm_examples(self) -> list[LMExample]:
        clips = self.clips()
        return load_or_make_examples(
            self.directory / "work" / "lm_examples.pt", [c.clip for c in clips], self.codes(clips), self.num_processes
        )


def _config(name: str):  # type: ignore[no-untyped-def]  # one of five dataclasses
    config = getattr(NANO, name)
    assert config is not None
    return config


def run_stage(workshop: Workshop, stage: str, *, num_steps: int | None = None, out: Path | None = None) -> None:
    """Run one stage.

    num_steps: instead of the plan's; a longer plan than a finished one trains on
    Raises: ValueError for an unknown stage; FileNotFoundError when an earlier stage is missing
    """
    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}; stages are {', '.join(STAGES)}")
    if stage == "corpus":
        _make_corpus(workshop)
    elif stage == "features":
        workshop.clips()
    elif stage == "codes":
        workshop.codes(workshop.clips())
    elif stage == "assemble":
        assemble(workshop, out or workshop.directory / "nano")
    else:
        plan = PLANS[stage]
        _train(workshop, stage, plan if num_steps is None else replace(plan, num_steps=num_steps))


def _train(workshop: Workshop, stage: str, plan: StepPlan) -> None:
    torch.manual_seed(workshop.seed)
    builders = {
        "speech_tokenizer": _build_speech_tokenizer,
        "speaker": _build_speaker,
        "vocoder": _build_vocoder,
        "flow": _build_flow,
        "lm": _build_lm,
    }
    modules, loss_function = builders[stage](workshop)
    num_parameters = sum(p.numel() for p in modules[next(iter(modules))].parameters())
    workshop.on_log(f"{stage}: {num_parameters / 1e6:.2f} million parameters, {plan.num_steps} steps")
    report = run_steps(modules, loss_function, plan, workshop.checkpoint(stage), on_log=workshop.on_log)
    curve = workshop.directory / "work" / f"{stage}.curve.json"
    curve.write_text(json.dumps(report.rows), encoding="utf-8")


def _make_corpus(workshop: Workshop) -> None:
    tasks = plan_corpus(
        workshop.num_clips, lambda word: english_phones(word) is not None, sorted(known_words()), seed=7
    )
    generate_corpus(
        workshop.directory / "corpus",
        tasks,
        num_processes=workshop.num_processes,
        on_progress=lambda share: workshop.on_log(f"corpus {share:.0%}"),
    )


def _build_speech_tokenizer(workshop: Workshop):  # type: ignore[no-untyped-def]
    network = SpeechTokenizer(_config("speech_tokenizer"))
    reader = TokenReader(network.config.fsq_dim)
    training, _ = split_held_out(workshop.clips())
    return {"speech_tokenizer": network, "reader": reader}, SpeechTokenizerLoss(network, reader, training)


def _build_speaker(workshop: Workshop):  # type: ignore[no-untyped-def]
    training, _ = split_held_out(workshop.clips())
    network = SpeakerEncoder(_config("speaker_encoder"))
    head = SpeakerHead(network.config.embedding_size, len(clips_by_speaker(training)))
    return {"speaker_encoder": network, "head": head}, SpeakerLoss(network, head, training)


def _build_vocoder(workshop: Workshop):  # type: ignore[no-untyped-def]
    clips = workshop.clips()
    network = HiFT(_config("hift"))
    return {"hift": network}, VocoderLoss(network, clips, _reader(workshop, [clip.clip for clip in clips]))


def _build_flow(workshop: Workshop):  # type: ignore[no-untyped-def]
    clips = workshop.clips()
    network = Flow(_config("flow"))
    keep, _ = split_held_out(list(range(len(clips))))
    codes, vectors = workshop.codes(clips), workshop.vectors(clips)
    return {"flow": network}, FlowLossFunction(
        network, [clips[i] for i in keep], [codes[i] for i in keep], vectors[keep]
    )


def _build_lm(workshop: Workshop):  # type: ignore[no-untyped-def]
    network = SpeechLM(_config("lm"))
    training, _ = split_held_out(workshop.lm_examples())
    return {"lm": network}, LMLossFunction(network, training, TextTokenizer.byte_level())


def _reader(workshop: Workshop, clips: list[Clip]) -> Callable[[int], npt.NDArray[np.float32]]:
    """Samples (L,) at 16 kHz of clip number `index`, straight from the shards."""
    arrays, shard_of = [], []
    for number, listing in enumerate(shard_listings(workshop.directory / "corpus")):
        arrays.append(np.load(listing.with_suffix(".npy"), mmap_mode="r"))
        shard_of += [number] * len(listing.read_text(encoding="utf-8").splitlines())

    def read(index: int) -> npt.NDArray[np.float32]:
        clip = clips[index]
        piece = arrays[shard_of[index]][clip.offset : clip.offset + clip.num_samples]
        return np.asarray(piece, dtype=np.float32) / 32768.0

    return read
