"""The scheduler against a runner that is a list in memory: one clock, no processes."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from cosyforge.errors import NotFound, UnsupportedOperation
from cosyforge.jobs import queries
from cosyforge.jobs.records import ALLOWED_FROM, FINAL, JobStatus
from cosyforge.jobs.runner import RunState
from cosyforge.jobs.scheduler import Scheduler, SchedulerConfig
from cosyforge.jobs.service import JobRequest, JobRules, Jobs
from cosyforge.registry.files import Files
from cosyforge.registry.models import Models
from cosyforge.store.artifacts import LocalArtifacts, new_artifact
from cosyforge.store.tables import usage_entries
from fakes import HYPER_PARAMETERS, make_database, make_package

NOW = datetime(2026, 5, 27, 9, 43, 2, tzinfo=UTC)
W = "workspace"


def after(seconds):
    return NOW + timedelta(seconds=seconds)


class FakeRun:
    def __init__(self, events, status):
        self.pid = 4242
        self.state = RunState(True)
        self.asked = None
        self.status = status
        self._events = events

    def say(self, kind, **values):
        with open(self._events, "a") as file:
            file.write(json.dumps({"type": kind, "at": NOW.isoformat(), **values}) + "\n")

    def event(self, kind, stage, message="", *, epoch=0, step=0, progress=None, **metrics):
        values = {"kind": kind, "stage": stage, "message": message, "epoch": epoch, "max_epoch": 4, "step": step}
        self.say("event", event={**values, "progress": progress, "metrics": metrics})

    def end_with(self, return_code, *last_lines):
        self.state = RunState(False, return_code, last_lines)

    def poll(self):
        return self.state

    def ask_to_stop(self, *, is_cancel):
        self.asked = "cancel" if is_cancel else "stop"

    def end(self, grace_s):
        if self.state.is_running:
            self.state = RunState(False, -9)


class FakeRunner:
    def __init__(self, directory):
        self.directory = directory
        self.runs = {}
        self.started = []

    def start(self, job):
        self.runs[job.job_id] = FakeRun(self.events_path(job.job_id), job.status)
        self.started.append(job.job_id)
        return self.runs[job.job_id]

    def events_path(self, job_id):
        return self.directory / f"{job_id}.jsonl"

    def clean_up(self, job_id):
        self.events_path(job_id).unlink(missing_ok=True)

    def not_cleaned_up(self):
        return [path.stem for path in self.directory.glob("ft-*.jsonl")]


class World:
    def __init__(self, directory, **config):
        self.directory = directory
        self.database = make_database(directory)
        self.artifacts = LocalArtifacts(directory / "artifacts")
        self.files = Files(self.database, self.artifacts)
        self.models = Models(self.database)
        rules = {"checkpoint_lifetime": config.pop("checkpoint_lifetime", None)}
        self.jobs = Jobs(
            self.database, self.artifacts, JobRules("base", 0, lambda moment: moment, directory / "models", **rules)
        )
        self.runner = FakeRunner(directory)
        self.scheduler = self.new_scheduler(**config)

    def new_scheduler(self, **config):
        chosen = {"export_all": True, "lease_s": 15, "cancel_grace_s": 5, "backoff_s": 4, "max_running": 1, **config}
        config = SchedulerConfig(self.directory, self.directory / "models", local_time=lambda at: at, **chosen)
        return Scheduler(self.database, self.runner, self.artifacts, config)

    def submit(self, workspace=W, **changes):
        ids = [self.upload(workspace), self.upload(workspace)]
        chosen = {"training_file_ids": ids[:1], **changes}
        if chosen.pop("validated", False):
            chosen["validation_file_ids"] = ids[1:]
        request = JobRequest("base", "efficient_sft", HYPER_PARAMETERS, **chosen)
        return self.jobs.create(request, workspace, "1", NOW).job_id

    def upload(self, workspace=W):
        with new_artifact(self.artifacts) as writer:
            writer.write(make_package(self.directory / "p.zip").read_bytes())
            values = {"description": "", "purpose": "fine-tune", "workspace_id": workspace, "api_key_id": 1}
            return self.files.add(writer, name="p.zip", now=NOW, **values).file_id

    def run_of(self, job_id):
        return self.runner.runs[job_id]

    def checkpoints(self, job_id, epochs):
        found = []
        for lm, fm in epochs:
            name = f"checkpoint-{lm:04d}{fm:04d}"
            directory = self.directory / "models" / job_id / name
            weights = directory.parent / "weights"
            directory.mkdir(parents=True)
            weights.mkdir(exist_ok=True)
            files = {}
            for network, epoch in (("lm", lm), ("flow", fm)):
                (weights / f"{network}-{epoch}").write_text("weights")
                files[network] = {"path": f"../weights/{network}-{epoch}", "sha256": ""}
            (directory / "model.json").write_text(json.dumps({"files": files}))
            found.append({"name": name, "lm_epoch": lm, "fm_epoch": fm, "directory": str(directory)})
        return found

    def succeed(self, job_id, epochs=((4, 4), (3, 4))):
        self.run_of(job_id).say("succeeded", tokens=99_406, checkpoints=self.checkpoints(job_id, epochs))
        self.run_of(job_id).end_with(0)

    def status(self, job_id):
        return self.jobs.get(W, job_id).status

    def log(self, job_id):
        return self.jobs.logs(W, job_id, 0, 1000)[1]

    def bill(self, workspace=W):
        with self.database.read() as connection:
            rows = connection.execute(usage_entries.select().where(usage_entries.c.workspace_id == workspace)).all()
        return {row.subject: row.quantity for row in rows}


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.database.close()


# ---- turns


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


def test_as_many_jobs_run_as_the_setting_says(tmp_path):
    world = World(tmp_path, max_running=2)
    jobs = [world.submit() for _ in range(4)]
    world.scheduler.step(NOW)
    assert [world.status(job) for job in jobs] == ["RUNNING", "RUNNING", "QUEUING", "QUEUING"]
    world.succeed(jobs[1])
    world.scheduler.step(NOW)
    assert [world.status(job) for job in jobs] == ["RUNNING", "SUCCEEDED", "RUNNING", "QUEUING"]


def test_workspaces_take_turns_however_many_jobs_one_of_them_has(world):
    many = [world.submit("many") for _ in range(4)]
    few = [world.submit("few") for _ in range(2)]
    one = world.submit("one")
    for _ in range(7):
        world.scheduler.step(NOW)
        world.succeed(world.runner.started[-1])
        world.scheduler.step(NOW)
    assert world.runner.started == [many[0], few[0], one, many[1], few[1], many[2], many[3]]


def test_deleting_finished_jobs_does_not_move_a_workspace_forward(world):
    first, second = world.submit("greedy"), world.submit("greedy")
    other = world.submit("patient")
    world.scheduler.step(NOW)
    world.succeed(first)
    world.scheduler.step(NOW)
    world.jobs.delete("greedy", first)
    assert world.runner.started == [first, other]
    world.succeed(other)
    world.scheduler.step(NOW)
    assert world.runner.started == [first, other, second]


# ---- what the worker says


def test_what_the_worker_logs_can_be_read_while_it_runs(world):
    job = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job).say("log", level="INFO", message="hello")
    world.run_of(job).event("log", "lm", "lm epoch 1/4")
    world.scheduler.step(NOW)
    lines = ["2026-05-27 09:43:02,000 - INFO - hello", "2026-05-27 09:43:02,000 - INFO - lm epoch 1/4"]
    assert world.jobs.logs(W, job, 0, 100) == (2, lines)


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
    assert world.log(job) == ["2026-05-27 09:43:02,000 - INFO - whole"]


def test_characters_that_no_database_keeps_do_not_stop_a_job(world):
    job = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job).event("log", "data", "a\0b \ud800 c")
    world.run_of(job).say("failed", code="InvalidParameter", message="line 3: \0")
    world.run_of(job).end_with(1)
    world.scheduler.step(NOW)
    assert world.log(job)[0].endswith("a\\0b \\ud800 c")
    assert world.jobs.get(W, job).message == "line 3: \\0"


def test_checkpoints_appear_while_the_job_runs_and_in_rank_order(world):
    job = world.submit()
    world.scheduler.step(NOW)
    for name in ("checkpoint-00030004", "checkpoint-00040004"):
        world.run_of(job).event("checkpoint", "combine", name)
    world.scheduler.step(NOW)
    assert [item.checkpoint for item in world.jobs.checkpoints(W, job)] == [
        "checkpoint-00040004",
        "checkpoint-00030004",
    ]
    assert {item.status for item in world.jobs.checkpoints(W, job)} == {"PENDING"}
    assert world.jobs.get(W, job).output_cnt == 2


# ---- success


def test_a_finished_job_has_its_bill_and_its_models(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.scheduler.step(NOW + timedelta(minutes=37))
    job = world.jobs.get(W, job_id)
    assert (job.usage, job.output_cnt, job.ended_at) == (99_406, 2, NOW + timedelta(minutes=37))
    assert world.bill() == {job_id: 99_406}
    names = {model.model_name: model.checkpoint for model in world.models.page(W, 1, 10)[1]}
    assert names == {
        job.finetuned_output: "checkpoint-00040004",
        f"{job.finetuned_output}-00030004": "checkpoint-00030004",
    }
    assert world.log(job_id)[-1].endswith(" - INFO - ##FT_COMPLETE##")


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


def test_a_result_that_was_ready_when_the_server_died_is_not_lost(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.new_scheduler().step(after(1))
    assert world.status(job_id) == "SUCCEEDED"
    assert world.runner.started == [job_id]


def test_the_copies_of_the_datasets_go_when_the_job_ends(world):
    job_id = world.submit(validated=True)
    world.scheduler.step(NOW)
    job = world.jobs.get(W, job_id)
    copies = [world.directory / "artifacts" / key for key in (job.package, job.validation_package)]
    assert all(copy.is_file() for copy in copies)
    world.succeed(job_id)
    world.scheduler.step(NOW)
    assert not any(copy.exists() for copy in copies)


def test_the_dataset_may_be_deleted_while_its_job_waits(world):
    job_id = world.submit()
    world.files.delete(W, world.jobs.get(W, job_id).training_datasets[0]["file_id"])
    assert world.artifacts.local_path(world.jobs.get(W, job_id).package).is_file()


def test_cleaning_that_a_crash_cut_short_is_done_by_the_next_server(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    kept, world.runner.clean_up = world.runner.clean_up, lambda job_id: None
    world.scheduler.step(NOW)
    world.runner.clean_up = kept
    orphan = world.directory / "ft-of-a-deleted-job.jsonl"
    orphan.touch()
    assert world.runner.events_path(job_id).exists()
    world.new_scheduler().step(NOW)
    assert not world.runner.events_path(job_id).exists()
    assert not orphan.exists()


# ---- expiry


def test_checkpoints_that_nobody_exports_expire_and_leave_the_disk(tmp_path):
    world = World(tmp_path, export_all=False, checkpoint_lifetime=timedelta(days=15))
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id, ((4, 4), (3, 4), (3, 2)))
    world.scheduler.step(NOW)
    world.jobs.export(W, job_id, "checkpoint-00030002", "kept", NOW)
    shown = world.jobs.checkpoints(W, job_id)
    assert [world.jobs.expiry_of(item) for item in shown] == [None, NOW + timedelta(days=15), None]
    assert world.jobs.delete_expired_checkpoints(NOW + timedelta(days=14)) == 0
    assert world.jobs.delete_expired_checkpoints(NOW + timedelta(days=16)) == 1
    assert [item.checkpoint for item in world.jobs.checkpoints(W, job_id)] == [
        "checkpoint-00040004",
        "checkpoint-00030002",
    ]
    with pytest.raises(NotFound):
        world.jobs.export(W, job_id, "checkpoint-00030004", "late", NOW)
    files = sorted(str(path.relative_to(tmp_path / "models" / job_id)) for path in tmp_path.rglob("models/*/*/*"))
    assert files == [
        "checkpoint-00030002/model.json",
        "checkpoint-00040004/model.json",
        "weights/flow-2",
        "weights/flow-4",
        "weights/lm-3",
        "weights/lm-4",
    ]


def test_an_expiry_that_a_crash_cut_short_is_finished_later(tmp_path, monkeypatch):
    world = World(tmp_path, export_all=False, checkpoint_lifetime=timedelta(days=1))
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.scheduler.step(NOW)
    with monkeypatch.context() as patch:

        def crash(*arguments):
            raise OSError("the power went")

        patch.setattr("cosyforge.jobs.service.delete_checkpoint_files", crash)
        with pytest.raises(OSError, match="the power went"):
            world.jobs.delete_expired_checkpoints(NOW + timedelta(days=2))
    assert [item.checkpoint for item in world.jobs.checkpoints(W, job_id)] == ["checkpoint-00040004"]
    assert world.jobs.delete_expired_checkpoints(NOW + timedelta(days=2)) == 1
    assert not (tmp_path / "models" / job_id / "checkpoint-00030004").exists()


def test_nothing_expires_without_the_setting(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.scheduler.step(NOW)
    assert world.jobs.delete_expired_checkpoints(NOW + timedelta(days=10_000)) == 0
    assert {world.jobs.expiry_of(item) for item in world.jobs.checkpoints(W, job_id)} == {None}


def test_deleting_a_job_deletes_the_checkpoints_that_are_no_models(tmp_path):
    world = World(tmp_path, export_all=False)
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.scheduler.step(NOW)
    world.jobs.delete(W, job_id)
    directory = tmp_path / "models" / job_id
    assert sorted(path.name for path in directory.iterdir()) == ["checkpoint-00040004", "weights"]
    assert sorted(path.name for path in (directory / "weights").iterdir()) == ["flow-4", "lm-4"]


# ---- crashes


def test_a_killed_worker_is_followed_by_another_one_after_a_while(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job_id).event("progress", "lm", epoch=3, step=17, progress=0.4)
    world.run_of(job_id).event("state", "lm", epoch=3, step=12)
    world.run_of(job_id).end_with(-9)
    world.scheduler.step(NOW)
    assert (world.status(job_id), world.runner.started) == ("RUNNING", [job_id])
    world.scheduler.step(after(3.9))
    assert world.runner.started == [job_id]
    world.scheduler.step(after(4))
    assert world.runner.started == [job_id, job_id]
    crash, start = world.log(job_id)
    assert "was killed by signal 9 SIGKILL (often the machine ran out of memory)" in crash
    assert "lm_batch_size" in crash
    assert "crash 1 of 3 at this place, lm epoch 3, step 17 (saved: lm epoch 3, step 12)" in crash
    assert "It is started again in 4 s." in crash
    assert start.endswith("INFO - Start 2 of the training worker; going on from lm epoch 3, step 12.")


def _crash(world, job_id, now, *last_lines, code=-9):
    world.scheduler.step(now)
    world.run_of(job_id).end_with(code, *last_lines)
    world.scheduler.step(now)


def test_the_third_crash_at_the_same_place_fails_the_job_with_its_last_lines(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job_id).event("log", "lm", "lm epoch 2/4: loss 1.5")
    world.run_of(job_id).event("progress", "lm", epoch=3, step=17)
    _crash(world, job_id, NOW)
    assert "started again in 4 s" in world.log(job_id)[-1]
    _crash(world, job_id, after(100))
    assert "started again in 8 s" in world.log(job_id)[-1]
    _crash(world, job_id, after(200), "Bus error in step 18")
    job = world.jobs.get(W, job_id)
    assert (job.status, job.code) == ("FAILED", "InternalError")
    assert "3 times in a row at lm epoch 3, step 17" in job.message
    assert "SIGKILL" in job.message
    assert job.message.endswith("lm epoch 2/4: loss 1.5 | Bus error in step 18")
    assert world.log(job_id)[-1].endswith(f"ERROR - {job.message}")
    assert world.bill() == {}


@pytest.mark.parametrize("kind", ["progress", "state"])
def test_crashes_at_different_places_do_not_add_up(world, kind):
    job_id = world.submit()
    for number in range(1, 8):
        world.scheduler.step(after(100 * number))
        world.run_of(job_id).event(kind, "lm", epoch=1, step=number)
        _crash(world, job_id, after(100 * number))
    assert world.status(job_id) == "RUNNING"
    assert "crash 1 of 3" in world.log(job_id)[-1]


def test_an_exception_in_the_trainer_is_a_crash_and_named(world):
    job_id = world.submit()
    for seconds in (0, 100, 200):
        world.scheduler.step(after(seconds))
        world.run_of(job_id).say("crashed", message="OSError: no space left on device")
        _crash(world, job_id, after(seconds), code=1)
    job = world.jobs.get(W, job_id)
    assert job.status == "FAILED"
    assert "failed (OSError: no space left on device), 3 times in a row at its start" in job.message


def test_what_an_earlier_worker_said_last_does_not_explain_a_later_end(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job_id).say("crashed", message="OSError: disk")
    _crash(world, job_id, NOW, code=1)
    _crash(world, job_id, after(100))
    assert "OSError" not in world.log(job_id)[-1]
    assert "SIGKILL" in world.log(job_id)[-1]


def test_a_worker_that_says_why_it_failed_is_quoted_and_not_tried_again(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.run_of(job_id).say("failed", code="InvalidParameter", message="data.jsonl line 17: no text")
    world.run_of(job_id).end_with(1)
    world.scheduler.step(NOW)
    job = world.jobs.get(W, job_id)
    assert (job.status, job.code, job.message) == ("FAILED", "InvalidParameter", "data.jsonl line 17: no text")


def test_a_worker_stopped_by_somebody_is_started_again_and_no_crash(world):
    job_id = world.submit()
    for number in range(5):
        world.scheduler.step(after(100 * number))
        world.run_of(job_id).say("stopped")
        _crash(world, job_id, after(100 * number), code=0)
    assert world.status(job_id) == "RUNNING"
    assert "was stopped by somebody else (SIGTERM). It is started again" in world.log(job_id)[-1]
    assert world.jobs.get(W, job_id).crash_count == 0


def test_a_run_that_cannot_start_is_tried_again_and_then_fails_its_job(world):
    job_id = world.submit()

    def refuse(job):
        raise OSError("no space left on device")

    world.runner.start = refuse
    for seconds in (0, 100, 200):
        assert world.status(job_id) != "FAILED"
        world.scheduler.step(after(seconds))
    assert "could not be started: no space left on device" in world.jobs.get(W, job_id).message


def test_a_job_that_waits_for_its_next_worker_keeps_its_turn(world):
    first, second = world.submit(), world.submit()
    _crash(world, first, NOW)
    world.scheduler.step(after(1))
    assert [world.status(job) for job in (first, second)] == ["RUNNING", "QUEUING"]


# ---- the server stops or dies


def test_the_worker_of_a_server_that_stops_saves_and_goes_on_after_the_next_start(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    run = world.run_of(job_id)
    run.event("state", "flow", epoch=2, step=5)
    run.say("stopped")
    world.scheduler.shut_down(after(1))
    assert run.asked == "stop"
    job = world.jobs.get(W, job_id)
    assert (job.status, job.lease_owner, job.crash_count) == ("RUNNING", None, 0)
    assert world.log(job_id)[-1].endswith("goes on when it starts again, going on from flow epoch 2, step 5.")
    world.new_scheduler().step(after(2))
    assert world.runner.started == [job_id, job_id]
    assert world.log(job_id)[-1].endswith("Start 2 of the training worker; going on from flow epoch 2, step 5.")


def test_a_job_that_ends_while_the_server_stops_has_ended(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    world.succeed(job_id)
    world.scheduler.shut_down(NOW)
    assert world.status(job_id) == "SUCCEEDED"


def test_the_job_of_a_server_that_is_gone_goes_on_as_soon_as_its_lease_ends(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    with world.database.transaction() as connection:  # as if a server on another machine had it
        queries.set_fields(connection, job_id, lease_owner="elsewhere:1")
    other = world.new_scheduler()
    other.step(after(14))
    assert world.runner.started == [job_id]
    other.step(after(16))
    assert world.runner.started == [job_id, job_id]
    assert world.status(job_id) == "RUNNING"
    assert "the server ended without stopping the training; no state" in world.log(job_id)[-1]


def test_a_server_that_dies_again_and_again_is_no_crash_of_the_job(world):
    job_id = world.submit()
    for number in range(6):
        with world.database.transaction() as connection:
            queries.set_fields(connection, job_id, lease_owner="elsewhere:1", lease_until=NOW)
        world.new_scheduler().step(after(1 + number))
    assert world.status(job_id) == "RUNNING"
    assert world.jobs.get(W, job_id).crash_count == 0


def test_the_lease_is_renewed_while_the_worker_lives(world):
    job_id = world.submit()
    for seconds in range(0, 60, 5):
        world.scheduler.step(after(seconds))
    assert world.jobs.get(W, job_id).lease_until > after(60)


# ---- cancelling


def test_a_waiting_job_is_canceled_at_once_and_costs_nothing(world):
    first, second = world.submit(), world.submit()
    world.scheduler.step(NOW)
    world.jobs.cancel(W, second, NOW)
    assert world.status(second) == "CANCELED"
    assert world.jobs.get(W, second).usage == 0
    assert not (world.directory / "artifacts" / world.jobs.get(W, second).package).exists()
    world.succeed(first)
    world.scheduler.step(NOW)
    world.scheduler.step(NOW)
    assert list(world.runner.runs) == [first]


def _train_until(world, job_id, lm_epochs, fm_epochs):
    run = world.run_of(job_id)
    run.event("progress", "data", audio_s=497.03)
    for stage, epochs in (("lm", lm_epochs), ("flow", fm_epochs)):
        for epoch in range(1, epochs + 1):
            run.event("progress", stage, epoch=epoch, step=3, progress=0.1)
            run.event("progress", stage, epoch=epoch, progress=0.2)
    run.event("progress", "flow" if fm_epochs else "lm", epoch=(fm_epochs or lm_epochs) + 1, step=1)
    return run


def test_a_canceled_job_pays_for_its_finished_epochs_and_keeps_its_finished_checkpoints(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    run = _train_until(world, job_id, 4, 2)
    world.jobs.cancel(W, job_id, NOW)
    assert world.status(job_id) == "CANCELING"
    world.scheduler.step(NOW)
    assert run.asked == "cancel"
    run.say("canceled", checkpoints=world.checkpoints(job_id, ((4, 2), (3, 2))))
    run.end_with(0)
    world.scheduler.step(after(2))
    job = world.jobs.get(W, job_id)
    assert (job.status, job.usage, job.output_cnt, job.code) == ("CANCELED", 74_555, 2, None)
    assert world.bill() == {job_id: job.usage}
    shown = world.jobs.checkpoints(W, job_id)
    assert [(item.checkpoint, item.status) for item in shown] == [
        ("checkpoint-00040002", "PENDING"),
        ("checkpoint-00030002", "PENDING"),
    ]
    world.jobs.export(W, job_id, "checkpoint-00040002", "half-done", NOW)
    assert world.models.page(W, 1, 10)[1][0].model_name == job.finetuned_output
    assert (world.directory / "models" / job_id / "checkpoint-00040002" / "model.json").is_file()


def test_a_job_canceled_before_its_second_network_needs_no_more_worker(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    run = _train_until(world, job_id, 3, 0)
    world.jobs.cancel(W, job_id, NOW)
    world.scheduler.step(NOW)
    run.end_with(-9)
    world.scheduler.step(NOW)
    job = world.jobs.get(W, job_id)
    assert (job.status, job.usage, job.output_cnt) == ("CANCELED", 37_277, 0)
    assert world.runner.started == [job_id]


def test_a_worker_that_does_not_stop_is_killed_after_its_grace_and_another_one_collects(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    _train_until(world, job_id, 4, 2)
    world.jobs.cancel(W, job_id, NOW)
    world.scheduler.step(NOW)
    world.scheduler.step(after(4))
    first = world.run_of(job_id)
    assert first.state.is_running
    world.scheduler.step(after(6))
    assert not first.state.is_running
    world.scheduler.step(after(6))
    second = world.run_of(job_id)
    assert second is not first
    assert second.status == "CANCELING"
    second.say("canceled", checkpoints=world.checkpoints(job_id, ((4, 2),)))
    second.end_with(0)
    world.scheduler.step(after(7))
    assert (world.status(job_id), world.jobs.get(W, job_id).output_cnt) == ("CANCELED", 1)


def test_a_job_whose_collecting_fails_is_canceled_all_the_same(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    _train_until(world, job_id, 4, 2)
    world.jobs.cancel(W, job_id, NOW)
    for seconds in range(4):
        _crash(world, job_id, after(seconds), code=1)
    assert world.status(job_id) == "CANCELED"
    assert world.runner.started == [job_id] * 3
    assert world.bill() == {job_id: 74_555}


def test_canceling_goes_on_after_a_restart_of_the_server(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    _train_until(world, job_id, 4, 2)
    world.jobs.cancel(W, job_id, NOW)
    world.scheduler.shut_down(NOW)
    assert world.status(job_id) == "CANCELING"
    scheduler = world.new_scheduler()
    scheduler.step(after(1))
    assert world.run_of(job_id).status == "CANCELING"
    world.run_of(job_id).say("canceled", checkpoints=[])
    world.run_of(job_id).end_with(0)
    scheduler.step(after(2))
    assert world.status(job_id) == "CANCELED"


def test_canceling_ends_the_wait_for_the_next_worker(world):
    job_id = world.submit()
    _crash(world, job_id, NOW)
    world.jobs.cancel(W, job_id, NOW)
    world.scheduler.step(after(0.5))
    assert (world.status(job_id), world.runner.started) == ("CANCELED", [job_id])


def test_a_job_canceled_in_the_moment_of_its_success_keeps_what_it_made_and_is_paid_once(world):
    job_id = world.submit()
    world.scheduler.step(NOW)
    _train_until(world, job_id, 4, 4)
    world.succeed(job_id)
    world.jobs.cancel(W, job_id, NOW)
    world.scheduler.step(NOW)
    job = world.jobs.get(W, job_id)
    assert (job.status, job.usage, job.output_cnt) == ("CANCELED", 99_406, 2)
    assert world.bill() == {job_id: 99_406}


def test_a_cancel_between_look_and_record_is_seen_in_the_next_step(world, monkeypatch):
    job_id = world.submit()
    world.scheduler.step(NOW)
    _train_until(world, job_id, 4, 4)
    world.succeed(job_id)
    record = world.scheduler._recorder.record_success

    def canceled_just_before(job, now):
        world.jobs.cancel(W, job_id, now)
        record(job, now)

    monkeypatch.setattr(world.scheduler._recorder, "record_success", canceled_just_before)
    world.scheduler.step(NOW)
    assert world.status(job_id) == "CANCELED"
    assert world.bill() == {job_id: 99_406}
    assert world.runner.started == [job_id]


# ---- states


def test_no_status_may_jump(world):
    """Every pair of states: the move happens where the table allows it and is refused elsewhere."""
    job_id = world.submit()
    for source in JobStatus:
        for target in ALLOWED_FROM:
            with world.database.transaction() as connection:
                connection.execute(queries.fine_tune_jobs.update().values(status=str(source)))
                if source in ALLOWED_FROM[target]:
                    queries.transition(connection, job_id, target)
                    assert queries.get_job(connection, job_id).status is target
                else:
                    with pytest.raises(UnsupportedOperation, match=f"{source}.*{target}"):
                        queries.transition(connection, job_id, target)
    assert not any(FINAL & sources for sources in ALLOWED_FROM.values()), "a final state is final"
