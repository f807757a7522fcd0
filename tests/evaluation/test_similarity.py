from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation_clips import Say, tone

from cosyforge.evaluation import similarity as module
from cosyforge.evaluation.similarity import VoiceEncoder, similarity

SENTENCES = (
    "The kettle is boiling in the kitchen.",
    "I left my umbrella on the train this morning.",
    "She bought fresh bread and a jar of honey.",
    "There is a good view from the top of the hill.",
)
installed = pytest.mark.skipif(
    importlib.util.find_spec("resemblyzer") is None,
    reason="the voice encoder weights are missing (pip install --no-deps resemblyzer==0.1.4)",
)


@pytest.fixture(scope="module")
def encoder() -> VoiceEncoder:
    return VoiceEncoder.load()


@installed
def test_same_speaker_is_near_and_other_speakers_are_far(encoder: VoiceEncoder, say: Say) -> None:
    voices = ("rms", "slt", "kal16")
    clips = {
        voice: [(clip.samples, clip.sample_rate_hz) for text in SENTENCES if (clip := say(voice, text))]
        for voice in voices
    }
    first = {voice: encoder.embed_speaker(clips[voice][:2]) for voice in voices}
    second = {voice: encoder.embed_speaker(clips[voice][2:]) for voice in voices}

    for voice in voices:
        assert similarity(first[voice], second[voice]) > 0.85
    for one, other in itertools.permutations(voices, 2):
        assert similarity(first[one], second[other]) < 0.75


@installed
def test_loudness_rate_and_surrounding_silence_hardly_change_a_voice(encoder: VoiceEncoder, say: Say) -> None:
    clip = say("rms", SENTENCES[1])
    voice = encoder.embed(clip.samples, clip.sample_rate_hz)
    silence = np.zeros(2 * clip.sample_rate_hz, dtype=np.float32)

    quiet = encoder.embed(clip.samples * 0.02, clip.sample_rate_hz)
    padded = encoder.embed(np.concatenate([silence, clip.samples, silence]), clip.sample_rate_hz)

    assert np.linalg.norm(voice) == pytest.approx(1.0, abs=1e-5)
    assert similarity(voice, quiet) > 0.85
    assert similarity(voice, padded) > 0.97


@installed
def test_the_package_itself_is_never_imported(encoder: VoiceEncoder) -> None:
    assert "resemblyzer" not in sys.modules


@installed
def test_a_clip_without_sound_has_no_voice(encoder: VoiceEncoder) -> None:
    with pytest.raises(ValueError, match="no sound"):
        encoder.embed(np.zeros(16000, dtype=np.float32), 16000)
    with pytest.raises(ValueError, match="at least one recording"):
        encoder.embed_speaker([])


def test_clips_of_any_length_fall_into_parts_of_160_frames_that_speech_mostly_fills() -> None:
    for num_samples in [480, 16000, 25599, 25600, 40000, 160000]:
        starts = module._part_starts(num_samples)
        num_frames = num_samples // 160 + 1
        assert starts == [77 * i for i in range(len(starts))]
        assert len(starts) == 1 or num_frames - starts[-1] >= 120
        assert num_frames - starts[-1] < 120 + 77 or len(starts) == 1


def test_mel_bins_of_a_tone_peak_where_the_slaney_scale_puts_it() -> None:
    # 40 bins up to 8 kHz: 1 kHz is mel 15 of 45.25, and 42 edges stand 45.25 / 41 mel apart
    mel = module._power_mel(torch.from_numpy(tone(1000.0, 0.5)))
    wanted = 15 / (15 + 27 * np.log(8) / np.log(6.4)) * 41 - 1

    assert mel.shape == (51, 40)
    assert abs(int(mel[25].argmax()) - wanted) <= 1


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)

    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps resemblyzer==0\.1\.4"):
        VoiceEncoder.load()


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"model_state": {"linear.weight": torch.zeros(2, 2)}}, tmp_path / "x.pt")

    with pytest.raises(ValueError, match="not the weights of the voice encoder"):
        VoiceEncoder.load(tmp_path / "x.pt")
