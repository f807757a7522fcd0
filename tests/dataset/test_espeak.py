"""espeak-ng in this process: a clip is the same whatever was said before, and voices of one's own."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from cosyforge.dataset import espeak

pytestmark = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed (apt-get install -y espeak-ng)"
)

BREATHY = "cmn-latn-pinyin+f5"
KLATT = "en-us+klatt"
DEEP = "name deep\nlanguage cmn-latn-pinyin\nphonemes cmn\ndictionary cmn\nwords 1\npitch 70 100\n"
HIGH = DEEP.replace("pitch 70 100", "pitch 200 290")


def say_many_things() -> list[espeak.Spoken]:
    return [
        espeak.speak(BREATHY, "wo3 xiang3 mai3 lü4 cha2 .", words_per_minute=150),
        espeak.speak(KLATT, "The morning is cold and the wind blows hard."),
        espeak.speak("en-gb-x-rp+belinda", "A.", words_per_minute=200, pitch=80, pitch_range=99),
        espeak.speak_with_file(DEEP, "ni3 hao3 ma5 ?", words_per_minute=120),
    ]


def is_same(first: espeak.Spoken, second: espeak.Spoken) -> bool:
    return np.array_equal(first[0], second[0]) and first[1:] == second[1:]


def test_a_text_sounds_the_same_whatever_was_said_before() -> None:
    clips = say_many_things()
    assert all(len(samples) > 2000 and np.abs(samples).max() > 0.05 for samples, _, _ in clips)
    with pytest.raises(ValueError, match="no voice 'nobody'"):
        espeak.speak("nobody", "Hello.")
    again = say_many_things()
    assert [is_same(*pair) for pair in zip(clips, again, strict=True)] == [True] * 4
    repeated = espeak.speak(BREATHY, "wo3 xiang3 mai3 lü4 cha2 .", words_per_minute=150)
    assert is_same(clips[0], repeated)


def test_a_voice_file_makes_the_voice() -> None:
    from cosyforge.audio.pitch import estimate_f0

    text = "ni3 hao3 , wo3 xiang3 mai3 cha2 ."
    pitches = []
    for voice_file in (DEEP, HIGH):
        samples, rate_hz, sounds = espeak.speak_with_file(voice_file, text)
        assert [sound.word for sound in sounds if sound.ipa][-1] == 5
        f0 = estimate_f0(samples, rate_hz)
        pitches.append(float(np.median(f0[f0 > 0])))
    assert pitches[1] > 2 * pitches[0]


@pytest.mark.parametrize(
    ("voice_file", "complaint"),
    [("name deep\npitch 70 100\n", "no line `language NAME`"), ("language nowhere\n", "no voice 'nowhere'")],
)
def test_a_voice_file_of_no_language_is_refused(voice_file: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        espeak.speak_with_file(voice_file, "ni3 hao3")


def test_a_library_that_another_package_holds_is_not_spoken_with() -> None:
    # in a process of its own: what it holds, it holds to the end
    program = (
        "import ctypes; from cosyforge.dataset import espeak; espeak.speak('en-us', 'A.'); "
        "ctypes.CDLL(espeak.LIBRARY); espeak.speak('en-us', 'A.')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"RuntimeError: {espeak.LIBRARY} is in use in this process already" in done.stderr


def test_a_variant_that_is_not_there_is_named() -> None:
    assert "pitch 75 109" in espeak.variant("m1")
    with pytest.raises(ValueError, match="no variant 'nobody'"):
        espeak.variant("nobody")
