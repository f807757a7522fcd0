"""The duplex protocol without a socket: every rule with an exact clock, and 5,000 random conversations."""

import json
import random
from collections import Counter

import pytest

from cosyforge.api.duplex import Check, Close, Duplex, EndText, Rules, Send, Speak, Stop
from cosyforge.errors import Internal, InvalidParameter, ModelNotFound
from cosyforge.synthesis.request import AudioChunk, Word


def frame(action, task_id="t1", **payload):
    header = {"action": action, "task_id": task_id, "streaming": "duplex"}
    return json.dumps({"header": header, "payload": payload})


def run_task(task_id="t1", **parameters):
    payload = {"task_group": "audio", "task": "tts", "function": "SpeechSynthesizer", "model": "m", "input": {}}
    return frame("run-task", task_id, **payload, parameters={"voice": "default", **parameters})


def text(value, task_id="t1"):
    return frame("continue-task", task_id, input={"text": value})


def finish(task_id="t1", **given):
    return frame("finish-task", task_id, input=given)


class Talk:
    """A Duplex with a clock, and what it did."""

    def __init__(self, **rules):
        self.duplex = Duplex(Rules(**rules), lambda: f"id-{self.ids}")
        self.ids = 0
        self.now = 100.0

    def say(self, frame):
        return self.duplex.receive(frame, self.now)

    def begin(self, task_id="t1", **parameters):
        """A task that was accepted; its number."""
        check = self.say(run_task(task_id, **parameters))[-1]
        assert isinstance(check, Check)
        self.duplex.accepted(check.number, self.now)
        return check.number

    def chunk(self, number, audio=b"abc", index=0, text="one", begin=False, end=False, words=()):
        chunk = AudioChunk(audio, index, text, begin, end, words=words)
        return self.duplex.chunk(number, chunk, self.now)


@pytest.fixture
def talk():
    return Talk()


def header_of(effect):
    return effect.event["header"]


def failure_of(effects):
    """(code, message) of a task-failed that is followed by closing."""
    *_, failed, close = effects
    assert header_of(failed)["event"] == "task-failed"
    assert failed.event["payload"] == {}
    assert close == Close(1000, "task-failed")
    return header_of(failed)["error_code"], header_of(failed)["error_message"]


def test_a_task_from_beginning_to_end(talk):
    (check,) = talk.say(run_task(format="wav", sample_rate=24000))
    assert (check.model, check.request.format, check.request.streaming) == ("m", "wav", True)
    (started,) = talk.duplex.accepted(check.number, talk.now)
    assert started.event == {"header": {"task_id": "t1", "event": "task-started", "attributes": {}}, "payload": {}}
    assert talk.say(text("one")) == [Speak(check.number, "one")]
    assert talk.say(text(" two")) == [Speak(check.number, " two")]
    begin, sound = talk.chunk(check.number, begin=True)
    assert begin.event["payload"]["output"] == {
        "type": "sentence-begin",
        "original_text": "one",
        "sentence": {"index": 0, "words": []},
    }
    assert (begin.audio, sound.audio) == (b"", b"abc")
    assert sound.event["payload"] == {"output": {"type": "sentence-synthesis", "sentence": {"index": 0, "words": []}}}
    words = (Word("one", 0, 3, 0, 120),)
    _, end = talk.chunk(check.number, end=True, words=words)
    shown = [{"text": "one", "begin_index": 0, "end_index": 3, "begin_time": 0, "end_time": 120}]
    assert end.event["payload"]["output"]["sentence"] == {"index": 0, "words": shown}
    assert end.event["payload"]["usage"] == {"characters": 3}
    assert talk.say(finish()) == [EndText(check.number)]
    (finished,) = talk.duplex.finished(check.number, talk.now, {"trace": 1})
    assert header_of(finished)["attributes"] == {"request_uuid": "id-0", "trace": 1}
    assert finished.event["payload"] == {"output": {"sentence": {"words": shown}}, "usage": {"characters": 7}}


def test_a_chunk_without_audio_has_no_synthesis_event(talk):
    number = talk.begin()
    talk.say(text("one"))
    (end,) = talk.chunk(number, audio=b"", end=True)
    assert end.event["payload"]["output"]["type"] == "sentence-end"


def test_characters_grow_with_the_sentences(talk):
    number = talk.begin()
    talk.say(text("你好。Ja."))
    first = talk.chunk(number, text="你好。", begin=True, end=True)[-1]
    second = talk.chunk(number, index=1, text="Ja.", begin=True, end=True)[-1]
    assert [end.event["payload"]["usage"]["characters"] for end in (first, second)] == [5, 8]


