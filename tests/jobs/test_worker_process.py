"""A live server and its worker processes; the training itself is a fake."""

import os
import signal
import time

import pytest

from fakes import HYPER_PARAMETERS, LiveServer, child_pids, command_line, output_of, wait_for

SLOW = {"epoch_s": 60}


def _worker_pids(server):
    return [pid for pid in child_pids(server.process.pid) if "jobs.worker" in command_line(pid)]


def _worker_pid(server):
    wait_for(lambda: _worker_pids(server) != [], 60, "a worker")
    return _worker_pids(server)[0]


def _logs(server, job_id):
    return output_of(server.client.get(f"/api/v1/fine-tunes/{job_id}/logs?line=1000"))["logs"]


def _wait_for_line(server, job_id, part, count=1):
    wait_for(lambda: sum(part in line for line in _logs(server, job_id)) >= count, 60, f"{count} times {part!r}")


def _start_slow_job(server):
    job_id = server.create_job(server.upload(**SLOW))["job_id"]
    server.wait_for_job(job_id, "RUNNING")
    pid = _worker_pid(server)
    _wait_for_line(server, job_id, "start to fine-tune")
    return job_id, pid


def _wait_for_death(pid):
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 60, "the worker to be gone")


def _cancel(server, job_id):
    assert output_of(server.client.post(f"/api/v1/fine-tunes/{job_id}/cancel")) == {"status": "success"}
    return server.wait_for_job(job_id, "CANCELED")


def test_a_job_ends_with_its_tokens_and_the_marker_that_clients_look_for(live_server):
    job = live_server.train()
    assert job["usage"] == 99_406
    lines = _logs(live_server, job["job_id"])
    assert lines[-1].endswith(" - INFO - ##FT_COMPLETE##")
    assert any(line.endswith("Actual number of consumed tokens is 99406!") for line in lines)


def test_a_job_whose_worker_is_killed_at_the_same_place_again_and_again_fails_with_its_last_lines(live_server):
    job_id, pid = _start_slow_job(live_server)
    next_job = live_server.create_job(live_server.upload())["job_id"]
    live_server.wait_for_job(next_job, "QUEUING")
    for number in (1, 2, 3):
        assert live_server.job(job_id)["status"] == "RUNNING"
        os.kill(pid, signal.SIGKILL)
        _wait_for_death(pid)
        if number < 3:
            _wait_for_line(live_server, job_id, f"crash {number} of 3 at this place, data")
            pid = _worker_pid(live_server)
    job = live_server.wait_for_job(job_id, "FAILED")
    assert job["code"] == "InternalError"
    assert "was killed by signal 9 SIGKILL (often the machine ran out of memory)" in job["message"]
    assert "start to fine-tune" in job["message"], "the last log lines are part of the message"
    lines = _logs(live_server, job_id)
    assert "SIGKILL" in lines[-1]
    assert sum("start to fine-tune" in line for line in lines[:-1]) == 1, "who goes on does not repeat himself"
    live_server.wait_for_job(next_job, "SUCCEEDED")


def test_a_job_whose_worker_is_killed_once_succeeds(live_server):
    job_id = live_server.create_job(live_server.upload(epoch_s=0.2))["job_id"]
    pid = _worker_pid(live_server)
    _wait_for_line(live_server, job_id, "lm epoch 2/4")
    os.kill(pid, signal.SIGKILL)
    assert live_server.wait_for_job(job_id, "SUCCEEDED")["usage"] == 99_406
    lines = [line for line in _logs(live_server, job_id) if " epoch " in line and "loss" in line]
    assert [line.split(" - ")[-1].split(" loss")[0] for line in lines] == [
        *(f"lm epoch {epoch}/4" for epoch in (1, 2, 3, 4)),
        *(f"flow epoch {epoch}/4" for epoch in (1, 2, 3, 4)),
    ]


def test_canceling_stops_the_worker_and_bills_the_finished_epochs(live_server):
    hyper_parameters = {**HYPER_PARAMETERS, "lm_max_epoch": 100_000}
    file_id = live_server.upload(epoch_s=0.2, audio_s=100.0)
    job_id = live_server.create_job(file_id, hyper_parameters=hyper_parameters)["job_id"]
    pid = _worker_pid(live_server)
    _wait_for_line(live_server, job_id, "lm epoch", 2)
    job = _cancel(live_server, job_id)
    num_epochs = sum("lm epoch" in line for line in _logs(live_server, job_id))
    assert job["usage"] == num_epochs * 25 * 100
    assert f"{num_epochs} LM and 0 FM epochs were finished" in _logs(live_server, job_id)[-1]
    _wait_for_death(pid)
    usage = output_of(live_server.client.get("/platform/v1/usage"))
    assert [item["tokens"] for item in usage["trainings"] if item["job_id"] == job_id] == [job["usage"]]


def test_canceling_ends_work_that_never_looks_up(live_server):
    job_id = live_server.create_job(live_server.upload(deaf_s=600))["job_id"]
    pid = _worker_pid(live_server)
    _wait_for_line(live_server, job_id, "unpacking for long")
    started_at = time.monotonic()
    assert _cancel(live_server, job_id)["usage"] == 0
    assert time.monotonic() - started_at < 60, "it did not wait for the end of the work"
    _wait_for_death(pid)


def test_a_bad_dataset_fails_with_the_reason(live_server):
    job_id = live_server.create_job(live_server.upload(dataset_error="data.jsonl line 17: no text"))["job_id"]
    job = live_server.wait_for_job(job_id, "FAILED")
    assert (job["code"], job["message"]) == ("InvalidParameter", "data.jsonl line 17: no text")
    assert any("data.jsonl line 17: no text" in line for line in _logs(live_server, job_id))


def test_a_bug_in_training_fails_with_its_name_and_its_trace_in_the_log(live_server):
    job_id = live_server.create_job(live_server.upload(**{"raise": "loss is nan"}))["job_id"]
    job = live_server.wait_for_job(job_id, "FAILED")
    assert job["code"] == "InternalError"
    assert "failed (RuntimeError: loss is nan), 3 times in a row" in job["message"]
    assert any("Traceback" in line for line in _logs(live_server, job_id))


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_job_goes_on_and_no_worker_is_left_when_the_server_ends_and_starts(tmp_path, how):
    server = LiveServer(tmp_path).start()
    try:
        job_id, pid = _start_slow_job(server)
        waiting = server.create_job(server.upload())["job_id"]
        getattr(server, how)()
        _wait_for_death(pid)
        server.start()
        assert _worker_pid(server) != pid
        assert server.job(job_id)["status"] == "RUNNING"
        why = {"kill": "the server ended without stopping the training", "stop": "The server is stopped"}[how]
        _wait_for_line(server, job_id, why)
        _wait_for_line(server, job_id, "Start 2 of the training worker")
        _cancel(server, job_id)
        server.wait_for_job(waiting, "SUCCEEDED")
    finally:
        server.stop()
