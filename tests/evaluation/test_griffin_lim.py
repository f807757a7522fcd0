from __future__ import annotations

import pytest
import torch
from evaluation_clips import Say

from cosyforge.audio.mel import mel_spectrogram
from cosyforge.audio.resample import resample
from cosyforge.evaluation.griffin_lim import griffin_lim
from cosyforge.evaluation.transcriber import PocketsphinxTranscriber
from cosyforge.evaluation.wer import word_errors


def test_a_mel_becomes_speech_that_has_this_mel_and_is_understood(say: Say) -> None:
    clip = say("rms", "Please bring me a glass of cold water.")
    mel = mel_spectrogram(torch.from_numpy(resample(clip.samples, clip.sample_rate_hz, 24000))[None])[0]

    samples = griffin_lim(mel)

    again = mel_spectrogram(torch.from_numpy(samples)[None])[0]
    assert samples.shape == (480 * mel.shape[1],)
    assert float((again - mel).abs().mean()) < 0.2  # natural-log units, 1.7 dB
    heard = PocketsphinxTranscriber().transcribe(samples, 24000)
    assert word_errors(clip.text, heard).errors <= 1


def test_what_is_no_mel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(80, F\)"):
        griffin_lim(torch.zeros(40, 100))
