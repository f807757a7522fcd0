"""The server as a process: what it loads, how it starts, who may come in, what an error looks like."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cosyforge.cli_platform import app as cli
from fakes import KEY, LiveServer, assert_error, database_url_for, output_of, wait_for

ENDPOINTS = [
    ("GET", "/api/v1/files"),
    ("POST", "/api/v1/files"),
    ("GET", "/api/v1/fine-tunes"),
    ("POST", "/api/v1/fine-tunes"),
    ("GET", "/api/v1/deployments"),
    ("GET", "/api/v1/deployments/models"),
    ("POST", "/api/v1/services/audio/tts/SpeechSynthesizer"),
    ("GET", "/platform/v1/usage"),
]


@pytest.mark.parametrize("module", ["cosyforge.api.app", "cosyforge.cli_platform", "cosyforge.jobs.worker"])
def test_it_does_not_load_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_it_starts_with_less_than_two_seconds_of_work_and_stops_by_itself(tmp_path):
    """Processor time, so that a busy machine does not matter; it includes making the database."""
    server = LiveServer(tmp_path).start()
    try:
        assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
        used_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        assert used_s < 2, used_s
    finally:
        server.stop()
    assert '"Application shutdown complete."' in server.log()


def test_it_becomes_ready(live_server):
    assert live_server.client.get("/readyz").json() == {"status": "ok", "reasons": []}


def test_a_second_server_on_the_same_data_is_refused(live_server):
    second = LiveServer(live_server.data_dir.parent)
    with pytest.raises(RuntimeError, match=f"pid {live_server.process.pid}.*COSYFORGE_DATA_DIR"):
        second.start()
    assert live_server.client.get("/healthz").status_code == 200


def test_the_first_key_is_printed_once_and_works(tmp_path):
    server = LiveServer(tmp_path, bootstrap_key="").start()
    try:
        line = next(line for line in server.log().splitlines() if "API key" in line)
        key = line.split()[-1]
        answer = httpx.get(f"{server.url}/api/v1/files", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 200
        server.stop()
        server.start()
        assert server.log().count("API key") == 1
    finally:
        server.stop()


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_nothing_opens_without_a_valid_key(live_server, method, path):
    with httpx.Client(base_url=live_server.url) as client:
        for header in [None, "", "Bearer", "Bearer sk-wrong", f"Basic {KEY}", KEY]:
            headers = {} if header is None else {"Authorization": header}
            assert_error(
                client.request(method, path, headers=headers), 401, "InvalidApiKey", "Invalid API-key provided."
            )


def test_the_scheme_is_not_case_sensitive(live_server):
    headers = {"Authorization": f"bearer {KEY}"}
    assert httpx.get(f"{live_server.url}/api/v1/files", headers=headers).status_code == 200


def test_the_key_is_checked_before_the_body(live_server):
    answer = httpx.post(f"{live_server.url}/api/v1/fine-tunes", content=b"{", headers={"Authorization": "Bearer x"})
    assert_error(answer, 401, "InvalidApiKey")


def test_every_answer_carries_its_id(live_server):
    answer = live_server.client.get("/api/v1/fine-tunes")
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert len(answer.json()["request_id"]) == 36
    assert set(answer.json()) == {"request_id", "output"}, "clients take anything else at the top for the output"
    request_id = answer.json()["request_id"]
    # the line is written once the answer is out
    wait_for(lambda: request_id in live_server.log(), 60, "the line of the request")


@pytest.mark.parametrize("path", ["/", "/api/v1/nothing", "/api/v2/files", "/artifacts/../secret"])
def test_an_unknown_route_is_not_found_in_json(live_server, path):
    assert_error(live_server.client.get(path), 404, "NotFound", "Not found!")


def test_a_wrong_method_is_refused_in_json(live_server):
    assert_error(live_server.client.put("/api/v1/files"), 405, "MethodNotAllowed")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff"])
@pytest.mark.parametrize("path", ["/api/v1/fine-tunes", "/api/v1/deployments", ENDPOINTS[6][1]])
def test_a_body_that_is_no_object_is_an_invalid_parameter(live_server, path, body):
    answer = live_server.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert_error(answer, 400, "InvalidParameter")


def test_a_huge_body_is_refused(live_server):
    answer = live_server.client.post("/api/v1/fine-tunes", content=b" " * (5 << 20))
    assert_error(answer, 400, "BadRequest.TooLarge", "Payload Too Large.")


@pytest.mark.parametrize("query", ["page_no=0", "page_no=x", "page_size=0", "page_size=1001"])
@pytest.mark.parametrize("path", [path for method, path in ENDPOINTS[:6] if method == "GET"])
def test_wrong_paging_names_the_parameter(live_server, path, query):
    assert_error(live_server.client.get(f"{path}?{query}"), 400, "InvalidParameter", query.partition("=")[0])


@pytest.mark.parametrize("path", [path for method, path in ENDPOINTS[:6] if method == "GET"])
def test_a_page_past_the_end_is_empty(live_server, path):
    answer = live_server.client.get(f"{path}?page_no=99&page_size=10").json()
    page = answer.get("data") or answer["output"]
    lists = [value for value in page.values() if isinstance(value, list)]
    assert (page["page_no"], page["page_size"], lists) == (99, 10, [[]])


def _keys(server, *arguments):
    environment = {"COSYFORGE_DATABASE_URL": database_url_for(server.data_dir.parent)}
    return CliRunner().invoke(cli, ["keys", *arguments, "--data-dir", str(server.data_dir)], env=environment)


def test_keys_are_made_listed_and_revoked_while_the_server_runs(live_server):
    secret = _keys(live_server, "create", "--name", "laptop").stdout.strip()
    headers = {"Authorization": f"Bearer {secret}"}
    assert httpx.get(f"{live_server.url}/api/v1/files", headers=headers).status_code == 200
    listed = _keys(live_server, "list").stdout
    assert secret not in listed
    key_id = next(line.split("\t")[0] for line in listed.splitlines() if "laptop" in line)
    assert "is revoked" in _keys(live_server, "revoke", key_id).stdout
    assert_error(httpx.get(f"{live_server.url}/api/v1/files", headers=headers), 401, "InvalidApiKey")
    missing = _keys(live_server, "revoke", "999")
    assert (missing.exit_code, missing.stderr.strip()) == (2, "error: There is no API key 999.")


def test_a_key_of_another_workspace_sees_nothing_of_ours(live_server):
    secret = _keys(live_server, "create", "--workspace", "other").stdout.strip()
    other = httpx.Client(base_url=live_server.url, headers={"Authorization": f"Bearer {secret}"})
    job = live_server.train()
    assert output_of(other.get("/api/v1/fine-tunes"))["total"] == 0
    assert_error(other.get(f"/api/v1/fine-tunes/{job['job_id']}"), 404, "NotFound")
    body = {"model": job["finetuned_output"], "input": {"text": "hi", "voice": "default"}}
    assert_error(other.post(ENDPOINTS[6][1], json=body), 403, "Model.AccessDenied", "Model access denied.")
