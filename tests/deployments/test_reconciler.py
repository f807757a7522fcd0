"""The reconciler against a backend that is a dict: one clock, no processes."""

from dataclasses import replace
from datetime import timedelta

import pytest
from deployment_world import MU2, MU5, T0, W, World
from sqlalchemy import update

from cosyforge.billing.ledger import deployment_usage_of
from cosyforge.deployments import queries
from cosyforge.deployments.backend import Phase
from cosyforge.deployments.records import ALLOWED_FROM, DeploymentStatus
from cosyforge.deployments.service import DeploymentRequest
from cosyforge.errors import Conflict, InvalidParameter, NotFound, UnsupportedOperation
from cosyforge.registry.models import register_model
from cosyforge.store.tables import deployments


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.database.close()


class TestWhatMayBeAsked:
    def test_the_first_deployment_is_named_like_its_model(self, world):
        deployment = world.create()
        assert (deployment.deployed_model, deployment.state, deployment.base_capacity) == ("m", "PENDING", 1)

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
        assert world.create().state == "PENDING"
        world.steps(count=1)
        assert world.get().state == "DEPLOYING"
        world.steps()
        assert world.get().state == "DEPLOYING"
        world.backend.make_ready()
        world.steps()
        assert (world.get().state, world.get().ready_capacity) == ("RUNNING", 1)

    @pytest.mark.parametrize(("capacity", "spec", "num_replicas"), [(4, MU5, 4), (8, MU2, 1), (16, MU2, 2)])
    def test_the_documents_examples_of_capacity(self, world, capacity, spec, num_replicas):
        world.run(capacity, spec)
        assert len(world.backend.replicas) == num_replicas
        assert world.get().ready_capacity == capacity

    def test_scaling_up_keeps_the_old_replicas_serving(self, world):
        world.run()
        assert world.scale(2).state == "UPDATING"
        world.steps()
        assert len(world.backend.in_phase(Phase.READY)) == 1
        assert world.get().ready_capacity == 1
        world.backend.make_ready()
        world.steps()
        assert (world.get().state, world.get().ready_capacity) == ("RUNNING", 2)

    def test_scaling_down_lets_a_replica_finish(self, world):
        world.run(3)
        world.scale(1)
        world.steps()
        assert (len(world.backend.in_phase(Phase.READY)), len(world.backend.in_phase(Phase.STOPPING))) == (1, 2)
        world.backend.end_stopping()
        world.steps()
        assert world.get().state == "RUNNING"
        assert world.backend.num_started == 3, "the ones that were asked to go are not replaced"

    def test_scaled_to_nothing_it_stops_and_scaled_up_it_comes_back(self, world):
        world.run()
        world.scale(0)
        world.steps()
        world.backend.end_stopping()
        world.steps()
        assert world.get().state == "STOPPED"
        assert world.scale(1).state == "UPDATING"
        world.steps()
        world.backend.make_ready()
        world.steps()
        assert world.get().state == "RUNNING"

    def test_a_dead_replica_is_replaced_and_the_reason_kept(self, world):
        world.run()
        world.backend.end("r1")
        world.steps()
        assert (world.get().state, world.get().ready_capacity) == ("UPDATING", 0)
        assert "signal 9" in world.get().message
        world.steps(1)
        world.backend.make_ready()
        world.steps()
        assert (world.get().state, world.get().message) == ("RUNNING", None)
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
        assert world.get().state == "UPDATING", "it did work before, so there is hope"

    def test_a_model_that_cannot_load_ends_as_failed_with_the_reason(self, world):
        world.create()
        for _ in range(3):
            world.steps()
            world.steps(10)
            world.backend.end(world.backend.in_phase(Phase.STARTING)[0], "could not load the model: no weights")
        world.steps()
        assert world.get().state == "FAILED"
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
        assert world.get().state == "RUNNING"

    def test_a_replica_that_never_gets_ready_is_killed(self, world):
        world.create()
        world.steps()
        world.steps(121)
        world.steps()
        assert any("was not ready after 120 s" in event for event in world.events())

    def test_a_deleted_deployment_goes_when_its_replicas_have_gone(self, world):
        world.run()
        assert world.delete().state == "DELETING"
        world.steps()
        assert world.get().state == "DELETING"
        with pytest.raises(UnsupportedOperation, match="DELETING"):
            world.scale(2)
        world.steps()
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
        assert (world.get().state, world.get().ready_capacity) == ("UPDATING", 0)
        world.steps()
        world.backend.make_ready()
        world.steps()
        assert (world.get().state, world.get().ready_capacity) == ("RUNNING", 2)


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
        assert world.get().state == "UPDATING"
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
            assert queries.find_deployment(connection, "base").state == "RUNNING"
            assert deployment_usage_of(connection, "", world.now) == []


