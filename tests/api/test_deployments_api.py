"""The deployment routes over HTTP: what may be sent, what comes back, what is refused."""

import re
import subprocess
import sys

import pytest

from cosyforge.deployments.records import DeploymentStatus
from fakes import KEY, assert_error, output_of, wait_for

BASE = "cosyvoice-v3-flash"
URL = "/api/v1/deployments"


@pytest.fixture(scope="module")
def model(live_server):
    return live_server.train()["finetuned_output"]


@pytest.fixture
def create(live_server, model):
    """Creates deployments and takes them away again."""
    made = []

    def create(**body):
        response = live_server.client.post(URL, json={"model_name": model, "capacity": 1, "plan": "mu", **body})
        if response.status_code == 200:
            made.append(response.json()["output"]["deployed_model"])
        return response

    yield create
    for deployed_model in made:
        live_server.client.delete(f"{URL}/{deployed_model}")
    for deployed_model in made:
        wait_until_gone(live_server, deployed_model)


def wait_until_gone(live_server, deployed_model):
    wait_for(lambda: live_server.client.get(f"{URL}/{deployed_model}").status_code == 404, 60, "it to be gone")


class TestDeployableModels:
    def _list(self, live_server, **query):
        return output_of(live_server.client.get(f"{URL}/models", params=query))

    def test_a_tuned_model_with_both_templates(self, live_server, model):
        page = self._list(live_server, page_no=1, page_size=100, version="v1.0", model_source="custom")
        assert (page["page_no"], page["page_size"]) == (1, 100)
        (entry,) = [entry for entry in page["models"] if entry["model_name"] == model]
        assert entry["base_model"] == BASE
        (plan,) = entry["plans"]
        assert plan["plan"] == "mu"
        assert [
            (template["template_id"], template["template_name"], template["template_type"], template["roles"])
            for template in plan["templates"]
        ] == [
            (
                "dps-20260521172224-1vabse",
                "Single-machine deployment",
                "COUPLED",
                {"unified": {"model_unit_spec": "MU5", "capacity_unit_per_instance": 1}},
            ),
            (
                "MU2",
                "Single-machine deployment - flagship complex inference",
                "COUPLED",
                {"unified": {"model_unit_spec": "MU2", "capacity_unit_per_instance": 8}},
            ),
        ]

    def test_sources(self, live_server, model):
        custom, base, both = (
            self._list(live_server, **q) for q in ({"model_source": "custom"}, {"model_source": "base"}, {})
        )
        assert [entry["model_name"] for entry in base["models"]] == [BASE]
        assert BASE not in [entry["model_name"] for entry in custom["models"]]
        assert both["total"] == custom["total"] + 1
        assert both["models"][-1]["model_name"] == BASE, "the newest first, and the base model was there before all"
        response = live_server.client.get(f"{URL}/models", params={"model_source": "stolen"})
        assert_error(response, 400, "InvalidParameter", "model_source", "custom or base")

    def test_there_is_one_version(self, live_server, model):
        assert self._list(live_server, version="v1.0")["total"] > 0
        assert self._list(live_server, version="v9.9") == {"page_no": 1, "page_size": 50, "total": 0, "models": []}

    def test_pages(self, live_server, model):
        total = self._list(live_server)["total"]
        names = [
            self._list(live_server, page_no=number, page_size=1)["models"][0]["model_name"]
            for number in range(1, total + 1)
        ]
        assert names == [entry["model_name"] for entry in self._list(live_server)["models"]]
        assert self._list(live_server, page_no=total + 1, page_size=1)["models"] == []

    @pytest.mark.parametrize("query", [{"page_no": 0}, {"page_size": 0}, {"page_size": 101}, {"page_no": "x"}])
    def test_pages_that_cannot_be(self, live_server, query):
        assert_error(live_server.client.get(f"{URL}/models", params=query), 400, "InvalidParameter", next(iter(query)))


