import threading
import time

import numpy as np
import pytest
import torch

from cosyforge.synthesis.request import SynthesisRequest
from cosyforge.synthesis.scheduler import Scheduler
from cosyforge.synthesis.sequence import Canceled, Sequence, Status
from cosyforge.synthesis.stream import OFFICIAL_SILENT_TOKENS, PreparedVoice, silent_tokens, stream_samples


def sequence() -> Sequence:
    return Sequence(SynthesisRequest())


@pytest.mark.parametrize("voice", ["alto", "plain"])
@pytest.mark.parametrize("num_tokens", [1, 3, 24, 28, 29, 53, 130, 260])
def test_chunks_join_to_the_samples_of_the_whole_without_clicks(model, voice, num_tokens):
    tokens = torch.randint(0, 27, (num_tokens,), generator=torch.Generator().manual_seed(num_tokens))
    prepared = PreparedVoice(model, model.voices[voice], [5, 6])
    streamed = np.concatenate(list(stream_samples(model, prepared, tokens.tolist(), sequence())))
    with torch.inference_mode():
        mel = model.flow.sample(
            tokens[None], prepared.prompt_token, prepared.prompt_mel, prepared.speaker_embedding, streaming=True
        )
        at_once = model.hift(mel)[0].numpy()
    assert streamed.size == at_once.size == num_tokens * 960
    assert np.abs(streamed - at_once).max() < 1e-3


def test_the_first_sound_needs_one_block_and_later_chunks_grow(model):
    prepared = PreparedVoice(model, model.voices["plain"], [])
    lengths = [piece.size for piece in stream_samples(model, prepared, [3] * 400, sequence()) if piece.size]
    seconds = [length / 24000 for length in lengths]
    assert seconds[0] < 1.0
    assert seconds[1] == pytest.approx(2.0)
    assert max(seconds[:-1]) == pytest.approx(4.0)


def test_each_request_starts_with_a_small_chunk_again(model):
    prepared = PreparedVoice(model, model.voices["plain"], [])
    first = [next(p.size for p in stream_samples(model, prepared, [3] * 400, sequence()) if p.size) for _ in range(3)]
    assert len(set(first)) == 1


def test_no_tokens_make_no_sound(model):
    prepared = PreparedVoice(model, model.voices["plain"], [])
    assert sum(piece.size for piece in stream_samples(model, prepared, [], sequence())) == 0


def test_only_the_official_tokenizer_has_known_silent_tokens(model):
    assert silent_tokens(model) == frozenset()
    assert all(token < 6561 for token in OFFICIAL_SILENT_TOKENS)


@pytest.mark.parametrize("later", [0, 7])
def test_whoever_stops_listening_ends_the_work_within_a_step(model, later):
    """Every step of the flow and every two seconds of the vocoder look whether anybody listens."""
    prepared = PreparedVoice(model, model.voices["plain"], [])
    num_looks = []

    def look() -> None:
        num_looks.append(1)
        if len(num_looks) > later:
            raise Canceled

    with pytest.raises(Canceled):
        list(stream_samples(model, prepared, [3] * 400, sequence(), on_step=look))
    assert len(num_looks) == later + 1


def test_waiting_for_a_turn_is_counted_as_queueing():
    scheduler, waiting = Scheduler(), sequence()
    thread = threading.Thread(target=lambda: scheduler.turn(waiting).__enter__())
    with scheduler.turn(sequence()):
        thread.start()
        time.sleep(0.05)
    thread.join()
    assert waiting.timings_ms()["queue"] > 40


def test_turns_are_given_in_the_order_of_asking():
    scheduler = Scheduler()
    order: list[int] = []

    def take(index: int) -> None:
        with scheduler.turn(sequence()):
            order.append(index)

    threads = [threading.Thread(target=take, args=(index,)) for index in range(5)]
    with scheduler.turn(sequence()):
        for number, thread in enumerate(threads, start=1):
            thread.start()
            while len(scheduler._waiting) < number:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_a_failed_turn_does_not_block_the_next():
    scheduler = Scheduler()
    with pytest.raises(RuntimeError), scheduler.turn(sequence()):
        raise RuntimeError
    with scheduler.turn(sequence()):
        pass


def test_a_request_that_has_ended_does_not_move_again():
    ended = sequence()
    ended.transition(Status.CANCELED)
    with pytest.raises(ValueError, match="canceled cannot become speaking"):
        ended.transition(Status.SPEAKING)
