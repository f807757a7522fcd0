"""Pitch of signals whose pitch is known."""

from __future__ import annotations

import numpy as np
import pytest

from cosyforge.audio.pitch import estimate_f0

RATE_HZ = 16_000


def pulses(f0_hz: float, seconds: float = 1.0) -> np.ndarray:
    """A voice-like tone: harmonics that fall by 6 dB per octave."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    count = int(7000 / f0_hz)
    return sum(np.sin(2 * np.pi * k * f0_hz * time) / k for k in range(1, count + 1)).astype(np.float32) * 0.2


@pytest.mark.parametrize("f0_hz", [75.0, 120.0, 210.0, 330.0])
def test_a_steady_voice_is_measured_within_one_percent(f0_hz: float) -> None:
    f0 = estimate_f0(pulses(f0_hz))
    middle = f0[5:-5]
    assert (middle > 0).all()
    assert np.abs(middle / f0_hz - 1).max() < 0.01


def test_noise_and_silence_are_unvoiced() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE_HZ).astype(np.float32) * 0.1
    assert (estimate_f0(noise) > 0).mean() < 0.1
    assert (estimate_f0(np.zeros(RATE_HZ, dtype=np.float32)) == 0).all()


def test_there_is_one_value_per_mel_frame() -> None:
    assert estimate_f0(pulses(100.0)[: 320 * 7 + 319]).shape == (7,)
    assert estimate_f0(np.zeros(10, dtype=np.float32)).shape == (0,)


def test_a_glide_is_followed() -> None:
    time = np.arange(RATE_HZ) / RATE_HZ
    wanted = 100 + 100 * time
    phase = 2 * np.pi * np.cumsum(wanted) / RATE_HZ
    voice = sum(np.sin(k * phase) / k for k in range(1, 15)).astype(np.float32) * 0.2
    f0 = estimate_f0(voice)
    centre = (np.arange(len(f0)) + 0.5) / 50
    assert np.abs(f0 - (100 + 100 * centre))[5:-5].max() < 4.0
