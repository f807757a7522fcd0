from __future__ import annotations

import numpy as np
import pytest
from evaluation_clips import Say

from cosyforge.audio.resample import resample
from cosyforge.evaluation.transcriber import PocketsphinxTranscriber
from cosyforge.evaluation.wer import corpus_errors

SENTENCES = ("We usually have breakfast at seven thirty.", "The children are playing with a yellow ball.")


@pytest.fixture(scope="module")
def transcriber() -> PocketsphinxTranscriber:
    return PocketsphinxTranscriber()


def test_clear_sentences_are_heard_mostly_right_and_alike_in_any_order(
    transcriber: PocketsphinxTranscriber, say: Say
) -> None:
    clips = [say("rms", text) for text in SENTENCES]

    heard = [transcriber.transcribe(clip.samples, clip.sample_rate_hz) for clip in clips]
    again = [transcriber.transcribe(clip.samples, clip.sample_rate_hz) for clip in reversed(clips)]

    assert corpus_errors(zip(SENTENCES, heard, strict=True)).rate <= 0.25
    assert again[::-1] == heard


def test_other_sample_rates_are_heard_as_well(transcriber: PocketsphinxTranscriber, say: Say) -> None:
    clip = say("rms", SENTENCES[0])
    at_24_khz = resample(clip.samples, clip.sample_rate_hz, 24000)

    assert corpus_errors([(SENTENCES[0], transcriber.transcribe(at_24_khz, 24000))]).rate <= 0.25


def test_silence_holds_no_words(transcriber: PocketsphinxTranscriber) -> None:
    assert transcriber.transcribe(np.zeros(8000, dtype=np.float32), 16000) == ""
