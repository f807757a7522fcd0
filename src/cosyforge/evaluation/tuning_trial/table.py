"""What a tuning trial found, as figures and as tables: how much of the way from a clone to the real speaker tuning goes.

Pure arithmetic and text: knows no model and no audio.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

LEAST_GAP = 0.02
"""Where the two ends of a gap are nearer than this, a share of it says nothing: that is as much as chance moves a likeness."""

CLONE_BAR = 0.5
TUNED_BARS = {"quick": 0.6, "full": 0.8}
WORSE_WORDS_BAR = 0.03
"""What is asked of the model: shares of the gap, and the word error that tuning may add to the base's."""

UNDERSTOOD = 0.25
"""A speaker whose own recordings the recogniser misunderstands more than this says nothing about words: a model that
learns to speak like that is misunderstood as well."""


@dataclass(frozen=True)
class Heard:
    """One way of speaking: likeness to the recordings of the speaker, and words misheard of those that were said."""

    similarity: float
    errors: int
    num_words: int

    @property
    def word_error(self) -> float:
        return self.errors / self.num_words


@dataclass(frozen=True)
class TunedVoice:
    """One tuned model: what it says by itself, what its flow makes of real speech tokens, and what tuning took.

    is_whole_time: false when the tuning was stopped in between, so that tuning_s is only its last part
    """

    spoken: Heard
    copy: Heard
    tuning_s: float
    is_whole_time: bool = True


@dataclass(frozen=True)
class SpeakerResult:
    """Everything measured for one speaker; every way of speaking says the same sentences.

    Units: recorded_s is the audio that tuning gets
    """

    name: str
    recorded_s: float
    halves: float
    """Likeness of one half of the held-out recordings to the other."""
    recordings: Heard
    random: Heard
    """The base's own voices: their mean likeness to this speaker."""
    clone: Heard
    copy: Heard
    """Real speech tokens through the base's flow, with the clone's voice."""
    tuned: Mapping[str, TunedVoice]

    @property
    def base_mark(self) -> float:
        """The upper mark of the untuned model: its copy-synthesis."""
        return self.copy.similarity

    @property
    def best_mark(self) -> float:
        """The highest copy-synthesis of all, tuned flows included: the stricter mark, one for all settings."""
        return max(self.copy.similarity, *(voice.copy.similarity for voice in self.tuned.values()), 0.0)


def gap_closed(value: float, low: float, high: float) -> float | None:
    """How far `value` has come from `low` to `high`: 0 not at all, 1 the whole way; None where there is hardly a way."""
    return None if high - low < LEAST_GAP else (value - low) / (high - low)


@dataclass(frozen=True)
class Gap:
    """A share of the way closed, with the base's copy-synthesis as its end, and with the best copy-synthesis."""

    to_base_mark: float | None
    to_best_mark: float | None


def gaps(result: SpeakerResult) -> dict[str, Gap]:
    """Of the clone: the way from a random voice; of every setting: the way from the clone."""
    ways = {"clone": (result.clone.similarity, result.random.similarity)}
    ways |= {name: (voice.spoken.similarity, result.clone.similarity) for name, voice in result.tuned.items()}
    return {
        name: Gap(gap_closed(value, low, result.base_mark), gap_closed(value, low, result.best_mark))
        for name, (value, low) in ways.items()
    }


def mean_gaps(results: Sequence[SpeakerResult]) -> dict[str, Gap]:
    """The means over the speakers for whom the share says something."""
    by_speaker = [gaps(result) for result in results]
    return {
        name: Gap(
            _mean(each[name].to_base_mark for each in by_speaker), _mean(each[name].to_best_mark for each in by_speaker)
        )
        for name in by_speaker[0]
    }


def pooled_gaps(results: Sequence[SpeakerResult]) -> dict[str, Gap]:
    """The shares of the mean likenesses: one speaker with a short way cannot sway them."""
    return gaps(mean_result(results))


def mean_result(results: Sequence[SpeakerResult]) -> SpeakerResult:
    """All speakers as one: mean likeness, words added up. Its best mark is the highest of the mean marks."""

    return SpeakerResult(
        name="mean",
        recorded_s=fmean(result.recorded_s for result in results),
        halves=fmean(result.halves for result in results),
        recordings=mean_heard([result.recordings for result in results]),
        random=mean_heard([result.random for result in results]),
        clone=mean_heard([result.clone for result in results]),
        copy=mean_heard([result.copy for result in results]),
        tuned={name: _mean_tuned([result.tuned[name] for result in results]) for name in results[0].tuned},
    )


def mean_heard(parts: Sequence[Heard]) -> Heard:
    """Mean likeness; words added up."""
    return Heard(
        fmean(heard.similarity for heard in parts),
        sum(heard.errors for heard in parts),
        sum(heard.num_words for heard in parts),
    )


def _mean_tuned(voices: Sequence[TunedVoice]) -> TunedVoice:
    return TunedVoice(
        mean_heard([voice.spoken for voice in voices]),
        mean_heard([voice.copy for voice in voices]),
        fmean(voice.tuning_s for voice in voices),
        all(voice.is_whole_time for voice in voices),
    )


