import json
import re
from datetime import datetime, timedelta

import pytest

from fakes import HYPER_PARAMETERS, LiveServer, assert_error, output_of

PATH = "/api/v1/fine-tunes"
FIELDS = {
    "job_id", "job_name", "status", "finetuned_output", "model", "base_model", "training_file_ids",
    "training_datasets", "validation_file_ids", "validation_datasets", "hyper_parameters", "training_type",
    "model_name", "create_time", "charge_type", "output_cnt", "max_output_cnt", "workspace_id", "user_identity",
    "creator", "modifier", "group",
}  # fmt: skip


@pytest.fixture(scope="module")
def file_id(live_server):
    return live_server.upload()


@pytest.fixture(scope="module")
def done(live_server):
    return live_server.train()


def _body(file_id, **changes):
    body = {
        "model": "cosyvoice-v3-flash",
        "training_file_ids": [file_id],
        "hyper_parameters": HYPER_PARAMETERS,
        "training_type": "efficient_sft",
        **changes,
    }
    return {name: value for name, value in body.items() if value is not ...}


def test_a_new_job_has_every_field_and_knows_its_result(live_server, file_id):
    job = output_of(live_server.client.post(PATH, json=_body(file_id)))
    assert set(job) == FIELDS
    assert job["status"] == "PENDING"
    assert re.fullmatch(r"ft-\d{12}-[0-9a-f]{4}", job["job_id"])
    assert job["finetuned_output"] == f"cosyvoice-v3-flash-{job['job_id']}"
    assert job["job_name"] == job["model_name"] == job["job_id"]
    assert job["training_datasets"] == [{"data_source_type": "file_id", "file_id": file_id}]
    assert job["training_file_ids"] == job["validation_file_ids"] == job["validation_datasets"] == []
    assert job["hyper_parameters"] == HYPER_PARAMETERS
    assert (job["charge_type"], job["max_output_cnt"], job["output_cnt"]) == ("token", 10, 0)


def test_both_forms_of_naming_the_dataset_mean_the_same(live_server, file_id):
    datasets = [{"data_source_type": "file_id", "file_id": file_id}]
    job = output_of(
        live_server.client.post(PATH, json=_body(file_id, training_file_ids=..., training_datasets=datasets))
    )
    assert job["training_datasets"] == datasets


def test_a_validation_set_may_be_given_in_both_forms(live_server, file_id):
    datasets = [{"data_source_type": "file_id", "file_id": file_id}]
    for changes in ({"validation_file_ids": [file_id]}, {"validation_datasets": datasets}):
        job = output_of(live_server.client.post(PATH, json=_body(file_id, **changes)))
        assert (job["validation_datasets"], job["validation_file_ids"]) == (datasets, [])


