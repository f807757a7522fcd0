"""The reconciler against a backend that is a dict: one clock, no processes."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cosyforge.billing.ledger import deployment_usage_of
from cosyforge.deployments import queries
from cosyforge.deployments.backend import Phase, ReplicaState
from cosyforge.deployments.reconciler import Reconciler, ReconcilerConfig
from cosyforge.deployments.records import ALLOWED_FROM, DeploymentStatus
from cosyforge.deployments.service import DeploymentRequest, Deployments
from cosyforge.errors import Conflict, InvalidParameter, NotFound, UnsupportedOperation
from cosyforge.registry.models import register_model
from cosyforge.store.database import Database

T0 = datetime(2026, 5, 27, 10, 0, tzinfo=UTC)
W = "workspace"
MU5, MU2 = "dps-20260521172224-1vabse", "MU2"


class DictBackend:
    """Replicas by id; a test says when they become ready and when they end."""

    def __init__(self):
        self.replicas = {}
        self.num_started = 0

    def start(self, deployment, now):
        self.num_started += 1
        replica_id = f"r{self.num_started}"
        self.replicas[replica_id] = ReplicaState(replica_id, deployment.deployment_id, Phase.STARTING, now, pid=100)
        return replica_id

    def observe(self):
        return list(self.replicas.values())

    def stop(self, replica_id, *, now, reason=""):
        if reason:
            self.end(replica_id, reason)
        else:
            self._change(replica_id, phase=Phase.STOPPING, was_stopped=True)

    def forget(self, replica_id):
        del self.replicas[replica_id]

    def shut_down(self):
        self.replicas.clear()

    def make_ready(self):
        for replica in self.observe():
            if replica.phase is Phase.STARTING:
                self._change(replica.replica_id, phase=Phase.READY, was_ready=True)

    def end(self, replica_id, reason="was killed by signal 9 SIGKILL"):
        self._change(replica_id, phase=Phase.ENDED, reason=reason)

    def end_stopping(self):
        for replica in self.observe():
            if replica.phase is Phase.STOPPING:
                self._change(replica.replica_id, phase=Phase.ENDED)

    def in_phase(self, phase):
        return [replica.replica_id for replica in self.observe() if replica.phase is phase]

    def _change(self, replica_id, **changes):
        self.replicas[replica_id] = ReplicaState(**{**vars(self.replicas[replica_id]), **changes})


class World:
    def __init__(self, directory):
        self.database = Database(directory / "cosyforge.db")
        self.database.upgrade()
        self.backend = DictBackend()
        self.deployments = Deployments(self.database, "base", str(directory / "base"))
        self.now = T0
        self.reconciler = self.new_reconciler()
        with self.database.transaction() as connection:
            names = {"model_name": "m", "display_name": "m", "base_model": "base", "checkpoint": "c"}
            register_model(connection, **names, workspace_id=W, job_id="j", directory="models/j/c", now=T0)

    def new_reconciler(self):
        config = ReconcilerConfig(120, 0.5, max_start_failures=3, stable_s=60, alive_interval_s=5)
        return Reconciler(self.database, self.backend, config)

    def create(self, capacity=1, spec=MU5, **more):
        return self.deployments.create(DeploymentRequest("m", capacity, spec, **more), W, "1", self.now)

    def steps(self, seconds=0.0, *, count=3):
        """Let time pass, then look a few times."""
        self.now += timedelta(seconds=seconds)
        for _ in range(count):
            self.reconciler.step(self.now)

    def run(self, capacity=1, spec=MU5):
        self.create(capacity, spec)
        self.steps()
        self.backend.make_ready()
        self.steps()
        assert self.get().status == "RUNNING"

    def get(self):
        return self.deployments.get(W, "m")

    def scale(self, capacity):
        return self.deployments.scale(W, "m", capacity, self.now)

    def delete(self):
        return self.deployments.delete(W, "m", self.now)

    def unit_seconds(self):
        with self.database.read() as connection:
            usages = deployment_usage_of(connection, W, self.now)
        return sum((usage.unit_seconds for usage in usages), Decimal(0))

    def events(self):
        return [message for _, message in self.deployments.events(W, "m")]


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.database.close()


class TestWhatMayBeAsked:
    def test_the_first_deployment_is_named_like_its_model(self, world):
        deployment = world.create()
        assert (deployment.deployed_model, deployment.status, deployment.base_capacity) == ("m", "PENDING", 1)

    def test_a_second_one_needs_a_suffix(self, world):
        world.create()
        with pytest.raises(Conflict, match="Deployed model m already exists, please specify a suffix"):
            world.create()
        assert world.create(suffix="b").deployed_model == "m-b"

    @pytest.mark.parametrize("suffix", ["too-long-a-suffix", "a b", "a/b", "-"])
    def test_a_suffix_is_at_most_eight_letters_and_digits(self, world, suffix):
        with pytest.raises(InvalidParameter, match="suffix"):
            world.create(suffix=suffix)

    @pytest.mark.parametrize(
        ("spec", "model_unit_spec", "base_capacity"),
        [(MU5, "MU5", 1), ("MU5", "MU5", 1), ("MU2", "MU2", 8), (None, "MU5", 1)],
    )
    def test_templates_have_several_spellings(self, world, spec, model_unit_spec, base_capacity):
        deployment = world.create(8, spec)
        assert (deployment.model_unit_spec, deployment.base_capacity) == (model_unit_spec, base_capacity)

    def test_an_unknown_template_is_refused_with_the_known_ones(self, world):
        with pytest.raises(InvalidParameter, match=r"MU9.*dps-20260521172224-1vabse, MU2"):
            world.create(1, "MU9")

    @pytest.mark.parametrize(("spec", "capacity"), [(MU2, 1), (MU2, 12), (MU5, 0), (MU5, -1), (MU5, 1000), (MU2, 0)])
    def test_capacity_must_make_whole_replicas(self, world, spec, capacity):
        with pytest.raises(InvalidParameter, match=r"Invalid capacity .* less than 1000!"):
            world.create(capacity, spec)

    @pytest.mark.parametrize(("field", "value"), [("plan", "ptu"), ("billing_method", "PRE_PAY")])
    def test_plan_and_billing_have_one_value(self, world, field, value):
        with pytest.raises(InvalidParameter, match=field):
            world.create(**{field: value})

    def test_only_what_was_exported_can_be_deployed(self, world):
        with pytest.raises(InvalidParameter, match="The model x does not exist or is not deployable"):
            world.deployments.create(DeploymentRequest("x", 1), W, "1", T0)

    def test_another_workspace_sees_nothing(self, world):
        with pytest.raises(InvalidParameter, match="not deployable"):
            world.deployments.create(DeploymentRequest("m", 1), "other", "1", T0)
        world.create()
        for action in (
            lambda: world.deployments.get("other", "m"),
            lambda: world.deployments.delete("other", "m", T0),
            lambda: world.deployments.scale("other", "m", 2, T0),
        ):
            with pytest.raises(NotFound):
                action()
        assert world.deployments.page("other", 1, 10) == (0, [])


class TestReplicas:
    def test_from_pending_over_deploying_to_running(self, world):
        assert world.create().status == "PENDING"
        world.steps(count=1)
        assert world.get().status == "DEPLOYING"
        world.steps()
        assert world.get().status == "DEPLOYING"
        world.backend.make_ready()
        world.steps()
        assert (world.get().status, world.get().ready_capacity) == ("RUNNING", 1)

    @pytest.mark.parametrize(("capacity", "spec", "num_replicas"), [(4, MU5, 4), (8, MU2, 1), (16, MU2, 2)])
    def test_the_documents_examples_of_capacity(self, world, capacity, spec, num_replicas):
        world.run(capacity, spec)
        assert len(world.backend.replicas) == num_replicas
        assert world.get().ready_capacity == capacity

    def test_scaling_up_keeps_the_old_replicas_serving(self, world):
        world.run()
        assert world.scale(2).status == "UPDATING"
        world.steps()
        assert len(world.backend.in_phase(Phase.READY)) == 1
        assert world.get().ready_capacity == 1
        world.backend.make_ready()
        world.steps()
        assert (world.get().status, world.get().ready_capacity) == ("RUNNING", 2)

    def test_scaling_down_lets_a_replica_finish(self, world):
        world.run(3)
        world.scale(1)
        world.steps()
        assert (len(world.backend.in_phase(Phase.READY)), len(world.backend.in_phase(Phase.STOPPING))) == (1, 2)
        world.backend.end_stopping()
        world.steps()
        assert world.get().status == "RUNNING"
        assert world.backend.num_started == 3, "the ones that were asked to go are not replaced"

    def test_scaled_to_nothing_it_stops_and_scaled_up_it_comes_back(self, world):
        world.run()
        world.scale(0)
        world.steps()
        world.backend.end_stopping()
        world.steps()
        assert world.get().status == "STOPPED"
        assert world.scale(1).status == "UPDATING"
        world.steps()
        world.backend.make_ready()
        world.steps()
        assert world.get().status == "RUNNING"

    def test_a_dead_replica_is_replaced_and_the_reason_kept(self, world):
        world.run()
        world.backend.end("r1")
        world.steps()
        assert (world.get().status, world.get().ready_capacity) == ("UPDATING", 0)
        assert "signal 9" in world.get().message
        world.steps(1)
        world.backend.make_ready()
        world.steps()
        assert (world.get().status, world.get().message) == ("RUNNING", None)
        assert any("Replica r1 (pid 100) was killed by signal 9 SIGKILL" in event for event in world.events())

    def test_a_replica_that_keeps_dying_is_started_ever_more_slowly(self, world):
        world.run()
        starts_per_minute = []
        for _ in range(3):
            before = world.backend.num_started
            for _ in range(600):
                world.backend.make_ready()
                for replica_id in world.backend.in_phase(Phase.READY):
                    world.backend.end(replica_id)
                world.steps(0.1, count=1)
            starts_per_minute.append(world.backend.num_started - before)
        assert starts_per_minute[0] <= 10
        assert starts_per_minute[2] <= 3
        assert world.get().status == "UPDATING", "it did work before, so there is hope"

    def test_a_model_that_cannot_load_ends_as_failed_with_the_reason(self, world):
        world.create()
        for _ in range(3):
            world.steps()
            world.steps(10)
            world.backend.end(world.backend.in_phase(Phase.STARTING)[0], "could not load the model: no weights")
        world.steps()
        assert world.get().status == "FAILED"
        assert "3 attempts" in world.get().message
        assert "no weights" in world.get().message
        world.steps(100)
        assert world.backend.num_started == 3

    def test_scaling_a_failed_deployment_tries_again(self, world):
        self.test_a_model_that_cannot_load_ends_as_failed_with_the_reason(world)
        world.scale(1)
        world.steps()
        world.backend.make_ready()
        world.steps()
        assert world.get().status == "RUNNING"

    def test_a_replica_that_never_gets_ready_is_killed(self, world):
        world.create()
        world.steps()
        world.steps(121)
        world.steps()
        assert any("was not ready after 120 s" in event for event in world.events())

    def test_a_deleted_deployment_goes_when_its_replicas_have_gone(self, world):
        world.run()
        assert world.delete().status == "DELETING"
        world.steps()
        assert world.get().status == "DELETING"
        with pytest.raises(UnsupportedOperation, match="DELETING"):
            world.scale(2)
        world.backend.end_stopping()
        world.steps()
        with pytest.raises(NotFound):
            world.get()
        world.steps()
        assert world.backend.replicas == {}

    def test_deployments_come_back_after_a_restart(self, world):
        world.run(2)
        world.backend.shut_down()  # the replicas died with their server
        world.reconciler = world.new_reconciler()
        world.reconciler.recover(world.now)
        assert (world.get().status, world.get().ready_capacity) == ("UPDATING", 0)
        world.steps()
        world.backend.make_ready()
        world.steps()
        assert (world.get().status, world.get().ready_capacity) == ("RUNNING", 2)


class TestBill:
    def test_it_starts_with_running_and_ends_with_deletion(self, world):
        world.create()
        world.steps(60)  # loading costs nothing
        world.backend.make_ready()
        world.steps()
        world.now += timedelta(hours=3)
        world.delete()
        world.steps(1000)
        assert world.unit_seconds() == 3 * 3600

    def test_it_follows_every_scale_at_once(self, world):
        world.run(1)
        world.now += timedelta(seconds=100)
        world.scale(4)
        world.now += timedelta(seconds=50)
        world.scale(2)
        world.now += timedelta(seconds=10)
        assert world.unit_seconds() == 100 * 1 + 50 * 4 + 10 * 2

    def test_a_deployment_that_failed_costs_nothing(self, world):
        TestReplicas().test_a_model_that_cannot_load_ends_as_failed_with_the_reason(world)
        assert world.unit_seconds() == 0

    def test_a_dead_replica_does_not_stop_it(self, world):
        world.run()
        world.backend.end("r1")
        world.steps(10)
        assert world.get().status == "UPDATING"
        assert world.unit_seconds() == 10

    def test_the_time_without_a_server_is_not_billed(self, world):
        world.run()
        world.steps(100)
        world.now += timedelta(hours=10)  # killed: nobody says when
        world.reconciler = world.new_reconciler()
        world.reconciler.recover(world.now)
        assert world.unit_seconds() == 100

    def test_a_server_that_stops_stops_it(self, world):
        world.run()
        world.now += timedelta(seconds=30)
        world.reconciler.shut_down(world.now)
        world.now += timedelta(hours=1)
        assert world.unit_seconds() == 30

    def test_the_base_model_is_never_billed(self, world):
        world.deployments.ensure_base_model(T0)
        world.steps()
        world.backend.make_ready()
        world.steps()
        with world.database.read() as connection:
            assert queries.find_deployment(connection, "base").status == "RUNNING"
            assert deployment_usage_of(connection, "", world.now) == []


def test_no_status_may_jump(world):
    deployment = world.create()
    for source in DeploymentStatus:
        for target in ALLOWED_FROM:
            with world.database.transaction() as connection:
                connection.exec_driver_sql("UPDATE deployments SET status = ?", (str(source),))
                if source in ALLOWED_FROM[target]:
                    queries.transition(connection, deployment, target, T0)
                    assert queries.find_deployment(connection, "m").status is target
                else:
                    with pytest.raises(UnsupportedOperation):
                        queries.transition(connection, deployment, target, T0)
