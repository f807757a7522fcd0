"""Make the Mandarin recogniser from nothing: corpus, network, costs of decoding, figures. Stopped and started again it goes on.

    python -m cosyforge.evaluation.mandarin_ear.training --work build/mandarin-ear --out src/cosyforge/assets/mandarin_ear

About ten minutes of one core. espeak-ng must be installed. One thread and fixed seeds: the same machine makes the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from cosyforge.audio.mel import MEL_SAMPLE_RATE_HZ, mel_spectrogram
from cosyforge.audio.resample import resample
from cosyforge.dataset import espeak
from cosyforge.dataset.synthetic import ESPEAK_MANDARIN, HELD_OUT, spoken_pinyin
from cosyforge.evaluation.griffin_lim import griffin_lim
from cosyforge.evaluation.mandarin_ear.corpus import NO_LABEL, draw_clip, label, legal_syllables, plan_texts, spoil
from cosyforge.evaluation.mandarin_ear.decoding import SyllableGraph
from cosyforge.evaluation.mandarin_ear.ear import (
    CARD_NAME,
    NUM_FEATURES,
    RATE_HZ,
    WEIGHTS_NAME,
    EarConfig,
    EarNetwork,
    MandarinEar,
    card_of,
    extract,
)
from cosyforge.evaluation.sentences import EVERYDAY_ZH
from cosyforge.text.mandarin import pinyin_syllables

_SHARD_CLIPS = 250
_SEGMENT_FRAMES = 256
_BATCH = 12
_PEAK_RATE = 2e-3
_WARM_STEPS = 100
_AVERAGE = 0.995
_TONE_WEIGHT = 0.5
_SEED = 4711
_SAVE_EVERY = 200

TUNING_VOICES = ("Annie", "f4", "m3", "belinda", "Hugo", "steph2")
"""Voices that the built-in model learns from and this recogniser does not: the costs of decoding are chosen on them."""
_LIMITS = "taught by espeak-ng's Mandarin alone: made for speech of models that learned from the same engine; it understands people badly"
TEST_VOICES = tuple(voice for voice in HELD_OUT if voice != "rms")
"""Voices that neither has heard."""


# corpus ----------------------------------------------------------------------------------------------------------------------


def make_corpus(directory: Path, num_clips: int, num_processes: int, on_progress: Callable[[str], None]) -> None:
    """Write features and labels shard by shard; what is there is kept. The number of processes changes nothing in them."""
    directory.mkdir(parents=True, exist_ok=True)
    texts = plan_texts(num_clips, legal_syllables(), _SEED)
    starts = [s for s in range(0, num_clips, _SHARD_CLIPS) if not _shard_path(directory, s).exists()]
    with ProcessPoolExecutor(num_processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = [pool.submit(_make_shard, directory, start, texts[start : start + _SHARD_CLIPS]) for start in starts]
        for done, shard in enumerate(as_completed(waiting), 1):
            shard.result()
            on_progress(f"corpus: {num_clips - (len(starts) - done) * _SHARD_CLIPS} of {num_clips} clips")


def _shard_path(directory: Path, start: int) -> Path:
    return directory / f"{start // _SHARD_CLIPS:03d}.npz"


def _make_shard(directory: Path, start: int, texts: list[str]) -> None:
    features, units, tones, lengths = [], [], [], []
    for index, text in enumerate(texts, start):
        rng = random.Random(_SEED * 1_000_003 + index)
        clip = draw_clip(text, rng)
        warp = rng.uniform(0.9, 1.1) if rng.random() < 0.5 else 1.0
        heard = extract(spoil(clip.samples, np.random.default_rng((_SEED, index))), warp)
        features.append(heard.astype(np.float16))
        units.append(clip.unit)
        tones.append(clip.tone)
        lengths.append(len(heard))
    path = _shard_path(directory, start)
    partial = path.with_suffix(".part")
    with partial.open("wb") as file:
        np.savez(
            file, features=np.concatenate(features), unit=np.concatenate(units), tone=np.concatenate(tones),
            length=np.array(lengths),
        )  # fmt: skip
    partial.replace(path)


class _Corpus:
    """All clips in memory, cut into segments of one length."""

    def __init__(self, directory: Path) -> None:
        self.features: list[npt.NDArray[np.float16]] = []
        self.unit: list[npt.NDArray[np.uint8]] = []
        self.tone: list[npt.NDArray[np.uint8]] = []
        for path in sorted(directory.glob("[0-9]*.npz")):
            with np.load(path) as shard:
                ends = np.cumsum(shard["length"])[:-1]
                self.features += np.split(shard["features"], ends)
                self.unit += np.split(shard["unit"], ends)
                self.tone += np.split(shard["tone"], ends)

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes: -> features (B, T, NUM_FEATURES), unit (B, T), tone (B, T); padding carries no label."""
        features = np.zeros((_BATCH, _SEGMENT_FRAMES, NUM_FEATURES), np.float32)
        unit = np.full((_BATCH, _SEGMENT_FRAMES), NO_LABEL, np.int64)
        tone = unit.copy()
        for row, index in enumerate(rng.integers(0, len(self.features), _BATCH)):
            length = len(self.features[index])
            start = int(rng.integers(0, max(1, length - _SEGMENT_FRAMES + 1)))
            taken = min(length - start, _SEGMENT_FRAMES)
            features[row, :taken] = self.features[index][start : start + taken]
            unit[row, :taken] = self.unit[index][start : start + taken]
            tone[row, :taken] = self.tone[index][start : start + taken]
        _mask(features, rng)
        return torch.from_numpy(features), torch.from_numpy(unit), torch.from_numpy(tone)


