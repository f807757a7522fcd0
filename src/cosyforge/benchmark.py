"""Speed and memory of this machine, as ratios measured side by side in one run: `make bench`.

Baselines are the slow ways that the fast ones replace (recompute everything, no cache) and the public reference's published shape of
cost; absolute times are printed for orientation alone, since machines differ and are shared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cosyforge.benchmark_platform import LIMIT_MS, NUM_JOBS, Listing, listing_times
from cosyforge.cosyvoice.flow_stream import FlowStream
from cosyforge.cosyvoice.hift import HiFTStream
from cosyforge.cosyvoice.manifest import builtin_model_directory
from cosyforge.cosyvoice.model import CosyVoice, Voice
from cosyforge.cosyvoice.packed import pack
from cosyforge.cosyvoice.weights import load_model
from cosyforge.synthesis.engine import Engine

_RUNS = 3
_TOKENS_PER_S = 25


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of the fast way, of the baseline, and baseline / fast."""

    name: str
    baseline: str
    fast_s: float
    baseline_s: float

    @property
    def ratio(self) -> float:
        return self.baseline_s / self.fast_s


def compare(name: str, baseline: str, fast: Callable[[], object], slow: Callable[[], object]) -> Row:
    """Medians of runs in turn, so that drift of the machine meets both alike; one warm-up each."""
    fast(), slow()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(_RUNS):
        for work, into in zip((fast, slow), times, strict=True):
            began = time.perf_counter()
            work()
            into.append(time.perf_counter() - began)
    return Row(name, baseline, statistics.median(times[0]), statistics.median(times[1]))


@torch.inference_mode()
def network_rows(model: CosyVoice, voice: Voice, seconds: int = 5) -> list[Row]:
    """Each network's incremental path against recomputing from the start, for `seconds` of speech."""
    num_tokens = seconds * _TOKENS_PER_S
    generator = torch.Generator().manual_seed(0)
    token = torch.randint(model.config.lm.speech_token_size, (num_tokens,), generator=generator)
    mel = torch.randn(1, 80, 2 * num_tokens, generator=generator) - 5.0
    hops = [token[i : i + _TOKENS_PER_S] for i in range(0, num_tokens, _TOKENS_PER_S)]
    return [
        compare("LM, cached steps", "whole sequence at every step", *_lm_ways(model, token[:60])),
        compare("flow, incremental", "all tokens again at every second", *_flow_ways(model, voice, token, hops)),
        compare("vocoder, incremental", "all frames again at every second", *_vocoder_ways(model, mel)),
    ]


def _lm_ways(model: CosyVoice, token: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    embeds = model.lm.embed_speech(token)[None]

    def cached() -> None:
        cache = model.lm.new_cache(1, len(token))
        for index in range(len(token)):
            model.lm.step(embeds[:, index : index + 1], cache)

    def uncached() -> None:
        for index in range(len(token)):
            hidden, _ = model.lm(embeds[:, : index + 1])
            model.lm.logits(hidden[:, -1])

    return cached, uncached


def _flow_ways(
    model: CosyVoice, voice: Voice, token: Tensor, hops: list[Tensor]
) -> tuple[Callable[[], object], Callable[[], object]]:
    none = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 80, 0)
    vector = voice.speaker_embedding[None]

    def incremental() -> None:
        stream = FlowStream(model.flow, *none, vector)
        for index, hop in enumerate(hops):
            stream.push(hop, index == len(hops) - 1)

    def again() -> None:
        for index in range(len(hops)):
            end = (index + 1) * _TOKENS_PER_S
            final = index == len(hops) - 1
            model.flow.sample(token[None, :end], *none, vector, streaming=True, final=final)

    return incremental, again


