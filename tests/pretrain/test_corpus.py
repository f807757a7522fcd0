"""The synthetic corpus: sentences, engines, labels."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cosyforge.dataset.sentences import everyday_sentence, spoken_words, training_sentences
from cosyforge.dataset.synthetic import (
    Clip,
    VirtualSpeaker,
    flite_speakers,
    generate_corpus,
    plan_corpus,
    read_shard,
    shard_listings,
    speak,
)
from cosyforge.text.lexicon import english_phones, known_words
from cosyforge.training.pretrain.corpus import PHONE_NAMES, frame_labels, prepare_corpus

needs_flite = pytest.mark.skipif(
    shutil.which("flite") is None or shutil.which("espeak-ng") is None,
    reason="flite and espeak-ng are not installed (apt-get install -y flite espeak-ng)",
)


def knows(word: str) -> bool:
    return english_phones(word) is not None


def test_every_template_word_has_a_pronunciation() -> None:
    rng = random.Random(0)
    words = {word for _ in range(3000) for word in spoken_words(everyday_sentence(rng))}
    assert not sorted(word for word in words if not knows(word))


def test_a_plan_is_repeatable_and_its_sentences_differ() -> None:
    words = sorted(known_words())
    first, second = plan_corpus(300, knows, words), plan_corpus(300, knows, words)
    assert first == second
    assert len({text for _, text, _ in first}) == 300
    assert len(training_sentences(50, knows, words, seed=1)) == 50


def test_the_voice_kept_for_demonstrations_is_never_heard() -> None:
    assert "rms" not in {speaker.voice for speaker in flite_speakers()}


def test_a_frame_gets_the_phone_at_its_centre() -> None:
    labels = frame_labels(Clip("Hi.", "x", 0, 1600, (("SIL", 0.03), ("HH", 0.07), ("AY", 0.1))), 6)
    assert [PHONE_NAMES[i] for i in labels.tolist()] == ["SIL", "HH", "HH", "AY", "AY", "AY"]
    assert (frame_labels(Clip("Hi.", "x", 0, 1600, ()), 3) == -1).all()


@needs_flite
def test_a_shorter_vocal_tract_raises_the_pitch_and_keeps_the_tempo() -> None:
    from cosyforge.audio.pitch import estimate_f0

    plain, plain_phones = speak(VirtualSpeaker("a", "flite", "slt"), "The morning is cold.")
    shifted, shifted_phones = speak(VirtualSpeaker("b", "flite", "slt", 1.2), "The morning is cold.")
    assert [name for name, _ in plain_phones] == [name for name, _ in shifted_phones]
    assert len(shifted) == pytest.approx(len(plain), rel=0.05)
    assert shifted_phones[-1][1] * 16000 == pytest.approx(len(shifted), abs=800)
    pitch = [np.median(f0[f0 > 0]) for f0 in (estimate_f0(plain), estimate_f0(shifted))]
    assert pitch[1] / pitch[0] == pytest.approx(1.2, rel=0.05)


@needs_flite
def test_a_corpus_becomes_features_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    tasks = plan_corpus(8, knows, sorted(known_words()))
    generate_corpus(tmp_path / "corpus", tasks, num_processes=1, shard_clips=4)
    listings = shard_listings(tmp_path / "corpus")
    before = [path.stat().st_mtime_ns for path in listings]
    generate_corpus(tmp_path / "corpus", tasks, num_processes=1, shard_clips=4)
    assert [path.stat().st_mtime_ns for path in listings] == before

    clips = prepare_corpus(tmp_path / "corpus", tmp_path / "features", num_processes=1)
    spoken = [clip for listing in listings for clip, _ in read_shard(listing)]
    assert [clip.clip for clip in clips] == spoken
    for clip in clips:
        assert clip.mel.shape == (len(clip.f0), 80)
        assert len(clip.label) == len(clip.mel)
        assert abs(len(clip.whisper) - 2 * len(clip.mel)) <= 2
        assert torch.isfinite(clip.mel.float()).all()
