"""What an operator sees of the server: health, readiness with reasons, figures, logs, headers, and how it ends."""

import json
import os
import re
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from cosyforge.errors import Internal
from fakes import KEY, LiveServer, assert_error, wait_for
from seeded_platform import open_world, seed


@pytest.fixture
def make_world(tmp_path):
    worlds = []

    def make(**settings):
        worlds.append(open_world(tmp_path, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


# ---- readiness


def _reasons(world):
    answer = world.client(None).get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["status"] == "not ready"
    return answer.json()["reasons"]


def test_a_server_whose_threads_do_not_run_is_not_ready_and_names_them(make_world):
    reasons = _reasons(make_world())
    assert [name for name in ("scheduler", "reconciler", "sweeper") if any(name in reason for reason in reasons)] == [
        "scheduler", "reconciler", "sweeper",
    ]  # fmt: skip


def test_too_little_room_on_the_disk_is_a_reason(make_world):
    assert any("min_free_disk_bytes" in reason for reason in _reasons(make_world(min_free_disk_bytes=1 << 60)))


@pytest.mark.parametrize("error", [OperationalError("SELECT", {}, Exception("gone")), Internal("cannot be reached")])
def test_a_database_that_does_not_answer_is_a_reason(make_world, monkeypatch, error):
    world = make_world()

    def fail():
        raise error

    monkeypatch.setattr(world.platform.database, "read", fail)
    assert any("the database does not answer" in reason for reason in _reasons(world))


def test_a_step_that_failed_is_a_reason_until_one_works(make_world, monkeypatch):
    world = make_world()
    loop = world.platform._loops[2]
    monkeypatch.setattr(loop._thread, "is_alive", lambda: True)
    loop._try(lambda now: 1 / 0)
    assert "failed" in loop.problem()
    loop._try(lambda now: None)
    assert loop.problem() is None


def test_a_step_that_never_ends_is_a_reason(make_world, monkeypatch):
    loop = make_world().platform._loops[2]
    monkeypatch.setattr(loop._thread, "is_alive", lambda: True)
    loop._step_began_s = time.monotonic() - 1000
    assert "at one step" in loop.problem()


# ---- figures


def _samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _count(samples, route, method="GET", status="200"):
    labels = [("method", method), ("route", route), ("status", status)]
    return samples.get(("cosyforge_http_requests_total", *labels), 0)


def test_requests_are_counted_by_template_not_by_what_was_asked(live_server):
    client = live_server.client
    before = _samples(client.get("/metrics").text)
    for number in range(3):
        client.get(f"/api/v1/fine-tunes/ft-{number}")
        client.get(f"/no/such/route/{number}")
    client.request("BREW", "/api/v1/files")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    after = _samples(answer.text)
    route = "/api/v1/fine-tunes/{job_id}"
    assert _count(after, route, status="404") - _count(before, route, status="404") == 3
    assert _count(after, "none", status="404") - _count(before, "none", status="404") == 3
    assert "ft-1" not in answer.text
    assert "BREW" not in answer.text
    histogram = ("cosyforge_http_request_seconds_count", ("method", "GET"), ("route", route))
    assert after[histogram] >= 3


def test_uploads_and_threads_have_figures(live_server):
    before = _samples(live_server.client.get("/metrics").text)
    live_server.client.post("/api/v1/files", files={"files": ("a.zip", b"x" * 1000)})
    after = _samples(live_server.client.get("/metrics").text)
    uploaded = ("cosyforge_uploaded_bytes_total",)
    assert after[uploaded] - before[uploaded] == 1000
    for loop in ("scheduler", "reconciler", "sweeper"):
        assert after["cosyforge_background_loop_healthy", ("loop", loop)] == 1


@pytest.mark.parametrize(
    ("access", "statuses"),
    [("loopback", (403, 403, 403)), ("key", (401, 403, 200)), ("off", (404, 404, 404))],
)
def test_figures_are_for_whom_the_setting_says(make_world, access, statuses):
    """The in-process client is no address of this machine; the tests above come over loopback."""
    world = make_world(metrics_access=access)
    seed(world)
    asked = [world.client(None), world.client(world.keys["own"]), world.client(KEY)]
    assert tuple(client.get("/metrics").status_code for client in asked) == statuses


def test_a_proxy_on_this_machine_does_not_open_the_figures_to_the_world(live_server):
    answer = httpx.get(f"{live_server.url}/metrics", headers={"X-Forwarded-For": "203.0.113.7"})
    assert_error(answer, 403, "AccessDenied", "COSYFORGE_METRICS_ACCESS=key")


# ---- headers, ids, logs


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/files", "/api/v1/nothing", "/artifacts/files/x", "/v1/models"])
def test_every_answer_has_the_headers_that_protect(live_server, path):
    headers = live_server.client.get(path).headers
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert re.fullmatch(r"[0-9a-f-]{36}", headers["x-request-id"])
    if path.startswith(("/api/", "/v1/")):
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
    assert "server" not in headers


def test_a_request_leaves_one_line_with_its_id_and_whose_it_was(live_server):
    answer = live_server.client.get("/api/v1/fine-tunes?page_size=1&Signature=not-for-logs")
    request_id = answer.headers["x-request-id"]
    wait_for(lambda: request_id in live_server.log(), 60, "the line")
    lines = [json.loads(line) for line in live_server.log().splitlines() if request_id in line]
    assert [(line["event"], line["path"], line["status"]) for line in lines] == [("request", "/api/v1/fine-tunes", 200)]
    assert (lines[0]["workspace_id"], lines[0]["level"]) == ("llm-cosyforge", "info")
    assert lines[0]["duration_ms"] > 0
    assert "not-for-logs" not in live_server.log()


def test_lines_of_the_background_say_which_job_they_are_about(live_server):
    job = live_server.train()
    wait_for(lambda: '"job_finished"' in live_server.log(), 60, "the line")
    lines = [json.loads(line) for line in live_server.log().splitlines() if '"job_finished"' in line]
    assert [line["job_id"] for line in lines] == [job["job_id"]]
    assert "request_id" not in lines[0]


def test_every_line_of_the_log_is_json(live_server):
    for line in live_server.log().splitlines():
        assert {"event", "level", "timestamp"} <= set(json.loads(line)), line


# ---- sizes


def test_a_body_that_does_not_tell_its_size_is_cut_off(live_server):
    def endless():
        for _ in range(6):
            yield b" " * (1 << 20)

    answer = live_server.client.post("/api/v1/fine-tunes", content=endless())
    assert_error(answer, 400, "BadRequest.TooLarge", "Payload Too Large.")


def test_a_form_is_no_way_around_the_limit(live_server):
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = live_server.client.post("/api/v1/fine-tunes", content=b" " * (5 << 20), headers=headers)
    assert_error(answer, 400, "BadRequest.TooLarge")


@pytest.mark.parametrize("query", ["model=a%00b", "page_no=%00"])
def test_nul_is_refused_before_any_database(live_server, query):
    assert_error(live_server.client.get(f"/api/v1/fine-tunes?{query}"), 400, "InvalidParameter", "NUL")
    assert_error(live_server.client.get("/api/v1/files/%00"), 400, "InvalidParameter", "NUL")


@pytest.mark.parametrize("path", ["/api/v1/fine-tunes", "/v1/audio/speech", "/platform/v1/keys"])
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000])
def test_a_body_nested_too_deeply_is_the_callers_fault(live_server, path, body):
    answer = live_server.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, "nested too deeply" in answer.text) == (400, True)


