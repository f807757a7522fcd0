import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cosyforge.audio.wav import read_wav
from cosyforge.cosyvoice.lm import SpeechLM
from cosyforge.errors import Internal, InvalidMarkup, InvalidParameter, NotReady
from cosyforge.synthesis.engine import Engine
from cosyforge.synthesis.request import AudioChunk, SynthesisRequest

PCM = SynthesisRequest(voice="alto", format="pcm", sample_rate_hz=24000, seed=7)
TEXT = "I see a tree. You see me now."
LONG = "This is a much longer sentence, so that it comes in several chunks of sound, one after the other, you see."


def audio(engine: Engine, request: SynthesisRequest, text: object = TEXT) -> bytes:
    pieces = [text] if isinstance(text, str) else text
    return b"".join(chunk.audio for chunk in engine.synthesize(request, pieces))


def samples(pcm: bytes) -> np.ndarray:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32767


@pytest.mark.parametrize("voice", ["alto", "plain"])
def test_streaming_gives_the_samples_of_speaking_at_once(engine, voice):
    at_once = samples(audio(engine, replace(PCM, voice=voice), LONG))
    streamed = samples(audio(engine, replace(PCM, voice=voice, streaming=True), LONG))
    assert streamed.shape == at_once.shape
    assert at_once.size > 24000
    assert np.abs(at_once).max() > 0.001
    assert np.abs(streamed - at_once).max() < 2e-3


