"""The official Python SDK, unchanged, against a live server: management; `test_sdk_speech.py` has what it speaks with."""

import pytest

from fakes import HYPER_PARAMETERS, KEY, make_package, wait_for

dashscope = pytest.importorskip("dashscope", reason="the official SDK is not installed")


@pytest.fixture(autouse=True)
def sdk(live_server, monkeypatch):
    monkeypatch.setattr(dashscope, "base_http_api_url", f"{live_server.url}/api/v1")
    monkeypatch.setattr(dashscope, "api_key", KEY)
    # it polls every 30 s, which is right for an hour of training
    import time

    short_sleep = time.sleep
    monkeypatch.setattr("dashscope.finetune.finetunes.time.sleep", lambda seconds: short_sleep(min(seconds, 0.05)))


@pytest.fixture(scope="module")
def model(live_server):
    return live_server.train()["finetuned_output"]


def _upload(tmp_path, **behaviour):
    package = make_package(tmp_path / "train_data.zip", **behaviour)
    answer = dashscope.Files.upload(str(package), purpose="fine-tune", description="narrator A")
    assert answer.status_code == 200, answer
    return answer.output["uploaded_files"][0]["file_id"]


def _train(tmp_path, **behaviour):
    job = dashscope.FineTunes.call(
        model="cosyvoice-v3-flash",
        training_file_ids=_upload(tmp_path, **behaviour),
        mode="efficient_sft",
        hyper_parameters=HYPER_PARAMETERS,
    )
    assert job.status_code == 200, job
    return job.output


def test_files(tmp_path):
    file_id = _upload(tmp_path)
    assert dashscope.Files.get(file_id).output["name"] == "train_data.zip"
    assert dashscope.Files.list(page=1, page_size=10).output["files"][0]["description"] == "narrator A"
    assert dashscope.Files.delete(file_id).status_code == 200
    missing = dashscope.Files.get(file_id)
    assert (missing.status_code, missing.code, missing.message) == (400, "InvalidParameter", "File not found.")


def test_fine_tunes(tmp_path):
    created = _train(tmp_path)
    assert (created.status, created.training_type) == ("PENDING", "efficient_sft")
    job = dashscope.FineTunes.wait(created.job_id).output
    assert (job.status, job.usage, job.finetuned_output) == ("SUCCEEDED", 99_406, created.finetuned_output)
    assert dashscope.FineTunes.get(created.job_id).output.end_time == job.end_time
    assert created.job_id in {item.job_id for item in dashscope.FineTunes.list(page_size=100).output.jobs}
    logs = dashscope.FineTunes.logs(created.job_id, offset=0, line=1000).output["logs"]
    assert logs[-1].endswith("##FT_COMPLETE##")
    assert dashscope.FineTunes.delete(created.job_id).output.status == "success"
    missing = dashscope.FineTunes.get(created.job_id)
    assert (missing.status_code, missing.code, missing.message) == (404, "NotFound", "Not found!")


def test_a_job_can_be_watched(tmp_path):
    job_id = _train(tmp_path).job_id
    events = [event.output for event in dashscope.FineTunes.stream_events(job_id)]
    assert any("##FT_COMPLETE##" in event for event in events)
    assert '"SUCCEEDED"' in events[-1]


def test_canceling(tmp_path, live_server):
    job_id = _train(tmp_path, epoch_s=60).job_id
    live_server.wait_for_job(job_id, "RUNNING")
    assert dashscope.FineTunes.cancel(job_id).output.status == "success"
    assert dashscope.FineTunes.wait(job_id).output.status == "CANCELED"


def test_a_failed_job_says_why(tmp_path):
    job = dashscope.FineTunes.wait(_train(tmp_path, dataset_error="data.jsonl line 17: no text").job_id).output
    assert (job["status"], job["code"], job["message"]) == ("FAILED", "InvalidParameter", "data.jsonl line 17: no text")


@pytest.mark.parametrize("template", [{"template_id": "MU5"}, {}])
def test_deployments(model, live_server, template):
    """It cannot send a deploy_spec nor a billing method; with no template the cheapest one is taken."""
    created = dashscope.Deployments.call(model=model, capacity=1, plan="mu", suffix="sdk", **template).output
    assert (created.deployed_model, created.status) == (f"{model}-sdk", "PENDING")
    live_server.wait_for_deployment(created.deployed_model, "RUNNING")
    assert dashscope.Deployments.get(created.deployed_model).output.ready_capacity == 1
    listed = dashscope.Deployments.list().output.deployments
    assert created.deployed_model in {item.deployed_model for item in listed}
    assert dashscope.Deployments.scale(created.deployed_model, 2).output.status == "UPDATING"
    taken = dashscope.Deployments.call(model=model, capacity=1, plan="mu", suffix="sdk")
    assert (taken.status_code, taken.code) == (409, "Conflict")
    assert dashscope.Deployments.delete(created.deployed_model).output.status == "DELETING"

    def is_gone():
        return dashscope.Deployments.get(created.deployed_model).status_code == 404

    wait_for(is_gone, 60, "the deployment to be gone")


def test_a_wrong_key_is_told(monkeypatch):
    monkeypatch.setattr(dashscope, "api_key", "sk-wrong")
    answer = dashscope.FineTunes.list()
    assert (answer["status_code"], answer["code"]) == (401, "InvalidApiKey")
