"""The built-in base model from nothing: every stage in order, each resumable, each reading what the ones before left in the work folder.

    corpus -> features -> speech_tokenizer -> codes -> mel_reader -> speaker -> vocoder -> flow -> lm -> assemble -> references

A stage that is done is skipped; one that was stopped goes on. `assemble` may run at any time: it takes the best weights so far.
`run_all` trains two networks at a time where there are two processes, and ends with a report.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pypinyin.phrases_dict import phrases_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosyforge.cosyvoice.config import NANO
from cosyforge.cosyvoice.flow import Flow
from cosyforge.cosyvoice.hift import HiFT
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.cosyvoice.speaker_encoder import SpeakerEncoder
from cosyforge.cosyvoice.speech_tokenizer import SpeechTokenizer
from cosyforge.cosyvoice.text_tokenizer import TextTokenizer
from cosyforge.dataset.synthetic import Clip, Lexicon, generate_corpus, plan_corpus, shard_listings
from cosyforge.text.lexicon import english_phones, known_words
from cosyforge.text.mandarin import pinyin_syllables
from cosyforge.training.pretrain.assemble import PRESETS, assemble
from cosyforge.training.pretrain.code_tables import begin_by_digits
from cosyforge.training.pretrain.codes import load_or_encode
from cosyforge.training.pretrain.corpus import PreparedClip, prepare_corpus, split_held_out
from cosyforge.training.pretrain.extra_corpus import LEDGER, held_out_speakers, import_recordings
from cosyforge.training.pretrain.flow_stage import FlowLossFunction
from cosyforge.training.pretrain.lm_stage import LMLossFunction, load_or_make_examples
from cosyforge.training.pretrain.mel_reader_stage import MelReader, MelReaderLoss
from cosyforge.training.pretrain.references import write_references
from cosyforge.training.pretrain.report import note_stage, write_report
from cosyforge.training.pretrain.speaker_stage import SpeakerHead, SpeakerLoss, clips_by_speaker, embed_clips
from cosyforge.training.pretrain.speech_tokenizer_stage import SpeechTokenizerLoss, TokenReader, num_speakers
from cosyforge.training.pretrain.steps import StepPlan, load_averaged, run_steps
from cosyforge.training.pretrain.vocoder_stage import VocoderLoss

STAGES = (
    "corpus",
    "features",
    "speech_tokenizer",
    "codes",
    "mel_reader",
    "speaker",
    "vocoder",
    "flow",
    "lm",
    "assemble",
    "references",
)

PLANS = {
    "speech_tokenizer": StepPlan(8000, 7e-4, matrix_learning_rate=2e-3, ema_decay=0.998),
    "mel_reader": StepPlan(1500, 2e-3, warmup_steps=50, ema_decay=0.995),
    "speaker": StepPlan(900, 2e-3, log_every=20, save_every=100),
    "vocoder": StepPlan(
        12000, 1e-3, betas=(0.8, 0.99), warmup_steps=200, ema_decay=0.995, clip_norm=5.0, save_every=100
    ),
    "flow": StepPlan(14000, 2e-3, matrix_learning_rate=2e-3, ema_decay=0.998),
    "lm": StepPlan(9000, 2e-3, matrix_learning_rate=2e-3, ema_decay=0.998),
}
QUICK_PLANS = {
    "speech_tokenizer": replace(PLANS["speech_tokenizer"], num_steps=950, warmup_steps=80, ema_decay=0.99),
    "mel_reader": replace(PLANS["mel_reader"], num_steps=300, ema_decay=0.99),
    "speaker": replace(PLANS["speaker"], num_steps=60, warmup_steps=10, log_every=10, save_every=30),
    "vocoder": replace(PLANS["vocoder"], num_steps=950, ema_decay=0.99),
    "flow": replace(PLANS["flow"], num_steps=620, warmup_steps=80, ema_decay=0.99),
    "lm": replace(PLANS["lm"], num_steps=1100, warmup_steps=80, ema_decay=0.99),
}
"""A quarter of an hour on two cores: enough to see that every part learns, too little to be understood well."""
LM_BATCH, QUICK_LM_BATCH = 1500, 800
"""Tokens. Many small steps learn more in little time: after three minutes of the quick recipe the LM's loss is 3.97 and not 4.14."""
NUM_CLIPS, QUICK_NUM_CLIPS = 20_000, 2_400

