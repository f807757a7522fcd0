import dashscope
import pytest

from fakes import KEY, assert_error, output_of

BASE = "cosyvoice-v3-flash"
URL = "/api/v1/models"


@pytest.fixture(scope="module")
def job(live_server):
    return live_server.train()


def _list(live_server, **query):
    return output_of(live_server.client.get(URL, params=query))


def test_the_base_model_and_ones_own(live_server, job):
    page = _list(live_server, page_size=100)
    names = [entry["model"] for entry in page["models"]]
    assert (page["page_no"], page["page_size"], page["total"]) == (1, 100, len(names))
    assert names[-1] == BASE
    assert job["finetuned_output"] in names
    tuned = page["models"][names.index(job["finetuned_output"])]
    assert (tuned["base_model"], tuned["job_id"], tuned["model_source"]) == (BASE, job["job_id"], "custom")
    assert tuned["name"]
    assert page["models"][-1]["model_source"] == "base"


def test_ten_are_shown_at_once(live_server, job):
    assert _list(live_server)["page_size"] == 10


@pytest.mark.parametrize("name", [BASE, "finetuned_output"])
def test_one_model_is_a_list_of_one(live_server, job, name):
    name = job.get(name, name)
    page = _list(live_server, model=name, page_no=1, page_size=1)
    assert (page["total"], [entry["model"] for entry in page["models"]]) == (1, [name])
    assert _list(live_server, model=name, page_no=2, page_size=1)["models"] == []


def test_an_unknown_model_is_an_empty_list(live_server, job):
    assert _list(live_server, model="nobody") == {"page_no": 1, "page_size": 10, "total": 0, "models": []}


@pytest.mark.parametrize("query", [{"page_no": 0}, {"page_size": 0}, {"page_size": 1000}])
def test_pages_that_cannot_be(live_server, query):
    assert_error(live_server.client.get(URL, params=query), 400, "InvalidParameter", next(iter(query)))


def test_the_sdk_gets_one(live_server, job, monkeypatch):
    monkeypatch.setattr(dashscope, "base_http_api_url", f"{live_server.url}/api/v1")
    answer = dashscope.Models.get(job["finetuned_output"], api_key=KEY)
    assert (answer.status_code, answer.output["model"]) == (200, job["finetuned_output"])
    assert dashscope.Models.get("nobody", api_key=KEY).status_code == 404, "made by the SDK from the empty list"