class TestFlush:
    def test_it_means_speak_what_is_there(self, talk):
        number = talk.begin()
        talk.say(text("one"))
        assert talk.say(frame("continue-task", input={"flush": True})) == [Speak(number, "")]

    def test_it_may_come_with_text(self, talk):
        number = talk.begin()
        both = talk.say(frame("continue-task", input={"text": "one", "flush": True}))
        assert both == [Speak(number, "one"), Speak(number, "")]

    def test_without_any_text_it_means_nothing(self, talk):
        talk.begin()
        assert talk.say(frame("continue-task", input={"flush": True})) == []

    def test_an_empty_text_is_no_flush(self, talk):
        talk.begin()
        talk.say(text("one"))
        assert talk.say(text("")) == []


class TestTime:
    def test_a_pause_of_exactly_23_s_is_in_time_and_one_longer_is_not(self, talk):
        talk.begin()
        talk.now += 5
        talk.say(text("one"))
        assert talk.duplex.deadline == talk.now + 23
        talk.now += 23
        assert talk.duplex.tick(talk.now) == []
        effects = talk.duplex.tick(talk.now + 0.001)
        assert failure_of(effects) == ("InvalidParameter", "request timeout after 23 seconds.")
        assert isinstance(effects[0], Stop)

    def test_the_first_text_may_take_as_long(self, talk):
        talk.begin()
        assert talk.duplex.tick(talk.now + 23) == []
        assert failure_of(talk.duplex.tick(talk.now + 24))[1] == "request timeout after 23 seconds."

    def test_every_text_and_flush_begins_it_anew(self, talk):
        talk.begin()
        for message in (text("one"), frame("continue-task", input={"flush": True}), text("two")):
            talk.now += 22
            talk.say(message)
            assert talk.duplex.deadline == talk.now + 23

    def test_after_the_text_has_ended_there_is_no_pause(self, talk):
        number = talk.begin()
        talk.say(text("one"))
        talk.say(finish())
        assert talk.duplex.tick(talk.now + 299) == []
        assert talk.chunk(number, begin=True)

    def test_work_that_makes_no_progress_is_given_up(self):
        talk = Talk(stall_s=300)
        number = talk.begin()
        talk.say(text("one"))
        talk.say(finish())
        talk.now += 200
        talk.chunk(number, begin=True)
        talk.now += 200
        assert talk.duplex.tick(talk.now) == []
        assert failure_of(talk.duplex.tick(talk.now + 101))[0] == "RequestTimeOut"

    def test_a_socket_is_closed_a_minute_after_its_last_task(self, talk):
        number = talk.begin()
        talk.say(text("one"))
        talk.say(finish())
        talk.chunk(number, begin=True)
        talk.duplex.finished(number, talk.now)
        assert talk.duplex.tick(talk.now + 60) == []
        (close,) = talk.duplex.tick(talk.now + 60.001)
        assert close.code == 1000

    def test_one_that_was_opened_in_advance_stays(self, talk):
        assert talk.duplex.deadline is None
        assert talk.duplex.tick(talk.now + 1e6) == []

    def test_a_new_task_ends_the_idle_time(self, talk):
        number = talk.begin()
        talk.say(text("one"))
        talk.say(finish(directive="cancel"))
        talk.now += 59
        assert talk.begin("t2") == number + 1
        assert talk.duplex.deadline == talk.now + 23


class TestRetiring:
    def test_a_connection_without_a_task_is_closed_at_once(self, talk):
        assert [close.code for close in talk.duplex.retire()] == [1001]
        assert talk.duplex.is_closed

    def test_a_task_may_end_first(self, talk):
        number = talk.begin()
        talk.say(text("one"))
        assert talk.duplex.retire() == []
        talk.say(finish())
        talk.chunk(number, begin=True)
        finished, close = talk.duplex.finished(number, talk.now)
        assert (header_of(finished)["event"], close.code) == ("task-finished", 1001)


