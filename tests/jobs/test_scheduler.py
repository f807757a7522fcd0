"""The scheduler against a runner that is a list in memory: one clock, no processes."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from cosyforge.errors import UnsupportedOperation
from cosyforge.jobs import queries
from cosyforge.jobs.records import ALLOWED_FROM, FINAL, JobStatus
from cosyforge.jobs.runner import RunState
from cosyforge.jobs.scheduler import Scheduler, SchedulerConfig
from cosyforge.jobs.service import JobRequest, JobRules, Jobs
from cosyforge.registry.files import Files
from cosyforge.registry.models import Models
from cosyforge.store.artifacts import LocalArtifacts, new_artifact
from cosyforge.store.database import Database
from fakes import HYPER_PARAMETERS, make_package

NOW = datetime(2026, 5, 27, 9, 43, 2, tzinfo=UTC)
W = "workspace"


class FakeRun:
    def __init__(self, events):
        self.pid = 4242
        self.state = RunState(True)
        self.was_asked_to_stop = False
        self._events = events

    def say(self, kind, **values):
        with open(self._events, "a") as file:
            file.write(json.dumps({"type": kind, "at": NOW.isoformat(), **values}) + "\n")

    def poll(self):
        return self.state

    def ask_to_stop(self):
        self.was_asked_to_stop = True

    def end(self, grace_s):
        self.state = RunState(False, -9)


class FakeRunner:
    def __init__(self, directory):
        self.directory = directory
        self.runs = {}

    def start(self, job):
        self.runs[job.job_id] = FakeRun(self.events_path(job.job_id))
        return self.runs[job.job_id]

    def events_path(self, job_id):
        return self.directory / f"{job_id}.jsonl"

    def clean_up(self, job_id):
        pass


class World:
    def __init__(self, directory, **config):
        self.directory = directory
        self.database = Database(directory / "cosyforge.db")
        self.database.upgrade()
        self.artifacts = LocalArtifacts(directory / "artifacts")
        self.files = Files(self.database, self.artifacts)
        self.models = Models(self.database)
        self.jobs = Jobs(self.database, self.artifacts, JobRules("base", 0, lambda moment: moment))
        self.runner = FakeRunner(directory)
        self.scheduler = self.new_scheduler(**config)

    def new_scheduler(self, **config):
        chosen = {"export_all": True, "lease_s": 15, "cancel_grace_s": 5, **config}
        config = SchedulerConfig(self.directory, self.directory / "models", local_time=lambda at: at, **chosen)
        return Scheduler(self.database, self.runner, self.artifacts, config)

    def submit(self):
        with new_artifact(self.artifacts) as writer:
            writer.write(make_package(self.directory / "p.zip").read_bytes())
            file = self.files.add(
                writer, name="p.zip", description="", purpose="fine-tune", workspace_id=W, api_key_id=1, now=NOW
            )
        request = JobRequest("base", "efficient_sft", HYPER_PARAMETERS, training_file_ids=[file.file_id])
        return self.jobs.create(request, W, "1", NOW).job_id

    def run_of(self, job_id):
        return self.runner.runs[job_id]

    def succeed(self, job_id, epochs=((4, 4), (3, 4))):
        checkpoints = [
            {
                "name": f"checkpoint-{lm:04d}{fm:04d}",
                "lm_epoch": lm,
                "fm_epoch": fm,
                "directory": str(self.directory / "models" / job_id / f"{lm}-{fm}"),
            }
            for lm, fm in epochs
        ]
        self.run_of(job_id).say("succeeded", tokens=99_406, checkpoints=checkpoints)
        self.run_of(job_id).state = RunState(False, 0)

    def status(self, job_id):
        return self.jobs.get(W, job_id).status


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.database.close()


def test_a_job_waits_as_pending_until_the_scheduler_looks(world):
    assert world.status(world.submit()) == "PENDING"


def test_one_job_runs_and_the_others_queue(world):
    first, second, third = world.submit(), world.submit(), world.submit()
    world.scheduler.step(NOW)
    assert [world.status(job) for job in (first, second, third)] == ["RUNNING", "QUEUING", "QUEUING"]
    assert list(world.runner.runs) == [first]


def test_the_oldest_job_is_next(world):
    first, second, third = world.submit(), world.submit(), world.submit()
    world.scheduler.step(NOW)
    world.succeed(first)
    world.scheduler.step(NOW)
    assert [world.status(job) for job in (first, second, third)] == ["SUCCEEDED", "RUNNING", "QUEUING"]


def test_what_the_worker_logs_can_be_read_while_it_runs(world):
    job = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job).say("log", level="INFO", message="hello")
    world.run_of(job).say("event", event={"kind": "log", "message": "lm epoch 1/4", "stage": "lm"})
    world.scheduler.step(NOW)
    total, lines = world.jobs.logs(W, job, 0, 100)
    assert (total, lines) == (
        2,
        ["2026-05-27 09:43:02,000 - INFO - hello", "2026-05-27 09:43:02,000 - INFO - lm epoch 1/4"],
    )


def test_half_a_line_waits_for_its_end(world):
    job = world.submit()
    world.scheduler.step(NOW)
    line = json.dumps({"type": "log", "at": NOW.isoformat(), "level": "INFO", "message": "whole"})
    path = world.runner.events_path(job)
    path.write_text(line[:20])
    world.scheduler.step(NOW)
    assert world.jobs.logs(W, job, 0, 10)[0] == 0
    path.write_text(line + "\n")
    world.scheduler.step(NOW)
    assert world.jobs.logs(W, job, 0, 10) == (1, ["2026-05-27 09:43:02,000 - INFO - whole"])


def test_checkpoints_appear_while_the_job_runs_and_in_rank_order(world):
    job = world.submit()
    world.scheduler.step(NOW)
    for name in ("checkpoint-00030004", "checkpoint-00040004"):
        world.run_of(job).say("event", event={"kind": "checkpoint", "message": name, "stage": "combine"})
    world.scheduler.step(NOW)
    assert [item.checkpoint for item in world.jobs.checkpoints(W, job)] == [
        "checkpoint-00040004",
        "checkpoint-00030004",
    ]
    assert {item.status for item in world.jobs.checkpoints(W, job)} == {"PENDING"}
    assert world.jobs.get(W, job).output_cnt == 2


def test_a_finished_job_has_its_bill_and_its_models(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.scheduler.step(NOW + timedelta(minutes=37))
    job = world.jobs.get(W, job_id)
    assert (job.usage, job.output_cnt, job.ended_at) == (99_406, 2, NOW + timedelta(minutes=37))
    names = {model.model_name: model.checkpoint for model in world.models.page(W, 1, 10)[1]}
    assert names == {
        job.finetuned_output: "checkpoint-00040004",
        f"{job.finetuned_output}-00030004": "checkpoint-00030004",
    }


def test_the_top_checkpoint_alone_can_be_exported_and_the_others_on_demand(tmp_path):
    world = World(tmp_path, export_all=False)
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.scheduler.step(NOW)
    assert [item.status for item in world.jobs.checkpoints(W, job_id)] == ["SUCCEEDED", "PENDING"]
    world.jobs.export(W, job_id, "checkpoint-00030004", "second-best", NOW)
    exported = world.jobs.checkpoints(W, job_id)[1]
    assert (exported.status, exported.display_name) == ("SUCCEEDED", "second-best")
    assert exported.model_name in {model.model_name for model in world.models.page(W, 1, 10)[1]}


def test_a_worker_that_is_killed_fails_its_job_with_the_signal_and_its_last_words(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job_id).state = RunState(False, -9, ("lm epoch 3", "lm epoch 4"))
    world.scheduler.step(NOW)
    job = world.jobs.get(W, job_id)
    assert (job.status, job.code) == ("FAILED", "InternalError")
    assert "signal 9 SIGKILL" in job.message
    assert "lm epoch 3 | lm epoch 4" in job.message
    assert "SIGKILL" in world.jobs.logs(W, job_id, 0, 10)[1][-1]


def test_a_worker_that_says_why_it_failed_is_quoted(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job_id).say("failed", code="InvalidParameter", message="data.jsonl line 17: no text")
    world.run_of(job_id).state = RunState(False, 1)
    world.scheduler.step(NOW)
    job = world.jobs.get(W, job_id)
    assert (job.status, job.code, job.message) == ("FAILED", "InvalidParameter", "data.jsonl line 17: no text")


def test_a_waiting_job_is_canceled_at_once_and_costs_nothing(world):
    first, second = world.submit(), world.submit()
    world.scheduler.step(NOW)
    world.jobs.cancel(W, second, NOW)
    assert world.status(second) == "CANCELED"
    assert world.jobs.get(W, second).usage == 0
    world.succeed(first)
    world.scheduler.step(NOW)
    world.scheduler.step(NOW)
    assert list(world.runner.runs) == [first]


def test_a_running_job_is_asked_to_stop_and_billed_for_what_it_did(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.jobs.cancel(W, job_id, NOW)
    assert world.status(job_id) == "CANCELING"
    world.scheduler.step(NOW)
    run = world.run_of(job_id)
    assert run.was_asked_to_stop
    run.say("canceled", tokens=5000)
    run.state = RunState(False, 0)
    world.scheduler.step(NOW)
    assert (world.status(job_id), world.jobs.get(W, job_id).usage) == ("CANCELED", 5000)


def test_a_worker_that_does_not_stop_is_killed_after_its_grace(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.jobs.cancel(W, job_id, NOW)
    world.scheduler.step(NOW)
    world.scheduler.step(NOW + timedelta(seconds=4))
    assert world.run_of(job_id).state.is_running
    world.scheduler.step(NOW + timedelta(seconds=6))
    world.scheduler.step(NOW + timedelta(seconds=6))
    assert world.status(job_id) == "CANCELED"


def test_the_job_of_a_server_that_is_gone_fails_as_soon_as_its_lease_ends(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    with world.database.transaction() as connection:  # as if a server on another machine had it
        queries.set_fields(connection, job_id, lease_owner="elsewhere:1")
    other = world.new_scheduler()
    other.step(NOW + timedelta(seconds=14))
    assert world.status(job_id) == "RUNNING"
    other.step(NOW + timedelta(seconds=16))
    job = world.jobs.get(W, job_id)
    assert job.status == "FAILED"
    assert "together with the server" in job.message


def test_the_lease_is_renewed_while_the_worker_lives(world):
    job_id = world.submit()
    for seconds in range(0, 60, 5):
        world.scheduler.step(NOW + timedelta(seconds=seconds))
    world.new_scheduler()
    assert world.jobs.get(W, job_id).lease_until > NOW + timedelta(seconds=60)


def test_a_result_that_was_ready_when_the_server_died_is_not_lost(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.new_scheduler().step(NOW + timedelta(seconds=1))
    assert world.status(job_id) == "SUCCEEDED"


def test_no_status_may_jump(world):
    """Every pair of states: the move happens where the table allows it and is refused elsewhere."""
    job_id = world.submit()
    for source in JobStatus:
        for target in ALLOWED_FROM:
            with world.database.transaction() as connection:
                connection.exec_driver_sql("UPDATE fine_tune_jobs SET status = ?", (str(source),))
                if source in ALLOWED_FROM[target]:
                    queries.transition(connection, job_id, target)
                    assert queries.get_job(connection, job_id).status is target
                else:
                    with pytest.raises(UnsupportedOperation, match=f"{source}.*{target}"):
                        queries.transition(connection, job_id, target)
    assert not any(FINAL & sources for sources in ALLOWED_FROM.values()), "a final state is final"


def test_the_dataset_may_be_deleted_while_its_job_waits(world):
    job_id = world.submit()
    world.files.delete(W, world.jobs.get(W, job_id).training_datasets[0]["file_id"])
    assert world.artifacts.local_path(world.jobs.get(W, job_id).package).is_file()


def test_the_copy_of_the_dataset_goes_when_the_job_ends(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.scheduler.step(NOW)
    assert not (world.directory / "artifacts" / world.jobs.get(W, job_id).package).exists()


def test_a_run_that_cannot_start_fails_its_job(world):
    job_id = world.submit()

    def refuse(job):
        raise OSError("no space left on device")

    world.runner.start = refuse
    world.scheduler.step(NOW)
    assert "could not be started: no space left on device" in world.jobs.get(W, job_id).message