def test_what_official_clients_send_beside_is_accepted(live_server, file_id):
    body = _body(file_id, validation_file_ids=None, training_type=..., finetuned_output="x", job_name="my job")
    job = output_of(live_server.client.post(PATH, json=body))
    assert (job["job_name"], job["training_type"]) == ("my job", "efficient_sft")
    assert job["finetuned_output"] == f"cosyvoice-v3-flash-{job['job_id']}"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"model": "qwen"}, "model must be cosyvoice-v3-flash"),
        ({"model": ...}, "model: Field required"),
        ({"training_type": "full_sft"}, "The model cosyvoice-v3-flash does not support training_type: full_sft"),
        ({"training_file_ids": ...}, "Missing training files"),
        ({"training_file_ids": []}, "Missing training files"),
        ({"training_file_ids": ["a", "b"]}, "training_file_ids must have exactly one entry"),
        ({"training_file_ids": "a"}, "training_file_ids"),
        ({"training_file_ids": ["nothing"]}, "File not found."),
        ({"training_datasets": [{"file_id": "a"}]}, "not both"),
        ({"training_file_ids": ..., "training_datasets": [{}]}, "training_datasets[0].file_id is missing"),
        ({"training_file_ids": ..., "training_datasets": [{"data_source_type": "oss_mount"}]}, "data_source_type"),
        ({"validation_file_ids": ["a"]}, "The validation file a is not there"),
        ({"validation_file_ids": ["a", "b"]}, "validation_file_ids must have exactly one entry (got 2)"),
        ({"validation_file_ids": ["a"], "validation_datasets": [{"file_id": "a"}]}, "validation_datasets, not both"),
        ({"validation_datasets": [{"data_source_type": "oss_mount"}]}, "validation_datasets[0].data_source_type"),
        ({"hyper_parameters": ...}, "hyper_parameters must be an object"),
        ({"hyper_parameters": {**HYPER_PARAMETERS, "lm_step": 0}}, "hyper_parameters.lm_step must be an integer in [1, 2147483647]"),
        ({"hyper_parameters": {**HYPER_PARAMETERS, "fm_num": "2"}}, "hyper_parameters.fm_num"),
        ({"hyper_parameters": {**HYPER_PARAMETERS, "fm_num": 2.0}}, "hyper_parameters.fm_num"),
        ({"hyper_parameters": {**HYPER_PARAMETERS, "fm_num": True}}, "hyper_parameters.fm_num"),
        ({"hyper_parameters": {**HYPER_PARAMETERS, "lm_max_epoch": 2**31}}, "hyper_parameters.lm_max_epoch"),
        ({"finetuned_output_suffix": "a/b"}, "finetuned_output_suffix"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(live_server, file_id, changes, part):
    assert_error(live_server.client.post(PATH, json=_body(file_id, **changes)), 400, "InvalidParameter", part)


@pytest.mark.parametrize("name", HYPER_PARAMETERS)
def test_every_hyper_parameter_is_needed(live_server, file_id, name):
    values = {key: value for key, value in HYPER_PARAMETERS.items() if key != name}
    answer = live_server.client.post(PATH, json=_body(file_id, hyper_parameters=values))
    assert_error(answer, 400, "InvalidParameter", f"hyper_parameters.{name}")


def test_a_finished_job_has_end_usage_and_output(done):
    assert set(done) == FIELDS | {"end_time", "usage"}, "a code on a job that succeeded would look like a failure"
    assert (done["usage"], done["output_cnt"]) == (99_406, 4)
    assert done["end_time"] >= done["create_time"]


def test_checkpoints_are_the_documents_table(live_server, done):
    checkpoints = output_of(live_server.client.get(f"{PATH}/{done['job_id']}/checkpoints"))
    assert [checkpoint["checkpoint"] for checkpoint in checkpoints] == [
        "checkpoint-00040004",
        "checkpoint-00030004",
        "checkpoint-00040002",
        "checkpoint-00030002",
    ]
    assert [checkpoint["step"] for checkpoint in checkpoints] == [40004, 30004, 40002, 30002]
    assert {checkpoint["status"] for checkpoint in checkpoints} == {"SUCCEEDED"}
    assert checkpoints[0]["model_name"] == done["finetuned_output"]
    assert len({checkpoint["model_name"] for checkpoint in checkpoints}) == 4
    assert checkpoints[0]["full_name"] == checkpoints[0]["checkpoint_id"] == f"{done['job_id']}:checkpoint-00040004"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", checkpoints[0]["create_time"])
    assert {checkpoint["expire_time"] for checkpoint in checkpoints} == {"9999-12-31T23:59:59"}


def test_every_exported_checkpoint_can_be_deployed(live_server, done):
    names = {item["model_name"] for item in output_of(live_server.client.get("/api/v1/deployments/models"))["models"]}
    assert {f"{done['finetuned_output']}{tail}" for tail in ("", "-00030004", "-00040002", "-00030002")} <= names


def test_only_the_top_checkpoint_is_exported_if_the_operator_wants_it_so(tmp_path):
    server = LiveServer(tmp_path, export_checkpoints="top", checkpoint_lifetime_days=15).start()
    try:
        job = server.train()
        url = f"{PATH}/{job['job_id']}"
        listed = output_of(server.client.get(f"{url}/checkpoints"))
        assert [item["status"] for item in listed] == ["SUCCEEDED", "PENDING", "PENDING", "PENDING"]
        assert "model_name" not in listed[1]
        created = datetime.fromisoformat(listed[1]["create_time"])
        assert datetime.fromisoformat(listed[1]["expire_time"]) == created + timedelta(days=15)
        assert listed[0]["expire_time"].startswith("9999")
        export = f"{url}/export/checkpoint-00030004"
        assert output_of(server.client.get(f"{export}?model_name=second_音色")) is True
        exported = output_of(server.client.get(f"{url}/checkpoints"))[1]
        assert (exported["status"], exported["model_display_name"]) == ("SUCCEEDED", "second_音色")
        server.deploy(exported["model_name"])
        taken = server.client.get(f"{url}/export/checkpoint-00040002?model_name=second_音色")
        assert_error(taken, 400, "InvalidParameter", "taken")
        assert_error(server.client.get(f"{export}?model_name=a b"), 400, "InvalidParameter", "model_name")
        assert_error(server.client.get(export), 400, "InvalidParameter", "model_name")
        assert_error(server.client.get(f"{url}/export/nothing?model_name=x"), 404, "NotFound")
    finally:
        server.stop()


def test_logs_are_paged_by_line(live_server, done):
    url = f"{PATH}/{done['job_id']}/logs"
    everything = output_of(live_server.client.get(f"{url}?offset=0&line=1000"))
    assert everything["total"] == len(everything["logs"]) > 10
    part = output_of(live_server.client.get(f"{url}?offset=2&line=3"))
    assert (part["total"], part["logs"]) == (everything["total"], everything["logs"][2:5])
    assert output_of(live_server.client.get(f"{url}?offset=5000&line=1000"))["logs"] == []
    assert_error(live_server.client.get(f"{url}?line=1001"), 400, "InvalidParameter", "line")


def test_lists_are_newest_first_and_paged(live_server, done):
    page = output_of(live_server.client.get(f"{PATH}?page_no=1&page_size=1000"))
    ids = [job["job_id"] for job in page["jobs"]]
    assert page["total"] == len(ids)
    second = output_of(live_server.client.get(f"{PATH}?page_no=2&page_size=1"))
    assert [job["job_id"] for job in second["jobs"]] == ids[1:2]
    assert output_of(live_server.client.get(f"{PATH}?model=other"))["total"] == 0
    beyond = output_of(live_server.client.get(f"{PATH}?page_no=1000&page_size=1000"))
    assert (beyond["total"], beyond["jobs"]) == (page["total"], [])
    assert_error(live_server.client.get(f"{PATH}?page_size=1001"), 400, "InvalidParameter", "page_size")


def test_jobs_can_be_listed_by_status(live_server, done):
    page = output_of(live_server.client.get(f"{PATH}?status=SUCCEEDED&page_size=1000"))
    assert done["job_id"] in [job["job_id"] for job in page["jobs"]]
    assert {job["status"] for job in page["jobs"]} == {"SUCCEEDED"}
    assert output_of(live_server.client.get(f"{PATH}?status=CANCELING"))["total"] == 0
    assert_error(live_server.client.get(f"{PATH}?status=DONE"), 400, "InvalidParameter", "status", "'SUCCEEDED'")


def _events(server, job_id, **headers):
    with server.client.stream("GET", f"{PATH}/{job_id}/stream", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(response.iter_text()).strip().split("\n\n")
    fields = [dict(line.split(":", 1) for line in block.split("\n")) for block in blocks]
    return [(int(field["id"]), json.loads(field["data"])) for field in fields]


def test_the_stream_of_a_job_has_its_lines_and_its_status_and_ends_with_it(live_server):
    job_id = live_server.create_job(live_server.upload(epoch_s=0.1))["job_id"]
    events = _events(live_server, job_id)
    lines = output_of(live_server.client.get(f"{PATH}/{job_id}/logs?line=1000"))["logs"]
    assert [body["message"] for _, body in events if body["type"] == "log"] == lines
    assert [number for number, body in events if body["type"] == "log"] == list(range(1, len(lines) + 1))
    statuses = [body["status"] for _, body in events if body["type"] == "status"]
    assert statuses[-2:] == ["RUNNING", "SUCCEEDED"]
    assert events[-1] == (len(lines), {"type": "status", "status": "SUCCEEDED"})


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(live_server, done):
    lines = output_of(live_server.client.get(f"{PATH}/{done['job_id']}/logs?line=1000"))["logs"]
    over = [(len(lines), {"type": "status", "status": "SUCCEEDED"})]
    last_two = [(number, {"type": "log", "message": lines[number - 1]}) for number in (len(lines) - 1, len(lines))]
    assert _events(live_server, done["job_id"], **{"Last-Event-ID": str(len(lines) - 2)}) == last_two + over
    assert _events(live_server, done["job_id"], **{"Last-Event-ID": "999"})[0][1] == over[0][1]
    assert len(_events(live_server, done["job_id"], **{"Last-Event-ID": "nonsense"})) == len(lines) + 1


@pytest.mark.parametrize(
    ("method", "tail"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/stream"),
        ("GET", "/logs"),
        ("GET", "/checkpoints"),
        ("POST", "/cancel"),
        ("GET", "/export/c?model_name=x"),
    ],
)
def test_an_unknown_job_is_not_found(live_server, method, tail):
    assert_error(live_server.client.request(method, f"{PATH}/ft-nothing{tail}"), 404, "NotFound", "Not found!")


def test_a_finished_job_cannot_be_canceled(live_server, done):
    answer = live_server.client.post(f"{PATH}/{done['job_id']}/cancel")
    assert_error(answer, 400, "UnsupportedOperation", "SUCCEEDED")


def test_a_running_job_must_be_canceled_before_it_is_deleted(live_server):
    job_id = live_server.create_job(live_server.upload(epoch_s=60))["job_id"]
    live_server.wait_for_job(job_id, "RUNNING")
    assert_error(live_server.client.delete(f"{PATH}/{job_id}"), 400, "UnsupportedOperation", "RUNNING")
    live_server.client.post(f"{PATH}/{job_id}/cancel")
    live_server.wait_for_job(job_id, "CANCELED")
    assert output_of(live_server.client.delete(f"{PATH}/{job_id}")) == {"status": "success"}
    assert_error(live_server.client.get(f"{PATH}/{job_id}"), 404, "NotFound")


def test_models_stay_when_their_job_is_deleted(live_server):
    job = live_server.train()
    live_server.client.delete(f"{PATH}/{job['job_id']}")
    names = {item["model_name"] for item in output_of(live_server.client.get("/api/v1/deployments/models"))["models"]}
    assert job["finetuned_output"] in names


def test_a_workspace_may_have_a_limit(tmp_path):
    server = LiveServer(tmp_path, max_jobs=1).start()
    try:
        server.train()
        answer = server.client.post(PATH, json=_body(server.upload()))
        assert_error(answer, 429, "Throttling", "At most 1 jobs")
    finally:
        server.stop()


def test_training_and_deployment_appear_on_the_bill(live_server, done):
    live_server.deploy(done["finetuned_output"])
    live_server.wait_for_deployment(done["finetuned_output"], "RUNNING")
    usage = output_of(live_server.client.get("/platform/v1/usage"))
    training = next(item for item in usage["trainings"] if item["job_id"] == done["job_id"])
    assert (training["tokens"], training["cost_cny"]) == (99_406, "19.88")
    deployment = next(item for item in usage["deployments"] if item["deployed_model"] == done["finetuned_output"])
    assert (deployment["model_unit_spec"], deployment["units_now"]) == ("MU5", 1)