_CHAINS = (
    (("mel_reader", "speaker", "vocoder"), ()),
    (("speech_tokenizer", "codes"), ()),
    (("lm",), ("codes",)),
    (("flow",), ("codes", "vocoder")),
)
"""(stages that follow one another, last stages of the chains that must be done before); whatever may run does, two at a time."""


@dataclass(frozen=True)
class Workshop:
    """The work folder of a run.

    num_clips: size of the corpus (20,000 clips are about seventeen hours of speech), None for the recipe's
    quick: the short recipe; extra_corpus: a folder or zip of recordings that are mixed in
    device: where networks are trained; a run that was begun on one goes on on another
    """

    directory: Path
    num_clips: int | None = None
    num_processes: int = 2
    seed: int = 1986
    on_log: Callable[[str], None] = print
    quick: bool = False
    extra_corpus: Path | None = None
    device: str = "cpu"

    def plan(self, stage: str) -> StepPlan:
        return (QUICK_PLANS if self.quick else PLANS)[stage]

    def settings(self) -> dict[str, Any]:
        """What the run was asked for."""
        return {
            "recipe": "quick" if self.quick else "whole",
            "num_clips": self.corpus_size,
            "seed": self.seed,
            "extra_corpus": self.extra_corpus is not None,
        }

    @property
    def corpus_size(self) -> int:
        return self.num_clips or (QUICK_NUM_CLIPS if self.quick else NUM_CLIPS)

    def checkpoint(self, stage: str) -> Path:
        return self.directory / "work" / f"{stage}.pt"

    def clips(self) -> list[PreparedClip]:
        return prepare_corpus(self.directory / "corpus", self.directory / "features", num_processes=self.num_processes)

    def training_rows(self, clips: list[PreparedClip]) -> list[int]:
        """Which clips are trained on: neither the held-out sentences nor speakers that are kept as strangers."""
        strangers = held_out_speakers(self.directory / "corpus")
        kept, _ = split_held_out(list(range(len(clips))))
        return [index for index in kept if clips[index].clip.speaker not in strangers]

    def training_clips(self, clips: list[PreparedClip]) -> list[PreparedClip]:
        return [clips[index] for index in self.training_rows(clips)]

    def speech_tokenizer(self, clips: list[PreparedClip]) -> SpeechTokenizer:
        network = SpeechTokenizer(_config("speech_tokenizer"))
        reader = TokenReader(network.config.fsq_dim, num_speakers(clips))
        load_averaged(self.checkpoint("speech_tokenizer"), {"speech_tokenizer": network, "reader": reader})
        return network.eval()

    def mel_reader(self) -> MelReader:
        network = MelReader()
        load_averaged(self.checkpoint("mel_reader"), {"mel_reader": network})
        return network.eval()

    def codes(self, clips: list[PreparedClip]) -> list[Tensor]:
        path = self.directory / "work" / "codes.safetensors"
        return load_or_encode(path, lambda: self.speech_tokenizer(clips).to(self.device), clips)

    def speaker_encoder(self, clips: list[PreparedClip]) -> SpeakerEncoder:
        network = SpeakerEncoder(_config("speaker_encoder"))
        head = SpeakerHead(network.config.embedding_size, len(clips_by_speaker(self.training_clips(clips))))
        load_averaged(self.checkpoint("speaker"), {"speaker_encoder": network, "head": head})
        return network.eval()

    def vectors(self, clips: list[PreparedClip]) -> Tensor:
        """The speaker vector of every clip (num_clips, 192), kept on disk."""
        path = self.directory / "work" / "vectors.safetensors"
        if not path.exists():
            vectors = embed_clips(self.speaker_encoder(clips).to(self.device), clips)
            save_file({"vectors": vectors}, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
        return load_file(path)["vectors"]


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
    elif stage == "references":
        write_references(workshop.directory / "references")
    else:
        plan = workshop.plan(stage)
        _train(workshop, stage, plan if num_steps is None else replace(plan, num_steps=num_steps))


def run_all(workshop: Workshop, *, num_threads: int = 2, out: Path | None = None) -> Path:
    """Every stage that is not done yet, two networks at a time with two processes, then the model directory and the report.

    Returns: the report's page. Raises: what a stage raises
    """
    run_stage(workshop, "corpus")
    run_stage(workshop, "features")
    if workshop.num_processes < 2:
        for stages, _ in _CHAINS:
            _run_chain(workshop, stages, num_threads)
    else:
        _run_chains(workshop, max(1, num_threads // 2))
    run_stage(workshop, "assemble", out=out)
    run_stage(workshop, "references")
    page = write_report(workshop.directory, workshop.settings())
    workshop.on_log(f"report: {page}")
    return page


def _run_chains(workshop: Workshop, num_threads: int) -> None:
    # children say what they do on the parent's output: they are given no callback, which could not be sent
    sent = replace(workshop, on_log=print, num_processes=1)
    waiting = list(_CHAINS)
    done: set[str] = set()
    # a fork of a process that has used torch's threads may hang
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        running: dict[Future[None], tuple[str, ...]] = {}
        while waiting or running:
            for chain in [chain for chain in waiting if done.issuperset(chain[1])]:
                waiting.remove(chain)
                running[pool.submit(_run_chain, sent, chain[0], num_threads)] = chain[0]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done |= {running.pop(future)[-1]}
                future.result()


def _run_chain(workshop: Workshop, stages: tuple[str, ...], num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    for stage in stages:
        run_stage(workshop, stage)


def _train(workshop: Workshop, stage: str, plan: StepPlan) -> None:
    torch.manual_seed(workshop.seed)
    builders = {
        "speech_tokenizer": _build_speech_tokenizer,
        "mel_reader": _build_mel_reader,
        "speaker": _build_speaker,
        "vocoder": _build_vocoder,
        "flow": _build_flow,
        "lm": _build_lm,
    }
    modules, loss_function = builders[stage](workshop)
    for module in modules.values():
        module.to(workshop.device)
    num_parameters = sum(p.numel() for p in modules[next(iter(modules))].parameters())
    workshop.on_log(f"{stage}: {num_parameters / 1e6:.2f} million parameters, {plan.num_steps} steps")
    began = time.monotonic()
    report = run_steps(modules, loss_function, plan, workshop.checkpoint(stage), on_log=workshop.on_log)
    work = workshop.directory / "work"
    (work / f"{stage}.curve.json").write_text(json.dumps(report.rows), encoding="utf-8")
    note_stage(
        work,
        stage,
        duration_s=time.monotonic() - began,
        num_steps=plan.num_steps,
        seed=plan.seed,
        num_parameters=num_parameters,
        device=workshop.device,
    )


def _make_corpus(workshop: Workshop) -> None:
    lexicon = Lexicon(
        knows=lambda word: english_phones(word) is not None,
        words=sorted(known_words()),
        phrases=sorted(phrases_dict),
        pinyin=pinyin_syllables,
    )
    presets = {preset.speaker for preset in PRESETS.values()}
    # few voices are learnt in a quarter of an hour, some two hundred and forty are not
    speakers = presets if workshop.quick else None
    tasks = plan_corpus(workshop.corpus_size, lexicon, seed=7, speakers=speakers, favoured=presets)
    generate_corpus(
        workshop.directory / "corpus",
        tasks,
        num_processes=workshop.num_processes,
        on_progress=lambda share: workshop.on_log(f"corpus {share:.0%}"),
    )
    if workshop.extra_corpus is not None:
        _add_recordings(workshop, workshop.extra_corpus)


def _add_recordings(workshop: Workshop, source: Path) -> None:
    """Raises: ValueError when networks have already been trained on a corpus without them"""
    corpus = workshop.directory / "corpus"
    if any((workshop.directory / "work").glob("*.pt")):
        if not (corpus / LEDGER).exists():
            raise ValueError(
                f"{workshop.directory} holds networks that were trained without the recordings of {source}; give another --work folder"
            )
        workshop.on_log(
            "the recordings are those of the run's beginning: the corpus stays as it is once training began"
        )
        return
    report = import_recordings(
        source, corpus, num_processes=workshop.num_processes, on_progress=lambda share: None, on_log=workshop.on_log
    )
    workshop.on_log(report.summary)


def _build_speech_tokenizer(workshop: Workshop):  # type: ignore[no-untyped-def]
    network = SpeechTokenizer(_config("speech_tokenizer"))
    clips = workshop.clips()
    reader = TokenReader(network.config.fsq_dim, num_speakers(clips))
    # a quarter of an hour is too short to learn what others have in common
    return {"speech_tokenizer": network, "reader": reader}, SpeechTokenizerLoss(
        network, reader, workshop.training_clips(clips), heard_twice=not workshop.quick
    )


def _build_mel_reader(workshop: Workshop):  # type: ignore[no-untyped-def]
    network = MelReader()
    return {"mel_reader": network}, MelReaderLoss(network, workshop.training_clips(workshop.clips()))


def _build_speaker(workshop: Workshop):  # type: ignore[no-untyped-def]
    training = workshop.training_clips(workshop.clips())
    network = SpeakerEncoder(_config("speaker_encoder"))
    head = SpeakerHead(network.config.embedding_size, len(clips_by_speaker(training)))
    return {"speaker_encoder": network, "head": head}, SpeakerLoss(network, head, training)


def _build_vocoder(workshop: Workshop):  # type: ignore[no-untyped-def]
    clips = workshop.clips()
    network = HiFT(_config("hift"))
    rows = workshop.training_rows(clips)
    read = _reader(workshop, [clip.clip for clip in clips])
    return {"hift": network}, VocoderLoss(
        network, [clips[i] for i in rows], lambda index: read(rows[index]), workshop.mel_reader().to(workshop.device)
    )


def _build_flow(workshop: Workshop):  # type: ignore[no-untyped-def]
    clips = workshop.clips()
    network = Flow(_config("flow"))
    rows = workshop.training_rows(clips)
    codes, vectors = workshop.codes(clips), workshop.vectors(clips)
    return {"flow": network}, FlowLossFunction(
        network,
        [clips[i] for i in rows],
        [codes[i] for i in rows],
        vectors[rows],
        workshop.mel_reader().to(workshop.device),
        coloured=not workshop.quick,
    )


def _build_lm(workshop: Workshop):  # type: ignore[no-untyped-def]
    network = SpeechLM(_config("lm"))
    generator = torch.Generator().manual_seed(workshop.seed)
    levels = SpeechTokenizer(_config("speech_tokenizer")).levels_of(torch.arange(network.config.speech_token_size))
    for table in (network.speech_embedding.weight, network.llm_decoder.weight):
        begin_by_digits(table, levels, generator)
    clips = workshop.clips()
    rows = workshop.training_rows(clips)
    codes = workshop.codes(clips)
    examples = load_or_make_examples(
        workshop.directory / "work" / "lm_examples.pt",
        [clips[i].clip for i in rows],
        [codes[i] for i in rows],
        workshop.num_processes,
    )
    batch = QUICK_LM_BATCH if workshop.quick else LM_BATCH
    return {"lm": network}, LMLossFunction(network, examples, TextTokenizer.byte_level(), batch)


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
