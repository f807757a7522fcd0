"""What is measured in one clip, and what several clips of one voice at one stage come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

import numpy as np
import numpy.typing as npt

from cosyforge.evaluation.alignment import align
from cosyforge.evaluation.delivery import Heard, heard_delivery, heard_english
from cosyforge.evaluation.phones import align_phones, count_phones
from cosyforge.evaluation.signal import SignalFigures, fault, measure, phones_per_s
from cosyforge.evaluation.transcriber import PhoneTranscriber, SyllableTranscriber, Transcriber
from cosyforge.evaluation.wer import WordErrors, count_errors, syllable_errors, toneless, word_errors
from cosyforge.text.mandarin import HAN, pinyin_syllables

Samples = npt.NDArray[np.float32]

_PHONES_PER_SYLLABLE = 2.5
"""Of Mandarin, for the marks of a plausible pace: an initial, a vowel, and often a glide or a nasal."""


class Ears:
    """Who listens: words and phones of English, syllables of Mandarin. Where nobody listens, nothing is heard.

    name, syllables_name: of the recognisers and of whatever makes one differ from another
    """

    def __init__(
        self,
        name: str,
        words: Transcriber,
        phones: PhoneTranscriber | None = None,
        syllables: SyllableTranscriber | None = None,
        syllables_name: str = "",
    ) -> None:
        self._name, self._syllables_name = name, syllables_name
        self.words = words
        self.phones = phones
        self.syllables = syllables

    @property
    def name(self) -> str:
        return "; ".join(name for name in (self._name, self._syllables_name) if name)

    def name_for(self, text: str) -> str:
        """Of those who listen to a text of its language; what they heard is kept under it."""
        return self._syllables_name if language_of(text) == "zh" else self._name


@dataclass(frozen=True)
class ClipFigures:
    """One clip measured. None stands where nothing can be measured, or nobody listens.

    words, phones are for English; syllables (tones ignored) and tones (tones count) for Mandarin
    """

    text: str
    language: str
    heard: str
    signal: SignalFigures
    pace: float | None
    """Phones in a second of speech; Mandarin counts two and a half for a syllable."""
    fault: str | None
    """silent, runaway, cut off: pace and text do not belong together."""
    delivery: Heard = field(default_factory=Heard)
    words: WordErrors | None = None
    phones: WordErrors | None = None
    heard_phones: str = ""
    syllables: WordErrors | None = None
    tones: WordErrors | None = None

    @property
    def error_rate(self) -> float:
        """Of the finest units there are; clips are put in order by it."""
        counts = self.phones or self.syllables or self.words
        return counts.rate if counts and counts.num_words else 0.0


@dataclass(frozen=True)
class StageFigures:
    """Several clips of one voice at one stage.

    Units: rates are errors by units wanted, over all clips together; pitch in Hz, its range in semitones, levels in dB,
    all the middle of the clips; num_ and share figures are over all clips
    """

    num_clips: int
    word_error_rate: float | None
    phone_error_rate: float | None
    syllable_error_rate: float | None
    tone_error_rate: float | None
    """Errors in syllables where a wrong tone is one, too."""
    similarity: float | None
    """Cosine of the mean voice of the clips and of the reference; for the reference itself, of its halves."""
    duration_ratio: float | None
    """Length of the speech against the recording of the same text, the mean."""
    pace: float | None
    median_f0_hz: float | None
    f0_range_semitones: float | None
    pause_share: float
    num_pauses_per_clip: float
    clipped_share: float
    snr_db: float | None
    num_faults: int
    num_swallowed: int
    """Clips of which the ear says so; the same for the next two."""
    num_repeated: int
    num_runaway: int


def language_of(text: str) -> str:
    """Tell "zh" when there are hanzi in a text, else "en"."""
    return "zh" if HAN.search(text) else "en"


def measure_clip(samples: Samples, sample_rate_hz: int, text: str, ears: Ears) -> ClipFigures:
    """Listen to a clip and measure it; without a text only the signal is measured.

    Shapes: samples (L,)
    Raises: ValueError when it is shorter than 20 ms
    """
    signal = measure(samples, sample_rate_hz)
    if not text:
        return ClipFigures("", "", "", signal, None, None)
    if language_of(text) == "zh":
        return _mandarin(samples, sample_rate_hz, text, ears, signal)
    return _english(samples, sample_rate_hz, text, ears, signal)


def summarise(
    clips: Sequence[ClipFigures], *, similarity: float | None = None, duration_ratios: Iterable[float] = ()
) -> StageFigures:
    """Bring clips together.

    Raises: ValueError when there is none
    """
    if not clips:
        raise ValueError("nothing to bring together: give at least one clip")
    ratios = list(duration_ratios)
    signals = [clip.signal for clip in clips]
    return StageFigures(
        num_clips=len(clips),
        word_error_rate=_rate(clip.words for clip in clips),
        phone_error_rate=_rate(clip.phones for clip in clips),
        syllable_error_rate=_rate(clip.syllables for clip in clips),
        tone_error_rate=_rate(clip.tones for clip in clips),
        similarity=similarity,
        duration_ratio=fmean(ratios) if ratios else None,
        pace=_middle(clip.pace for clip in clips),
        median_f0_hz=_middle(signal.median_f0_hz for signal in signals),
        f0_range_semitones=_middle(signal.f0_range_semitones for signal in signals),
        pause_share=fmean(signal.pause_share for signal in signals),
        num_pauses_per_clip=fmean(signal.num_pauses for signal in signals),
        clipped_share=fmean(signal.clipped_share for signal in signals),
        snr_db=_middle(signal.snr_db for signal in signals),
        num_faults=sum(clip.fault is not None for clip in clips),
        num_swallowed=sum(bool(clip.delivery.swallowed) for clip in clips),
        num_repeated=sum(bool(clip.delivery.repeated) for clip in clips),
        num_runaway=sum(clip.delivery.is_runaway or clip.fault == "runaway" for clip in clips),
    )


def mean_figures(stages: Sequence[StageFigures]) -> dict[str, float | None]:
    """The mean over voices of every figure that some voice has; each voice weighs the same."""
    return {
        name: fmean(values) if (values := [v for s in stages if (v := getattr(s, name)) is not None]) else None
        for name in StageFigures.__dataclass_fields__
    }


def _english(samples: Samples, rate_hz: int, text: str, ears: Ears, signal: SignalFigures) -> ClipFigures:
    heard = ears.words.transcribe(samples, rate_hz)
    phones = [] if ears.phones is None else ears.phones.phones(samples, rate_hz)
    steps = None if ears.phones is None else align_phones(text, phones)
    num_phones = count_phones(text)
    return ClipFigures(
        text=text,
        language="en",
        heard=heard,
        signal=signal,
        pace=phones_per_s(signal, num_phones) if num_phones else None,
        fault=fault(signal, num_phones) if num_phones else None,
        delivery=heard_english(text, heard, steps),
        words=word_errors(text, heard),
        phones=None if steps is None else count_errors(steps),
        heard_phones=" ".join(phones),
    )


def _mandarin(samples: Samples, rate_hz: int, text: str, ears: Ears, signal: SignalFigures) -> ClipFigures:
    wanted = pinyin_syllables(text)
    num_phones = round(_PHONES_PER_SYLLABLE * len(wanted))
    figures = ClipFigures(text, "zh", "", signal, phones_per_s(signal, num_phones), fault(signal, num_phones))
    if ears.syllables is None:
        return figures
    heard = ears.syllables.syllables(samples, rate_hz)
    steps = align([[(toneless(syllable),)] for syllable in wanted], [toneless(syllable) for syllable in heard])
    hanzi = [char for char in text if HAN.match(char)]
    return ClipFigures(
        text=text,
        language="zh",
        heard=" ".join(heard),
        signal=signal,
        pace=figures.pace,
        fault=figures.fault,
        # a syllable is as long as two phones
        delivery=heard_delivery(
            hanzi if len(hanzi) == len(wanted) else wanted, steps, words_missing=False, words_added=False, sure_run=2
        ),
        syllables=syllable_errors(wanted, heard, tones=False),
        tones=syllable_errors(wanted, heard, tones=True),
    )


def _rate(counts: Iterable[WordErrors | None]) -> float | None:
    total = sum((each for each in counts if each is not None), WordErrors())
    return total.rate if total.num_words else None


def _middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
