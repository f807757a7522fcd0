"""The product document's commands as printed; only host, key and <placeholders> are changed."""

import json
import shutil
import subprocess

import httpx
import pytest

from fakes import KEY, make_package, wait_for

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

UPLOAD = """curl --location 'https://dashscope.aliyuncs.com/api/v1/files' \\
--header 'Authorization: Bearer '${DASHSCOPE_API_KEY} \\
--form 'files=@"train_data.zip"' \\
--form 'purpose="fine-tune"' \\
--form 'descriptions="Training voice packag"'
"""

CREATE_JOB = """curl --location --request POST 'https://dashscope.aliyuncs.com/api/v1/fine-tunes' \\
--header 'Authorization: Bearer '${DASHSCOPE_API_KEY} \\
--header 'Content-Type: application/json' \\
--data '{
    "model": "cosyvoice-v3-flash",
    "training_file_ids": [
        "<replace with the file_id of the training dataset>"
    ],
    "hyper_parameters": {
        "lm_max_epoch": 4,
        "lm_step": 1,
        "lm_num": 2,
        "fm_max_epoch": 4,
        "fm_step": 2,
        "fm_num": 2,
        "lm_batch_size": 1000,
        "fm_batch_size": 2000
    },
    "training_type": "efficient_sft"
}'
"""

GET_JOB = """curl --location 'https://dashscope.aliyuncs.com/api/v1/fine-tunes/<job_id>' \\
--header 'Authorization: Bearer '${DASHSCOPE_API_KEY} \\
--header 'Content-Type: application/json'
"""

GET_LOGS = """curl --location 'https://dashscope.aliyuncs.com/api/v1/fine-tunes/<job_id>/logs?offset=0&line=1000' \\
--header 'Authorization: Bearer '${DASHSCOPE_API_KEY} \\
--header 'Content-Type: application/json'
"""

LIST_MODELS = """curl 'https://dashscope.aliyuncs.com/api/v1/deployments/models?page_no=1&page_size=100&version=v1.0&model_source=custom' \\
    --header "Authorization: Bearer ${DASHSCOPE_API_KEY}" \\
    --header 'Content-Type: application/json'
"""

DEPLOY = """curl --location 'https://dashscope.aliyuncs.com/api/v1/deployments' \\
--header 'Authorization: Bearer '${DASHSCOPE_API_KEY} \\
--header 'Content-Type: application/json' \\
--data '{
    "model_name": "<MODEL_NAME>",
    "plan": "mu",
    "deploy_spec": "<TEMPLATE_ID>",
    "capacity": 1,
    "billing_method": "POST_PAY"
}'
"""

GET_DEPLOYMENT = """curl --location 'https://dashscope.aliyuncs.com/api/v1/deployments/<replace with deployed_model field value>' \\
--header 'Authorization: Bearer '${DASHSCOPE_API_KEY} \\
--header 'Content-Type: application/json'
"""

SPEAK = """curl -X POST 'https://dashscope.aliyuncs.com/api/v1/services/audio/tts/SpeechSynthesizer' \\
-H "Authorization: Bearer $DASHSCOPE_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
    "model": "<replace with the deployed_model from the deployment response>",
    "input": {
      "text": "There is a large garden behind my house.",
      "voice": "default",
      "format": "wav",
      "sample_rate": 24000
    }
}'
"""

# The document names these three calls without printing a command.
GET_CHECKPOINTS = GET_JOB.replace("<job_id>", "<job_id>/checkpoints")
SCALE = """curl --location --request PUT 'https://dashscope.aliyuncs.com/api/v1/deployments/<deployed_model>/scale' \\
--header 'Authorization: Bearer '${DASHSCOPE_API_KEY} \\
--header 'Content-Type: application/json' \\
--data '{"capacity": 2}'
"""
DELETE = """curl --location --request DELETE 'https://dashscope.aliyuncs.com/api/v1/deployments/<deployed_model>' \\
--header 'Authorization: Bearer '${DASHSCOPE_API_KEY} \\
--header 'Content-Type: application/json'
"""


@pytest.fixture
def curl(live_server, tmp_path):
    make_package(tmp_path / "train_data.zip")

    def run(command, **placeholders):
        command = command.replace("https://dashscope.aliyuncs.com", live_server.url)
        for placeholder, value in placeholders.items():
            assert placeholder in command
            command = command.replace(placeholder, value)
        environment = {"DASHSCOPE_API_KEY": KEY, "PATH": "/usr/local/bin:/usr/bin:/bin"}
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, check=True)
        answer = json.loads(done.stdout)
        assert "code" not in answer, answer
        assert answer["request_id"]
        return answer

    return run


def test_the_whole_journey(curl):
    file_id = curl(UPLOAD)["data"]["uploaded_files"][0]["file_id"]
    job = curl(CREATE_JOB, **{"<replace with the file_id of the training dataset>": file_id})["output"]
    assert job["status"] == "PENDING"
    job_id = {"<job_id>": job["job_id"]}
    wait_for(lambda: curl(GET_JOB, **job_id)["output"]["status"] == "SUCCEEDED", 60, "the job")
    logs = curl(GET_LOGS, **job_id)["output"]
    assert logs["total"] == len(logs["logs"]) > 0
    checkpoints = curl(GET_CHECKPOINTS, **job_id)["output"]
    assert checkpoints[0]["model_name"] == job["finetuned_output"]

    models = curl(LIST_MODELS)["output"]["models"]
    model = next(entry for entry in models if entry["model_name"] == job["finetuned_output"])
    (plan,) = model["plans"]
    templates = {
        template["template_id"]: template["roles"]["unified"]["capacity_unit_per_instance"]
        for template in plan["templates"]
    }
    assert (plan["plan"], templates) == ("mu", {"dps-20260521172224-1vabse": 1, "MU2": 8})

    names = {"<MODEL_NAME>": model["model_name"], "<TEMPLATE_ID>": "dps-20260521172224-1vabse"}
    deployed_model = curl(DEPLOY, **names)["output"]["deployed_model"]
    here = {"<replace with deployed_model field value>": deployed_model}
    wait_for(lambda: curl(GET_DEPLOYMENT, **here)["output"]["status"] == "RUNNING", 60, "the deployment")

    spoken = curl(SPEAK, **{"<replace with the deployed_model from the deployment response>": deployed_model})
    assert spoken["usage"] == {"characters": len("There is a large garden behind my house.")}
    assert httpx.get(spoken["output"]["audio"]["url"]).content[:4] == b"RIFF"

    scaled = curl(SCALE, **{"<deployed_model>": deployed_model})["output"]
    assert (scaled["status"], scaled["capacity"]) == ("UPDATING", 2)
    wait_for(lambda: curl(GET_DEPLOYMENT, **here)["output"]["ready_capacity"] == 2, 60, "the second replica")
    assert curl(DELETE, **{"<deployed_model>": deployed_model})["output"]["status"] == "DELETING"