class TestReuse:
    def test_a_second_task_follows_the_first(self, talk):
        first = talk.begin()
        talk.say(text("one"))
        talk.say(finish())
        talk.chunk(first, begin=True, end=True)
        talk.duplex.finished(first, talk.now)
        second = talk.begin("t2")
        assert talk.say(text("two", "t2")) == [Speak(second, "two")]
        begin, _ = talk.chunk(second, begin=True, text="two")
        assert header_of(begin)["task_id"] == "t2"

    def test_a_new_task_aborts_the_old_one_without_a_word(self, talk):
        first = talk.begin()
        talk.say(text("one"))
        stop, check = talk.say(run_task("t2"))
        assert (stop.number, stop.reason.fields["code"]) == (first, "Replaced")
        assert check.number == first + 1
        assert talk.chunk(first, begin=True) == []
        assert talk.duplex.finished(first, talk.now) == []
        assert talk.duplex.failed(first, Internal()) == []

    def test_text_that_was_on_its_way_to_the_old_task_is_dropped(self, talk):
        talk.begin()
        talk.begin("t2")
        assert talk.say(text("late", "t1")) == []
        assert talk.say(finish("t1")) == []

    def test_a_finish_that_crossed_the_answer_is_dropped(self, talk):
        number = talk.begin()
        talk.say(text("one"))
        talk.say(finish())
        talk.chunk(number, begin=True)
        talk.duplex.finished(number, talk.now)
        assert talk.say(finish(directive="cancel")) == []


class TestCancel:
    def test_the_rest_is_dropped_and_what_began_is_counted(self, talk):
        number = talk.begin()
        talk.say(text("one. two. three."))
        talk.chunk(number, text="one.", begin=True)
        stop, finished = talk.say(finish(directive="cancel"))
        assert (stop.number, stop.reason.fields["code"]) == (number, "Canceled")
        assert header_of(finished)["event"] == "task-finished"
        assert finished.event["payload"]["usage"] == {"characters": 4}
        assert talk.chunk(number) == []

    def test_it_may_come_after_finish(self, talk):
        talk.begin()
        talk.say(text("one"))
        talk.say(finish())
        assert isinstance(talk.say(finish(directive="cancel"))[-1], Send)

    def test_before_the_task_has_started_it_is_answered_in_order(self, talk):
        (check,) = talk.say(run_task())
        assert talk.say(finish(directive="cancel")) == []
        started, stop, finished = talk.duplex.accepted(check.number, talk.now)
        assert [header_of(started)["event"], header_of(finished)["event"]] == ["task-started", "task-finished"]
        assert isinstance(stop, Stop)
        assert started.number == 0, "a stop must not swallow it"

    def test_another_directive_is_refused(self, talk):
        talk.begin()
        assert "directive" in failure_of(talk.say(finish(directive="pause")))[1]


class TestLimits:
    def test_20000_characters_at_once(self, talk):
        talk.begin()
        assert talk.say(text("字" * 10_000))
        code, message = failure_of(talk.say(text("字" * 10_000 + "a")))
        assert code == "InvalidParameter"
        assert "20001 characters; at most 20000" in message

    def test_200000_characters_in_all(self, talk):
        talk.begin()
        for _ in range(10):
            assert talk.say(text("a" * 20_000))
        assert "200001 characters; at most 200000" in failure_of(talk.say(text("a")))[1]

    def test_ssml_takes_one_text(self, talk):
        talk.begin(enable_ssml=True)
        assert talk.say(text("<speak>one</speak>"))
        error = failure_of(talk.say(text("<speak>two</speak>")))
        assert error == ("InvalidParameter", "Text request limit violated, expected 1.")

    def test_tags_are_not_counted(self, talk):
        number = talk.begin(enable_ssml=True)
        talk.say(text("<speak>你好</speak>"))
        talk.say(finish())
        talk.chunk(number, begin=True)
        (finished,) = talk.duplex.finished(number, talk.now)
        assert finished.event["payload"]["usage"] == {"characters": 4}


