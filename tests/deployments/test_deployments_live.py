"""Deployments on a real server: signals, restarts, failures."""

import os
import signal

import httpx
import pytest

from fakes import LiveServer, assert_error, child_pids, command_line, wait_for


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