WANTED = {"wanted", "capacity", "generation", "rpm_limit", "tpm_limit"}
BILL = {"billed_units", "alive_at"}
SEEN = {"status", "seen_generation", "ready_capacity", "message"}


class TestWishes:
    """What is wanted and what is seen are different columns with different authors."""

    def _row(self, world):
        return vars(world.get())

    def test_users_write_the_one_and_the_reconciler_the_other(self, world):
        world.run()
        wishes = [
            lambda: world.scale(3),
            lambda: world.deployments.stop(W, "m", world.now),
            lambda: world.deployments.start(W, "m", world.now),
            lambda: world.deployments.set_limits(W, "m", 5, 6, world.now),
            lambda: world.delete(),
        ]
        for wish in wishes:
            before = self._row(world)
            wish()
            asked = self._row(world)
            assert self._changed(before, asked) <= WANTED | BILL
            world.steps(count=2)
            assert self._changed(asked, self._row(world)) <= SEEN | BILL
            world.backend.make_ready()
            world.steps(1)

    def _changed(self, before, after):
        return {name for name in before if before[name] != after[name]} - {"modified_at"}

    def test_an_answer_shows_the_wish_before_anybody_has_taken_it_up(self, world):
        world.run()
        deployment = world.scale(2)
        assert (deployment.status, deployment.state, deployment.has_news) == ("RUNNING", "UPDATING", True)
        world.steps()
        assert (world.get().status, world.get().has_news) == ("UPDATING", False)

    def test_a_wish_that_changes_nothing_is_none(self, world):
        world.run()
        assert world.scale(1).state == "RUNNING"
        assert world.deployments.start(W, "m", world.now).state == "RUNNING"
        assert world.get().generation == 1

    def test_scaled_away_and_back_before_anybody_looked_it_is_billed_on(self, world):
        world.run(2)
        world.scale(0)
        world.scale(2)
        world.steps()
        assert (world.get().state, world.get().billed_units) == ("RUNNING", 2)

    def test_stopped_it_keeps_its_capacity_and_its_streams_end(self, world):
        world.run(2)
        assert world.deployments.stop(W, "m", world.now).state == "UPDATING"
        world.steps()
        assert len(world.backend.in_phase(Phase.STOPPING)) == 2
        assert world.get().state == "UPDATING"
        world.backend.end_stopping()
        world.steps()
        assert (world.get().state, world.get().capacity, world.get().ready_capacity) == ("STOPPED", 2, 0)
        world.steps(1000)
        assert world.backend.replicas == {}
        assert world.deployments.start(W, "m", world.now).state == "UPDATING"
        world.steps()
        world.backend.make_ready()
        world.steps()
        assert (world.get().state, world.get().ready_capacity) == ("RUNNING", 2)

    def test_what_was_scaled_to_nothing_cannot_be_started_without_a_number(self, world):
        world.run()
        world.scale(0)
        with pytest.raises(UnsupportedOperation, match="scale it"):
            world.deployments.start(W, "m", world.now)

    @pytest.mark.parametrize("state", ["PENDING", "DEPLOYING", "RUNNING", "UPDATING", "STOPPED", "FAILED"])
    def test_it_can_be_deleted_in_every_state(self, world, state):
        world.create()
        reach(world, state)
        assert world.get().state == state
        assert world.delete().state == "DELETING"
        with pytest.raises(NotFound):
            world.delete()
        world.steps()
        world.backend.end_stopping()
        world.steps()
        with pytest.raises(NotFound):
            world.get()
        assert world.create().state == "PENDING", "the name is free again"

    @pytest.mark.parametrize("again", ["scale", "update", "start"])
    def test_a_failed_deployment_is_tried_again(self, world, again):
        world.create()
        reach(world, "FAILED")
        if again == "scale":
            world.scale(1)
        elif again == "update":
            world.deployments.set_limits(W, "m", 100, None, world.now)
        else:
            world.deployments.start(W, "m", world.now)
        assert world.get().state == "UPDATING"
        world.steps()
        world.backend.make_ready()
        world.steps()
        assert (world.get().state, world.get().message) == ("RUNNING", None)

    def test_nothing_can_be_wished_of_a_deployment_that_goes(self, world):
        world.run()
        world.delete()
        for wish in (world.deployments.stop, world.deployments.start):
            with pytest.raises(UnsupportedOperation, match="DELETING"):
                wish(W, "m", world.now)
        with pytest.raises(UnsupportedOperation, match="DELETING"):
            world.deployments.set_limits(W, "m", 1, None, world.now)


