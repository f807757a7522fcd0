"""The official SDK's 2.x client, unchanged, against a live server: management. It retries 409 and 429 unless told not to."""

import asyncio

import pytest

from fakes import HYPER_PARAMETERS, KEY, make_package, wait_for

v2 = pytest.importorskip("dashscope.v2", reason="the official SDK is not installed")
errors = v2.errors


@pytest.fixture(scope="module")
def client(live_server):
    with v2.Client(api_key=KEY, base_url=f"{live_server.url}/api/v1") as client:
        yield client


@pytest.fixture
def package(tmp_path):
    def make(**behaviour):
        return str(make_package(tmp_path / "train_data.zip", **behaviour))

    return make


def _upload(client, path):
    # with "fine-tune" the client reads the file as JSON lines, which a zip is not; the purpose is not sent anyway
    file = client.files.upload(file_path=path, purpose="file-extract", description="narrator B")
    assert file.file_id
    return file


def _create(client, path, **options):
    return client.fine_tunes.create(
        model="cosyvoice-v3-flash",
        training_file_ids=_upload(client, path).file_id,
        mode="efficient_sft",
        hyper_parameters=HYPER_PARAMETERS,
        **options,
    )


def _wait(client, job):
    return client.fine_tunes.wait(job, poll_interval=0.05, max_interval=0.2, timeout=120)


class TestFiles:
    def test_upload_get_and_delete(self, client, package):
        file = _upload(client, package())
        assert (file.name, file.is_error) == ("train_data.zip", False)
        found = client.files.get(file.file_id)
        assert (found.size > 0, found.purpose) == (True, "fine-tune")
        assert found.request_id == found.headers["x-request-id"]
        assert file.file_id in {item.file_id for item in client.files.list(page_size=100).files}
        assert client.files.delete(file.file_id).deleted

    def test_a_missing_file_is_not_found(self, client):
        with pytest.raises(errors.NotFoundError, match="not found"):
            client.files.get("no-such-file")
        with pytest.raises(errors.NotFoundError):
            client.files.delete("no-such-file")


class TestFineTunes:
    def test_a_job_from_creation_to_its_logs(self, client, package):
        job = _create(client, package(), finetuned_model="my narrator")
        assert (job.status, job.training_type, job.is_error) == ("PENDING", "efficient_sft", False)
        assert job.hyper_parameters == HYPER_PARAMETERS
        done = _wait(client, job)
        assert (done.status, done.usage.total_tokens) == ("SUCCEEDED", 99_406)
        assert done.finetuned_model == job.finetuned_model
        assert (done.model_extra["model_name"], done.finished_at >= done.created_at) == ("my narrator", True)
        logs = client.fine_tunes.logs(job.job_id, offset=0).content.splitlines()
        assert logs[-1].endswith("##FT_COMPLETE##")
        assert client.fine_tunes.logs(job.job_id, offset=100_000).content == ""
        assert client.fine_tunes.delete(job.job_id).status == "success"
        with pytest.raises(errors.NotFoundError):
            client.fine_tunes.get(job.job_id)

    def test_a_failed_job_raises_what_the_server_says(self, client, package):
        job = _create(client, package(dataset_error="data.jsonl line 17: no text"))
        with pytest.raises(errors.BadRequestError, match="line 17: no text"):
            _wait(client, job)

    def test_cancel(self, client, package, live_server):
        job = _create(client, package(epoch_s=60))
        live_server.wait_for_job(job.job_id, "RUNNING")
        assert client.fine_tunes.cancel(job.job_id).status == "success"
        with pytest.raises(errors.DashScopeError, match="canceled"):
            _wait(client, job)
        with pytest.raises(errors.DashScopeError) as refused:
            client.fine_tunes.cancel(job.job_id)
        assert (refused.value.status_code, refused.value.code) == (400, "UnsupportedOperation")

    def test_events(self, client, package):
        job = _create(client, package())
        events = [event.output for event in client.fine_tunes.stream_events(job.job_id)]
        assert any("##FT_COMPLETE##" in str(event) for event in events)
        assert "SUCCEEDED" in str(events[-1])

    def test_wrong_hyper_parameters_name_the_field(self, client, package):
        file = _upload(client, package())
        with pytest.raises(errors.BadRequestError, match="lm_step"):
            client.fine_tunes.create(
                model="cosyvoice-v3-flash",
                training_file_ids=file.file_id,
                mode="efficient_sft",
                hyper_parameters={**HYPER_PARAMETERS, "lm_step": 0},
            )


class TestDeployments:
    @pytest.fixture(scope="class")
    def model(self, live_server):
        return live_server.train()["finetuned_output"]

    def test_from_creation_to_deletion(self, client, model):
        made = client.deployments.create(
            model=model, capacity=1, plan="mu", deploy_spec="MU5", billing_method="POST_PAY", suffix="v2"
        )
        assert (made.deployed_model, made.status, made.base_capacity) == (f"{model}-v2", "PENDING", 1)
        wait_for(lambda: client.deployments.get(made.deployed_model).status == "RUNNING", 120, "the deployment")
        with pytest.raises(errors.DashScopeError) as taken:
            client.deployments.create(model=model, capacity=1, plan="mu", deploy_spec="MU5", suffix="v2")
        assert (taken.value.status_code, taken.value.code) == (409, "Conflict")
        assert client.deployments.scale(made.deployed_model, capacity=2).status == "UPDATING"
        wait_for(lambda: client.deployments.get(made.deployed_model).ready_capacity == 2, 120, "the second replica")
        assert made.deployed_model in {item.deployed_model for item in client.deployments.list().deployments}
        assert client.deployments.delete(made.deployed_model).status == "DELETING"
        wait_for(lambda: not _is_there(client, made.deployed_model), 120, "the deployment to be gone")
        with pytest.raises(errors.NotFoundError):
            client.deployments.delete(made.deployed_model)

    def test_one_unit_is_no_replica_of_mu2(self, client, model):
        with pytest.raises(errors.BadRequestError, match="multiples of 8"):
            client.deployments.create(model=model, capacity=1, plan="mu", deploy_spec="MU2", billing_method="POST_PAY")

    def test_models(self, client, model):
        assert client.models.get(model).model == model
        listed = client.models.list(page_size=100)
        assert {"cosyvoice-v3-flash", model} <= {item.model for item in listed.models}
        with pytest.raises(errors.NotFoundError):
            client.models.get("no-such-model")


def _is_there(client, deployed_model):
    try:
        client.deployments.get(deployed_model)
    except errors.NotFoundError:
        return False
    return True


def test_the_asynchronous_client(live_server, package):
    async def journey():
        async with v2.AsyncClient(api_key=KEY, base_url=f"{live_server.url}/api/v1") as client:
            file = await client.files.upload(file_path=package(), purpose="file-extract")
            job = await client.fine_tunes.create(
                model="cosyvoice-v3-flash",
                training_file_ids=[file.file_id],
                mode="efficient_sft",
                hyper_parameters=HYPER_PARAMETERS,
            )
            return await client.fine_tunes.wait(job, poll_interval=0.05, max_interval=0.2, timeout=120)

    assert asyncio.run(journey()).status == "SUCCEEDED"


def test_a_wrong_key(live_server):
    stranger = v2.Client(api_key="sk-wrong", base_url=f"{live_server.url}/api/v1")
    with stranger, pytest.raises(errors.AuthenticationError) as refused:
        stranger.fine_tunes.list()
    assert (refused.value.status_code, refused.value.code) == (401, "InvalidApiKey")
