import numpy as np
import pytest

from cosyforge.audio.background import FADE_OUT_S, Background

RNG = np.random.default_rng(7)
MUSIC = (0.2 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)
NOISE = (0.1 * RNG.standard_normal(5000)).astype(np.float32)


def _whole(background, speech):
    return np.concatenate([background.push(speech), background.finish()])


@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 24000, 48000])
@pytest.mark.parametrize("largest", [30, 5000])
def test_the_cuts_of_the_speech_change_nothing(rate_hz, largest):
    speech = (0.1 * RNG.standard_normal(rate_hz)).astype(np.float32)
    whole = _whole(Background(NOISE, rate_hz, 60), speech)
    background, place, out = Background(NOISE, rate_hz, 60), 0, []
    dice = np.random.default_rng(largest)
    while place < speech.size:
        size = int(dice.integers(0, largest))
        out.append(background.push(speech[place : place + size]))
        place += size
    assert np.array_equal(np.concatenate([*out, background.finish()]), whole)
    assert whole.size == speech.size + round(FADE_OUT_S * rate_hz)


def test_music_lies_under_the_speech_at_its_own_volume():
    speech = np.zeros(32000, dtype=np.float32)
    full = Background(MUSIC, 16000, 100).push(speech)
    half = Background(MUSIC, 16000, 50).push(speech)
    assert np.std(full[2000:]) == pytest.approx(np.std(MUSIC), rel=0.02)
    assert half == pytest.approx(full / 2, abs=1e-6)
    speech = (0.1 * RNG.standard_normal(32000)).astype(np.float32)
    assert Background(MUSIC, 16000, 50).push(speech) - speech == pytest.approx(half, abs=1e-6)


def test_volume_nought_is_no_music_at_all():
    background = Background(MUSIC, 24000, 0)
    speech = (0.1 * RNG.standard_normal(1000)).astype(np.float32)
    assert np.array_equal(_whole(background, speech), speech)


def test_short_music_is_repeated_without_a_click():
    """A ramp jumps back at its end: the loop must not."""
    ramp = np.linspace(-0.5, 0.5, 1600, dtype=np.float32)
    out = Background(ramp, 16000, 100).push(np.zeros(16000, dtype=np.float32))[2000:]
    assert np.abs(np.diff(ramp)).max() < 0.001
    assert np.abs(np.diff(out)).max() < 0.005
    period = 1600 - 320
    assert out[period:] == pytest.approx(out[:-period], abs=1e-5)


def test_it_begins_and_ends_in_silence():
    background = Background(MUSIC, 24000, 100)
    out = _whole(background, np.zeros(24000, dtype=np.float32))
    assert np.abs(out[:50]).max() < 0.01
    assert np.abs(out[-50:]).max() < 0.001
    levels = np.abs(out[24000:]).reshape(8, -1).max(axis=1)
    assert (np.diff(levels) < 0).all()


def test_no_speech_no_music():
    assert _whole(Background(MUSIC, 24000), np.zeros(0, dtype=np.float32)).size == 0


def test_the_resampled_tone_keeps_its_pitch():
    out = Background(MUSIC, 48000, 100).push(np.zeros(48000, dtype=np.float32))[4800:]
    strongest = np.argmax(np.abs(np.fft.rfft(out * np.hanning(out.size)))) * 48000 / out.size
    assert strongest == pytest.approx(440, abs=2)


def test_loud_music_under_loud_speech_does_not_clip():
    loud = (0.95 * np.sign(MUSIC)).astype(np.float32)
    speech = (0.95 * np.sin(2 * np.pi * 200 * np.arange(24000) / 24000)).astype(np.float32)
    assert np.abs(_whole(Background(loud, 24000, 100), speech)).max() <= 1.0


@pytest.mark.parametrize("samples", [np.zeros(0, dtype=np.float32), np.zeros((2, 5), dtype=np.float32)])
def test_music_must_be_one_channel_with_samples(samples):
    with pytest.raises(ValueError, match="one channel"):
        Background(samples, 24000)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_few_samples_are_music_too(size):
    out = Background(np.full(size, 0.5, dtype=np.float32), 16000, 100).push(np.zeros(4000, dtype=np.float32))
    assert out[2000:] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("volume", [-1, 101])
def test_the_volume_has_its_range(volume):
    with pytest.raises(ValueError, match="between 0 and 100"):
        Background(MUSIC, 24000, volume)
