"""Keys, workspaces and temporary tokens over HTTP and on the command line; how fast a key may come."""

import json
import threading
from datetime import UTC, datetime

import httpx
import pytest
from typer.testing import CliRunner

from cosyforge.api.rate_limits import RateLimits, RateRules, TokenBuckets
from cosyforge.cli_platform import app as cli
from cosyforge.cli_platform import parse_duration_s
from cosyforge.errors import InvalidParameter, Throttled
from cosyforge.registry.api_keys import ApiKey
from fakes import KEY, assert_error, output_of
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


@pytest.fixture
def world(make_world):
    return make_world()


def _make_key(world, **body):
    return output_of(world.client().post("/platform/v1/keys", json={"name": "made", **body}))


# ---- management over HTTP


def test_a_key_is_made_shown_once_used_and_revoked(world):
    made = _make_key(world, name="laptop", expires_in_s=3600)
    assert (made["name"], made["workspace_id"], made["status"], made["is_admin"]) == ("laptop", "ops", "active", False)
    assert made["api_key"].startswith("sk-")
    assert world.client(made["api_key"]).get("/api/v1/files").status_code == 200
    listing = world.client().get("/platform/v1/keys")
    assert made["api_key"] not in listing.text
    listed = output_of(listing)["keys"][0]
    assert listed["key_id"] == made["key_id"]
    assert listed["last_used_time"] is not None
    revoked = output_of(world.client().delete(f"/platform/v1/keys/{made['key_id']}"))
    assert revoked["status"] == "revoked"
    assert_error(world.client(made["api_key"]).get("/api/v1/files"), 401, "InvalidApiKey")
    assert_error(world.client().delete("/platform/v1/keys/999"), 404, "NotFound")


def test_answers_with_secrets_are_kept_by_no_cache(world):
    answer = world.client().post("/platform/v1/keys", json={"name": "x"})
    assert answer.headers["cache-control"] == "no-store"


def test_workspaces_are_made_used_and_removed(world):
    admin = world.client()
    made = output_of(admin.post("/platform/v1/workspaces", json={"workspace_id": "beta", "name": "Beta"}))
    assert (made["workspace_id"], made["name"]) == ("beta", "Beta")
    assert_error(admin.post("/platform/v1/workspaces", json={"workspace_id": "beta"}), 409, "Conflict", "beta")
    key = _make_key(world, workspace_id="beta")
    assert {item["workspace_id"] for item in output_of(admin.get("/platform/v1/workspaces"))["workspaces"]} == {
        "ops", "beta",
    }  # fmt: skip
    assert_error(admin.delete("/platform/v1/workspaces/beta"), 400, "UnsupportedOperation", "1 API key")
    admin.delete(f"/platform/v1/keys/{key['key_id']}")
    assert output_of(admin.delete("/platform/v1/workspaces/beta"))["workspace_id"] == "beta"
    assert_error(admin.delete("/platform/v1/workspaces/beta"), 404, "WorkSpaceNotFound")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x", "expires_in_s": 0}, "expires_in_s"),
        ({"name": "x", "expires_in_s": "60"}, "expires_in_s"),
        ({"name": "x", "is_admin": "yes"}, "is_admin"),
        ({"name": "x", "admin": True}, "admin"),
        ({"name": "x\u0000"}, "NUL"),
        ({"name": "\ud800"}, "surrogate"),
    ],
)
def test_a_wrong_field_of_a_key_is_named(world, body, part):
    headers = {"Content-Type": "application/json"}
    answer = world.client().post("/platform/v1/keys", content=json.dumps(body), headers=headers)
    assert_error(answer, 400, "InvalidParameter", part)


def test_a_key_for_an_unknown_workspace_is_not_made(world):
    answer = world.client().post("/platform/v1/keys", json={"name": "x", "workspace_id": "nowhere"})
    assert_error(answer, 404, "WorkSpaceNotFound", "nowhere")


def test_an_administrator_made_over_http_may_manage(world):
    made = _make_key(world, is_admin=True)
    assert world.client(made["api_key"]).get("/platform/v1/keys").status_code == 200
    plain = _make_key(world)
    assert_error(world.client(plain["api_key"]).get("/platform/v1/keys"), 403, "AccessDenied", "keys create --admin")


