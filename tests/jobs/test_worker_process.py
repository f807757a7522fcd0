"""Real workers, real signals, a real server; only the training itself is a fake."""

import os
import signal

import pytest

from fakes import HYPER_PARAMETERS, LiveServer, child_pids, command_line, output_of, wait_for

SLOW = {"epoch_s": 60}


def _worker_pid(server):
    def find():
        return [pid for pid in child_pids(server.process.pid) if "jobs.worker" in command_line(pid)]

    wait_for(lambda: find() != [], 30, "a worker")
    return find()[0]


def _logs(server, job_id):
    return output_of(server.client.get(f"/api/v1/fine-tunes/{job_id}/logs"))["logs"]


def _start_slow_job(server):
    job_id = server.create_job(server.upload(**SLOW))["job_id"]
    server.wait_for_job(job_id, "RUNNING")
    pid = _worker_pid(server)
    wait_for(lambda: any("start to fine-tune" in line for line in _logs(server, job_id)), 30, "the training to begin")
    return job_id, pid


def test_a_job_ends_with_its_tokens_and_the_marker_that_clients_look_for(live_server):
    job = live_server.train()
    assert job["usage"] == 99_406
    lines = _logs(live_server, job["job_id"])
    assert lines[-1].endswith(" - INFO - ##FT_COMPLETE##")
    assert any(line.endswith("Actual number of consumed tokens is 99406!") for line in lines)


def test_a_killed_worker_fails_its_job_and_the_next_job_runs(live_server):
    job_id, pid = _start_slow_job(live_server)
    next_job = live_server.create_job(live_server.upload())["job_id"]
    live_server.wait_for_job(next_job, "QUEUING")
    os.kill(pid, signal.SIGKILL)
    job = live_server.wait_for_job(job_id, "FAILED")
    assert job["code"] == "InternalError"
    assert "killed by signal 9 SIGKILL" in job["message"]
    assert "start to fine-tune" in job["message"], "the last log lines are part of the message"
    assert "SIGKILL" in _logs(live_server, job_id)[-1]
    live_server.wait_for_job(next_job, "SUCCEEDED")


def test_canceling_stops_the_worker_and_bills_the_finished_epochs(live_server):
    hyper_parameters = {**HYPER_PARAMETERS, "lm_max_epoch": 100_000}
    file_id = live_server.upload(epoch_s=0.2, audio_s=100.0)
    job_id = live_server.create_job(file_id, hyper_parameters=hyper_parameters)["job_id"]
    pid = _worker_pid(live_server)
    wait_for(lambda: sum("lm epoch" in line for line in _logs(live_server, job_id)) >= 2, 30, "two epochs")
    assert output_of(live_server.client.post(f"/api/v1/fine-tunes/{job_id}/cancel")) == {"status": "success"}
    job = live_server.wait_for_job(job_id, "CANCELED")
    num_epochs = sum("lm epoch" in line for line in _logs(live_server, job_id))
    assert job["usage"] == num_epochs * 25 * 100
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 10, "the worker to be gone")


def test_a_bad_dataset_fails_with_the_reason(live_server):
    job_id = live_server.create_job(live_server.upload(dataset_error="data.jsonl line 17: no text"))["job_id"]
    job = live_server.wait_for_job(job_id, "FAILED")
    assert (job["code"], job["message"]) == ("InvalidParameter", "data.jsonl line 17: no text")


def test_a_bug_in_training_fails_with_its_name_and_its_trace_in_the_log(live_server):
    job_id = live_server.create_job(live_server.upload(**{"raise": "loss is nan"}))["job_id"]
    job = live_server.wait_for_job(job_id, "FAILED")
    assert (job["code"], job["message"]) == ("InternalError", "RuntimeError: loss is nan")
    assert any("Traceback" in line for line in _logs(live_server, job_id))


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_no_job_is_stuck_and_no_worker_left_after_the_server_ends(tmp_path, how):
    server = LiveServer(tmp_path).start()
    job_id, pid = _start_slow_job(server)
    waiting = server.create_job(server.upload())["job_id"]
    getattr(server, how)()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 10, "the worker to die with its server")
    server.start()
    try:
        job = server.wait_for_job(job_id, "FAILED")
        assert "together with the server" in job["message"]
        server.wait_for_job(waiting, "SUCCEEDED")
    finally:
        server.stop()
