import numpy as np
import pytest

from cosyforge.audio.clicks import THRESHOLD, click_strength, find_clicks

RATE_HZ = 24000


def voice(duration_s: float = 2.0, f0_hz: float = 120.0) -> np.ndarray:
    """A pulse train through three resonances that fades in and out twice, with a pause, over a little noise."""
    num = round(RATE_HZ * duration_s)
    rng = np.random.default_rng(2)
    pulses = np.zeros(num)
    pulses[:: round(RATE_HZ / f0_hz)] = 1.0
    for hz, width_hz in ((500, 80), (1500, 120), (2500, 160)):
        radius, angle = np.exp(-np.pi * width_hz / RATE_HZ), 2 * np.pi * hz / RATE_HZ
        out = np.zeros(num)
        for i in range(num):
            out[i] = pulses[i] + 2 * radius * np.cos(angle) * out[i - 1] - radius**2 * out[i - 2]
        pulses = out
    loudness = np.clip(np.abs(np.sin(2 * np.pi * np.arange(num) / num)) - 0.3, 0.0, 1.0) ** 0.5
    return (0.4 * loudness * pulses / np.abs(pulses).max() + 0.0005 * rng.normal(size=num)).astype(np.float32)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return voice()


def test_a_voice_has_no_clicks(speech):
    assert click_strength(speech, RATE_HZ).max() < 0.7 * THRESHOLD
    assert find_clicks(speech, RATE_HZ) == []


@pytest.mark.parametrize("height", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("at_s", [0.03, 0.98, 1.01])
def test_a_step_in_a_quiet_place_is_found_where_it_is(speech, at_s, height):
    broken = speech.copy()
    start = round(at_s * RATE_HZ)
    broken[start:] += (height * np.exp(-np.arange(broken.size - start) / (0.01 * RATE_HZ))).astype(np.float32)
    found = find_clicks(broken, RATE_HZ)
    assert [click.at_s for click in found] == [pytest.approx(at_s, abs=0.0021)] * len(found)
    assert found


def test_a_loud_step_is_found_in_the_middle_of_speech(speech):
    broken = speech.copy()
    broken[12000:12002] += 0.5
    assert [click.at_s for click in find_clicks(broken, RATE_HZ)] == [pytest.approx(0.5, abs=0.0015)]


def test_a_louder_step_is_stronger(speech):
    strengths = []
    for height in (0.01, 0.03, 0.1, 0.3):
        broken = speech.copy()
        broken[24000] += height
        strengths.append(click_strength(broken, RATE_HZ)[998:1003].max())
    assert strengths == sorted(strengths)
    assert strengths[-1] > 5 * strengths[0]


@pytest.mark.parametrize("sound", [np.zeros(RATE_HZ), np.zeros(3), np.zeros(0)])
def test_silence_has_no_clicks(sound):
    assert find_clicks(sound.astype(np.float32), RATE_HZ) == []


def test_a_cut_piece_is_a_click():
    """What a wrong join does: some milliseconds are missing."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    tone = (0.3 * np.sin(2 * np.pi * 200 * time_s) + 0.1 * np.sin(2 * np.pi * 640 * time_s)).astype(np.float32)
    joined = np.concatenate([tone[:12000], tone[12050:]])
    assert find_clicks(tone, RATE_HZ)[1:] == []  # the tone's own beginning may count
    assert any(abs(click.at_s - 0.5) < 0.002 for click in find_clicks(joined, RATE_HZ))
