"""Deployments on a real server: signals, restarts, failures."""

import json
import os
import signal
import threading

import httpx
import pytest

from fakes import LiveServer, assert_error, child_pids, command_line, output_of, wait_for


def _replica_pids(server):
    pids = [pid for pid in child_pids(server.process.pid) if "deployments.replica" in command_line(pid)]
    return sorted(pids)


@pytest.fixture(scope="module")
def model(live_server):
    return live_server.train()["finetuned_output"]


@pytest.fixture
def deployed(live_server, model):
    """A RUNNING deployment with one replica, gone afterwards."""
    live_server.deploy(model)
    live_server.wait_for_deployment(model, "RUNNING")
    yield model
    live_server.client.delete(f"/api/v1/deployments/{model}")
    _wait_until_gone(live_server, model)


def _wait_until_gone(server, deployed_model):
    url = f"/api/v1/deployments/{deployed_model}"
    wait_for(lambda: server.client.get(url).status_code == 404, 60, "the deployment to be gone")


def test_a_killed_replica_comes_back_and_the_server_says_why(live_server, deployed):
    (pid,) = _replica_pids(live_server)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: _replica_pids(live_server) not in ([pid], []), 30, "a new replica")
    # a request in between waits for the new replica
    assert live_server.speak(deployed).status_code == 200
    live_server.wait_for_deployment(deployed, "RUNNING")
    assert any(f"pid {pid}) was killed by signal 9 SIGKILL" in event for event in live_server.events(deployed))


def test_a_replica_that_dies_while_speaking_is_an_error_and_not_a_hang(live_server, deployed):
    assert_error(live_server.speak(deployed, "please crash"), 500, "InternalError", "stopped while it was speaking")
    assert live_server.speak(deployed).status_code == 200


def test_scaling_starts_and_stops_processes(live_server, deployed):
    url = f"/api/v1/deployments/{deployed}/scale"
    answer = live_server.client.put(url, json={"capacity": 2}).json()["output"]
    assert (answer["status"], answer["capacity"], answer["ready_capacity"]) == ("UPDATING", 2, 1)
    assert live_server.wait_for_deployment(deployed, "RUNNING")["ready_capacity"] == 2
    assert len(_replica_pids(live_server)) == 2
    live_server.client.put(url, json={"capacity": 1})
    wait_for(lambda: len(_replica_pids(live_server)) == 1, 30, "one replica to go")
    assert live_server.wait_for_deployment(deployed, "RUNNING")["ready_capacity"] == 1


def test_deleting_ends_the_processes_and_frees_the_name(live_server, model):
    live_server.deploy(model)
    live_server.wait_for_deployment(model, "RUNNING")
    url = f"/api/v1/deployments/{model}"
    assert live_server.client.delete(url).json()["output"]["status"] == "DELETING"
    _wait_until_gone(live_server, model)
    assert_error(live_server.client.delete(url), 404, "NotFound", "Not found!")
    assert _replica_pids(live_server) == []
    assert_error(live_server.speak(model), 400, "InvalidParameter", "Model is not ready", "not deployed")


def test_a_model_that_cannot_load_is_failed_with_the_reason(live_server):
    broken = live_server.train(manifest={"broken": "3 tensors are missing"})["finetuned_output"]
    live_server.deploy(broken)
    assert "3 tensors are missing" in live_server.wait_for_deployment(broken, "FAILED")["message"]
    assert_error(live_server.speak(broken), 400, "InvalidParameter", "FAILED", "3 tensors are missing")
    live_server.client.delete(f"/api/v1/deployments/{broken}")
    _wait_until_gone(live_server, broken)


def _inspect(server, deployed_model):
    return output_of(server.client.get(f"/platform/v1/deployments/{deployed_model}"))


def test_every_replica_can_be_seen(live_server, deployed):
    (replica,) = _inspect(live_server, deployed)["replicas"]
    assert replica["pid"] in _replica_pids(live_server)
    assert (replica["state"], replica["restarts"], replica["in_flight"]) == ("ready", 0, 0)
    assert 1 < replica["rss_mb"] < 1000
    os.kill(replica["pid"], signal.SIGKILL)
    wait_for(lambda: [new["restarts"] for new in _inspect(live_server, deployed)["replicas"]] == [1], 60, "another")


def test_stopped_it_has_no_process_and_no_bill_and_started_it_speaks_again(live_server, deployed):
    url = f"/platform/v1/deployments/{deployed}"
    stopped = output_of(live_server.client.post(f"{url}/stop"))
    assert (stopped["status"], stopped["wanted"], stopped["billed_units"]) == ("UPDATING", "stopped", 0)
    assert_error(live_server.speak(deployed), 400, "InvalidParameter", "Model is not ready")
    assert live_server.wait_for_deployment(deployed, "STOPPED")["capacity"] == 1
    assert _inspect(live_server, deployed)["replicas"] == []
    assert output_of(live_server.client.post(f"{url}/start"))["status"] == "UPDATING"
    live_server.wait_for_deployment(deployed, "RUNNING")
    assert live_server.speak(deployed).status_code == 200