@pytest.mark.parametrize("format", ["pcm", "wav", "mp3", "opus"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(engine, format):
    request = replace(PCM, format=format, streaming=True)
    first = audio(engine, request)
    assert audio(engine, request) == first
    assert audio(engine, replace(request, seed=8)) != first


def test_the_chunks_of_a_sentence_say_where_it_begins_and_ends(engine):
    chunks = list(engine.synthesize(replace(PCM, streaming=True), [f"{LONG} And a second one follows it."]))
    by_sentence = [[c for c in chunks if c.sentence_index == index] for index in (0, 1)]
    assert len(by_sentence[0]) > 2
    for sentence, text in zip(by_sentence, (LONG, "And a second one follows it."), strict=True):
        assert [c.is_sentence_begin for c in sentence] == [True] + [False] * (len(sentence) - 1)
        assert [c.is_sentence_end for c in sentence] == [False] * (len(sentence) - 1) + [True]
        assert {c.sentence_text for c in sentence} == {text}
    num_bytes = sum(len(c.audio) for c in chunks)
    assert sum(c.duration_s for c in chunks) == pytest.approx(num_bytes / 48000)


def test_the_last_chunk_says_where_the_time_went(engine):
    *others, last = engine.synthesize(replace(PCM, streaming=True), [TEXT])
    assert all(not chunk.timings_ms for chunk in others)
    assert set(last.timings_ms) >= {"text", "first_token", "lm", "flow", "vocoder", "encode", "total"}
    assert 0 < last.timings_ms["first_token"] < last.timings_ms["total"]
    assert last.timings_ms["flow"] > 0


def test_a_sentence_is_spoken_once_it_is_complete(engine):
    heard: list[int] = []

    def pieces() -> Iterator[str]:
        yield "I see a"
        yield " tree. You "
        heard.append(0)
        yield "see me now."

    chunks = engine.synthesize(replace(PCM, streaming=True), pieces())
    first = next(chunks)
    assert first.sentence_text == "I see a tree."
    assert not heard
    assert b"".join([first.audio, *(c.audio for c in chunks)]) == audio(engine, replace(PCM, streaming=True))


def test_an_empty_piece_speaks_what_is_there(engine):
    asked: list[bool] = []

    def pieces() -> Iterator[str]:
        yield "Not yet complete"
        yield ""
        asked.append(True)
        yield "but now it is"

    chunks = engine.synthesize(PCM, pieces())
    assert next(chunks).sentence_text == "Not yet complete"
    assert not asked
    assert next(chunks).sentence_text == "but now it is"


def test_a_file_is_closed_even_when_the_text_ends_after_its_last_sentence(engine):
    request = replace(PCM, format="wav", sample_rate_hz=16000)
    chunks = list(engine.synthesize(request, iter(["I see a tree.\n\n And then "])))
    whole = list(engine.synthesize(request, iter(["I see a tree. ", "", ""])))
    assert chunks[-1].is_sentence_end
    assert not whole[-1].is_sentence_end
    assert whole[-1].timings_ms
    data, rate_hz = read_wav(b"".join(c.audio for c in whole))
    assert rate_hz == 16000
    assert data.size > 1000


def test_closing_the_iterator_stops_the_work(engine, monkeypatch):
    steps = []
    step = SpeechLM.step
    monkeypatch.setattr(SpeechLM, "step", lambda *args: steps.append(1) or step(*args))
    chunks = engine.synthesize(replace(PCM, streaming=True), [TEXT * 5])
    next(chunks)
    assert engine.num_in_flight == 1
    done = len(steps)
    chunks.close()
    assert engine.num_in_flight == 0
    assert len(steps) == done
    assert audio(engine, PCM)


def test_a_slow_listener_does_not_keep_others_waiting(engine):
    slow = engine.synthesize(replace(PCM, streaming=True), [TEXT * 3])
    next(slow)
    assert audio(engine, PCM)
    slow.close()


def test_requests_at_the_same_time_do_not_change_each_other(engine):
    requests = [replace(PCM, seed=seed, streaming=seed % 2 == 0) for seed in range(3)]
    alone = [audio(engine, request) for request in requests]
    together: list[bytes | None] = [None] * len(requests)

    def speak(index: int) -> None:
        together[index] = audio(engine, requests[index])

    threads = [threading.Thread(target=speak, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_pause_stands_between_sentences_and_where_the_markup_asks(engine):
    ssml = '<speak>I see a tree.<break time="2s"/>You see me now.<break time="1s"/></speak>'
    with_breaks = samples(audio(engine, replace(PCM, enable_ssml=True), ssml))
    without = samples(audio(engine, PCM))
    assert with_breaks.size - without.size == round((2.0 - 0.15 + 1.0) * 24000)
    assert not with_breaks[-24000:].any()


def test_markup_may_arrive_in_pieces(engine):
    ssml = "<speak>I see a tree. You see me now.</speak>"
    request = replace(PCM, enable_ssml=True)
    assert audio(engine, request, iter(list(ssml))) == audio(engine, request, ssml)


def test_plain_text_loses_nothing_with_markup_allowed(engine):
    assert audio(engine, replace(PCM, enable_ssml=True), iter(list(TEXT))) == audio(engine, PCM)


@pytest.mark.parametrize(("field", "value", "factor"), [("rate", 2.0, 0.5), ("rate", 0.5, 2.0), ("pitch", 1.5, 1.0)])
def test_rate_changes_the_duration_and_pitch_does_not(engine, field, value, factor):
    text = "This one sentence is all there is"
    plain, changed = (samples(audio(engine, request, text)) for request in (PCM, replace(PCM, **{field: value})))
    assert changed.size == pytest.approx(plain.size * factor, abs=50)


def test_volume_zero_is_silent(engine):
    assert not samples(audio(engine, replace(PCM, volume=0))).any()


@pytest.mark.parametrize("sample_rate_hz", [8000, 22050, 48000])
def test_the_sample_rate_is_the_one_that_was_asked_for(engine, sample_rate_hz):
    data, rate_hz = read_wav(audio(engine, replace(PCM, format="wav", sample_rate_hz=sample_rate_hz)))
    assert rate_hz == sample_rate_hz
    assert data.size / rate_hz == pytest.approx(samples(audio(engine, PCM)).size / 24000, abs=0.01)


def test_speak_gives_samples_at_the_models_rate(engine):
    spoken, rate_hz = engine.speak(TEXT, "alto", 7)
    assert rate_hz == 24000
    assert spoken.dtype == np.float32
    assert np.abs(spoken - samples(audio(engine, PCM))).max() < 1e-4


def test_the_voices_are_named_with_what_the_manifest_says(engine):
    assert set(engine.voices()) == {"alto", "plain"}
    assert engine.voices()["alto"].description == "a low voice"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("voice", "nobody", "[tts:]Engine return error code: 418"),
        ("voice", "default", "[tts:]Engine return error code: 418"),
        ("instruction", "Speak sadly.", "[tts:]Engine return error code: 428"),
        ("format", "ogg", "format must be one of"),
        ("sample_rate_hz", 12345, "sample_rate must be one of"),
        ("volume", 101, "volume must lie in [0, 100]"),
        ("rate", 2.5, "rate must lie in [0.5, 2.0]"),
        ("pitch", 0.1, "pitch must lie in [0.5, 2.0]"),
        ("bit_rate_kbps", 1, "bit_rate must lie in [6, 510]"),
        ("seed", 65536, "seed must lie in [0, 65535]"),
        ("language_hint", "xx", "'xx'"),
    ],
)
def test_a_bad_field_is_refused_before_any_work(engine, field, value, message):
    with pytest.raises(InvalidParameter) as refused:
        engine.synthesize(replace(PCM, **{field: value}), [TEXT])
    assert message in refused.value.message


@pytest.mark.parametrize("text", [[], [""], ["..."], iter(()), iter(["  ", "?!"])])
def test_text_with_nothing_to_speak_is_refused(engine, text):
    with pytest.raises(InvalidParameter, match=r"Please ensure input text is valid\."):
        next(engine.synthesize(PCM, text))


def test_bad_markup_is_refused_with_its_place(engine):
    with pytest.raises(InvalidMarkup, match="column 8"):
        next(engine.synthesize(replace(PCM, enable_ssml=True), ["<speak><b>x</b></speak>"]))


def test_a_tuned_model_has_one_voice_and_takes_no_instruction(tuned_directory: Path, model_directory: Path):
    tuned = Engine(tuned_directory, base_directory=model_directory)
    assert set(tuned.voices()) == {"default"}
    assert audio(tuned, replace(PCM, voice="default"))
    with pytest.raises(InvalidParameter, match="428"):
        tuned.synthesize(replace(PCM, voice="default", instruction="Speak sadly."), [TEXT])
    with pytest.raises(InvalidParameter, match="418"):
        tuned.synthesize(PCM, [TEXT])


def test_an_instruction_changes_what_a_reading_model_says(reading_directory: Path):
    reading = Engine(reading_directory)
    plain = audio(reading, PCM, "Hello there my friend")
    assert audio(reading, replace(PCM, instruction="Speak sadly."), "Hello there my friend") != plain
    with pytest.raises(InvalidParameter, match="428"):
        reading.synthesize(replace(PCM, instruction="x<|endofprompt|>"), [TEXT])


def test_a_failing_network_is_an_internal_error(engine, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(SpeechLM, "step", broken)
    with pytest.raises(Internal, match="out of memory"):
        next(engine.synthesize(PCM, [TEXT]))
    assert engine.num_in_flight == 0


def test_a_closed_engine_takes_no_more_requests(model_directory: Path):
    closed = Engine(model_directory)
    closed.close()
    with pytest.raises(NotReady):
        closed.synthesize(PCM, [TEXT])


def test_a_missing_model_is_refused_by_name(tmp_path: Path):
    with pytest.raises(InvalidParameter, match=r"model\.json"):
        Engine(tmp_path)


def test_chunks_are_plain_data(engine):
    assert all(isinstance(chunk, AudioChunk) for chunk in engine.synthesize(PCM, TEXT))


def test_streamed_samples_are_those_of_the_whole_file_to_the_bit(engine):
    for request in (PCM, replace(PCM, rate=1.3, pitch=0.8, sample_rate_hz=16000, volume=80)):
        assert audio(engine, replace(request, streaming=True), LONG) == audio(engine, request, LONG)


def test_the_last_chunk_reports_what_was_left_out_and_drawn_again(engine):
    *others, last = engine.synthesize(replace(PCM, streaming=True), ["I see a ☃ tree."])
    assert all(not chunk.report for chunk in others)
    assert set(last.report) == {"resampled", "failed_checks", "warnings"}
    assert any("☃" in warning for warning in last.report["warnings"])


def test_words_come_with_the_last_chunk_of_their_sentence_when_asked_for(engine):
    request = replace(PCM, word_timestamps=True, enable_ssml=True, rate=1.25, streaming=True)
    ssml = '<speak>I have 25 trees.<break time="1s"/>You see them.</speak>'
    chunks = list(engine.synthesize(request, [ssml]))
    assert all(not chunk.words for chunk in engine.synthesize(replace(request, word_timestamps=False), [ssml]))
    assert all(bool(chunk.words) == chunk.is_sentence_end for chunk in chunks)
    words = [word for chunk in chunks for word in chunk.words]
    assert [word.text for word in words] == ["I", "have", "25", "trees", "You", "see", "them"]
    texts = [chunk.sentence_text for chunk in chunks if chunk.words for _ in chunk.words]
    assert all(text[w.begin_index : w.end_index] == w.text for w, text in zip(words, texts, strict=True))
    times = [time for word in words for time in (word.begin_ms, word.end_ms)]
    assert times == sorted(times)
    assert times[-1] <= 1000 * sum(chunk.duration_s for chunk in chunks) + 1
    assert words[4].begin_ms - words[3].end_ms >= 1000


def test_whoever_cancels_from_another_thread_ends_the_work_at_the_next_step(engine, monkeypatch):
    class Text(list):
        is_over = False

        def is_canceled(self) -> bool:
            return self.is_over

    text, steps = Text([LONG]), []
    step = SpeechLM.step

    def counted(*args):
        steps.append(1)
        text.is_over = len(steps) == 10
        return step(*args)

    monkeypatch.setattr(SpeechLM, "step", counted)
    assert list(engine.synthesize(replace(PCM, streaming=True), text)) == []
    assert len(steps) == 10
    assert engine.num_in_flight == 0


def test_a_pronunciation_and_a_replacement_change_what_is_said(engine):
    plain = audio(engine, PCM, "I see a tree")
    assert audio(engine, replace(PCM, replacements=(("tree", "house"),)), "I see a tree") != plain
    assert audio(engine, replace(PCM, replacements=(("tree", "house"),)), iter(["I see", " a tree"])) == audio(
        engine, PCM, "I see a house"
    )
    assert audio(engine, replace(PCM, pronunciations=(("tree", "HH AW1 S"),)), "I see a tree") == audio(
        engine, PCM, "I see a house"
    )
    assert audio(engine, replace(PCM, markdown_filter=True), "I **see** a tree") == plain


def test_a_text_may_be_a_sound_alone(engine, tmp_path):
    from cosyforge.audio.wav import write_wav

    write_wav(tmp_path / "ding.wav", np.full(16000, 0.25, dtype=np.float32), 16000)
    request = replace(PCM, enable_ssml=True, attachments=(("http://h/d.wav", str(tmp_path / "ding.wav")),))
    (only,) = engine.synthesize(request, ['<speak><soundEvent src="http://h/d.wav"/></speak>'])
    assert samples(only.audio).size == 24000
    assert only.timings_ms
    assert only.report["failed_checks"] == []
    with pytest.raises(InvalidMarkup, match="not fetched"):
        next(engine.synthesize(replace(request, attachments=()), ['<speak><soundEvent src="http://h/d.wav"/></speak>']))


def test_the_mark_of_machine_made_audio_reaches_the_file(engine):
    marked = audio(engine, replace(PCM, format="wav", aigc=(("Label", "1"),)))
    assert b'AIGC={"Label":"1"}' in marked[:100]
