import time

import numpy as np
import pytest

from cosyforge.audio.filters import BUTTERWORTH_4_Q, FilterChain, Section, high_pass, low_pass, peak
from cosyforge.audio.pitch import estimate_f0
from cosyforge.audio.voice_effects import EFFECTS, EQ_BANDS_HZ, limit_peaks, make_effect

VALUES = {"eq": (6, -6, 3, 0, 0, -12, 20, -20), "lpfilter": (2000,), "hpfilter": (300,)}
RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)


def _tone(frequency_hz, rate_hz, duration_s=1.0, level=0.3):
    return (level * np.sin(2 * np.pi * frequency_hz * np.arange(int(duration_s * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def _voice(rate_hz, duration_s=1.0, seed=0):
    """Harmonics of 150 Hz and some noise: loud and quiet parts, with a silence in between."""
    time_s = np.arange(int(duration_s * rate_hz)) / rate_hz
    harmonics = sum(np.sin(2 * np.pi * 150 * n * time_s) / n for n in range(1, 20) if 150 * n < rate_hz / 2)
    noise = 0.05 * np.random.default_rng(seed).standard_normal(time_s.size)
    shape = 0.25 * (np.sin(2 * np.pi * 2 * time_s) > -0.3)
    return ((harmonics + noise) * shape).astype(np.float32)


def _whole(effect, samples):
    return np.concatenate([effect.push(samples), effect.finish()])


def _in_pieces(effect, samples, seed, largest):
    dice, place, out = np.random.default_rng(seed), 0, []
    while place < samples.size:
        size = int(dice.integers(0, largest))
        out.append(effect.push(samples[place : place + size]))
        place += size
    return np.concatenate([*out, effect.finish()])


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("largest", [40, 700, 9000])
def test_the_cuts_of_the_stream_change_nothing(name, largest):
    samples = _voice(24000)
    make = lambda: make_effect(name, VALUES.get(name, ()), 24000)  # noqa: E731 - one line, used twice below
    whole = _whole(make(), samples)
    pieces = _in_pieces(make(), samples, seed=largest, largest=largest)
    assert pieces.shape == whole.shape
    assert np.abs(pieces - whole).max() < 1e-6


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_duration_stays_nothing_clips_and_something_happens(name, rate_hz):
    samples = np.clip(3 * _voice(rate_hz, 0.5), -1, 1)
    out = _whole(make_effect(name, VALUES.get(name, ()), rate_hz), samples)
    tail = 4 * round(0.22 * rate_hz) if name == "echo" else 0
    assert out.size == samples.size + tail
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert np.abs(out).max() <= 1.0
    assert np.abs(out[: samples.size] - samples).max() > 0.01


@pytest.mark.parametrize("name", EFFECTS)
def test_silence_stays_silent_and_nothing_gives_nothing(name):
    make = lambda: make_effect(name, VALUES.get(name, ()), 24000)  # noqa: E731
    silence = np.zeros(5000, dtype=np.float32)
    assert np.abs(_whole(make(), silence)).max() < 1e-6
    assert _whole(make(), silence).size == 5000
    assert _whole(make(), silence[:0]).size == 0
    assert _whole(make(), silence[:1]).size == 1


@pytest.mark.parametrize("name", EFFECTS)
def test_the_level_stays_about_what_it_was(name):
    samples = _voice(24000)
    values = (0,) * 8 if name == "eq" else {"lpfilter": (4000,), "hpfilter": (60,)}.get(name, ())
    out = _whole(make_effect(name, values, 24000), samples)[: samples.size]
    assert 0.5 < np.std(out) / np.std(samples) < 1.6


# ---- what each one does


def _gain_db(effect, frequency_hz, rate_hz):
    tone = _tone(frequency_hz, rate_hz, level=0.05)
    out = effect.push(tone)
    half = tone.size // 2
    return 20 * np.log10(np.std(out[half:]) / np.std(tone[half:]) + 1e-9)


@pytest.mark.parametrize("band", range(8))
@pytest.mark.parametrize("gain_db", [-20, -7, 12, 20])
def test_a_band_of_the_equaliser_has_its_gain_at_its_centre(band, gain_db):
    gains = [0] * 8
    gains[band] = gain_db
    assert _gain_db(make_effect("eq", gains, 48000), EQ_BANDS_HZ[band], 48000) == pytest.approx(gain_db, abs=0.3)
    elsewhere = EQ_BANDS_HZ[(band + 4) % 8]
    assert abs(_gain_db(make_effect("eq", gains, 48000), elsewhere, 48000)) < 2.0


def test_bands_beyond_half_the_sample_rate_are_left_out():
    samples = _voice(16000)
    assert np.array_equal(_whole(make_effect("eq", [0] * 7 + [20], 16000), samples), samples)


@pytest.mark.parametrize("cutoff_hz", [200, 1000, 6000])
def test_filters_are_three_decibels_down_at_the_cut_off_and_steep_beyond(cutoff_hz):
    low = lambda frequency: _gain_db(make_effect("lpfilter", [cutoff_hz], 48000), frequency, 48000)  # noqa: E731
    high = lambda frequency: _gain_db(make_effect("hpfilter", [cutoff_hz], 48000), frequency, 48000)  # noqa: E731
    assert low(cutoff_hz) == pytest.approx(-3.0, abs=0.1)
    assert high(cutoff_hz) == pytest.approx(-3.0, abs=0.1)
    # fourth order: 24 dB per octave, more towards half the sample rate
    assert abs(low(cutoff_hz / 4)) < 0.1
    assert abs(high(cutoff_hz * 3)) < 0.2
    assert low(cutoff_hz * 2) < -23
    assert high(cutoff_hz / 2) < -23


def test_a_cut_off_at_half_the_sample_rate_passes_all_or_nothing():
    samples = _voice(16000)
    assert np.allclose(_whole(make_effect("lpfilter", [8000], 16000), samples), samples, atol=1e-7)
    assert not _whole(make_effect("hpfilter", [8000], 16000), samples).any()


def test_lowpass_muffles():
    assert abs(_gain_db(make_effect("lowpass", (), 24000), 300, 24000)) < 0.5
    assert _gain_db(make_effect("lowpass", (), 24000), 3000, 24000) < -35


def test_an_echo_comes_back_weaker_and_weaker():
    click = np.zeros(100, dtype=np.float32)
    click[0] = 0.8
    out = _whole(make_effect("echo", (), 1000), click)
    # the last one lies in the fade
    assert np.flatnonzero(np.abs(out) > 1e-4).tolist() == [0, 220, 440, 660, 880]
    assert out[[0, 220, 440, 660]] == pytest.approx([0.8, 0.32, 0.128, 0.0512], abs=1e-3)


def test_a_robot_has_one_pitch_whatever_was_said():
    for spoken_hz in (95, 140, 230):
        time_s = np.arange(24000) / 24000
        spoken = sum(np.sin(2 * np.pi * spoken_hz * n * time_s) / n for n in range(1, 20)).astype(np.float32) * 0.2
        out = _whole(make_effect("robot", (), 24000), spoken)
        pitch = estimate_f0(out, 24000)[5:-5]
        assert np.median(pitch[pitch > 0]) == pytest.approx(110, rel=0.03)


def test_lolita_is_higher_at_the_same_tempo():
    spoken = _voice(24000, 1.5)
    out = _whole(make_effect("lolita", (), 24000), spoken)
    pitch = estimate_f0(out, 24000)
    assert np.median(pitch[pitch > 0]) == pytest.approx(1.35 * 150, rel=0.03)

    def loud(samples):
        return np.abs(samples).reshape(-1, 1200).max(axis=1) > 0.05

    assert (loud(out) == loud(spoken)).mean() > 0.85


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("choir", (), "unknown effect"),
        ("eq", (1, 2), "takes 8 values"),
        ("eq", (21,) * 8, "between -20 and 20"),
        ("lpfilter", (), "takes 1 values"),
        ("lpfilter", (0,), "above 0 and at most 8000"),
        ("hpfilter", (8001,), "at most 8000"),
        ("robot", (1,), "takes 0 values"),
    ],
)
def test_wrong_values_are_refused(name, values, reason):
    with pytest.raises(ValueError, match=reason):
        make_effect(name, values, 16000)


# ---- filters, and the limiter


def _by_the_definition(section: Section, samples):
    out = np.zeros(samples.size)
    given = samples.astype(np.float64)
    for n in range(samples.size):
        x1, x2 = (given[n - 1] if n else 0.0), (given[n - 2] if n > 1 else 0.0)
        y1, y2 = (out[n - 1] if n else 0.0), (out[n - 2] if n > 1 else 0.0)
        out[n] = section.b0 * given[n] + section.b1 * x1 + section.b2 * x2 - section.a1 * y1 - section.a2 * y2
    return out


def test_a_chain_of_filters_is_the_difference_equations_one_after_the_other():
    samples = np.random.default_rng(3).standard_normal(3000).astype(np.float32)
    sections = [low_pass(900, 0.7, 16000), peak(300, 2.0, 15, 16000), high_pass(40, 0.6, 16000)]
    expected = samples
    for section in sections:
        expected = _by_the_definition(section, expected)
    assert np.abs(FilterChain(sections).push(samples) - expected).max() < 1e-5


def test_filters_run_far_faster_than_the_sound():
    chain = FilterChain([peak(hz, 1.1, 10, 48000) for hz in EQ_BANDS_HZ] + [low_pass(9000, BUTTERWORTH_4_Q[0], 48000)])
    samples = np.random.default_rng(1).standard_normal(48000 * 10).astype(np.float32)
    fastest = min(_seconds(chain, samples) for _ in range(3))
    # a loop over samples would take seconds; the margin is for a busy machine
    assert fastest < 10 / 20


def _seconds(chain, samples):
    started = time.process_time()
    chain.push(samples)
    return time.process_time() - started


def test_the_limiter_bends_only_what_is_high():
    samples = np.linspace(-5, 5, 2001, dtype=np.float32)
    out = limit_peaks(samples)
    low = np.abs(samples) <= 0.85
    assert np.array_equal(out[low], samples[low])
    assert np.abs(out).max() <= 1.0
    assert (np.diff(out) >= 0).all()
    assert np.abs(np.diff(out)).max() <= 0.0051
