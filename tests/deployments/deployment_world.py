"""The reconciler's world without processes: a backend that is a dict, and one clock."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from cosyforge.billing.ledger import deployment_usage_of
from cosyforge.deployments import queries
from cosyforge.deployments.backend import Phase, ReplicaState
from cosyforge.deployments.reconciler import Reconciler, ReconcilerConfig
from cosyforge.deployments.service import DeploymentRequest, Deployments
from cosyforge.deployments.trouble import BackoffRules
from cosyforge.registry.models import register_model
from fakes import make_database

T0 = datetime(2026, 5, 27, 10, 0, tzinfo=UTC)
W = "workspace"
MU5, MU2 = "dps-20260521172224-1vabse", "MU2"
PRICES = {"MU5": Decimal(20), "MU2": Decimal(80)}


class DictBackend:
    """Replicas by id; a test says when they become ready and when they end."""

    def __init__(self):
        self.replicas = {}
        self.num_started = 0
        self.problem = None

    def start(self, deployment, now, *, restarts=0):
        if self.problem is not None:
            raise self.problem
        self.num_started += 1
        replica_id = f"r{self.num_started}"
        state = ReplicaState(replica_id, deployment.deployment_id, Phase.STARTING, now, pid=100, restarts=restarts)
        self.replicas[replica_id] = state
        return replica_id

    def observe(self):
        return list(self.replicas.values())

    def stop(self, replica_id, *, now, reason=""):
        if reason:
            self.end(replica_id, reason)
        else:
            self.change(replica_id, phase=Phase.STOPPING, was_stopped=True)

    def forget(self, replica_id):
        del self.replicas[replica_id]

    def shut_down(self):
        self.replicas.clear()

    def make_ready(self):
        for replica in self.observe():
            if replica.phase is Phase.STARTING:
                self.change(replica.replica_id, phase=Phase.READY, was_ready=True)

    def end(self, replica_id, reason="was killed by signal 9 SIGKILL"):
        self.change(replica_id, phase=Phase.ENDED, reason=reason)

    def end_stopping(self):
        for replica in self.observe():
            if replica.phase is Phase.STOPPING:
                self.change(replica.replica_id, phase=Phase.ENDED)

    def in_phase(self, phase):
        return [replica.replica_id for replica in self.observe() if replica.phase is phase]

    def change(self, replica_id, **changes):
        self.replicas[replica_id] = ReplicaState(**{**vars(self.replicas[replica_id]), **changes})


class World:
    def __init__(self, directory, **rules):
        self.rules = rules
        self.database = make_database(directory)
        self.backend = DictBackend()
        self.deployments = Deployments(self.database, "base", str(directory / "base"), PRICES)
        self.now = T0
        self.reconciler = self.new_reconciler()
        with self.database.transaction() as connection:
            names = {"model_name": "m", "display_name": "m", "base_model": "base", "checkpoint": "c"}
            register_model(connection, **names, workspace_id=W, job_id="j", directory="models/j/c", now=T0)

    def new_reconciler(self):
        rules = {"max_start_failures": 3, "max_parallel_starts": 100, "ping_timeout_s": 20, "alive_interval_s": 5}
        rules |= {"memory_mb_by_spec": {}, **self.rules}
        config = ReconcilerConfig(start_timeout_s=120, backoff=BackoffRules(0.5, 60), **rules)
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
        self.steps(count=capacity + 2)  # a replica each
        self.backend.make_ready()
        self.steps()
        assert self.get().state == "RUNNING"

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

    def restart_server(self):
        """The replicas died with their server, which had no time for anything."""
        self.backend.shut_down()
        self.reconciler = self.new_reconciler()
        self.reconciler.recover(self.now)

    def all_events(self):
        with self.database.read() as connection:
            deployment = queries.find_deployment(connection, "m")
            return queries.list_events(connection, deployment.deployment_id)

    def events(self):
        return [message for _, message in self.deployments.events(W, "m")]