def test_a_body_that_was_read_ahead_still_reaches_its_route(live_server):
    """And a text that only looks like NUL is a text."""
    body = {"model": "cosyvoice-v3-flash", "job_name": "a\\u0000b", "hyper_parameters": "🎙"}
    assert_error(live_server.client.post("/api/v1/fine-tunes", json=body), 400, "InvalidParameter", "hyper_parameters")


# ---- the end


def _signal(server):
    os.kill(server.process.pid, signal.SIGTERM)


def test_it_says_not_ready_before_it_closes_and_takes_nothing_new(tmp_path):
    server = LiveServer(tmp_path, shutdown_notice_s=30, shutdown_grace_s=1).start()
    try:
        _signal(server)
        wait_for(lambda: server.client.get("/readyz").status_code == 503, 60, "readiness to end")
        assert "the server is stopping" in server.client.get("/readyz").json()["reasons"]
        assert server.client.get("/healthz").status_code == 200
        answer = server.client.get("/api/v1/files")
        assert_error(answer, 503, "ServiceUnavailable", "stopping")
        assert answer.headers["retry-after"] == "1"
        compatible = server.client.get("/v1/models")
        assert (compatible.status_code, compatible.json()["error"]["type"]) == (503, "server_error")
    finally:
        server.kill()


def test_a_running_request_ends_within_the_grace_and_the_server_with_it(tmp_path):
    server = LiveServer(tmp_path, shutdown_grace_s=60).start()
    answers = []
    upload = threading.Thread(target=lambda: answers.append(_upload_slowly(server)))
    upload.start()
    wait_for(lambda: _staged(server), 60, "the upload to begin")
    began_s = time.monotonic()
    _signal(server)
    upload.join(60)
    server.process.wait(60)
    assert time.monotonic() - began_s < 55, "nobody waits for the whole grace"
    assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"]
    server.client.close()


def _upload_slowly(server):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.zip"\r\n\r\n' + b"x" * (2 << 20)
    tail = b"\r\n--x--\r\n"
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = (
            f"POST /api/v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
            f"Content-Length: {len(body) + len(tail)}\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        wait_for(lambda: server.client.get("/readyz").status_code == 503, 60, "the server to be told")
        connection.sendall(tail)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def _staged(server):
    staging = server.data_dir / "artifacts" / ".staging"
    return any(path.stat().st_size for path in staging.iterdir())


def test_whoever_talks_on_after_the_grace_is_cut_off(tmp_path):
    server = LiveServer(tmp_path, shutdown_grace_s=0.5).start()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = (
            f"POST /api/v1/fine-tunes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9\r\n\r\n"
        )
        connection.sendall(head.encode())
        wait_for(lambda: server.client.get("/healthz").status_code == 200, 60, "an answer")
        _signal(server)
        server.process.wait(60)
    server.client.close()
