"""Bills over random histories, against what the events say and against a stopwatch held beside the world."""

from datetime import timedelta
from decimal import Decimal

import pytest
from deployment_world import World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from cosyforge.deployments import metering
from cosyforge.deployments.backend import Phase
from cosyforge.store.tables import deployments

ALIVE_S = 5
OPERATIONS = st.one_of(
    st.tuples(st.just("wait"), st.integers(1, 9)),
    st.tuples(st.just("run"), st.integers(2, 9)),
    st.tuples(st.just("run"), st.integers(2, 9)),
    st.tuples(st.just("run"), st.integers(2, 9)),
    st.tuples(st.just("scale"), st.integers(0, 4)),
    st.tuples(st.just("stop"), st.just(0)),
    st.tuples(st.just("start"), st.just(0)),
    st.tuples(st.just("die"), st.just(0)),
    st.tuples(st.just("cannot load"), st.just(0)),
    st.tuples(st.just("lose the server"), st.integers(0, 5000)),
    st.tuples(st.just("restart the server"), st.integers(0, 5000)),
)


class Stopwatch:
    """Model units times seconds in which the deployment was there for its owner, seen from outside."""

    def __init__(self, world):
        self.world = world
        self.unit_seconds = 0
        self.num_lost = 0
        self.is_on = False

    def go(self, seconds):
        """Time passes, a second at a time."""
        for _ in range(seconds):
            self.look()
            self.world.now += timedelta(seconds=1)
            self.unit_seconds += self.world.get().capacity if self.is_on else 0
            self.world.reconciler.step(self.world.now)
        self.look()

    def look(self):
        deployment = self.world.get()
        if deployment.state == "RUNNING":
            self.is_on = True
        if deployment.state in ("STOPPED", "FAILED") or deployment.wanted != "running" or not deployment.capacity:
            self.is_on = False


def play(world, history):
    world.create(2)
    watch = Stopwatch(world)
    for name, number in history:
        watch.look()
        if name == "wait":
            watch.go(number)
        elif name == "run":
            watch.go(1)  # replicas that are missing are started
            world.backend.make_ready()
            watch.go(number)
        elif name == "scale":
            world.scale(number)
        elif name == "stop":
            world.deployments.stop("workspace", "m", world.now)
        elif name == "start" and world.get().capacity:
            world.deployments.start("workspace", "m", world.now)
        elif name in ("die", "cannot load"):
            end_replicas(world, Phase.READY if name == "die" else Phase.STARTING)
            watch.go(3)
        elif name == "lose the server":
            watch.num_lost += watch.is_on
            watch.is_on = False
            world.now += timedelta(seconds=number)
            world.restart_server()
        elif name == "restart the server":
            watch.is_on = False
            world.reconciler.shut_down(world.now)
            world.now += timedelta(seconds=number)
            world.restart_server()
        world.backend.end_stopping()
    watch.look()
    return watch


def end_replicas(world, phase):
    for replica_id in world.backend.in_phase(phase):
        world.backend.end(replica_id)


def recomputed(events):
    """The bill from nothing but the times in the list of events."""
    total, capacity, is_running, since = Decimal(0), 0, False, None
    for event in events:
        if since is not None and is_running:
            total += capacity * Decimal((event.at - since) // timedelta(microseconds=1)) / 1_000_000
        since = event.at
        capacity = capacity if event.capacity is None else event.capacity
        if event.status == "RUNNING":
            is_running = True
        ends = event.status in ("STOPPED", "FAILED", "DELETING") or event.message in (metering.LOST, metering.STOPPED)
        if ends or capacity == 0 or event.message == "Stopped on request.":
            is_running = False
    return total


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory):
    """One database for all histories, which would otherwise be half of the time."""
    world = World(tmp_path_factory.mktemp("metering"))
    yield world
    world.database.close()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(OPERATIONS, min_size=8, max_size=25))
def test_every_second_in_which_it_ran_is_billed_once(shared_world, history):
    world, before = shared_world, shared_world.unit_seconds()
    try:
        watch = play(world, history)
        world.delete()
        events, billed = world.all_events(), world.unit_seconds() - before
        assert billed == recomputed(events)
        # a lost server gives away what came after its last heartbeat, of at most 4 units, and nothing else differs
        assert 0 <= watch.unit_seconds - billed <= watch.num_lost * 4 * (ALIVE_S + 1)
        world.now += timedelta(days=1)
        assert world.unit_seconds() - before == billed, "a deleted deployment costs nothing any more"
    finally:
        make_room(world)


def make_room(world):
    """The name is free for the next history, whatever became of this one."""
    with world.database.transaction() as connection:
        connection.execute(delete(deployments))
    world.backend.shut_down()
    world.reconciler = world.new_reconciler()


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.database.close()


def test_the_stopwatch_runs(world):
    watch = play(world, [("wait", 3), ("run", 8), ("scale", 3), ("wait", 4)])
    # RUNNING is seen by the first of the 8 steps: 7 seconds of 2 units, then 4 seconds of 3
    assert watch.unit_seconds == world.unit_seconds() == 7 * 2 + 4 * 3


def test_a_clock_that_is_set_back_bills_no_second_twice(world):
    world.run()
    world.steps(100)
    world.now -= timedelta(seconds=60)
    world.steps()
    world.delete()
    world.now += timedelta(hours=1)
    assert world.unit_seconds() == 100


def test_a_stopped_deployment_is_free_from_that_moment_and_billed_again_from_running(world):
    world.run(2)
    world.now += timedelta(seconds=30)
    assert world.deployments.stop("workspace", "m", world.now).state == "UPDATING"
    world.steps(1000)
    world.backend.end_stopping()
    world.steps(1000)
    assert world.get().state == "STOPPED"
    assert world.deployments.start("workspace", "m", world.now).state == "UPDATING"
    world.steps(1000)
    world.backend.make_ready()
    world.steps()
    world.now += timedelta(seconds=7)
    assert world.unit_seconds() == 2 * 30 + 2 * 7


def test_a_lost_server_leaves_its_mark_at_the_last_heartbeat(world):
    world.run()
    for _ in range(13):
        world.steps(1)
    world.now += timedelta(hours=2)
    world.restart_server()
    # heartbeats at the start and every 5 s
    assert world.unit_seconds() == 10
    (lost,) = [event for event in world.all_events() if event.message == metering.LOST]
    assert (world.now - lost.at) == timedelta(hours=2, seconds=3)
