"""The file through which a worker speaks: whole lines, each once, whatever happens between two workers."""

import json

import pytest

from cosyforge.jobs.event_file import EventFile, place_of, read_records
from cosyforge.training.events import TrainingEvent


def progress(stage, epoch=0, step=0, part=None, **metrics):
    return TrainingEvent("progress", stage, "", epoch, 4, step, part, metrics)


def log(message, stage="lm"):
    return TrainingEvent("log", stage, message)


RUN = [
    progress("data", part=0.015),
    log("a warning", "data"),
    log("a warning", "data"),
    progress("data", part=0.03, audio_s=8.5),
    progress("features", step=3, part=0.1),
    progress("lm", 1, 1, 0.2),
    progress("lm", 1, 2, 0.25),
    progress("lm", 1, 0, 0.25),
    log("lm epoch 1/4"),
    TrainingEvent("state", "lm", "", 2, 4, 0),
    progress("lm", 2, 1, 0.3),
    progress("lm", 2, 0, 0.4),
    log("lm epoch 2/4"),
    TrainingEvent("state", "lm", "", 3, 4, 0),
    progress("flow", 1, 0, 0.9),
    TrainingEvent("checkpoint", "combine", "checkpoint-00020001"),
    progress("combine", part=1.0),
]


def told(path):
    """Events of all workers in their order, without times."""
    return [record["event"] for record in read_records(path, 0)[0] if record["type"] == "event"]


@pytest.mark.parametrize("end", range(len(RUN) + 1))
@pytest.mark.parametrize("begin", [0, 4, 10])
def test_a_worker_that_repeats_what_was_said_is_not_heard_twice(tmp_path, begin, end):
    """The first dies after `end` events; the second repeats the data stage, and from `begin` what lies behind a state."""
    path = tmp_path / "events"
    first = EventFile(path)
    for event in RUN[:end]:
        first.forward(event)
    second = EventFile(path)
    repeated = RUN[:5] + RUN[max(begin, 5) :] if begin <= end else RUN
    for event in repeated:
        second.forward(event)
    assert told(path) == [event.to_json() for event in RUN]


def test_the_third_worker_knows_what_the_first_and_the_second_said(tmp_path):
    for end in (3, 9, len(RUN)):
        events = EventFile(tmp_path / "events")
        for event in RUN[:end]:
            events.forward(event)
    assert told(tmp_path / "events") == [event.to_json() for event in RUN]


def test_where_a_run_goes_on_is_said_every_time(tmp_path):
    for _ in range(2):
        EventFile(tmp_path / "events").forward(TrainingEvent("resume", "lm", "Going on"))
    assert len(told(tmp_path / "events")) == 2


@pytest.mark.parametrize("half", ['{"type": "log", "at": "2026', '{"type": "log"}\n', "\0\0\0\0\n", "[1]\n", "\n"])
def test_a_broken_end_is_cut_off_before_more_is_written(tmp_path, half):
    path = tmp_path / "events"
    EventFile(path).log("whole")
    size = path.stat().st_size
    with open(path, "a") as file:
        file.write(half)
    records, offset = read_records(path, 0)
    assert ([record["message"] for record in records], offset) == (["whole"], size)
    EventFile(path).log("after")
    records, offset = read_records(path, offset)
    assert [record["message"] for record in records] == ["after"]
    assert offset == path.stat().st_size


def test_reading_goes_on_at_an_offset_and_waits_for_the_end_of_a_line(tmp_path):
    path = tmp_path / "events"
    assert read_records(path, 0) == ([], 0)
    line = json.dumps({"type": "log", "at": "t", "message": "é"}, ensure_ascii=False) + "\n"
    path.write_text(line + line[:9])
    records, offset = read_records(path, 0)
    assert len(records) == 1
    assert read_records(path, offset) == ([], offset)
    path.write_text(line + line)
    assert len(read_records(path, offset)[0]) == 1


def test_halves_of_characters_in_a_transcript_do_not_end_the_run(tmp_path):
    EventFile(tmp_path / "events").forward(log("bad \ud800 text", "data"))
    assert told(tmp_path / "events")[0]["message"] == "bad \ud800 text"


@pytest.mark.parametrize(
    ("event", "place"),
    [
        (progress("data", part=0.03), "data"),
        (progress("features", step=26), "features 26"),
        (progress("lm", 3, 17), "lm epoch 3, step 17"),
        (progress("lm", 3), "lm end of epoch 3"),
        (TrainingEvent("state", "flow", "", 3, 4, 0), "flow epoch 3, step 0"),
    ],
)
def test_places_are_told_in_words(event, place):
    assert place_of(event.to_json()) == place