def _vocoder_ways(model: CosyVoice, mel: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    step = 2 * _TOKENS_PER_S
    starts = range(0, mel.shape[2], step)

    def incremental() -> None:
        stream = HiFTStream(model.hift)
        for start in starts:
            stream.push(mel[..., start : start + step], start + step >= mel.shape[2])

    def again() -> None:
        for start in starts:
            model.hift(mel[..., : start + step], final=start + step >= mel.shape[2])

    return incremental, again


def speaking_figures(engine: Engine, voice: str) -> dict[str, float]:
    """Real time factor of whole sentences on one thread, by the clock and by the processor time spent, each part's share
    of it, and the time to the first package when streamed; the best of some runs."""
    from cosyforge.synthesis.request import SynthesisRequest

    text = "There is a large garden behind my house, and the children play there every afternoon."
    whole = SynthesisRequest(voice=voice, format="pcm", sample_rate_hz=engine.sample_rate_hz, streaming=False)
    streamed = replace(whole, streaming=True)
    engine.speak(text, voice, 0)
    runs = []
    for _ in range(_RUNS):
        began, began_cpu = time.perf_counter(), time.process_time()
        chunks = list(engine.synthesize(whole, [text]))
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        began = time.perf_counter()
        next(chunk for chunk in engine.synthesize(streamed, [text]) if chunk.audio)
        first_ms = (time.perf_counter() - began) * 1000
        duration_s = sum(chunk.duration_s for chunk in chunks)
        parts_ms = chunks[-1].timings_ms or {}
        shares = {f"{part}_share": parts_ms[part] / 1000 / wall_s for part in ("lm", "flow", "vocoder")}
        runs.append({"rtf": wall_s / duration_s, "cpu_rtf": cpu_s / duration_s, "first_package_ms": first_ms, **shares})
    return {name: min(run[name] for run in runs) for name in ("rtf", "cpu_rtf", "first_package_ms")} | {
        name: statistics.median(run[name] for run in runs) for name in shares
    }


def import_times() -> dict[str, float]:
    """Seconds to import the API (which must stay light) and torch, each in a fresh process."""
    result = {}
    for module in ("cosyforge.api.app", "torch"):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        result[module] = time.perf_counter() - began
    return result


def listing_table(listings: list[Listing]) -> Table:
    """The management API's own section."""
    title = f"Pages of {NUM_JOBS} jobs on SQLite, ms (at the 95th percentile below {LIMIT_MS:g})"
    table = Table("page", "HTTP: median", "95 %", "worst", "queries: median", "95 %", "worst", title=title)
    for listing in listings:
        table.add_row(listing.name, *(f"{ms:.1f}" for ms in (*listing.http_ms, *listing.query_ms)))
    return table


def main() -> None:
    """Measure and print; `--json PATH` keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    directory = builtin_model_directory()
    model = load_model(directory)
    model.hift.fuse()
    pack(model.lm)
    pack(model.flow)
    voice_name, voice = next(iter(model.voices.items()))
    rows = network_rows(model, voice)
    speaking = speaking_figures(Engine(directory), voice_name)
    imports = import_times()
    listings = listing_times()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    console = Console()
    table = Table("what", "against", "fast s", "baseline s", "ratio", title="One thread, built-in model, 5 s of speech")
    for row in rows:
        table.add_row(row.name, row.baseline, f"{row.fast_s:.3f}", f"{row.baseline_s:.3f}", f"{row.ratio:.2f}")
    console.print(table)
    console.print(
        f"rtf {speaking['rtf']:.3f} (processor time {speaking['cpu_rtf']:.3f}: LM {speaking['lm_share']:.0%}, flow "
        f"{speaking['flow_share']:.0%}, vocoder {speaking['vocoder_share']:.0%}), first package "
        f"{speaking['first_package_ms']:.0f} ms, peak {peak_mib:.0f} MiB"
    )
    console.print(", ".join(f"import {name} {seconds:.2f} s" for name, seconds in imports.items()))
    console.print(listing_table(listings))
    if arguments.json:
        figures = {"rows": [asdict(row) | {"ratio": row.ratio} for row in rows], **speaking, "import_s": imports}
        figures |= {"listings": [asdict(listing) for listing in listings]}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