def _mask(features: npt.NDArray[np.float32], rng: np.random.Generator) -> None:
    """Blot out bands and short stretches. Source: Park et al., SpecAugment"""
    num_bins = (NUM_FEATURES - 3) // 2
    for row in features:
        for _ in range(2):
            width = int(rng.integers(0, 9))
            low = int(rng.integers(0, num_bins - width))
            row[:, low : low + width] = 0
            row[:, num_bins + low : num_bins + low + width] = 0
        for _ in range(3):
            width = int(rng.integers(0, 5))
            start = int(rng.integers(0, len(row) - width))
            row[start : start + width, : 2 * num_bins] = 0
        if rng.random() < 0.05:
            row[:, 2 * num_bins :] = 0
        row[:, 2 * num_bins : 2 * num_bins + 2] *= rng.uniform(0.7, 1.3)


# network ---------------------------------------------------------------------------------------------------------------------


def train(
    corpus: Path, work: Path, num_steps: int, on_progress: Callable[[str], None], *, stop_after: int | None = None
) -> EarNetwork:
    """Learn the labels of the frames; returns the running average of the weights. stop_after: leave off at this step."""
    torch.manual_seed(_SEED)
    clips = _Corpus(corpus)
    network, average = EarNetwork(EarConfig()), EarNetwork(EarConfig())
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.02)
    state_path = work / "state.pt"
    step = 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
    network.train()
    started, losses = time.process_time(), []
    end = min(num_steps, stop_after or num_steps)
    while step < end:
        rng = np.random.default_rng((_SEED, 7, step))
        torch.manual_seed(_SEED + step)
        features, unit, tone = clips.batch(rng)
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, num_steps)
        with torch.autocast("cpu", torch.bfloat16):
            unit_score, tone_score = network(features)
        unit_loss = F.cross_entropy(
            unit_score.float().flatten(0, 1), unit.flatten(), ignore_index=NO_LABEL, label_smoothing=0.05
        )
        tone_loss = F.cross_entropy(tone_score.float().flatten(0, 1), tone.flatten(), ignore_index=NO_LABEL)
        optimizer.zero_grad()
        torch.autograd.backward([unit_loss + _TONE_WEIGHT * tone_loss])
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        step += 1
        keep = min(_AVERAGE, step / (step + 20))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - keep)
        losses.append((unit_loss.item(), tone_loss.item()))
        if step % _SAVE_EVERY == 0 or step == end:
            means = np.mean(losses, axis=0)
            losses = []
            on_progress(
                f"step {step}/{num_steps}: unit loss {means[0]:.3f}, tone loss {means[1]:.3f}, "
                f"{time.process_time() - started:.0f} s of processor time"
            )
            partial = state_path.with_suffix(".part")
            torch.save(
                {
                    "network": network.state_dict(), "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(), "step": step,
                },
                partial,
            )  # fmt: skip
            partial.replace(state_path)
    return average.eval()