class TestErrors:
    @pytest.mark.parametrize("bad", ["", "{", "nothing", "[]", "7", "null", '{"header": 7}', "[" * 100_000])
    def test_what_is_no_message_closes_with_1007(self, talk, bad):
        (close,) = talk.say(bad)
        assert close.code == 1007
        assert len(close.reason.encode()) <= 123, "the longest reason that a close frame holds"
        assert talk.say(run_task()) == []

    @pytest.mark.parametrize("bad", ["\\ud800", "\\u0000"])
    def test_so_does_what_is_no_text(self, talk, bad):
        talk.begin()
        effects = talk.say(text("one").replace('"one"', f'"{bad}"'))
        assert [type(effect) for effect in effects] == [Stop, Close]
        assert effects[-1].code == 1007

    def test_a_backslash_in_the_text_is_a_backslash(self, talk):
        number = talk.begin()
        assert talk.say(text("\\u0000 \\ud800 😀")) == [Speak(number, "\\u0000 \\ud800 😀")]

    def test_binary_frames_close_with_1003(self, talk):
        talk.begin()
        assert talk.duplex.receive_binary()[-1].code == 1003

    @pytest.mark.parametrize("missing", ["model", "task_group", "task", "function"])
    def test_a_missing_key_is_named(self, talk, missing):
        message = json.loads(run_task())
        del message["payload"][missing]
        expected = f"Missing required parameter 'payload.{missing}'! Please follow the protocol!"
        assert failure_of(talk.say(json.dumps(message))) == ("InvalidParameter", expected)

    @pytest.mark.parametrize("missing", ["action", "task_id"])
    def test_so_is_one_of_the_header(self, talk, missing):
        message = json.loads(run_task())
        del message["header"][missing]
        assert f"'header.{missing}'" in failure_of(talk.say(json.dumps(message)))[1]

    @pytest.mark.parametrize(
        ("frame", "part"),
        [
            (json.dumps({"header": {"action": "run-task", "task_id": "t"}}), "'payload'"),
            (run_task().replace('"input": {}', '"input": null'), "task can not be null"),
            (run_task().replace('"input": {}', '"input": {"text": "hi"}'), "continue-task"),
            (run_task().replace('"audio"', '"video"'), "payload.task_group must be audio"),
            (run_task().replace('"tts"', '"asr"'), "payload.task must be tts"),
            (run_task(voice=None), "Request voice is invalid!"),
            (run_task(rate=3), "rate must be a number"),
            (run_task(format="flv"), "format must be one of"),
            (frame("pause-task"), "header.action must be one of"),
            (text("hi"), "No task t1 is running"),
            (finish(), "No task t1 is running"),
        ],
    )
    def test_what_is_wrong_is_said(self, talk, frame, part):
        code, message = failure_of(talk.say(frame))
        assert code == "InvalidParameter"
        assert part in message

    @pytest.mark.parametrize("given", [{}, {"text": None}, {"text": 7}, {"flush": False}])
    def test_a_continue_without_text(self, talk, given):
        talk.begin()
        assert failure_of(talk.say(frame("continue-task", input=given)))[1] == "task can not be null"

    @pytest.mark.parametrize("texts", [[], ["", " \n"]])
    def test_a_finish_without_text(self, talk, texts):
        talk.begin()
        for piece in texts:
            talk.say(text(piece))
        assert failure_of(talk.say(finish()))[1] == "Please ensure input text is valid."

    def test_text_that_says_nothing(self, talk):
        number = talk.begin()
        talk.say(text("..."))
        talk.say(finish())
        assert failure_of(talk.duplex.finished(number, talk.now))[1] == "Please ensure input text is valid."

    def test_text_after_the_end(self, talk):
        talk.begin()
        talk.say(text("one"))
        talk.say(finish())
        assert "came after finish-task" in failure_of(talk.say(text("two")))[1]

    def test_a_second_finish_is_harmless(self, talk):
        talk.begin()
        talk.say(text("one"))
        talk.say(finish())
        assert talk.say(finish()) == []

    def test_the_model_is_not_there(self, talk):
        (check,) = talk.say(run_task())
        assert failure_of(talk.duplex.failed(check.number, ModelNotFound())) == (
            "ModelNotFound",
            "Model can not be found.",
        )

    def test_a_task_that_failed_is_told_by_its_own_id(self, talk):
        talk.begin("t1")
        effects = talk.say(text("hi", "somebody"))
        assert header_of(effects[-2])["task_id"] == "t1"

    def test_what_official_clients_send_for_no_choice_is_the_default(self, talk):
        (check,) = talk.say(run_task(format="Default", sample_rate=0, type=0, seed=0, text_type="PlainText"))
        assert (check.request.format, check.request.sample_rate_hz) == ("mp3", 22050)


# ---- random conversations