def test_scaling_down_lets_a_running_stream_end_and_sends_new_ones_elsewhere(live_server, deployed):
    """A slow text holds one of two replicas; both replicas get one, so whichever goes has something to finish."""
    url = f"/api/v1/deployments/{deployed}/scale"
    live_server.client.put(url, json={"capacity": 2})
    live_server.wait_for_deployment(deployed, "RUNNING")
    answers = []
    speakers = [
        threading.Thread(target=lambda: answers.append(live_server.speak(deployed, "slow down").status_code))
        for _ in range(2)
    ]
    for speaker in speakers:
        speaker.start()
    wait_for(lambda: sum(r["in_flight"] for r in _inspect(live_server, deployed)["replicas"]) == 2, 60, "two streams")
    live_server.client.put(url, json={"capacity": 1})
    assert live_server.speak(deployed, "meanwhile").status_code == 200
    for speaker in speakers:
        speaker.join()
    assert answers == [200, 200]
    wait_for(lambda: len(_replica_pids(live_server)) == 1, 60, "one replica to go")


def test_a_client_that_vanishes_frees_its_place(live_server, deployed):
    body = {"model": deployed, "input": {"text": "hello " + "slow " * 100, "voice": "default", "format": "wav"}}
    headers = {"X-DashScope-SSE": "enable"}
    url = "/api/v1/services/audio/tts/SpeechSynthesizer"
    with live_server.client.stream("POST", url, json=body, headers=headers) as response:
        assert response.status_code == 200
        lines = response.iter_lines()
        assert next(lines).startswith("id:")
        assert _inspect(live_server, deployed)["replicas"][0]["in_flight"] == 1
    wait_for(lambda: _inspect(live_server, deployed)["replicas"][0]["in_flight"] == 0, 60, "the place to be free")
    assert live_server.speak(deployed).status_code == 200


def test_limits_hold_where_people_speak(live_server, deployed):
    limits = {"rpm_limit": 2}
    shown = output_of(live_server.client.put(f"/api/v1/deployments/{deployed}/update", json=limits))
    assert shown["rpm_limit"] == 2
    assert [live_server.speak(deployed).status_code for _ in range(2)] == [200, 200]
    refused = live_server.speak(deployed)
    assert_error(refused, 429, "Throttling.RateQuota", "2 requests per minute")
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_the_stream_tells_the_whole_story_and_closes_when_the_deployment_is_gone(live_server, model):
    live_server.deploy(model)
    seen = []

    def read():
        with live_server.client.stream("GET", f"/api/v1/deployments/{model}/stream") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            for line in response.iter_lines():
                if line.startswith("data:"):
                    seen.append(json.loads(line.removeprefix("data:")))

    reader = threading.Thread(target=read)
    reader.start()
    live_server.wait_for_deployment(model, "RUNNING")
    live_server.client.put(f"/api/v1/deployments/{model}/scale", json={"capacity": 2})
    live_server.wait_for_deployment(model, "RUNNING")
    assert reader.is_alive(), "a deployment that runs is not over"
    url, headers = f"/api/v1/deployments/{model}/stream", {"Last-Event-ID": "2"}
    with live_server.client.stream("GET", url, headers=headers) as response:
        lines = response.iter_lines()
        assert next(lines) == "id:3", "who comes back goes on where they were"
    live_server.client.delete(f"/api/v1/deployments/{model}")
    reader.join(60)
    assert not reader.is_alive()
    statuses = [event["status"] for event in seen if event["type"] == "status"]
    assert statuses == ["PENDING", "DEPLOYING", "RUNNING", "UPDATING", "RUNNING", "DELETING"]
    assert seen[-1]["message"] == "Deleted."
    assert_error(live_server.client.get(f"/api/v1/deployments/{model}/stream"), 404, "NotFound")


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_deployments_survive_their_server_and_their_replicas_do_not(tmp_path, how):
    server = LiveServer(tmp_path).start()
    model = server.train()["finetuned_output"]
    server.deploy(model)
    server.wait_for_deployment(model, "RUNNING")
    (pid,) = _replica_pids(server)
    getattr(server, how)()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 10, "the replica to die with its server")
    server.start()
    try:
        assert server.wait_for_deployment(model, "RUNNING")["ready_capacity"] == 1
        audio = server.speak(model).json()["output"]["audio"]
        assert httpx.get(audio["url"]).content.startswith(b"RIFF")
    finally:
        server.stop()


def test_a_replica_that_hangs_is_killed_and_replaced_with_the_reason(tmp_path):
    server = LiveServer(tmp_path, replica_ping_timeout_s=2).start()
    try:
        model = server.train()["finetuned_output"]
        server.deploy(model)
        server.wait_for_deployment(model, "RUNNING")
        (pid,) = _replica_pids(server)
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: _replica_pids(server) not in ([], [pid]), 60, "another replica")
        assert server.wait_for_deployment(model, "RUNNING")["ready_capacity"] == 1
        assert any(f"pid {pid}) hangs: it did not answer for 2 s" in event for event in server.events(model))
        assert server.speak(model).status_code == 200
    finally:
        server.stop()
