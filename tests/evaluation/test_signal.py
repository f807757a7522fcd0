from __future__ import annotations

import numpy as np
import pytest
from evaluation_clips import tone

from cosyforge.evaluation.signal import SignalFigures, fault, measure, median_f0_hz


@pytest.mark.parametrize("f0_hz", [75.0, 101.0, 180.0, 310.0])
@pytest.mark.parametrize("sample_rate_hz", [16000, 24000])
def test_pitch_of_a_buzz_is_found_to_one_percent(f0_hz: float, sample_rate_hz: int) -> None:
    assert median_f0_hz(tone(f0_hz, 0.5, sample_rate_hz), sample_rate_hz) == pytest.approx(f0_hz, rel=0.01)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)

    assert median_f0_hz(noise, 16000) is None
    assert median_f0_hz(np.zeros(16000, dtype=np.float32), 16000) is None
    assert median_f0_hz(np.zeros(10, dtype=np.float32), 16000) is None


def test_silence_around_and_inside_of_speech_is_told_apart() -> None:
    quiet = np.zeros(16000, dtype=np.float32)
    clip = np.concatenate([quiet[:8000], tone(120, 0.6), quiet[:4800], tone(120, 0.6), quiet[:3200]])

    figures = measure(clip, 16000)

    assert figures.duration_s == pytest.approx(2.2)
    assert figures.speech_s == pytest.approx(1.5, abs=0.05)
    assert figures.longest_pause_s == pytest.approx(0.3, abs=0.05)
    assert figures.silence_share == pytest.approx(1.0 / 2.2, abs=0.03)
    assert figures.median_f0_hz == pytest.approx(120, rel=0.01)


def test_noise_floor_is_the_level_between_the_words() -> None:
    noise = np.random.default_rng(1).normal(0, 0.001, 32000).astype(np.float32)  # -60 dB
    noise[8000:24000] += tone(150, 1.0)

    assert measure(noise, 16000).noise_floor_db == pytest.approx(-60, abs=1.5)


def test_clipping_is_the_share_of_samples_at_full_scale() -> None:
    loud = np.clip(tone(100, 1.0, level=2.0), -1, 1)

    assert measure(tone(100, 1.0), 16000).clipped_share == 0.0
    assert measure(loud, 16000).clipped_share == pytest.approx(float(np.mean(np.abs(loud) == 1.0)))
    assert measure(loud, 16000).clipped_share > 0.01


def test_a_clip_shorter_than_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        measure(np.zeros(100, dtype=np.float32), 16000)


@pytest.mark.parametrize(
    ("speech_s", "num_phones", "expected"),
    [(3.0, 36, None), (0.0, 36, "silent"), (20.0, 36, "runaway"), (0.5, 36, "cut off")],
)
def test_faults_are_named_by_the_speaking_rate(speech_s: float, num_phones: int, expected: str | None) -> None:
    figures = SignalFigures(speech_s, speech_s, 0.0, 0.0, -60.0, 0.0, 120.0)

    assert fault(figures, num_phones) == expected


def test_pauses_are_counted_where_they_are_longer_than_the_closure_of_a_stop() -> None:
    quiet = np.zeros(16000, dtype=np.float32)
    clip = np.concatenate([tone(120, 0.6), quiet[:8000], tone(120, 0.6), quiet[:960], tone(120, 0.6)])

    figures = measure(clip, 16000)

    assert figures.num_pauses == 1
    assert figures.pause_share == pytest.approx(0.56 / 2.36, abs=0.03)


def test_noise_lowers_the_signal_to_noise_ratio_by_its_level() -> None:
    rng = np.random.default_rng(2)
    clip = np.concatenate([np.zeros(8000, dtype=np.float32), tone(150, 1.0), np.zeros(8000, dtype=np.float32)])
    speech_db = 10 * np.log10(np.mean(tone(150, 1.0).astype(np.float64) ** 2))

    for noise_db in (-60.0, -40.0):
        noisy = clip + rng.normal(0, 10 ** (noise_db / 20), clip.size).astype(np.float32)
        assert measure(noisy, 16000).snr_db == pytest.approx(speech_db - noise_db, abs=1.5)
    assert measure(np.zeros(16000, dtype=np.float32), 16000).snr_db is None


def test_a_melody_has_a_range_and_a_monotone_has_none() -> None:
    monotone = np.concatenate([tone(150, 0.5), tone(150, 0.5)])
    melody = np.concatenate([tone(100, 0.5), tone(200, 0.5)])

    assert measure(monotone, 16000).f0_range_semitones == pytest.approx(0, abs=0.2)
    assert measure(melody, 16000).f0_range_semitones == pytest.approx(12, abs=0.5)
