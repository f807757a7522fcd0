"""Real speech of the built-in model: no clicks, pitch and rate that do what they say, words where they are heard."""

import io
from dataclasses import replace
from itertools import pairwise

import av
import numpy as np
import pytest

from cosyforge.audio.clicks import click_strength, find_clicks
from cosyforge.audio.pitch import estimate_f0
from cosyforge.audio.resample import resample
from cosyforge.cosyvoice.manifest import builtin_model_directory
from cosyforge.synthesis.engine import Engine
from cosyforge.synthesis.output import Output
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest
from cosyforge.text.segment import Segment

RATE_HZ = 24000
REQUEST = SynthesisRequest(
    voice="duncan", format="pcm", sample_rate_hz=RATE_HZ, seed=3, enable_ssml=True, word_timestamps=True, streaming=True
)
SSML = (
    "<speak>There is a large garden behind my house, and the children play there every afternoon."
    '<break time="700ms"/> Please bring me 23 glasses of cold water. We are going to the market.</speak>'
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(builtin_model_directory())


@pytest.fixture(scope="module")
def spoken(engine) -> list[AudioChunk]:
    return list(engine.synthesize(REQUEST, [SSML]))


@pytest.fixture(scope="module")
def speech(spoken) -> np.ndarray:
    return np.frombuffer(b"".join(chunk.audio for chunk in spoken), "<i2").astype(np.float32) / 32767


def sent_out(speech: np.ndarray, **changes) -> np.ndarray:
    """The same speech through rate and pitch."""
    output = Output(replace(REQUEST, **changes), RATE_HZ)
    output.begin_sentence(Segment("x", "x"))
    return np.frombuffer(output.push(speech) + output.end_sentence(), "<i2").astype(np.float32) / 32767


def median_f0(samples: np.ndarray) -> float:
    f0 = estimate_f0(resample(samples, RATE_HZ, 16000))
    return float(np.median(f0[f0 > 0]))


def shape_db(samples: np.ndarray) -> np.ndarray:
    """The long-term spectrum from 300 to 4000 Hz, smooth over 400 Hz: throat and mouth, not pitch."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 1024)[::512] * np.hanning(1024)
    power = np.square(np.abs(np.fft.rfft(frames, axis=1))).mean(axis=0)
    smooth = np.convolve(power, np.ones(17) / 17, "same")
    hz = np.fft.rfftfreq(1024, 1 / RATE_HZ)
    return 10 * np.log10(smooth[(hz > 300) & (hz < 4000)])


def test_no_join_clicks_between_chunks_sentences_and_pauses(spoken, speech):
    assert len(spoken) >= 6
    assert find_clicks(speech, RATE_HZ) == []


def test_the_detector_would_have_found_a_join_of_a_few_percent(spoken, speech):
    """The proof that the test above can fail: the same speech with a small step at the joins beside pauses."""
    ends = np.cumsum([len(chunk.audio) // 2 for chunk in spoken])
    for end in [int(e) for e, chunk in zip(ends, spoken, strict=True) if chunk.is_sentence_end][:-1]:
        broken = speech.copy()
        broken[end:] += (0.03 * np.exp(-np.arange(broken.size - end) / 240)).astype(np.float32)
        assert any(abs(click.at_s - end / RATE_HZ) < 0.002 for click in find_clicks(broken, RATE_HZ))


@pytest.mark.parametrize("pitch", [0.8, 1.4])
def test_pitch_moves_the_voice_and_neither_tempo_nor_throat(speech, pitch):
    changed = sent_out(speech, pitch=pitch)
    assert abs(changed.size - speech.size) <= 2
    assert median_f0(changed) / median_f0(speech) == pytest.approx(pitch, rel=0.03)
    assert np.std(shape_db(changed) - shape_db(speech)) < 3.0
    assert click_strength(changed, RATE_HZ).max() < 3.5


@pytest.mark.parametrize("rate", [0.7, 1.5])
def test_rate_moves_the_tempo_and_not_the_voice(speech, rate):
    changed = sent_out(speech, rate=rate)
    assert changed.size == pytest.approx(speech.size / rate, abs=2)
    assert median_f0(changed) / median_f0(speech) == pytest.approx(1.0, abs=0.03)
    assert np.std(shape_db(changed) - shape_db(speech)) < 1.5


def test_words_are_where_the_sound_is(spoken, speech):
    words = [word for chunk in spoken for word in chunk.words]
    assert [w.text for w in words][:3] + [w.text for w in words][-2:] == ["There", "is", "a", "the", "market"]
    times = [time for word in words for time in (word.begin_ms, word.end_ms)]
    assert times == sorted(times)
    assert times[-1] <= 1000 * speech.size / RATE_HZ
    level = np.abs(speech[: speech.size // 480 * 480]).reshape(-1, 480).max(axis=1)  # per 20 ms
    loud_ms = 20 * np.flatnonzero(level > 0.05 * level.max())
    assert abs(words[0].begin_ms - loud_ms[0]) <= 120
    # nothing is heard in the break, and no word stands there
    before, after = next((a, b) for a, b in pairwise(words) if a.text == "afternoon")
    assert after.begin_ms - before.end_ms >= 700
    assert not ((loud_ms > before.end_ms + 60) & (loud_ms < after.begin_ms - 60)).any()
    # a number is longer than an article
    duration = {w.text: w.end_ms - w.begin_ms for w in words}
    assert duration["23"] > 300 > duration["a"]


def test_the_sentences_pass_their_checks(spoken):
    assert spoken[-1].report["failed_checks"] == spoken[-1].report["warnings"] == []
    assert spoken[-1].report["resampled"] in (0, 1, 2)
    assert set(spoken[-1].timings_ms) == {"queue", "text", "first_token", "lm", "flow", "vocoder", "encode", "total"}


def as_players_hear(data: bytes) -> np.ndarray:
    """Decoded at 24 kHz; what the file says of delay and filling is heeded."""
    with av.open(io.BytesIO(data)) as container:
        resampler = av.AudioResampler("fltp", "mono", RATE_HZ)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        return np.concatenate([out.to_ndarray()[0] for out in [*frames, *resampler.resample(None)]])


@pytest.mark.parametrize("format", ["wav", "mp3", "opus"])
def test_a_streamed_file_is_the_whole_file_and_the_speech_itself(engine, format):
    request = replace(REQUEST, format=format, enable_ssml=False, word_timestamps=False, bit_rate_kbps=64)
    text = "The train leaves at seven. Bring your coat."
    whole, streamed, plain = (
        b"".join(chunk.audio for chunk in engine.synthesize(wanted, [text]))
        for wanted in (replace(request, streaming=False), request, replace(request, format="pcm"))
    )
    heard = [as_players_hear(whole), as_players_hear(streamed)]
    speech = np.frombuffer(plain, "<i2").astype(np.float32) / 32767
    assert abs(heard[0].size - heard[1].size) <= 0.02 * RATE_HZ
    for sound in heard:
        assert abs(sound.size - speech.size) <= 0.02 * RATE_HZ
        size = min(sound.size, speech.size)
        correlation = np.corrcoef(sound[:size], speech[:size])[0, 1]
        assert correlation > (0.9999 if format == "wav" else 0.97), "the same sound at the same time"
    size = min(heard[0].size, heard[1].size)
    assert np.abs(heard[0][:size] - heard[1][:size]).max() < 0.01, "streamed and whole, decoded"