class TestNames:
    def test_the_base_model_can_be_deployed_beside_the_built_in_one(self, world):
        with pytest.raises(Conflict, match="specify a suffix"):
            world.deployments.create(DeploymentRequest("base", 1), W, "1", T0)
        deployment = world.deployments.create(DeploymentRequest("base", 1, suffix="mine"), W, "1", T0)
        assert (deployment.deployed_model, deployment.is_base, deployment.is_builtin) == ("base-mine", True, False)

    def test_a_suffix_cannot_take_the_name_of_a_model(self, world):
        with world.database.transaction() as connection:
            names = {"model_name": "m-2", "display_name": "m-2", "base_model": "base", "checkpoint": "c"}
            register_model(connection, **names, workspace_id="other", job_id="j2", directory="models/j2/c", now=T0)
        with pytest.raises(Conflict):
            world.create(suffix="2")

    def test_limits_may_be_given_at_creation(self, world):
        deployment = world.create(rpm_limit=10, tpm_limit=20)
        assert (deployment.rpm_limit, deployment.tpm_limit) == (10, 20)
        with pytest.raises(InvalidParameter, match="rpm_limit must be an integer in"):
            world.create(suffix="x", rpm_limit=0)


class TestHealth:
    def test_a_replica_that_hangs_is_replaced_with_the_reason(self, world):
        world.run()
        world.backend.change("r1", silent_s=19.9)
        world.steps()
        assert world.backend.num_started == 1
        world.backend.change("r1", silent_s=20.1)
        world.steps()
        assert "hangs: it did not answer for 20 s" in world.get().message
        world.steps(1)
        (replica,) = world.backend.observe()
        assert (replica.replica_id, replica.restarts) == ("r2", 1)

    def test_a_replica_that_uses_too_much_memory_is_replaced_with_the_reason(self, tmp_path):
        world = World(tmp_path, memory_mb_by_spec={"MU5": 1000, "MU2": 0})
        world.run()
        world.backend.change("r1", rss_mb=999.0)
        world.steps()
        assert world.backend.num_started == 1
        world.backend.change("r1", rss_mb=1200.4)
        world.steps(count=2)
        reason = "used 1200 MiB of memory, more than the 1000 MiB of template_mu5_memory_mb"
        assert reason in world.get().message
        assert any(reason in event for event in world.events())
        world.database.close()

    def test_only_so_many_load_at_the_same_time_and_everybody_gets_one_first(self, tmp_path):
        world = World(tmp_path, max_parallel_starts=2)
        world.create(3)
        world.create(suffix="b")
        world.create(suffix="c")
        world.steps(count=4)
        states = [world.deployments.get(W, name).state for name in ("m", "m-b", "m-c")]
        assert states == ["DEPLOYING", "DEPLOYING", "PENDING"]
        assert world.backend.num_started == 2
        world.backend.make_ready()
        world.steps(count=4)
        assert len(world.backend.in_phase(Phase.STARTING)) == 2
        assert world.deployments.get(W, "m-c").state == "DEPLOYING", "before the second replica of the first"
        for _ in range(3):
            world.backend.make_ready()
            world.steps(count=4)
        assert [world.deployments.get(W, name).state for name in ("m", "m-b", "m-c")] == ["RUNNING"] * 3
        assert world.backend.num_started == 5
        world.database.close()

    def test_a_machine_that_cannot_make_processes_ends_as_failed(self, world):
        world.create()
        world.backend.problem = BlockingIOError(11, "Resource temporarily unavailable")
        for _ in range(20):
            world.steps(10)
        assert world.get().state == "FAILED"
        assert "could not be started" in world.get().message
        assert "Resource temporarily unavailable" in world.get().message

    def test_looking_again_and_again_changes_nothing(self, world):
        world.run(2)
        before = world.get(), world.events()
        world.steps(3, count=50)
        assert (replace(world.get(), alive_at=None), world.events()) == (replace(before[0], alive_at=None), before[1])


def reach(world, state):
    """From PENDING on."""
    if state == "PENDING":
        return
    world.steps()
    if state == "DEPLOYING":
        return
    if state == "FAILED":
        for _ in range(3):
            world.backend.end(world.backend.in_phase(Phase.STARTING)[0], "could not load the model: no weights")
            world.steps()
            world.steps(10)
        return
    world.backend.make_ready()
    world.steps()
    if state == "UPDATING":
        world.scale(2)
        world.steps()
    if state == "STOPPED":
        world.scale(0)
        world.steps()
        world.backend.end_stopping()
        world.steps()


def test_no_status_may_jump(world):
    deployment = world.create()
    for source in DeploymentStatus:
        for target in ALLOWED_FROM:
            with world.database.transaction() as connection:
                connection.execute(update(deployments).values(status=str(source)))
                if source in ALLOWED_FROM[target]:
                    queries.transition(connection, deployment, target, T0)
                    assert queries.find_deployment(connection, "m").status is target
                else:
                    with pytest.raises(UnsupportedOperation):
                        queries.transition(connection, deployment, target, T0)