def trial_json(results: Sequence[SpeakerResult], facts: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of a trial.

    facts: how it was made
    """
    return {
        **facts,
        "speakers": {result.name: _speaker_json(result, gaps(result)) for result in results},
        "mean": _speaker_json(mean_result(results), mean_gaps(results)),
        "pooled_gap_closed": _gaps_json(pooled_gaps(results)),
        "bars": {name: {"asked": asked, "reached": reached} for name, asked, reached in bars(results)},
    }


def bars(results: Sequence[SpeakerResult]) -> list[tuple[str, float, float | None]]:
    """(what, asked, reached) of everything that is asked for.

    Shares are means over the speakers, to the stricter mark; word errors are of the speakers that are understood, None
    where none is.
    """
    shares, clear = mean_gaps(results), understood(results)
    rows: list[tuple[str, float, float | None]] = [
        ("clone: least share of the gap", CLONE_BAR, shares["clone"].to_best_mark)
    ]
    for name in results[0].tuned:
        if name in TUNED_BARS:
            rows.append((f"{name}: least share of the gap", TUNED_BARS[name], shares[name].to_best_mark))
        added = None
        if clear:
            mean = mean_result(clear)
            added = mean.tuned[name].spoken.word_error - mean.random.word_error
        rows.append((f"{name}: most word error added to the base's", WORSE_WORDS_BAR, added))
    return rows


def understood(results: Sequence[SpeakerResult]) -> list[SpeakerResult]:
    """The speakers whose own recordings the recogniser understands."""
    return [result for result in results if result.recordings.word_error <= UNDERSTOOD]


def _speaker_json(result: SpeakerResult, shares: Mapping[str, Gap]) -> dict[str, Any]:
    return {
        "recorded_s": round(result.recorded_s, 1),
        "recordings_half_to_half": round(result.halves, 4),
        "recordings": _heard_json(result.recordings),
        "random_voice": _heard_json(result.random),
        "clone": _heard_json(result.clone),
        "copy_synthesis": _heard_json(result.copy),
        "tuned": {
            name: {
                **_heard_json(voice.spoken),
                "copy_synthesis": _heard_json(voice.copy),
                "tuning_s": round(voice.tuning_s, 1),
                "is_whole_time": voice.is_whole_time,
            }
            for name, voice in result.tuned.items()
        },
        "gap_closed": _gaps_json(shares),
    }


def _heard_json(heard: Heard) -> dict[str, Any]:
    return {
        "similarity": round(heard.similarity, 4),
        "word_error": round(heard.word_error, 4),
        "errors": heard.errors,
        "num_words": heard.num_words,
    }


def _gaps_json(shares: Mapping[str, Gap]) -> dict[str, Any]:
    return {
        name: {"to_base_copy": _rounded(gap.to_base_mark), "to_best_copy": _rounded(gap.to_best_mark)}
        for name, gap in shares.items()
    }


# --- tables -----------------------------------------------------------------------------------------------------------


def trial_markdown(results: list[SpeakerResult], introduction: str) -> str:
    """The tables of a trial, ready for a model card."""
    settings = list(results[0].tuned)
    parts = [
        introduction,
        "**Likeness** to held-out recordings. `copy` is real speech tokens through flow and vocoder: of the base with the "
        "clone's voice, and of each tuned model.",
        _table(
            ["speaker", "recordings", "random voice", "clone", "copy, base"]
            + [title for name in settings for title in (name, f"copy, {name}")],
            [_likeness_row(result) for result in results + _means(results)],
        ),
        "**Gap closed**: by the clone from the random voice, by tuning from the clone. The end is the best copy-synthesis "
        "of the speaker; in brackets that of the base alone. A dash: the ends are too near to each other.",
        _table(
            ["speaker", "clone", *settings],
            [[result.name, *map(_share, gaps(result).values())] for result in results]
            + [["mean", *map(_share, mean_gaps(results).values())]]
            + ([["of the means", *map(_share, pooled_gaps(results).values())]] if len(results) > 1 else []),
        ),
        "**Word error** on the same sentences. The mean and what is asked are of the speakers whose own recordings have at "
        f"most {UNDERSTOOD:.2f}: of the others the recogniser says nothing.",
        _table(
            ["speaker", "recordings", "base", "clone", "copy, base", *settings],
            [_word_row(result) for result in results + _means(understood(results))],
        ),
        "**Minutes of tuning**",
        _table(["speaker", "recorded", *settings], [_time_row(result) for result in results + _means(results)]),
        "**Asked and reached** (means over the speakers)",
        _table(
            ["", "asked", "reached"],
            [
                [name, f"{asked:.2f}", "-" if reached is None else f"{reached:.2f}"]
                for name, asked, reached in bars(results)
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _means(results: Sequence[SpeakerResult]) -> list[SpeakerResult]:
    return [mean_result(results)] if results else []


def _likeness_row(result: SpeakerResult) -> list[str]:
    likenesses = [result.recordings, result.random, result.clone, result.copy]
    likenesses += [heard for voice in result.tuned.values() for heard in (voice.spoken, voice.copy)]
    return [result.name, *(f"{heard.similarity:.3f}" for heard in likenesses)]


def _word_row(result: SpeakerResult) -> list[str]:
    heard = [result.recordings, result.random, result.clone, result.copy]
    heard += [voice.spoken for voice in result.tuned.values()]
    return [result.name, *(f"{each.word_error:.3f}" for each in heard)]


def _time_row(result: SpeakerResult) -> list[str]:
    return [
        result.name,
        f"{result.recorded_s / 60:.1f}",
        *(f"{'' if voice.is_whole_time else 'over '}{voice.tuning_s / 60:.1f}" for voice in result.tuned.values()),
    ]


def _share(gap: Gap) -> str:
    return f"{_percent(gap.to_best_mark)} ({_percent(gap.to_base_mark)})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