# ---- temporary tokens


def test_a_token_opens_the_workspace_of_its_key(world):
    seed(world)
    answer = world.client(world.keys["own"]).post("/api/v1/tokens?expire_in_seconds=1800")
    assert set(answer.json()) == {"token", "expires_at"}
    token = answer.json()["token"]
    assert token.startswith("st-")
    assert abs(answer.json()["expires_at"] - datetime.now(UTC).timestamp() - 1800) < 60
    assert world.client(token).get(f"/api/v1/fine-tunes/{world.ids['job_id']}").status_code == 200
    assert_error(world.client(token).post("/api/v1/tokens"), 403, "AccessDenied", "temporary")
    world.client().delete(f"/platform/v1/keys/{world.ids['key_id']}")
    assert_error(world.client(token).get("/api/v1/files"), 401, "InvalidApiKey")


def test_a_token_lives_a_minute_unless_asked_otherwise(world):
    expires_at = world.client().post("/api/v1/tokens").json()["expires_at"]
    assert 0 < expires_at - datetime.now(UTC).timestamp() <= 60


@pytest.mark.parametrize("lifetime", ["0", "1801", "-1", "x", "1e3"])
def test_a_token_lives_at_most_half_an_hour(world, lifetime):
    answer = world.client().post(f"/api/v1/tokens?expire_in_seconds={lifetime}")
    assert_error(answer, 400, "InvalidParameter", "expire_in_seconds")


# ---- the workspace header


@pytest.mark.parametrize("header", ["X-DashScope-WorkSpace", "X-DashScope-Workspace"])
def test_the_workspace_header_must_name_the_keys_own(world, header):
    world.platform.workspaces.create("beta", "beta", datetime.now(UTC))
    client = world.client()
    assert client.get("/api/v1/files", headers={header: "ops"}).status_code == 200
    assert client.get("/api/v1/files", headers={header: ""}).status_code == 200
    assert_error(client.get("/api/v1/files", headers={header: "beta"}), 403, "Workspace.AccessDenied")
    assert_error(client.get("/api/v1/files", headers={header: "nowhere"}), 404, "WorkSpaceNotFound")


def test_a_wrong_key_learns_nothing_about_workspaces(world):
    answer = world.client("sk-wrong-wrong").get("/api/v1/files", headers={"X-DashScope-WorkSpace": "ops"})
    assert_error(answer, 401, "InvalidApiKey")


# ---- rates


def test_a_key_that_comes_too_fast_is_told_when_to_come_back(make_world):
    world = make_world(requests_per_second=0.5, metrics_access="key")
    assert world.client().get("/api/v1/files").status_code == 200
    answer = world.client().get("/api/v1/files")
    assert_error(answer, 429, "Throttling.RateQuota", "Requests rate limit exceeded, please try again later.")
    assert answer.headers["retry-after"] == "2"
    other = world.platform.api_keys.create("other", "ops", datetime.now(UTC))[1]
    assert world.client(other).get("/api/v1/files").status_code == 200, "each key has its own rate"
    throttled = [line for line in world.client().get("/metrics").text.splitlines() if "throttled_total{" in line]
    assert any('limit="requests"' in line for line in throttled)


class TestTokenBuckets:
    def test_a_bucket_gives_its_burst_and_then_its_rate(self):
        now = 0.0
        buckets = TokenBuckets(lambda: now)
        assert [buckets.take(("a",), 2.0, 3.0) for _ in range(3)] == [0.0, 0.0, 0.0]
        assert buckets.take(("a",), 2.0, 3.0) == pytest.approx(0.5)
        now = 0.5
        assert buckets.take(("a",), 2.0, 3.0) == 0.0
        now = 1000.0
        assert [buckets.take(("a",), 2.0, 3.0) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.5)]

    def test_waiting_as_long_as_told_is_enough(self):
        now = 0.0
        buckets = TokenBuckets(lambda: now)
        for _ in range(1000):
            wait_s = buckets.take(("a",), 3.0, 3.0)
            now += wait_s
            if wait_s:
                assert buckets.take(("a",), 3.0, 3.0) == 0.0

    def test_memory_is_bounded(self):
        buckets = TokenBuckets(lambda: 0.0, max_buckets=10)
        for number in range(1000):
            buckets.take((str(number),), 1.0, 1.0)
        assert len(buckets) == 10
        assert buckets.take(("999",), 1.0, 1.0) > 0, "the newest are remembered"

    def test_threads_together_get_no_more_than_the_burst(self):
        buckets, taken = TokenBuckets(lambda: 0.0), []

        def take():
            for _ in range(100):
                if not buckets.take(("a",), 1.0, 50.0):
                    taken.append(1)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 50


