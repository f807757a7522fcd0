"""Every list of the contract: pages in order, newest first, a page past the end is empty and knows the total."""

import pytest

from fakes import output_of

LISTS = {
    "files": ("/api/v1/files", "files", "file_id"),
    "fine-tunes": ("/api/v1/fine-tunes", "jobs", "job_id"),
    "deployments": ("/api/v1/deployments", "deployments", "deployed_model"),
    "deployable models": ("/api/v1/deployments/models", "models", "model_name"),
    "models": ("/api/v1/models", "models", "model"),
}


@pytest.fixture(scope="module", autouse=True)
def three_of_each(live_server):
    for _ in range(3):
        job = live_server.train()
        live_server.deploy(job["finetuned_output"])
        live_server.wait_for_deployment(job["finetuned_output"], "RUNNING")


def _page(live_server, name, page_no, page_size=2):
    path, key, identity = LISTS[name]
    response = live_server.client.get(path, params={"page_no": page_no, "page_size": page_size})
    page = response.json()["data"] if name == "files" else output_of(response)
    assert (page["page_no"], page["page_size"]) == (page_no, page_size)
    return page["total"], [item[identity] for item in page[key]]


@pytest.mark.parametrize("name", LISTS)
def test_pages_are_whole_and_disjoint(live_server, name):
    total, first = _page(live_server, name, 1)
    assert total >= 3
    pages = [_page(live_server, name, number)[1] for number in range(1, (total + 1) // 2 + 1)]
    listed = [item for page in pages for item in page]
    assert pages[0] == first
    assert len(listed) == len(set(listed)) == total


@pytest.mark.parametrize("name", LISTS)
def test_a_page_past_the_end_is_empty_and_knows_the_total(live_server, name):
    total, _ = _page(live_server, name, 1)
    assert _page(live_server, name, 1_000) == (total, [])


def test_the_newest_come_first(live_server):
    _, jobs = _page(live_server, "fine-tunes", 1, 10)
    newest = live_server.create_job(live_server.upload())["job_id"]
    assert _page(live_server, "fine-tunes", 1, 10)[1] == [newest, *jobs]


def test_lines_of_a_log(live_server):
    job_id = live_server.train()["job_id"]

    def logs(**query):
        output = output_of(live_server.client.get(f"/api/v1/fine-tunes/{job_id}/logs", params=query))
        return output["total"], output["logs"]

    total, lines = logs(offset=0, line=1000)
    assert total == len(lines)
    assert logs(offset=1, line=3) == (total, lines[1:4])
    assert logs(offset=total, line=1000) == (total, [])