class TestCreate:
    @pytest.mark.parametrize(
        ("body", "spec", "base_capacity"),
        [
            ({"deploy_spec": "dps-20260521172224-1vabse"}, "MU5", 1),
            ({"deploy_spec": "MU5"}, "MU5", 1),
            ({"deploy_spec": "MU2", "capacity": 8, "billing_method": "POST_PAY"}, "MU2", 8),
            ({"template_id": "MU5"}, "MU5", 1),  # as SDK 1.x sends it
            ({"template_id": "MU2", "capacity": 16}, "MU2", 8),
            ({}, "MU5", 1),  # SDK 1.x when told neither
            ({"deploy_spec": "", "suffix": "", "name": None, "billing_method": None, "model_version": "x"}, "MU5", 1),
        ],
    )
    def test_every_spelling(self, create, model, body, spec, base_capacity):
        output = output_of(create(**body))
        assert (output["deployed_model"], output["status"]) == (model, "PENDING")
        assert (output["model_unit_spec"], output["base_capacity"]) == (spec, base_capacity)

    def test_the_object(self, create, model):
        output = output_of(create())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", output.pop("gmt_create"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", output.pop("gmt_modified"))
        creator, modifier = output.pop("creator"), output.pop("modifier")
        assert creator == modifier != ""
        assert output == {
            "deployed_model": model,
            "status": "PENDING",
            "name": model,
            "model_name": model,
            "base_model": BASE,
            "base_capacity": 1,
            "capacity": 1,
            "ready_capacity": 0,
            "model_unit_spec": "MU5",
            "deploy_spec": "dps-20260521172224-1vabse",
            "workspace_id": "llm-cosyforge",
            "charge_type": "post_paid",
            "plan": "mu",
        }

    def test_later_reads_have_whole_seconds(self, live_server, create, model):
        create()
        shown = live_server.deployment(model)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", shown["gmt_create"])

    def test_a_taken_name_is_a_conflict_that_no_client_should_repeat(self, create, model):
        create()
        refused = create()
        assert_error(refused, 409, "Conflict", f"Deployed model {model} already exists, please specify a suffix.")
        assert refused.headers["x-should-retry"] == "false"
        second = output_of(create(suffix="Zwei2", name="a second one"))
        assert (second["deployed_model"], second["name"]) == (f"{model}-Zwei2", "a second one")
        assert create(suffix="Zwei2").status_code == 409

    def test_a_deployment_of_the_base_model(self, live_server, create):
        assert create(model_name=BASE).status_code == 409, "that name is the built-in one's"
        output = output_of(create(model_name=BASE, suffix="own"))
        assert (output["deployed_model"], output["model_name"], output["base_model"]) == (f"{BASE}-own", BASE, BASE)
        live_server.wait_for_deployment(f"{BASE}-own", "RUNNING")

    @pytest.mark.parametrize(
        ("body", "parts"),
        [
            ({"capacity": 1, "deploy_spec": "MU2"}, ["Invalid capacity (1)", "multiples of 8 and less than 1000!"]),
            ({"capacity": 0}, ["Invalid capacity (0)", "larger than or equal to 1 "]),
            ({"capacity": 1000}, ["Invalid capacity (1000)", "less than 1000!"]),
            ({"capacity": 10**30}, ["Invalid capacity"]),
            ({"capacity": "1"}, ["capacity"]),
            ({"capacity": 1.0}, ["capacity"]),
            ({"capacity": True}, ["capacity"]),
            ({"capacity": None}, ["capacity"]),
            ({"model_name": 5}, ["model_name"]),
            ({"model_name": "nobody"}, ["The model nobody does not exist or is not deployable"]),
            ({"plan": "ptu"}, ["plan must be mu"]),
            ({"billing_method": "PRE_PAY"}, ["billing_method must be POST_PAY"]),
            ({"deploy_spec": "MU9"}, ["MU9", "dps-20260521172224-1vabse, MU2"]),
            ({"suffix": "ninechars"}, ["suffix", "at most 8"]),
            ({"suffix": "a/b"}, ["suffix"]),
            ({"suffix": 7}, ["suffix"]),
            ({"name": "n" * 201}, ["name"]),
            ({"rpm_limit": 0}, ["rpm_limit"]),
            ({"tpm_limit": 2**31}, ["tpm_limit"]),
        ],
        ids=str,
    )
    def test_what_is_refused(self, create, body, parts):
        assert_error(create(**body), 400, "InvalidParameter", *parts)

    @pytest.mark.parametrize("body", ["[]", "null", "{", '{"capacity": 1}', '{"model_name": "m"}'])
    def test_a_body_that_is_none(self, live_server, body):
        headers = {"content-type": "application/json"}
        assert_error(live_server.client.post(URL, content=body, headers=headers), 400, "InvalidParameter")