def _rate(step: int, num_steps: int) -> float:
    if step < _WARM_STEPS:
        return _PEAK_RATE * (step + 1) / _WARM_STEPS
    share = (step - _WARM_STEPS) / max(1, num_steps - _WARM_STEPS)
    return _PEAK_RATE * (0.02 + 0.98 * (1 + float(np.cos(np.pi * share))) / 2)


# figures ---------------------------------------------------------------------------------------------------------------------

Utterance = tuple[npt.NDArray[np.float32], list[str]]
"""Samples at 16 kHz, and the syllables as they are said."""


def say_everyday(voices: Sequence[str], *, every: int = 1) -> list[Utterance]:
    """The everyday sentences, each (or each n-th) by every voice of espeak-ng that is named."""
    said = []
    for voice in voices:
        for sentence in EVERYDAY_ZH[::every]:
            text = spoken_pinyin(sentence, pinyin_syllables)
            samples, rate_hz, sounds = espeak.speak(f"{ESPEAK_MANDARIN}+{voice}", text, words_per_minute=150)
            clip = label(samples, rate_hz, sounds, text)
            said.append((clip.samples, list(clip.syllables)))
    return said


def through_mel(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The same through the model's own 80-bin mel and Griffin-Lim: what a plain vocoder makes of it."""
    smeared = []
    for samples, syllables in utterances:
        mel = mel_spectrogram(torch.from_numpy(resample(samples, RATE_HZ, MEL_SAMPLE_RATE_HZ))[None])[0]
        smeared.append((resample(griffin_lim(mel, num_steps=30), MEL_SAMPLE_RATE_HZ, RATE_HZ), syllables))
    return smeared


def spoilt(utterances: Sequence[Utterance]) -> list[Utterance]:
    """The same with the disturbances of training, another draw of them."""
    return [
        (spoil(samples, np.random.default_rng((99, zlib.crc32(" ".join(syllables).encode()), index))), syllables)
        for index, (samples, syllables) in enumerate(utterances)
    ]


def errors(ear: MandarinEar, utterances: Sequence[Utterance]) -> dict[str, float]:
    """Syllable error without and with tone: substitutions, insertions and deletions per syllable that was said."""
    return _rates(_count(ear, utterances))


def _count(ear: MandarinEar, utterances: Sequence[Utterance]) -> npt.NDArray[np.int64]:
    """Errors without tone, errors with tone, syllables."""
    counts = np.zeros(3, np.int64)
    for samples, syllables in utterances:
        heard = ear.syllables(samples, RATE_HZ)
        wrong = _distance([s[:-1] for s in syllables], [s[:-1] for s in heard])
        counts += (wrong, _distance(syllables, heard), len(syllables))
    return counts


def _rates(counts: npt.NDArray[np.int64]) -> dict[str, float]:
    wrong, wrong_tone, total = (int(count) for count in counts)
    return {"syllable_error": round(wrong / total, 4), "with_tone": round(wrong_tone / total, 4), "syllables": total}


def _distance(said: Sequence[str], heard: Sequence[str]) -> int:
    row = list(range(len(heard) + 1))
    for index, one in enumerate(said, 1):
        before, row = row, [index]
        for place, other in enumerate(heard, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (one != other)))
    return row[-1]