def test_the_base_model_has_a_rate_per_workspace_and_a_deployment_has_none():
    limits = RateLimits(RateRules(base_synthesis_per_second=3), TokenBuckets(lambda: 0.0))
    base = _Deployment("cosyvoice-v3-flash", is_builtin=True)
    for _ in range(3):
        limits.take_synthesis(_key("llm-a"), base)
    with pytest.raises(Throttled) as error:
        limits.take_synthesis(_key("llm-a"), base)
    assert error.value.fields["retry_after_s"] == pytest.approx(1 / 3)
    limits.take_synthesis(_key("llm-b"), base)
    for _ in range(10):
        limits.take_synthesis(_key("llm-a"), _Deployment("tuned", is_builtin=False))


def test_without_settings_nothing_is_limited():
    limits = RateLimits(RateRules())
    for _ in range(1000):
        limits.take_request(_key("llm-a"))
        limits.take_synthesis(_key("llm-a"), _Deployment("base", is_builtin=True))


class _Deployment:
    def __init__(self, deployed_model, is_builtin):
        self.deployed_model, self.is_builtin = deployed_model, is_builtin


def _key(workspace_id):
    return ApiKey(1, "k", workspace_id, "sk-…", datetime.now(UTC))


# ---- the command line


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("45m", 2700), ("12h", 43_200), ("30d", 2_592_000)]
)
def test_lengths_of_time_are_read(text, seconds):
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1w", "1.5h", "99999d", "d"])
def test_other_lengths_of_time_are_refused(text):
    with pytest.raises(InvalidParameter, match="no length of time"):
        parse_duration_s(text)


def _cli(directory, *arguments):
    return CliRunner().invoke(cli, [*arguments, "--data-dir", str(directory)])


def test_the_command_line_makes_workspaces_and_keys_that_expire(tmp_path):
    assert _cli(tmp_path, "workspaces", "create", "studio", "--name", "The studio").exit_code == 0
    again = _cli(tmp_path, "workspaces", "create", "studio")
    assert (again.exit_code, "already exists" in again.stderr) == (2, True)
    made = _cli(tmp_path, "keys", "create", "--name", "guest", "--workspace", "studio", "--expires-in", "12h")
    assert made.stdout.startswith("sk-")
    assert _cli(tmp_path, "keys", "create", "--name", "boss", "--admin").exit_code == 0
    guest, boss = _cli(tmp_path, "keys", "list").stdout.splitlines()
    assert "\tguest\tstudio\t" in guest
    assert "\tuser\tactive until " in guest
    assert "\tboss\tllm-cosyforge\t" in boss
    assert "\tadmin\tactive\tnever used" in boss
    listed = _cli(tmp_path, "workspaces", "list").stdout
    assert "studio\tThe studio\t" in listed
    assert "llm-cosyforge\t" in listed
    wrong = _cli(tmp_path, "keys", "create", "--expires-in", "soon")
    assert (wrong.exit_code, "12h" in wrong.stderr) == (2, True)


def test_a_new_workspace_of_a_key_is_told(tmp_path):
    made = _cli(tmp_path, "keys", "create", "--workspace", "new")
    assert made.stderr.strip() == "made the workspace new"
    assert made.stdout.startswith("sk-")
    wrong = _cli(tmp_path, "keys", "create", "--workspace", "not valid")
    assert (wrong.exit_code, "workspace_id must be" in wrong.stderr) == (2, True)


def test_failures_are_logged_without_the_key(live_server):
    secret = "sk-somebody-tries-this-one"
    httpx.get(f"{live_server.url}/api/v1/files", headers={"Authorization": f"Bearer {secret}"})
    assert '"event": "authentication_failed"' in live_server.log()
    assert secret not in live_server.log()
    assert KEY not in live_server.log()