class TestChange:
    def test_scaling_shows_the_new_capacity_and_the_old_ready_one(self, live_server, create, model):
        create()
        live_server.wait_for_deployment(model, "RUNNING")
        body = {"deployed_model": model, "capacity": 2}  # as the SDK sends it
        output = output_of(live_server.client.put(f"{URL}/{model}/scale", json=body))
        assert (output["status"], output["capacity"], output["ready_capacity"]) == ("UPDATING", 2, 1)
        assert live_server.wait_for_deployment(model, "RUNNING")["ready_capacity"] == 2

    @pytest.mark.parametrize("capacity", [-1, 1000, "2", 1.5, None])
    def test_scales_that_cannot_be(self, live_server, create, model, capacity):
        create()
        response = live_server.client.put(f"{URL}/{model}/scale", json={"capacity": capacity})
        assert_error(response, 400, "InvalidParameter", "apacity")

    def test_limits(self, live_server, create, model):
        create()
        output = output_of(live_server.client.put(f"{URL}/{model}/update", json={"rpm_limit": 7}))
        assert output["rpm_limit"] == 7
        assert "tpm_limit" not in output
        output = output_of(live_server.client.put(f"{URL}/{model}/update", json={"tpm_limit": 900}))
        assert (output["rpm_limit"], output["tpm_limit"]) == (7, 900)
        assert live_server.deployment(model)["tpm_limit"] == 900

    @pytest.mark.parametrize(
        "body", [{}, {"rpm_limit": 0}, {"tpm_limit": -3}, {"rpm_limit": "5"}, {"rpm_limit": 2**40}]
    )
    def test_limits_that_cannot_be(self, live_server, create, model, body):
        create()
        response = live_server.client.put(f"{URL}/{model}/update", json=body)
        assert_error(response, 400, "InvalidParameter", "_limit")

    def test_deleting_twice(self, live_server, create, model):
        create()
        assert output_of(live_server.client.delete(f"{URL}/{model}"))["status"] == "DELETING"
        assert_error(live_server.client.delete(f"{URL}/{model}"), 404, "NotFound", "Not found!")
        wait_until_gone(live_server, model)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/deployments/nobody"),
        ("GET", "/api/v1/deployments/nobody/stream"),
        ("PUT", "/api/v1/deployments/nobody/scale"),
        ("PUT", "/api/v1/deployments/nobody/update"),
        ("DELETE", "/api/v1/deployments/nobody"),
        ("GET", "/platform/v1/deployments/nobody"),
        ("GET", "/platform/v1/deployments/nobody/events"),
        ("POST", "/platform/v1/deployments/nobody/stop"),
        ("POST", "/platform/v1/deployments/nobody/start"),
        # the built-in deployment of the base model belongs to nobody
        ("GET", f"/api/v1/deployments/{BASE}"),
        ("DELETE", f"/api/v1/deployments/{BASE}"),
        ("POST", f"/platform/v1/deployments/{BASE}/stop"),
    ],
)
def test_what_is_not_there_is_not_found(live_server, method, path):
    live_server.speak(BASE, voice="alto")  # so that the built-in one is there
    body = {"capacity": 1, "rpm_limit": 1} if method == "PUT" else None
    assert_error(live_server.client.request(method, path, json=body), 404, "NotFound", "Not found!")


def test_the_list_has_all_states_in_words_of_the_contract(live_server, create, model):
    create(suffix="a")
    create(suffix="b")
    page = output_of(live_server.client.get(URL))
    assert [item["deployed_model"] for item in page["deployments"]][:2] == [f"{model}-b", f"{model}-a"]
    assert {item["status"] for item in page["deployments"]} <= set(DeploymentStatus)


SDK_1 = """
import sys, dashscope
from dashscope import Deployments
dashscope.api_key, dashscope.base_http_api_url, model = sys.argv[1:]
made = Deployments.call(model=model, capacity=8, suffix="sdk", template_id="MU2")
assert made.status_code == 200, made
name = made.output["deployed_model"]
print(name, made.output["model_unit_spec"], Deployments.get(name).output["capacity"])
print(Deployments.scale(name, 16).output["capacity"])
print(name in [item["deployed_model"] for item in Deployments.list(page_no=1, page_size=10).output["deployments"]])
print(Deployments.delete(name).output["status"])
again = Deployments.delete(name)
print(again.status_code, again.code)
"""


def test_the_old_sdk(live_server, model):
    arguments = [KEY, f"{live_server.url}/api/v1", model]
    done = subprocess.run([sys.executable, "-c", SDK_1, *arguments], capture_output=True, text=True)
    assert done.stdout.split("\n")[:-1] == [f"{model}-sdk MU2 8", "16", "True", "DELETING", "404 NotFound"], done.stderr
    wait_until_gone(live_server, f"{model}-sdk")