def tune(network: EarNetwork, bases: Sequence[str], on_progress: Callable[[str], None]) -> MandarinEar:
    """Choose the costs of decoding on voices that are not measured with."""
    clean = say_everyday(TUNING_VOICES, every=4)
    utterances = clean + spoilt(clean)
    best: tuple[float, MandarinEar] | None = None
    scores = [MandarinEar(network, SyllableGraph(bases), {}).scores(samples, RATE_HZ) for samples, _ in utterances]
    for entry_cost in (1.0, 3.0, 5.0, 8.0):
        for silence_bonus in (-0.5, 0.0, 0.5):
            graph = SyllableGraph(bases, entry_cost, silence_bonus)
            wrong = 0
            for (unit, tone), (_, said) in zip(scores, utterances, strict=True):
                heard = [piece.syllable[:-1] for piece in graph.decode(unit, tone)]
                wrong += _distance([s[:-1] for s in said], heard)
            error = wrong / sum(len(said) for _, said in utterances)
            on_progress(f"entry cost {entry_cost}, silence {silence_bonus}: {error:.4f}")
            if best is None or error < best[0]:
                best = error, MandarinEar(network, graph, {})
    assert best is not None
    return best[1]


def measure(ear: MandarinEar) -> dict[str, Any]:
    """Errors on the everyday sentences by voices that nobody has heard: clean, spoilt, and through mel and Griffin-Lim."""
    said = {voice: say_everyday([voice]) for voice in TEST_VOICES}
    clean = {voice: _count(ear, utterances) for voice, utterances in said.items()}
    every_second = [utterance for utterances in said.values() for utterance in utterances[::2]]
    every_fourth = [utterance for utterances in said.values() for utterance in utterances[::4]]
    return {
        "clean": _rates(sum(clean.values(), np.zeros(3, np.int64))),
        "spoilt": errors(ear, spoilt(every_second)),
        "griffin_lim": errors(ear, through_mel(every_fourth)),
        "clean_by_voice": {voice: _rates(counts) for voice, counts in clean.items()},
        "voices_of_the_base": errors(ear, say_everyday(TUNING_VOICES, every=2)),
    }


def save(ear: MandarinEar, out: Path, **facts: Any) -> None:
    """Write weights in 16 bit, and the card."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in ear.network.state_dict().items()}
    save_file(weights, out / WEIGHTS_NAME)
    (out / WEIGHTS_NAME).chmod(0o644)
    digest = hashlib.sha256((out / WEIGHTS_NAME).read_bytes()).hexdigest()
    card = card_of(
        EarConfig(),
        ear.graph,
        sha256=digest,
        licence="Apache-2.0",
        recipe=facts,
    )
    (out / CARD_NAME).write_text(json.dumps(card, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def make(
    out: Path, work: Path, num_clips: int, num_steps: int, num_processes: int, on_progress: Callable[[str], None]
) -> MandarinEar:
    """The whole recipe; returns the recogniser as it was written."""
    torch.set_num_threads(1)
    bases = legal_syllables()
    make_corpus(work / "corpus", num_clips, num_processes, on_progress)
    network = train(work / "corpus", work, num_steps, on_progress)
    ear = tune(network, bases, on_progress)
    recipe = {
        "command": "python -m cosyforge.evaluation.mandarin_ear.training", "num_clips": num_clips, "num_steps": num_steps,
        "seed": _SEED, "voices": "invented voice files of espeak-ng, one for each clip", "test_voices": list(TEST_VOICES),
        "limits": _LIMITS,
    }  # fmt: skip
    save(ear, out, **recipe)
    ear = MandarinEar.load(out)
    figures = measure(ear)
    on_progress(json.dumps(figures))
    save(ear, out, **recipe, figures=figures)
    return MandarinEar.load(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m cosyforge.evaluation.mandarin_ear.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and card")
    parser.add_argument("--work", type=Path, default=Path("build/mandarin-ear"), help="corpus and state, to go on from")
    parser.add_argument("--num-clips", type=int, default=4_000)
    parser.add_argument("--num-steps", type=int, default=2_000)
    parser.add_argument("--num-processes", type=int, default=1, help="for the corpus alone")
    chosen = parser.parse_args(arguments)
    make(
        chosen.out, chosen.work, chosen.num_clips, chosen.num_steps, chosen.num_processes,
        lambda line: print(line, flush=True),
    )  # fmt: skip


if __name__ == "__main__":
    main()
