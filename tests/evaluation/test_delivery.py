from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_clips import Say

from cosyforge.errors import InvalidParameter
from cosyforge.evaluation.delivery import Followed, Heard, heard_english
from cosyforge.evaluation.figures import Ears, measure_clip
from cosyforge.evaluation.phones import align_phones, wanted_phones
from cosyforge.evaluation.transcriber import PocketsphinxTranscriber, RecogniserFiles

TEXT = "My brother plays the guitar in a small band."


def phones_of(text: str) -> list[str]:
    return [phone for word in wanted_phones(text) or () for phone in word[0]]


def heard(said: str, words: str | None = None) -> Heard:
    return heard_english(TEXT, said if words is None else words, align_phones(TEXT, phones_of(said)))


def test_a_text_that_was_said_is_neither_swallowed_nor_repeated() -> None:
    assert heard(TEXT) == Heard()


def test_a_word_of_which_nothing_was_heard_is_swallowed() -> None:
    assert heard("My brother plays the in a small band.").swallowed == ("guitar",)
    assert heard("My brother plays the guitar in a").swallowed == ("small", "band")


def test_a_short_word_is_swallowed_only_when_the_words_agree() -> None:
    said = "My brother plays guitar in a small band."

    assert heard(said).swallowed == ("the",)
    assert heard(said, words=TEXT).swallowed == ()


def test_words_said_twice_are_repeated() -> None:
    assert heard("My brother plays the guitar guitar in a small band.").repeated == ("guitar",)
    assert heard("My brother plays the the guitar in a small band.").repeated == ("the",)


def test_much_speech_beyond_the_text_is_a_runaway() -> None:
    found = heard(f"{TEXT} Then all of the people began to laugh about it.")

    assert found.is_runaway
    assert not heard("My brother plays the guitar guitar in a small band.").is_runaway


def test_one_wrong_sound_here_and_there_is_no_fault() -> None:
    assert heard("My mother pays the guitar in a tall bend.") == Heard()


def test_without_known_phones_only_repeated_words_are_found() -> None:
    assert heard_english("the xqzzt is", "the the xqzzt is", None).repeated
    assert heard_english("the xqzzt is", "is", None) == Heard()


def test_checks_of_the_models_own_alignment_are_sorted_by_what_they_mean() -> None:
    assert Followed(("skipped_text",)).is_swallowed
    assert Followed(unspoken=("guitar",)).is_swallowed
    assert Followed(("loop",)).is_repeated
    assert Followed(("too_long",)).is_runaway
    clean = Followed()
    assert (clean.is_swallowed, clean.is_repeated, clean.is_runaway) == (False, False, False)


def test_a_word_cut_out_of_a_recording_is_missed_and_one_said_twice_is_noticed(say: Say) -> None:
    ear = PocketsphinxTranscriber()
    ears = Ears("test", ear, ear)
    clip = say("slt", TEXT)
    whole = measure_clip(clip.samples, clip.sample_rate_hz, TEXT, ears)
    begin, end = round(0.9 * clip.sample_rate_hz), round(1.3 * clip.sample_rate_hz)
    cut = np.concatenate([clip.samples[:begin], clip.samples[end:]])
    doubled = np.concatenate([clip.samples[:end], clip.samples[begin:]])

    assert whole.delivery == Heard()
    assert measure_clip(cut, clip.sample_rate_hz, TEXT, ears).delivery.swallowed
    assert measure_clip(doubled, clip.sample_rate_hz, TEXT, ears).delivery.repeated


def test_a_folder_is_a_recogniser_when_it_has_all_parts_once(tmp_path: Path) -> None:
    for name in ("hmm/mdef", "big.lm.bin", "big.dict"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    files = RecogniserFiles.in_directory(tmp_path)

    assert (files.hmm, files.lm, files.dictionary) == (tmp_path / "hmm", tmp_path / "big.lm.bin", tmp_path / "big.dict")
    assert files.phone_lm is None
    (tmp_path / "other.lm.bin").touch()
    with pytest.raises(InvalidParameter, match="2 times a language model"):
        RecogniserFiles.in_directory(tmp_path)
    (tmp_path / "hmm" / "mdef").unlink()
    with pytest.raises(InvalidParameter, match="no acoustic model"):
        RecogniserFiles.in_directory(tmp_path)


def test_another_recogniser_in_pocketsphinx_layout_listens(tmp_path: Path, say: Say) -> None:
    builtin = RecogniserFiles.builtin()
    (tmp_path / "hmm").symlink_to(builtin.hmm)
    # its own dictionary knows two words: what it hears shows that it is this one that was loaded
    (tmp_path / "small.dict").write_text("my M AY\nbrother B R AH DH ER\n", encoding="ascii")
    (tmp_path / "small.lm.bin").symlink_to(builtin.lm)
    clip = say("slt", "My brother.")

    heard = PocketsphinxTranscriber(tmp_path).transcribe(clip.samples, clip.sample_rate_hz)

    assert set(heard.split()) <= {"my", "brother"}
    assert "brother" in heard


def test_a_word_heard_twice_without_more_sounds_is_a_wrong_guess() -> None:
    assert heard_english("Mend them.", "ben ben", align_phones("Mend them.", "B EH N B EH N".split())) == Heard()
