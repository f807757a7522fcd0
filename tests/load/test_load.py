"""The load script in its short form; for figures run `python -m cosyforge.load_test --idle 200 --speaking 20 --minutes 10`."""

import asyncio
import statistics

import pytest

from cosyforge import load_test
from fakes import TESTS


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COSYFORGE_ENGINE", "fakes:ToneEngine")
        patch.setenv("PYTHONPATH", str(TESTS))
        with load_test.own_server() as target:
            yield target


def test_ten_seconds_of_many_connections(target):
    figures = asyncio.run(load_test.run(target, num_idle=200, num_speaking=20, num_slow=4, duration_s=10))
    assert figures.errors == []
    assert figures.num_idle_open == 200
    assert figures.num_tasks >= 20, "every speaker has spoken"
    assert figures.slow_frames > 2
    assert len(figures.freed_ms) == len(figures.vanished_at_s) > 0, "every place became free"
    for samples in figures.memory_mib.values():
        assert max(samples) < samples[0] + 40, "the slow readers alone would make 60 MB wait, the vanished ones more"
    table = load_test.show(figures, 200, 20, 10)
    assert table.row_count == 11


def test_a_protocol_that_is_broken_is_an_error(target):
    """The script's own eyes: an event missing before a frame, or a failed task, must not pass for speech."""

    class Fake:
        def __init__(self, *messages):
            self.messages = list(messages)

        async def recv(self):
            return self.messages.pop(0)

    async def listen(*messages):
        return [sound async for sound in load_test.Speaker(target, Fake(*messages)).sounds()]

    event = '{"header": {"event": "result-generated"}, "payload": {"output": {"type": "sentence-synthesis"}}}'
    finished = '{"header": {"event": "task-finished"}}'
    failed = '{"header": {"event": "task-failed", "error_code": "InternalError", "error_message": "no"}}'
    assert asyncio.run(listen(event, b"a", finished)) == [b"a"]
    for messages in ([b"a", finished], [event, finished], [event, b"a", b"b"], [failed]):
        with pytest.raises(RuntimeError):
            asyncio.run(listen(*messages))


def test_the_spread_is_of_all_values():
    assert load_test._spread([3.0, 1.0, 2.0]) == f"{statistics.median([1, 2, 3]):.0f} / 2 / 3"
    assert load_test._spread([]) == "-"