class Witness:
    """Hears everything and checks the order; knows nothing of how it came about."""

    def __init__(self):
        self.state = {}  # task number -> checking, started, finished, failed, aborted
        self.ids = {}
        self.current = None
        self.stopped = None
        self.closed = False

    def hear(self, effects):
        for effect in effects:
            assert not self.closed, "nothing comes after closing"
            match effect:
                case Check():
                    assert self.current is None
                    assert effect.number not in self.state
                    self.current = effect.number
                    self.state[effect.number], self.ids[effect.number] = "checking", effect.task_id
                case Stop():
                    assert effect.number == self.current
                    self.state[effect.number] = "stopped"
                    self.stopped, self.current = effect.number, None
                case Speak() | EndText():
                    assert effect.number == self.current
                case Close():
                    self.closed = True
                case Send():
                    self._send(effect)

    def _send(self, effect):
        event, task_id = header_of(effect)["event"], header_of(effect)["task_id"]
        json.dumps(effect.event)
        if event == "task-started":
            assert self.state.get(self.current) == "checking"
            assert task_id == self.ids[self.current]
            self.state[self.current] = "started"
        elif event == "result-generated":
            assert self.state.get(self.current) == "started"
            assert task_id == self.ids[self.current]
            kind = effect.event["payload"]["output"]["type"]
            assert bool(effect.audio) == (kind == "sentence-synthesis")
        elif event == "task-finished":
            number = self.current if self.current is not None else self.stopped
            assert self.state[number] in ("started", "stopped"), "a task that finishes has started"
            assert task_id == self.ids[number]
            self.state[number], self.current = "finished", None
        else:
            assert event == "task-failed"
            if self.state.get(self.stopped) == "stopped":
                self.state[self.stopped] = "failed"


def _random_frame(rng):
    task_id = rng.choice(["a", "b", "c", "c"])
    roll = rng.random()
    if roll < 0.22:
        extras = rng.choice([{}, {}, {}, {"enable_ssml": True}, {"rate": 9}, {"voice": None}])
        return run_task(task_id, **extras)
    if roll < 0.55:
        value = rng.choice(["one", "你好。", "", " ", "<speak>hi</speak>", "a" * 9000, "字" * 10_001, None, 7])
        return text(value, task_id)
    if roll < 0.62:
        return frame("continue-task", task_id, input={"flush": rng.choice([True, True, False, 1])})
    if roll < 0.82:
        return finish(task_id, **rng.choice([{}, {}, {"directive": "cancel"}, {"directive": "x"}]))
    if roll < 0.97:
        return text(rng.choice(["two", "three."]), task_id)
    return rng.choice(
        ["", "{", "[]", "{}", '{"header": {}}', frame("x", task_id), frame("run-task", task_id), "\ud800"]
    )


def _random_step(rng, talk, number):
    """number: of a task, perhaps one that is long gone."""
    roll = rng.random()
    if roll < 0.5:
        return talk.say(_random_frame(rng))
    if roll < 0.62:
        return talk.duplex.accepted(number, talk.now)
    if roll < 0.8:
        begin, end = rng.random() < 0.5, rng.random() < 0.5
        return talk.chunk(number, rng.choice([b"x", b""]), rng.randrange(3), "one", begin, end)
    if roll < 0.88:
        return talk.duplex.finished(number, talk.now)
    if roll < 0.9:
        return talk.duplex.failed(number, rng.choice([Internal(), InvalidParameter("no")]))
    if roll < 0.98:
        talk.now += rng.choice([0.1, 1, 22, 24, 61, 400]) * rng.random()
        return talk.duplex.tick(talk.now)
    return talk.duplex.retire() if roll < 0.99 else talk.duplex.gone()


def _sensible_step(rng, talk, witness, number):
    """What a good client and a good engine might do next."""
    state, task_id = witness.state.get(witness.current), witness.ids.get(witness.current)
    if state is None:
        return talk.say(run_task(rng.choice(["a", "b", "c"])))
    if state == "checking":
        return talk.duplex.accepted(number, talk.now)
    steps = [
        lambda: talk.say(text("one. ", task_id)),
        lambda: talk.say(text("one. ", task_id)),
        lambda: talk.chunk(number, begin=True),
        lambda: talk.chunk(number, end=True),
        lambda: talk.say(finish(task_id)) + talk.chunk(number) + talk.duplex.finished(number, talk.now),
        lambda: talk.say(finish(task_id, directive="cancel")),
    ]
    return rng.choice(steps)()


def test_5000_random_conversations_never_raise_and_never_answer_out_of_order():
    rng = random.Random(1986)
    outcomes = Counter()
    for _ in range(5000):
        talk, witness, chaos = Talk(), Witness(), rng.choice([0.03, 0.2, 0.6, 1.0])
        for _ in range(rng.randrange(4, 40)):
            number = max(1, len(witness.state) - rng.choice([0, 0, 0, 1]))
            if rng.random() < chaos:
                witness.hear(_random_step(rng, talk, number))
            else:
                witness.hear(_sensible_step(rng, talk, witness, number))
        witness.hear(talk.duplex.gone())
        states = ["aborted" if state == "stopped" else state for state in witness.state.values()]
        assert set(states) <= {"finished", "failed", "aborted"}, "every task has ended"
        outcomes.update(states)
    assert min(outcomes[state] for state in ("finished", "failed", "aborted")) > 500, outcomes
