"""The main job with the real model and real processes: zip -> job -> checkpoints -> deployment -> speech -> scale -> delete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cosyforge.audio.wav import read_wav
from cosyforge.cosyvoice.manifest import builtin_model_directory
from cosyforge.demo_client import DashScope, wait_for
from cosyforge.demo_recordings import demo_recordings, pack
from cosyforge.demo_server import DemoServer
from cosyforge.evaluation.signal import fault, measure

QUICK = {
    "lm_max_epoch": 2, "lm_step": 1, "lm_num": 2, "lm_batch_size": 1000,
    "fm_max_epoch": 2, "fm_step": 1, "fm_num": 1, "fm_batch_size": 2000,
}  # fmt: skip
TEXT = "There is a large garden behind my house."

pytestmark = pytest.mark.skipif(
    not (builtin_model_directory() / "model.json").is_file(), reason="this checkout has no built-in base model"
)


def test_recordings_become_a_voice_that_speaks(tmp_path: Path) -> None:
    pack(demo_recordings("train")[:12], tmp_path / "train_data.zip")
    with DemoServer(tmp_path / "server.log") as server, DashScope(server.address, server.api_key) as client:
        job = client.create_job(client.upload(tmp_path / "train_data.zip"), QUICK)
        assert job["status"] == "PENDING"

        def finished() -> dict[str, object] | None:
            now = client.job(job["job_id"])
            return now if now["status"] in ("SUCCEEDED", "FAILED", "CANCELED") else None

        done = wait_for(finished, seconds=240, every_s=0.5, what="training")
        assert done["status"] == "SUCCEEDED", done
        logs = client.logs(job["job_id"], 0)
        assert logs[-1].endswith("##FT_COMPLETE##")
        assert any(f"Actual number of consumed tokens is {done['usage']}!" in line for line in logs)
        names = [row["checkpoint"] for row in client.checkpoints(job["job_id"])]
        assert names == ["checkpoint-00020002", "checkpoint-00010002"]

        deployed = client.deploy(done["finetuned_output"], "dps-20260521172224-1vabse", 1)["deployed_model"]

        def running(capacity: int) -> bool | None:
            now = client.deployment(deployed)
            assert now is not None
            assert now["status"] != "FAILED", now
            return (now["status"] == "RUNNING" and now["ready_capacity"] == capacity) or None

        wait_for(lambda: running(1), seconds=90, every_s=0.2, what="deploying")
        first = client.speak(deployed, "default", TEXT)
        (tmp_path / "out.wav").write_bytes(first)
        samples, rate_hz = read_wav(tmp_path / "out.wav")
        assert rate_hz == 24000
        assert 1.0 < len(samples) / rate_hz < 8.0
        figures = measure(samples, rate_hz)
        assert fault(figures, 30) is None, figures
        assert np.abs(samples).max() > 0.05

        client.scale(deployed, 2)
        wait_for(lambda: running(2), seconds=90, every_s=0.2, what="scaling")
        assert client.speak(deployed, "default", TEXT) == first, "another replica, other audio for the same seed"
        assert client.delete_deployment(deployed)["status"] == "DELETING"
        wait_for(lambda: client.deployment(deployed) is None or None, seconds=60, every_s=0.2, what="deleting")
