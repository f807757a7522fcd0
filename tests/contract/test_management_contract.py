"""The management routes against their own OpenAPI document: 2,000 generated requests, valid ones and invalid ones.

No answer may be a server error, have a status or a media type that the document does not know, or an error of another
shape. Half of the requests ask for things that are there, so that they get past the first 404.
"""

from __future__ import annotations

import copy
import logging
import secrets

import hypothesis
import pytest
import schemathesis
import structlog
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fakes import HYPER_PARAMETERS, KEY
from seeded_platform import open_world, seed

NUM_CASES = 2000
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ELSEWHERE = (
    "/api/v1/services/", "/v1/", "/platform/v1/preview",  # what speaks
    "/readyz",  # here the threads do not run, so it is 503
)  # fmt: skip
"""Routes with tests of their own."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    world = open_world(tmp_path_factory.mktemp("contract"), metrics_access="key")
    seed(world)
    yield world
    world.close()
    structlog.configure(**before)


@pytest.fixture(scope="module")
def operations(world):
    """Deletions last: what the others ask for should still be there."""
    document = copy.deepcopy(world.app.openapi())
    for path in document["paths"].values():
        for operation in path.values():
            operation.pop("security")  # the key is always right here: the access matrix has the others
    schema = schemathesis.openapi.from_dict(document)
    schema.app = _without_lifespan(world.app)
    found = [result.ok() for result in schema.get_all_operations()]
    return sorted(
        (operation for operation in found if not operation.path.startswith(ELSEWHERE)),
        key=lambda operation: operation.method == "delete",
    )


def _without_lifespan(app):
    """The threads would start workers and replicas for what is created here."""

    async def serve(scope, receive, send):
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    return serve


def test_every_management_route_says_truly_what_it_answers(world, operations):
    """Each operation has the same share; those with little to vary leave theirs to the others."""
    tasks = [(operation, mode) for operation in operations for mode in GenerationMode if _has(operation, mode)]
    statuses: dict[str, list[int]] = {operation.label: [] for operation in operations}
    round_no = 0
    while (num_cases := sum(map(len, statuses.values()))) < NUM_CASES:
        round_no += 1
        share = max(5, (NUM_CASES - num_cases) // len(tasks) + 1)
        for operation, mode in list(tasks):
            seen = _try_out(world, operation, mode, share, round_no)
            statuses[operation.label] += seen
            if len(seen) < share:
                tasks.remove((operation, mode))  # there are no more different ones
    unreached = {label for label, seen in statuses.items() if min(seen) >= 400}
    assert unreached <= UNREACHED, "what only ever failed was not tested"


UNREACHED = {
    "GET /metrics",  # not for this client, which is nobody's administrator
    "GET /api/v1/deployments/{deployed_model}/stream",  # would wait for a replica that nobody starts
    "GET /platform/v1/estimate", "POST /platform/v1/estimate",  # the file of the seeded workspace is no zip
}  # fmt: skip


def _has(operation, mode):
    """Any text is a valid id, so an operation that has nothing else cannot be asked wrongly; trying to takes long."""
    definition = operation.definition.raw
    parameters = [item for item in definition.get("parameters", []) if item["schema"].get("type") != "string"]
    return mode is GenerationMode.POSITIVE or "requestBody" in definition or bool(parameters)


def _try_out(world, operation, mode, num_examples, number):
    seen: list[int] = []

    @hypothesis.seed(number)
    @hypothesis.settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), is_known=st.booleans())
    def run(case, is_known):
        if is_known:
            _ask_for_what_is_there(world, case)
        key = KEY if case.path.startswith(("/platform/v1/keys", "/platform/v1/workspaces")) else world.keys["own"]
        response = case.call(headers={"Authorization": f"Bearer {key}"})
        seen.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    run()
    return seen


def _ask_for_what_is_there(world, case):
    """The rest of the case stays as generated."""
    ids = world.ids | _other_ids(world, case.path)
    for name in case.path_parameters or {}:
        if name in ids and not (name == "deployed_model" and case.path.endswith("/stream")):
            case.path_parameters[name] = ids[name]
    if case.path.endswith("/export/{checkpoint}"):
        case.query["model_name"] = "exported-again"
    if not isinstance(case.body, dict):
        return
    known = {
        "model": world.platform.settings.base_model,
        "training_type": "efficient_sft",
        "hyper_parameters": HYPER_PARAMETERS,
        "training_file_ids": [world.ids["file_id"]],
        "training_datasets": None,
        "validation_file_ids": None,
        "validation_datasets": None,
        "file_id": world.ids["file_id"],
        "model_name": world.ids["model"],
        "capacity": 1,
        "suffix": secrets.token_hex(3),
        "deploy_spec": "MU5",
        "plan": "mu",
        "billing_method": "POST_PAY",
        "workspace_id": "made-here" if case.path.endswith("/workspaces") else "ops",
    }
    for name in {*case.body, *_REQUIRED.get(case.path, ())} & set(known):
        case.body[name] = known[name]


_REQUIRED = {
    "/api/v1/fine-tunes": ("model", "training_type", "hyper_parameters", "training_file_ids"),
    "/api/v1/deployments": ("model_name", "capacity", "suffix"),
}


def _other_ids(world, path):
    """For what cannot be done twice, or not to what has ended."""
    if path.endswith("/cancel"):
        return {"job_id": world.ids["waiting_job_id"]}
    return {"file_id": world.ids["second_file_id"]} if path.startswith("/compatible-mode") else {}
