"""The application in this process, without its threads, and a workspace that has one of everything."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import insert, update

from cosyforge.api.app import create_app
from cosyforge.bootstrap import Platform, build_platform
from cosyforge.deployments.service import DeploymentRequest
from cosyforge.jobs import queries
from cosyforge.jobs.service import JobRequest
from cosyforge.registry.models import register_model
from cosyforge.settings import load_settings
from cosyforge.store.artifacts import new_artifact
from cosyforge.store.tables import checkpoints, fine_tune_jobs
from fakes import HYPER_PARAMETERS, KEY, database_url_for

CHECKPOINT = "checkpoint-00040004"
LOG_LINE = "the log line of alpha"


@dataclass
class World:
    """`ids` fill the parameters of routes; `secrets` are what nobody else may read."""

    platform: Platform
    app: FastAPI
    keys: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def client(self, key: str | None = KEY) -> TestClient:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return TestClient(self.app, headers=headers, raise_server_exceptions=False)

    def close(self) -> None:
        self.platform.database.close()
        self.platform.lock_file.close()


def open_world(directory: Path, **settings: Any) -> World:
    """Nothing but the operator's key, which is `fakes.KEY`, of the workspace `ops`."""
    base = directory / "base"
    base.mkdir()
    (base / "model.json").write_text(json.dumps({"voices": {"alto": {}}}))
    chosen = {
        "data_dir": directory / "data",
        "base_model_dir": base,
        "database_url": database_url_for(directory),
        "workspace_id": "ops",
        **settings,
    }
    platform = build_platform(load_settings(**chosen))
    platform.api_keys.ensure_first(KEY, "ops", datetime.now(UTC))
    return World(platform, create_app(platform))


def seed(world: World, workspace_id: str = "alpha") -> None:
    """A workspace with a file, a job that has succeeded, one that waits, a model, and a deployment with events."""
    platform, now = world.platform, datetime.now(UTC)
    platform.workspaces.create(workspace_id, "The workspace of alpha", now)
    key, world.keys["own"] = platform.api_keys.create("the key of alpha", workspace_id, now)
    file_ids = [_add_file(platform, workspace_id, key.key_id, number) for number in range(2)]
    wanted = JobRequest(
        model=platform.settings.base_model,
        training_type="efficient_sft",
        hyper_parameters=HYPER_PARAMETERS,
        training_file_ids=[file_ids[0]],
        job_name="alpha-job",
        model_name="alpha-voice",
    )
    job = platform.jobs.create(wanted, workspace_id, key.user_id, now)
    waiting = platform.jobs.create(wanted, workspace_id, key.user_id, now)
    _succeed(platform, job.job_id, job.finetuned_output, workspace_id, now)
    deployment = platform.deployments.create(
        DeploymentRequest(job.finetuned_output, 1, "MU5", "mu", "POST_PAY", "alpha-deployment", None),
        workspace_id,
        key.user_id,
        now,
    )
    world.ids |= {
        "file_id": file_ids[0],
        "second_file_id": file_ids[1],
        "job_id": job.job_id,
        "waiting_job_id": waiting.job_id,
        "checkpoint": CHECKPOINT,
        "deployed_model": deployment.deployed_model,
        "model": job.finetuned_output,
        "key_id": str(key.key_id),
        "workspace_id": workspace_id,
    }
    world.secrets += [
        *file_ids, "alpha-0.zip", "about alpha", job.job_id, waiting.job_id, "alpha-job", "alpha-voice", LOG_LINE,
        job.finetuned_output, "alpha-deployment", deployment.deployment_id, "the key of alpha", "The workspace of alpha",
    ]  # fmt: skip


def _add_file(platform: Platform, workspace_id: str, key_id: int, number: int) -> str:
    with new_artifact(platform.artifacts) as writer:
        writer.write(b"the bytes of alpha")
        file = platform.files.add(
            writer,
            name=f"alpha-{number}.zip",
            description="about alpha",
            purpose="fine-tune",
            workspace_id=workspace_id,
            api_key_id=key_id,
            now=datetime.now(UTC),
        )
    return file.file_id


def _succeed(platform: Platform, job_id: str, model_name: str, workspace_id: str, now: datetime) -> None:
    directory = platform.settings.data_dir / "models" / job_id / CHECKPOINT
    directory.mkdir(parents=True)
    (directory / "model.json").write_text(json.dumps({"voices": {"default": {}}}))
    relative = str(directory.relative_to(platform.settings.data_dir))
    ended = {"status": "SUCCEEDED", "started_at": now, "ended_at": now, "usage": 99_406, "output_cnt": 1}
    row = {"job_id": job_id, "checkpoint": CHECKPOINT, "rank": 0, "lm_epoch": 4, "fm_epoch": 4, "created_at": now}
    exported = {"status": "SUCCEEDED", "model_name": model_name, "display_name": "alpha-voice", "directory": relative}
    with platform.database.transaction() as connection:
        connection.execute(update(fine_tune_jobs).where(fine_tune_jobs.c.job_id == job_id).values(**ended))
        connection.execute(insert(checkpoints).values(**row, **exported))
        queries.append_logs(connection, job_id, [LOG_LINE])
        register_model(
            connection,
            model_name=model_name,
            workspace_id=workspace_id,
            display_name="alpha-voice",
            base_model=platform.settings.base_model,
            job_id=job_id,
            checkpoint=CHECKPOINT,
            directory=relative,
            now=now,
        )


def bad_keys(world: World) -> dict[str, str | None]:
    """Every way of having no key that works."""
    keys, now = world.platform.api_keys, datetime.now(UTC)
    revoked, revoked_secret = keys.create("revoked", world.ids["workspace_id"], now)
    token_of_revoked, _ = keys.issue_token(revoked, 60, now)
    keys.revoke(revoked.key_id, now)
    past = now - timedelta(hours=1)
    _, expired_secret = keys.create("expired", world.ids["workspace_id"], past, expires_in_s=60)
    expired_token, _ = keys.issue_token(keys.authenticate(world.keys["own"]), 1, past)
    return {
        "no key": None,
        "a wrong key": "sk-nobody-issued-this-one",
        "a revoked key": revoked_secret,
        "an expired key": expired_secret,
        "a token of a revoked key": token_of_revoked,
        "an expired token": expired_token,
        "the hash of a key": hashlib.sha256(world.keys["own"].encode()).hexdigest(),
    }
