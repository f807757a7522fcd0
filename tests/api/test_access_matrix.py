"""Every route of the application x every kind of caller who may not: the list comes from the route table itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from fakes import HYPER_PARAMETERS
from seeded_platform import bad_keys, open_world, seed

PROTECTED = ("/api/", "/platform/", "/compatible-mode/", "/v1/")
PUBLIC = {
    "/openapi.json",  # about the interface, nothing of anybody's
    "/healthz", "/readyz", "/metrics",  # /metrics has its own setting
    "/artifacts/{key:path}",  # the signature of the link is the permission
    "/api-ws/v1/inference", "/api-ws/v1/inference/",  # sockets: their own tests
}  # fmt: skip

NOT_FOUND = (404, "NotFound")
NO_FILE = (400, "InvalidParameter", "File not found.")
NO_MODEL = (400, "InvalidParameter")
DENIED = (403, "Model.AccessDenied")
ADMINS_ONLY = (403, "AccessDenied")
NOTHING = (200, None)
"""A list without anything of another workspace, or something that is the same for everybody."""


@dataclass(frozen=True)
class Case:
    """How another workspace's key asks, and what it gets. {names} are those of the seeded workspace."""

    answer: tuple[Any, ...]
    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)
    form: dict[str, Any] | None = None


_JOB = {
    "model": "cosyvoice-v3-flash", "training_type": "efficient_sft", "hyper_parameters": HYPER_PARAMETERS,
    "training_file_ids": ["{file_id}"],
}  # fmt: skip
_DEPLOYMENT = {"model_name": "{model}", "capacity": 1, "plan": "mu", "deploy_spec": "MU5"}
_SPEECH = {"model": "{model}", "input": {"text": "hello", "voice": "default"}}

