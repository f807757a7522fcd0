"""The synthetic corpus: sentences, engines, labels."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cosyforge.dataset.mandarin_sentences import everyday_sentence as everyday_mandarin
from cosyforge.dataset.mandarin_sentences import mandarin_sentences
from cosyforge.dataset.sentences import everyday_sentence, spoken_words, training_sentences
from cosyforge.dataset.synthetic import (
    HELD_OUT,
    INSTRUCTIONS,
    PHONES,
    Clip,
    Lexicon,
    Task,
    VirtualSpeaker,
    espeak_speakers,
    flite_speakers,
    generate_corpus,
    perform,
    plan_corpus,
    read_shard,
    shard_listings,
    speak,
    split_syllable,
    spoken_pinyin,
)
from cosyforge.evaluation.sentences import EVERYDAY, EVERYDAY_ZH
from cosyforge.text.lexicon import english_phones, known_words
from cosyforge.text.mandarin import mandarin_tokens, pinyin_syllables
from cosyforge.training.pretrain.assemble import PRESETS
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


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon(knows, sorted(known_words()), ["高高兴兴", "图书馆", "绿茶"], pinyin_syllables)


def test_every_mandarin_template_can_be_said_and_written() -> None:
    rng = random.Random(0)
    for text in {everyday_mandarin(rng) for _ in range(2000)}:
        syllables = pinyin_syllables(text)
        assert len(syllables) == sum("\u4e00" <= char <= "\u9fff" for char in text)
        assert all(mandarin_tokens(syllable) for syllable in syllables)


def test_a_plan_is_repeatable_and_its_sentences_differ(lexicon: Lexicon) -> None:
    first, second = plan_corpus(320, lexicon), plan_corpus(320, lexicon)
    assert first == second
    assert len({task.text for task in first}) == 320
    assert len(training_sentences(50, knows, lexicon.words, seed=1)) == 50


def test_a_plan_holds_both_languages_and_every_instruction(lexicon: Lexicon) -> None:
    tasks = plan_corpus(1600, lexicon)
    assert sum(task.language == "zh" for task in tasks) == 500
    assert {word for task in tasks for word in task.instruction.split(", ") if word} == set(INSTRUCTIONS)
    plain = [task for task in tasks if not task.instruction]
    assert max(task.tempo for task in plain) < min(task.tempo for task in tasks if "slow" in task.instruction)
    assert min(task.tempo for task in plain) > max(task.tempo for task in tasks if "fast" in task.instruction)


def test_a_plan_of_few_speakers_has_all_of_them_and_no_other(lexicon: Lexicon) -> None:
    presets = {preset.speaker for preset in PRESETS.values()}
    tasks = plan_corpus(800, lexicon, speakers=presets)
    assert {task.speaker.name for task in tasks} == presets
    assert {task.speaker.name for task in tasks if task.language == "zh"} == {
        preset.speaker for preset in PRESETS.values() if preset.language == "zh"
    }
    assert {word for task in tasks for word in task.instruction.split(", ") if word} == set(INSTRUCTIONS)
    with pytest.raises(ValueError, match="a speaker of flite's diphone voice and one of espeak-ng"):
        plan_corpus(16, lexicon, speakers={"slt-1.00"})


def test_favoured_speakers_say_four_tenths_of_a_plan(lexicon: Lexicon) -> None:
    favoured = {preset.speaker for preset in PRESETS.values()}
    tasks = plan_corpus(3200, lexicon, favoured=favoured)
    for language, num_favoured in (("en", 6), ("zh", 4)):
        spoken = [
            t.speaker.name
            for t in tasks
            if t.language == language and (language == "zh" or t.speaker.engine == "flite")
        ]
        counts = [spoken.count(name) for name in favoured if name in spoken]
        assert len(counts) == num_favoured
        # they also come up among all the others
        assert 0.37 < sum(counts) / len(spoken) < 0.7
        assert min(counts) > 0.4 * len(spoken) / num_favoured * 0.7
        assert len(set(spoken)) > 30


def test_test_sentences_and_voices_kept_as_strangers_are_never_heard(lexicon: Lexicon) -> None:
    tasks = plan_corpus(4000, lexicon)
    assert not {task.text for task in tasks} & {*EVERYDAY, *EVERYDAY_ZH}
    assert not {speaker.voice for speaker in flite_speakers() + espeak_speakers()} & set(HELD_OUT)


def test_phrases_are_mixed_for_sounds_that_templates_lack() -> None:
    texts = mandarin_sentences(200, ["玻璃", "女婿", "not hanzi", "一"], seed=1)
    assert any("女婿" in text for text in texts)
    assert not any("not" in text for text in texts)


def test_a_syllable_has_an_initial_and_a_final() -> None:
    assert [split_syllable(s) for s in ("xiang3", "an1", "lü4")] == [("x", "iang3"), ("", "an1"), ("l", "ü4")]


def test_a_frame_gets_the_phone_at_its_centre() -> None:
    labels = frame_labels(Clip("Hi.", "x", 0, 1600, (("SIL", 0.03), ("HH", 0.07), ("AY", 0.1))), 6)
    assert [PHONE_NAMES[i] for i in labels.tolist()] == ["SIL", "HH", "HH", "AY", "AY", "AY"]
    assert (frame_labels(Clip("Hi.", "x", 0, 1600, ()), 3) == -1).all()


@needs_flite
def test_a_shorter_vocal_tract_raises_the_pitch_and_keeps_the_tempo() -> None:
    from cosyforge.audio.pitch import estimate_f0

    plain = speak(VirtualSpeaker("a", "flite", "slt"), "The morning is cold.")
    shifted = speak(VirtualSpeaker("b", "flite", "slt", 1.2), "The morning is cold.")
    assert [name for name, _ in plain.phones] == [name for name, _ in shifted.phones]
    assert len(shifted.samples) == pytest.approx(len(plain.samples), rel=0.05)
    assert shifted.phones[-1][1] * 16000 == pytest.approx(len(shifted.samples), abs=800)
    pitch = [np.median(f0[f0 > 0]) for f0 in (estimate_f0(plain.samples), estimate_f0(shifted.samples))]
    assert pitch[1] / pitch[0] == pytest.approx(1.2, rel=0.05)


@needs_flite
def test_espeak_says_when_every_initial_and_final_ends() -> None:
    text = "我想买绿茶。"
    task = Task(espeak_speakers()[4], text, spoken_pinyin(text, pinyin_syllables), language="zh")
    speech = perform(task)
    units = [name for name, _ in speech.units if name != "SIL"]
    assert list(dict.fromkeys(units)) == ["w", "o3", "x", "iang3", "m", "ai3", "l", "ü4", "ch", "a2"]
    for sounds in (speech.units, speech.phones):
        ends = [end for _, end in sounds]
        assert ends == sorted(ends)
        assert ends[-1] * 16000 == pytest.approx(len(speech.samples), abs=200)
    assert {name for name, _ in speech.phones} <= set(PHONES)
    # the vowel of cha is loud, what comes after it is silent
    end_s = max(end for name, end in speech.units if name == "a2")
    loud = speech.samples[int((end_s - 0.1) * 16000) : int(end_s * 16000)]
    assert np.abs(loud).max() > 20 * np.abs(speech.samples[int((end_s + 0.03) * 16000) :]).max(initial=1e-4)


@needs_flite
def test_instructions_are_truly_followed_by_the_engines() -> None:
    from cosyforge.audio.pitch import estimate_f0

    speaker = next(s for s in flite_speakers() if s.voice == "kal16")
    plain, slow = (perform(Task(speaker, "", "The morning is cold.", tempo)) for tempo in (1.0, 1.6))
    assert len(slow.samples) > 1.4 * len(plain.samples)
    calm, lively = (perform(Task(speaker, "", "The morning is cold.", 1.0, extent)) for extent in (0.25, 1.9))

    def voiced(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        f0 = estimate_f0(samples)
        return f0[f0 > 0]

    # the middle half: an estimator's octave slips are not in it
    spread = [np.subtract(*np.percentile(voiced(speech.samples), [75, 25])) for speech in (calm, lively)]
    assert spread[1] > 2 * spread[0]


@needs_flite
def test_a_corpus_becomes_features_and_a_second_run_changes_nothing(tmp_path: Path, lexicon: Lexicon) -> None:
    tasks = plan_corpus(8, lexicon)
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


@needs_flite
def test_even_a_flat_low_variant_tells_mandarin_tones_apart() -> None:
    from cosyforge.audio.pitch import estimate_f0

    speaker = next(each for each in espeak_speakers() if each.name == "espeak-m1-50")
    pitch = {}
    for tone in "13":
        speech = perform(Task(speaker, "妈", f"ma{tone} , ma{tone} , ma{tone} .", language="zh"))
        f0 = estimate_f0(speech.samples, 16_000)
        pitch[tone] = float(np.median(f0[f0 > 0]))
    assert pitch["1"] > 1.25 * pitch["3"]
    assert pitch["1"] > 110


def test_no_variant_that_mumbles_mandarin_is_asked_to_and_nobody_speaks_it_without_tones(lexicon: Lexicon) -> None:
    tasks = [task for task in plan_corpus(1600, lexicon) if task.language == "zh"]
    assert len(tasks) == 500
    assert not {task.speaker.voice for task in tasks} & {"kaukovalta", "Marco", "anika"}
    assert min(task.pitch_range for task in tasks if "calm" in task.instruction) >= 0.5
