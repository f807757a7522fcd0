"""The router over a backend without processes: who may come in, where to, and who is turned away."""

from dataclasses import replace

import pytest
from deployment_world import W, World

from cosyforge.deployments.backend import Phase
from cosyforge.deployments.router import Router, RouterConfig
from cosyforge.errors import NotReady, Throttled
from cosyforge.synthesis.request import SynthesisRequest

PCM = SynthesisRequest(format="pcm")


class EchoClient:
    """A replica that says its name; it reads the text when it is asked for audio."""

    def __init__(self, replica_id):
        self.replica_id = replica_id

    def synthesize(self, request, text):
        return EchoStream(self.replica_id, text)


class EchoStream:
    def __init__(self, replica_id, text):
        self.replica_id = replica_id
        self._text = iter(text)
        self.is_closed = False

    def __next__(self):
        return self.replica_id, next(self._text)

    def close(self):
        self.is_closed = True


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.backend.ready = lambda deployment_id: world.backend.in_phase(Phase.READY)
    world.backend.connect = EchoClient
    config = RouterConfig("base", True, max_requests_per_replica=2, replica_wait_s=0.05, start_timeout_s=1)
    world.router = Router(world.database, world.backend, world.deployments, config)
    world.open = lambda text=("hello",): world.router.open(world.router.find("m", W), PCM, text)
    yield world
    world.database.close()


def busy(world):
    return {state.replica_id: number for state, number in world.router.replicas(world.get())}


def test_the_least_busy_replica_speaks_and_closing_frees_its_place_at_once(world):
    world.run(2)
    streams = [world.open() for _ in range(4)]
    assert busy(world) == {"r1": 2, "r2": 2}
    with pytest.raises(Throttled):
        world.open()
    streams[0].close()
    streams[0].close()
    assert sorted(busy(world).values()) == [1, 2]
    world.open()


def test_a_stream_that_ends_frees_its_place(world):
    world.run()
    assert next(stream := world.open()) == ("r1", "hello")
    assert busy(world) == {"r1": 1}
    assert list(stream) == []
    assert busy(world) == {"r1": 0}


def test_a_replica_that_is_being_drained_gets_nothing_new(world):
    world.run(2)
    kept = {world.open(), world.open()}
    world.scale(1)
    world.steps()
    (left,) = world.backend.in_phase(Phase.READY)
    for stream in kept:
        stream.close()
    assert {next(world.open())[0] for _ in range(2)} == {left}


@pytest.mark.parametrize("wish", ["stop", "delete"])
def test_a_deployment_that_shall_not_run_speaks_no_more_before_anybody_has_stopped_it(world, wish):
    world.run()
    getattr(world.deployments, wish)(W, "m", world.now)
    with pytest.raises(NotReady, match=r"m is (UPDATING|DELETING)"):
        world.open()


def test_requests_per_minute_are_kept_for_every_way_in(world):
    world.run()
    world.deployments.set_limits(W, "m", 2, None, world.now)
    for text in (["http"], iter(["web", "socket"])):
        world.open(text).close()
    with pytest.raises(Throttled, match="m takes 2 requests per minute") as caught:
        world.open()
    assert 0 < caught.value.fields["retry_after_s"] <= 60
    assert busy(world) == {"r1": 0}, "a refused request holds no place"


def test_characters_per_minute_are_kept_also_for_text_that_comes_in_pieces(world):
    world.run()
    world.deployments.set_limits(W, "m", None, 10, world.now)
    assert [piece for _, piece in world.open(iter(["你好", "hello", "again"]))] == ["你好", "hello", "again"]
    with pytest.raises(Throttled, match="10 characters per minute"):
        world.open()


def test_the_limit_of_whole_texts_is_checked_before_they_are_spoken(world):
    world.run()
    world.deployments.set_limits(W, "m", None, 10, world.now)
    world.open(["12345678"]).close()
    with pytest.raises(Throttled):
        world.open(["123"])
    world.open(["12"]).close()


def test_ssml_tags_are_not_counted(world):
    world.run()
    world.deployments.set_limits(W, "m", None, 10, world.now)
    deployment, request = world.router.find("m", W), replace(PCM, enable_ssml=True)
    world.router.open(deployment, request, ["<speak>12345</speak>"]).close()
    world.router.open(deployment, request, ["<speak>12345</speak>"]).close()
    with pytest.raises(Throttled):
        world.router.open(deployment, request, ["<speak>1</speak>"])