MATRIX: dict[tuple[str, str], Case] = {
    ("POST", "/api/v1/files"): Case((400, "InvalidParameter"), form={}),
    ("GET", "/api/v1/files"): Case(NOTHING),
    ("GET", "/api/v1/files/{file_id}"): Case(NO_FILE),
    ("DELETE", "/api/v1/files/{file_id}"): Case(NO_FILE),
    ("POST", "/compatible-mode/v1/files"): Case((400, "InvalidParameter"), form={}),
    ("GET", "/compatible-mode/v1/files"): Case(NOTHING),
    ("GET", "/compatible-mode/v1/files/{file_id}"): Case(NOT_FOUND),
    ("GET", "/compatible-mode/v1/files/{file_id}/content"): Case(NOT_FOUND),
    ("DELETE", "/compatible-mode/v1/files/{file_id}"): Case(NOT_FOUND),
    ("POST", "/api/v1/fine-tunes"): Case(NO_FILE, body=_JOB),
    ("GET", "/api/v1/fine-tunes"): Case(NOTHING),
    ("GET", "/api/v1/fine-tunes/{job_id}"): Case(NOT_FOUND),
    ("DELETE", "/api/v1/fine-tunes/{job_id}"): Case(NOT_FOUND),
    ("POST", "/api/v1/fine-tunes/{job_id}/cancel"): Case(NOT_FOUND),
    ("GET", "/api/v1/fine-tunes/{job_id}/logs"): Case(NOT_FOUND),
    ("GET", "/api/v1/fine-tunes/{job_id}/checkpoints"): Case(NOT_FOUND),
    ("GET", "/api/v1/fine-tunes/{job_id}/export/{checkpoint}"): Case(NOT_FOUND, query={"model_name": "mine"}),
    ("GET", "/api/v1/fine-tunes/{job_id}/stream"): Case(NOT_FOUND),
    ("GET", "/api/v1/models"): Case(NOTHING, query={"model": "{model}"}),
    ("GET", "/api/v1/deployments/models"): Case(NOTHING),
    ("POST", "/api/v1/deployments"): Case(NO_MODEL, body=_DEPLOYMENT),
    ("GET", "/api/v1/deployments"): Case(NOTHING),
    ("GET", "/api/v1/deployments/{deployed_model}"): Case(NOT_FOUND),
    ("PUT", "/api/v1/deployments/{deployed_model}/scale"): Case(NOT_FOUND, body={"capacity": 2}),
    ("PUT", "/api/v1/deployments/{deployed_model}/update"): Case(NOT_FOUND, body={"rpm_limit": 1}),
    ("DELETE", "/api/v1/deployments/{deployed_model}"): Case(NOT_FOUND),
    ("GET", "/api/v1/deployments/{deployed_model}/stream"): Case(NOT_FOUND),
    ("GET", "/platform/v1/deployments/{deployed_model}"): Case(NOT_FOUND),
    ("GET", "/platform/v1/deployments/{deployed_model}/events"): Case(NOT_FOUND),
    ("POST", "/platform/v1/deployments/{deployed_model}/stop"): Case(NOT_FOUND),
    ("POST", "/platform/v1/deployments/{deployed_model}/start"): Case(NOT_FOUND),
    ("POST", "/api/v1/services/audio/tts/SpeechSynthesizer"): Case(DENIED, body=_SPEECH),
    ("POST", "/v1/audio/speech"): Case(DENIED, body={"model": "{model}", "input": "hello", "voice": "default"}),
    ("GET", "/v1/models"): Case(NOTHING),
    ("GET", "/v1/models/{model}"): Case((404, "ModelNotFound")),
    ("GET", "/v1/audio/voices"): Case(NOTHING, query={"model": "{model}"}),
    ("GET", "/platform/v1/usage"): Case(NOTHING),
    ("GET", "/platform/v1/estimate"): Case(NOT_FOUND, query={"file_id": "{file_id}"}),
    ("POST", "/platform/v1/estimate"): Case(NOT_FOUND, body=_JOB),
    ("GET", "/platform/v1/preview"): Case((404, "ModelNotFound"), query={"text": "hello", "model": "{model}"}),
    ("POST", "/platform/v1/preview"): Case((404, "ModelNotFound"), body={"text": "hello", "model": "{model}"}),
    ("POST", "/api/v1/tokens"): Case(NOTHING),
    ("GET", "/platform/v1/keys"): Case(ADMINS_ONLY),
    ("POST", "/platform/v1/keys"): Case(ADMINS_ONLY, body={"name": "x", "workspace_id": "{workspace_id}"}),
    ("DELETE", "/platform/v1/keys/{key_id}"): Case(ADMINS_ONLY),
    ("GET", "/platform/v1/workspaces"): Case(ADMINS_ONLY),
    ("POST", "/platform/v1/workspaces"): Case(ADMINS_ONLY, body={"workspace_id": "another"}),
    ("DELETE", "/platform/v1/workspaces/{workspace_id}"): Case(ADMINS_ONLY),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = open_world(tmp_path_factory.mktemp("matrix"))
    seed(world)
    now = datetime.now(UTC)
    world.platform.workspaces.create("beta", "beta", now)
    world.keys["other"] = world.platform.api_keys.create("other", "beta", now)[1]
    world.keys |= {name: key or "" for name, key in bad_keys(world).items()}
    yield world
    world.close()


def _routes(app):
    """(method, path) of everything that the application serves, HEAD aside, which GET covers."""
    for route in iter_route_contexts(app.routes):
        for method in route.methods or {"SOCKET"}:
            if method != "HEAD":
                yield method, route.path


def _filled(value, ids):
    if isinstance(value, str):
        return value.format(**ids) if "{" in value else value
    if isinstance(value, dict):
        return {key: _filled(item, ids) for key, item in value.items()}
    return [_filled(item, ids) for item in value] if isinstance(value, list) else value


def _ask(world, key, method, path):
    case = MATRIX[method, path]
    asked = {"url": path.format(**world.ids), "params": _filled(case.query, world.ids)}
    if case.body is not None:
        asked["json"] = _filled(case.body, world.ids)
    if case.form is not None:
        asked["files"] = {"unasked": ("a.zip", b"x")}
    return asked, world.client(key or None).request(method, **asked)


def _error_of(response):
    body = response.json()
    return body.get("error", body)


def test_every_route_has_an_entry_here_and_is_protected_or_known_to_be_public(world):
    protected = {(method, path) for method, path in _routes(world.app) if path.startswith(PROTECTED)}
    assert protected == set(MATRIX)
    assert {path for _, path in _routes(world.app) if not path.startswith(PROTECTED)} == PUBLIC


NO_GOOD = (
    "no key", "a wrong key", "a revoked key", "an expired key", "a token of a revoked key", "an expired token",
    "the hash of a key",
)  # fmt: skip


@pytest.mark.parametrize("caller", NO_GOOD)
def test_nothing_opens_without_a_key_that_works(world, caller):
    for method, path in MATRIX:
        _, response = _ask(world, world.keys[caller], method, path)
        assert response.status_code == 401, (method, path, response.text)
        error = _error_of(response)
        assert (error["code"], error["message"]) == ("InvalidApiKey", "Invalid API-key provided."), (method, path)
        assert not any(secret in response.text for secret in world.secrets)


@pytest.mark.parametrize(("method", "path"), MATRIX)
def test_a_key_of_another_workspace_learns_and_changes_nothing(world, method, path):
    before = _state(world)
    asked, response = _ask(world, world.keys["other"], method, path)
    status, code, *message = MATRIX[method, path].answer
    assert response.status_code == status, response.text
    if code is not None:
        assert _error_of(response)["code"] == code
    assert all(part in response.text for part in message)
    leaked = [secret for secret in world.secrets if secret in response.text and secret not in str(asked)]
    assert leaked == [], response.text
    assert _state(world) == before


@pytest.mark.parametrize("path", [path for method, path in MATRIX if method == "GET" and "{" in path])
def test_what_is_not_yours_looks_like_what_is_not_there(world, path):
    """The same answer, so that nobody can find out which ids exist."""
    if "/keys" in path or "/workspaces" in path:
        return
    other = world.client(world.keys["other"])
    theirs = _error_of(other.get(path.format(**world.ids), params={"model_name": "x"}))
    nobodys = {name: "nobodys" for name in world.ids}
    nothing = _error_of(other.get(path.format(**nobodys), params={"model_name": "x"}))
    shown = theirs["message"]
    for name, value in world.ids.items():
        shown = shown.replace(value, nobodys[name])
    assert (theirs["code"], shown) == (nothing["code"], nothing["message"])


def test_the_owner_sees_all_of_it(world):
    """Otherwise the tests above prove nothing."""
    own = world.client(world.keys["own"])
    seen = "".join(
        own.get(path.format(**world.ids)).text
        for method, path in MATRIX
        if method == "GET" and "/stream" not in path and "/export/" not in path and not path.startswith("/v1/")
    )
    not_shown = {"the key of alpha", "The workspace of alpha"}  # an administrator's business
    missing = [secret for secret in world.secrets if secret not in seen and secret not in not_shown]
    assert [secret for secret in missing if secret.count("-") != 4] == [], "internal ids alone are never shown"


def _state(world):
    """What the owner sees, without what passes by itself: signed links and running times."""
    own = world.client(world.keys["own"])
    files = own.get("/api/v1/files").json()["data"]["files"]
    jobs = own.get("/api/v1/fine-tunes").json()["output"]
    deployments = own.get("/api/v1/deployments").json()["output"]
    checkpoints = own.get(f"/api/v1/fine-tunes/{world.ids['job_id']}/checkpoints").json()["output"]
    admin = world.client()
    keys = [(key["key_id"], key["status"]) for key in admin.get("/platform/v1/keys").json()["output"]["keys"]]
    workspaces = admin.get("/platform/v1/workspaces").json()["output"]
    return [file["file_id"] for file in files], jobs, deployments, checkpoints, keys, workspaces
