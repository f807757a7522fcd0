import numpy as np
import pytest

from cosyforge.audio.effects import PitchShift, change_pitch
from cosyforge.audio.formants import FormantKeeper

RATE_HZ = 24000


def vowel(f0_hz: float = 110.0, formants_hz: tuple[int, ...] = (700, 1200, 2600)) -> np.ndarray:
    """Harmonics under resonances that stay where they are."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    sound = np.zeros(RATE_HZ)
    for k in range(1, int(5000 / f0_hz)):
        strength = sum(1 / (1 + ((k * f0_hz - hz) / 90) ** 2) for hz in formants_hz) + 0.002
        sound += strength * np.sin(2 * np.pi * k * f0_hz * time_s + k * k)
    return (0.2 * sound / np.abs(sound).max()).astype(np.float32)


def resonance_hz(samples: np.ndarray) -> float:
    """The strongest place between 400 and 1000 Hz of the spectrum's smooth shape."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size))) ** 2
    hz = np.fft.rfftfreq(samples.size, 1 / RATE_HZ)
    smooth = np.convolve(spectrum, np.hanning(400), "same")
    inside = (hz > 350) & (hz < 1150)
    return float((hz[inside] * smooth[inside]).sum() / smooth[inside].sum())


@pytest.mark.parametrize("pitch", [0.75, 1.3, 1.6])
def test_a_moved_voice_keeps_its_resonances(pitch):
    """Without it the first formant of 700 Hz would be at 525, 910 or 1120 Hz: another throat, or a chipmunk."""
    sound = vowel(formants_hz=(700, 2600))
    kept = change_pitch(sound, pitch, RATE_HZ)
    naive = PitchShift(1.0, pitch, RATE_HZ, RATE_HZ)
    moved = np.concatenate([naive.push(sound), naive.finish()])
    assert abs(resonance_hz(kept) / resonance_hz(sound) - 1) < 0.08
    assert abs(resonance_hz(moved) / resonance_hz(sound) - 1) > 0.12


@pytest.mark.parametrize("pitch", [0.6, 1.5])
def test_loudness_and_length_stay(pitch):
    sound = vowel()
    keeper = FormantKeeper(pitch, RATE_HZ)
    kept = np.concatenate([keeper.push(sound), keeper.finish()])
    assert kept.size == sound.size
    assert abs(np.sqrt((kept**2).mean() / (sound**2).mean()) - 1) < 0.1


def test_a_factor_of_one_changes_nothing_that_can_be_heard():
    sound = vowel()
    keeper = FormantKeeper(1.0, RATE_HZ)
    kept = np.concatenate([keeper.push(sound), keeper.finish()])
    assert np.abs(kept - sound).max() < 1e-5


def test_the_result_does_not_depend_on_how_the_sound_arrives():
    sound = vowel()
    whole, pieces = FormantKeeper(1.4, RATE_HZ), FormantKeeper(1.4, RATE_HZ)
    at_once = np.concatenate([whole.push(sound), whole.finish()])
    cut = [pieces.push(sound[start : start + 333]) for start in range(0, sound.size, 333)]
    assert np.array_equal(np.concatenate([*cut, pieces.finish()]), at_once)


@pytest.mark.parametrize("num_samples", [0, 1, 500])
def test_short_sounds_and_silence_pass(num_samples):
    keeper = FormantKeeper(1.4, RATE_HZ)
    out = np.concatenate([keeper.push(np.zeros(num_samples, dtype=np.float32)), keeper.finish()])
    assert out.size == num_samples
    assert not out.any()


def test_the_factor_must_be_positive():
    with pytest.raises(ValueError, match="not positive"):
        FormantKeeper(0.0, RATE_HZ)
