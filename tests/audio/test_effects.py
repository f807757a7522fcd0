import numpy as np
import pytest

from cosyforge.audio.effects import PitchShift, TimeStretch, change_pitch, change_rate, change_volume

RATE_HZ = 24000


def voice(f0_hz: float = 120.0, duration_s: float = 2.0) -> np.ndarray:
    """A buzz with two formants and a slow tremolo: harmonics like speech, and something that moves."""
    time_s = np.arange(round(RATE_HZ * duration_s)) / RATE_HZ
    buzz = sum(np.sin(2 * np.pi * k * f0_hz * time_s) / (1 + abs(k * f0_hz - 600) / 200) for k in range(1, 25))
    return (0.1 * buzz * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s))).astype(np.float32)


def fundamental_hz(samples: np.ndarray) -> float:
    middle = samples[samples.size // 4 : samples.size * 3 // 4].astype(np.float64)
    spectrum = np.abs(np.fft.rfft(middle, 2 * middle.size)) ** 2
    correlation = np.fft.irfft(spectrum)[: middle.size]
    low, high = RATE_HZ // 500, RATE_HZ // 50
    return RATE_HZ / (low + int(np.argmax(correlation[low:high])))


def tremolo_hz(samples: np.ndarray) -> float:
    envelope = (
        np.abs(samples).reshape(-1, 240).mean(axis=1)
        if samples.size % 240 == 0
        else np.abs(samples[: samples.size // 240 * 240]).reshape(-1, 240).mean(axis=1)
    )
    spectrum = np.abs(np.fft.rfft(envelope - envelope.mean(), 8192))
    return float(np.argmax(spectrum)) * 100 / 8192


@pytest.mark.parametrize("rate", [0.5, 0.75, 1.25, 1.6, 2.0])
def test_rate_changes_the_duration_and_keeps_the_pitch(rate):
    samples = voice()
    changed = change_rate(samples, rate, RATE_HZ)
    assert changed.size == round(samples.size / rate)
    assert abs(fundamental_hz(changed) / 120.0 - 1) < 0.02
    assert abs(tremolo_hz(changed) / (3.0 * rate) - 1) < 0.1


@pytest.mark.parametrize("pitch", [0.5, 0.8, 1.25, 2.0])
def test_pitch_moves_the_fundamental_and_keeps_the_duration(pitch):
    samples = voice()
    changed = change_pitch(samples, pitch, RATE_HZ)
    assert abs(changed.size - samples.size) <= 2
    assert abs(fundamental_hz(changed) / (120.0 * pitch) - 1) < 0.02
    assert abs(tremolo_hz(changed) / 3.0 - 1) < 0.1


@pytest.mark.parametrize("rate", [0.7, 1.4])
def test_a_stretched_voice_keeps_its_loudness_and_has_no_clicks(rate):
    samples = voice()
    changed = change_rate(samples, rate, RATE_HZ)
    assert abs(np.sqrt((changed**2).mean()) / np.sqrt((samples**2).mean()) - 1) < 0.05
    assert np.abs(np.diff(changed)).max() < 1.3 * np.abs(np.diff(samples)).max()


def test_a_factor_of_one_changes_no_sample():
    samples = voice()
    assert np.array_equal(change_rate(samples, 1.0, RATE_HZ), samples)
    assert np.array_equal(change_pitch(samples, 1.0, RATE_HZ), samples)
    assert np.array_equal(change_volume(samples, 50), samples)


@pytest.mark.parametrize("rate", [0.6, 1.7])
def test_the_stretched_sound_does_not_depend_on_how_it_arrives(rate):
    samples = np.random.default_rng(1).normal(0, 0.1, 30000).astype(np.float32)
    stretch = TimeStretch(rate, RATE_HZ)
    pieces = [stretch.push(samples[start : start + 777]) for start in range(0, samples.size, 777)]
    assert np.array_equal(np.concatenate([*pieces, stretch.finish()]), change_rate(samples, rate, RATE_HZ))
    assert sum(piece.size for piece in pieces) > 0.9 * samples.size / rate - 0.1 * RATE_HZ


@pytest.mark.parametrize("num_samples", [0, 1, 100, 1000])
def test_very_short_sounds_get_their_length_too(num_samples):
    samples = np.ones(num_samples, dtype=np.float32)
    assert change_rate(samples, 0.5, RATE_HZ).size == 2 * num_samples
    assert change_rate(samples, 2.0, RATE_HZ).size == round(num_samples / 2)


def test_silence_stays_silence():
    assert not change_rate(np.zeros(RATE_HZ, dtype=np.float32), 1.3, RATE_HZ).any()


def test_rate_pitch_and_sample_rate_change_in_one_go():
    shift = PitchShift(1.5, 1.25, RATE_HZ, 16000)
    samples = voice()
    changed = np.concatenate([shift.push(samples), shift.finish()])
    assert abs(changed.size - samples.size / 1.5 * 16000 / RATE_HZ) <= 2


def test_volume_zero_is_silence_and_half_is_half():
    samples = voice()
    assert not change_volume(samples, 0).any()
    assert np.allclose(change_volume(samples, 25), samples / 2)


def test_full_volume_is_louder_and_never_over_one():
    samples = np.linspace(-1, 1, 2001, dtype=np.float32)
    loud = change_volume(samples, 100)
    assert np.allclose(loud[np.abs(samples) < 0.4], 2 * samples[np.abs(samples) < 0.4])
    assert np.abs(loud).max() <= 1.0
    assert (np.diff(loud) >= 0).all()


@pytest.mark.parametrize("volume", [-1, 101])
def test_a_volume_outside_its_range_is_refused(volume):
    with pytest.raises(ValueError, match="between 0 and 100"):
        change_volume(np.zeros(1, dtype=np.float32), volume)


def test_factors_must_be_positive():
    with pytest.raises(ValueError, match="not positive"):
        TimeStretch(0.0, RATE_HZ)
    with pytest.raises(ValueError, match="not positive"):
        PitchShift(1.0, 0.0, RATE_HZ, RATE_HZ)
