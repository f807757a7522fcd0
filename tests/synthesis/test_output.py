"""The way out: per-segment prosody, effects, music, sounds and pauses, the same however the samples come."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosyforge.audio.clicks import find_clicks
from cosyforge.audio.wav import write_wav
from cosyforge.errors import InvalidMarkup
from cosyforge.synthesis.output import Output, check_segment
from cosyforge.synthesis.request import SynthesisRequest
from cosyforge.text.segment import Segment

RATE_HZ = 24000
REQUEST = SynthesisRequest(format="pcm", sample_rate_hz=RATE_HZ)
PLAIN = Segment("Hello.", "[HH]")
TONE = (0.3 * np.sin(2 * np.pi * 150 * np.arange(RATE_HZ) / RATE_HZ)).astype(np.float32)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, str], ...]:
    path: Path = tmp_path_factory.mktemp("sounds") / "ding.wav"
    write_wav(path, 0.5 * np.sin(np.arange(8000) / 3).astype(np.float32), 16000)
    return (("http://host/ding.wav", str(path)),)


def spoken(request: SynthesisRequest, segments: list[Segment], cut: int = RATE_HZ) -> np.ndarray:
    output = Output(request, RATE_HZ)
    data = b""
    for segment in segments:
        data += output.enter(segment)
        if segment.sound:
            data += output.sound(segment.sound)
        if segment.spoken:
            output.begin_sentence(segment)
            data += b"".join(output.push(TONE[start : start + cut]) for start in range(0, TONE.size, cut))
            data += output.end_sentence()
        data += output.silence(segment.pause_ms)
    data += output.finish()
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32767
    assert output.take_duration_s() == pytest.approx(samples.size / RATE_HZ)
    assert output.position_ms == pytest.approx(1000 * samples.size / RATE_HZ)
    return samples


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt((samples**2).mean()))


def test_a_segment_may_have_its_own_rate_pitch_and_volume():
    asked = replace(PLAIN, speak=1, rate=2.0, volume=25)
    samples = spoken(replace(REQUEST, rate=0.5), [PLAIN, asked])
    assert samples.size == 2 * RATE_HZ + RATE_HZ // 2
    assert rms(samples[2 * RATE_HZ + 1000 : -1000]) == pytest.approx(rms(TONE) / 2, rel=0.05)
    asked = [replace(PLAIN, speak=1, pitch=1.5), PLAIN]
    wanted = [spoken(replace(REQUEST, pitch=1.5), [PLAIN]), spoken(REQUEST, [PLAIN])]
    assert np.array_equal(spoken(REQUEST, asked), np.concatenate(wanted))


@pytest.mark.parametrize("effect", [("echo", ()), ("robot", ()), ("lowpass", ()), ("lolita", ())])
def test_an_effect_belongs_to_its_speak_element(effect):
    inside = replace(PLAIN, speak=0, effect=effect, pause_ms=100)
    samples = spoken(REQUEST, [inside, inside, replace(PLAIN, speak=1)])
    plain = spoken(REQUEST, [replace(PLAIN, pause_ms=100)] * 2 + [PLAIN])
    tail = samples.size - plain.size
    assert (tail > 0) == (effect[0] == "echo")
    assert np.array_equal(samples[-RATE_HZ + 10 :], plain[-RATE_HZ + 10 :])
    assert not np.allclose(samples[:RATE_HZ], plain[:RATE_HZ], atol=0.01)


def test_music_lies_under_a_speak_element_and_fades_after_it(sounds):
    request = replace(REQUEST, attachments=sounds)
    with_music = replace(PLAIN, speak=0, background=sounds[0][0], background_volume=50, pause_ms=200)
    samples = spoken(request, [with_music, replace(PLAIN, speak=1)])
    assert rms(samples[RATE_HZ + 480 : RATE_HZ + 4320]) == pytest.approx(0.25 / 2**0.5, rel=0.1)
    assert samples.size == round((1 + 0.2 + 0.8 + 1) * RATE_HZ)
    assert np.array_equal(samples[-RATE_HZ:], spoken(REQUEST, [PLAIN]))


def test_a_sound_stands_between_sentences(sounds):
    request = replace(REQUEST, attachments=sounds, volume=10)
    samples = spoken(request, [PLAIN, Segment("", "", sound=sounds[0][0]), PLAIN])
    assert samples.size == pytest.approx(2.5 * RATE_HZ, abs=2)
    assert rms(samples[RATE_HZ + 480 : RATE_HZ + 11500]) == pytest.approx(0.5 / 2**0.5, rel=0.02)


@pytest.mark.parametrize(
    "changes", [{"rate": 1.4}, {"pitch": 0.8}, {"rate": 0.7, "pitch": 1.3}, {"sample_rate_hz": 8000}, {"volume": 90}]
)
def test_the_samples_do_not_depend_on_how_they_come(changes):
    request = replace(REQUEST, **changes)
    segments = [replace(PLAIN, pause_ms=70), replace(PLAIN, speak=1, effect=("echo", ()))]
    whole, *others = (raw(request, segments, cut) for cut in (RATE_HZ, 480, 777))
    assert others == [whole, whole]


def raw(request: SynthesisRequest, segments: list[Segment], cut: int) -> bytes:
    output = Output(request, RATE_HZ)
    data = b""
    for segment in segments:
        data += output.enter(segment)
        output.begin_sentence(segment)
        data += b"".join(output.push(TONE[start : start + cut]) for start in range(0, TONE.size, cut))
        data += output.end_sentence() + output.silence(segment.pause_ms)
    return data + output.finish()


def test_a_sentence_begins_and_ends_without_a_click():
    """The tone is cut anywhere; beside a pause that would be heard."""
    hard = np.concatenate([TONE[:23000] + 0.2, np.zeros(4800, dtype=np.float32)])
    assert find_clicks(hard, RATE_HZ)
    output = Output(REQUEST, RATE_HZ)
    output.begin_sentence(PLAIN)
    data = output.silence(100) + output.push(TONE[:23000] + 0.2) + output.end_sentence() + output.silence(200)
    soft = np.frombuffer(data, "<i2").astype(np.float32) / 32767
    assert find_clicks(soft, RATE_HZ) == []


def test_what_a_segment_cannot_have_is_refused(sounds):
    with pytest.raises(InvalidMarkup, match="was not fetched"):
        check_segment(replace(PLAIN, background="http://host/none.wav"), replace(REQUEST, attachments=sounds))
    with pytest.raises(InvalidMarkup, match="half the sample rate"):
        check_segment(replace(PLAIN, effect=("lpfilter", (9000.0,))), replace(REQUEST, sample_rate_hz=16000))
    check_segment(replace(PLAIN, sound=sounds[0][0], effect=("echo", ())), replace(REQUEST, attachments=sounds))
