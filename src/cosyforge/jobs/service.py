"""What a user may do with fine-tuning jobs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from cosyforge.errors import InvalidParameter, NotFound, Throttled, UnsupportedOperation
from cosyforge.jobs import queries
from cosyforge.jobs.records import FINAL, WITH_WORKER, CheckpointStatus, FineTuneJob, JobCheckpoint, JobStatus
from cosyforge.registry.files import get_file
from cosyforge.registry.models import is_display_name_taken, register_model
from cosyforge.store.artifacts import ArtifactStore
from cosyforge.store.database import Database
from cosyforge.store.tables import models
from cosyforge.training.hyper_parameters import HyperParameters

TRAINING_TYPE = "efficient_sft"
_DISPLAY_NAME = re.compile(r"[\w-]{1,200}")
_SUFFIX = re.compile(r"[A-Za-z0-9]{1,18}")


@dataclass(frozen=True)
class JobRequest:
    """A job as asked for; absent fields are None."""

    model: str
    training_type: str | None
    hyper_parameters: Any
    training_file_ids: list[str] | None = None
    training_datasets: list[dict[str, Any]] | None = None
    validation_file_ids: list[str] | None = None
    validation_datasets: list[dict[str, Any]] | None = None
    job_name: str | None = None
    model_name: str | None = None
    finetuned_output_suffix: str | None = None


@dataclass(frozen=True)
class JobRules:
    """max_jobs: most jobs of a workspace that run, wait or have succeeded; 0 is no limit."""

    base_model: str
    max_jobs: int
    local_time: Callable[[datetime], datetime] = field(repr=False)


class Jobs:
    """Submit, look, cancel, delete; the scheduler does the rest."""

    def __init__(self, database: Database, artifacts: ArtifactStore, rules: JobRules) -> None:
        self._database = database
        self._artifacts = artifacts
        self._rules = rules

    def create(self, request: JobRequest, workspace_id: str, creator: str, now: datetime) -> FineTuneJob:
        """Queue a job.

        Raises: InvalidParameter naming the field; Throttled when the workspace has too many jobs
        """
        self._check_model(request)
        hyper_parameters = HyperParameters.parse(request.hyper_parameters).to_json()
        datasets = _datasets(request)
        with self._database.transaction() as connection:
            self._check_limit(connection, workspace_id)
            file = get_file(connection, workspace_id, datasets[0]["file_id"])
            job_id, tail = self._new_job_id(connection, now)
            package = f"packages/{job_id}.zip"
            suffix = f"{request.finetuned_output_suffix}-" if request.finetuned_output_suffix else ""
            queries.insert_job(
                connection,
                {
                    "job_id": job_id,
                    "workspace_id": workspace_id,
                    "creator": creator,
                    "job_name": request.job_name or job_id,
                    "model_name": request.model_name or job_id,
                    "model": request.model,
                    "training_type": TRAINING_TYPE,
                    "training_datasets": datasets,
                    "validation_datasets": _validation_datasets(request),
                    "hyper_parameters": hyper_parameters,
                    "finetuned_output": f"{request.model}-{suffix}ft-{tail}",
                    "package": package,
                    "status": str(JobStatus.PENDING),
                    "created_at": now,
                    "output_cnt": 0,
                    "events_offset": 0,
                },
            )
            # the job keeps its own copy: the file may be deleted while it waits
            self._artifacts.copy(file.artifact, package)
            return queries.get_job(connection, job_id)

    def get(self, workspace_id: str, job_id: str) -> FineTuneJob:
        """Raises: NotFound"""
        with self._database.read() as connection:
            return queries.get_job(connection, job_id, workspace_id)

    def page(self, workspace_id: str, model: str | None, page_no: int, page_size: int) -> tuple[int, list[FineTuneJob]]:
        with self._database.read() as connection:
            return queries.list_jobs(connection, workspace_id, model, page_no, page_size)

    def logs(self, workspace_id: str, job_id: str, offset: int, num_lines: int) -> tuple[int, list[str]]:
        """The number of lines in all, and those after `offset`.

        Raises: NotFound
        """
        with self._database.read() as connection:
            queries.get_job(connection, job_id, workspace_id)
            total = queries.count_logs(connection, job_id)
            return total, queries.read_logs(connection, job_id, offset, num_lines)

    def checkpoints(self, workspace_id: str, job_id: str) -> list[JobCheckpoint]:
        """In rank order; those so far while the job runs.

        Raises: NotFound
        """
        with self._database.read() as connection:
            queries.get_job(connection, job_id, workspace_id)
            return queries.list_checkpoints(connection, job_id)

    def export(self, workspace_id: str, job_id: str, checkpoint: str, display_name: str, now: datetime) -> None:
        """Make a checkpoint a deployable model; a second export gives it a new display name.

        Raises: NotFound; UnsupportedOperation before the job has succeeded; InvalidParameter for a bad or taken name
        """
        if not _DISPLAY_NAME.fullmatch(display_name):
            raise InvalidParameter("model_name may have letters, digits, _ and - only, at most 200 characters.")
        with self._database.transaction() as connection:
            job = queries.get_job(connection, job_id, workspace_id)
            if job.status is not JobStatus.SUCCEEDED:
                raise UnsupportedOperation(f"Job {job_id} is {job.status}; only a SUCCEEDED job's checkpoints export.")
            found = [item for item in queries.list_checkpoints(connection, job_id) if item.checkpoint == checkpoint]
            if not found:
                raise NotFound(f"Job {job_id} has no checkpoint {checkpoint}.")
            model_name = exported_model_name(job, found[0])
            if is_display_name_taken(connection, workspace_id, display_name, except_for=model_name):
                raise InvalidParameter(f"model_name {display_name} is taken by another model; choose another one.")
            export_checkpoint(connection, job, found[0], display_name, now)

    def cancel(self, workspace_id: str, job_id: str, now: datetime) -> None:
        """Stop a job: at once while it waits, otherwise as soon as its worker has ended.

        Raises: NotFound; UnsupportedOperation when it has ended already
        """
        with self._database.transaction() as connection:
            job = queries.get_job(connection, job_id, workspace_id)
            if job.status in FINAL:
                raise UnsupportedOperation(f"Job {job_id} is {job.status} already; it cannot be canceled.")
            if job.status is JobStatus.RUNNING:
                queries.transition(connection, job_id, JobStatus.CANCELING)
            elif job.status is not JobStatus.CANCELING:
                queries.transition(connection, job_id, JobStatus.CANCELED, ended_at=now, usage=0)
                self._artifacts.delete(job.package)

    def delete(self, workspace_id: str, job_id: str) -> None:
        """Remove the record of a job; its models and their deployments stay.

        Raises: NotFound; UnsupportedOperation while it runs or waits
        """
        with self._database.transaction() as connection:
            job = queries.get_job(connection, job_id, workspace_id)
            if job.status not in FINAL:
                raise UnsupportedOperation(f"Job {job_id} is {job.status}; cancel it before deleting it.")
            queries.delete_job(connection, job_id)

    def _check_model(self, request: JobRequest) -> None:
        if request.model != self._rules.base_model:
            raise InvalidParameter(
                f"model must be {self._rules.base_model} (got {request.model}); a fine-tuned model cannot be a base."
            )
        if (request.training_type or TRAINING_TYPE) != TRAINING_TYPE:
            raise InvalidParameter(f"The model {request.model} does not support training_type: {request.training_type}")
        if request.finetuned_output_suffix and not _SUFFIX.fullmatch(request.finetuned_output_suffix):
            raise InvalidParameter("finetuned_output_suffix may have letters and digits only, at most 18.")

    def _check_limit(self, connection: Connection, workspace_id: str) -> None:
        if not self._rules.max_jobs:
            return
        counted = {JobStatus.PENDING, JobStatus.QUEUING, JobStatus.SUCCEEDED, *WITH_WORKER}
        if queries.count_jobs(connection, workspace_id, counted) >= self._rules.max_jobs:
            raise Throttled(
                f"At most {self._rules.max_jobs} jobs may run, wait or have succeeded; delete old ones first.",
                code="Throttling",
            )

    def _new_job_id(self, connection: Connection, now: datetime) -> tuple[str, str]:
        while True:
            tail = f"{self._rules.local_time(now):%Y%m%d%H%M}-{secrets.token_hex(2)}"
            if not queries.is_job_id_taken(connection, f"ft-{tail}"):
                return f"ft-{tail}", tail


def exported_model_name(job: FineTuneJob, checkpoint: JobCheckpoint) -> str:
    """The top-ranked checkpoint is the job's finetuned_output; the others append their epochs."""
    if checkpoint.rank == 0:
        return job.finetuned_output
    return f"{job.finetuned_output}-{checkpoint.checkpoint.removeprefix('checkpoint-')}"


def default_display_name(job: FineTuneJob, checkpoint: JobCheckpoint) -> str:
    if checkpoint.rank == 0:
        return job.model_name
    return f"{job.model_name}-{checkpoint.checkpoint.removeprefix('checkpoint-')}"


def export_checkpoint(
    connection: Connection, job: FineTuneJob, checkpoint: JobCheckpoint, display_name: str, now: datetime
) -> None:
    """Register the checkpoint of a succeeded job as a model, or rename the model that it is already."""
    assert checkpoint.directory is not None
    model_name = exported_model_name(job, checkpoint)
    if checkpoint.status is CheckpointStatus.SUCCEEDED:
        connection.execute(models.update().where(models.c.model_name == model_name).values(display_name=display_name))
    else:
        register_model(
            connection,
            model_name=model_name,
            workspace_id=job.workspace_id,
            display_name=display_name,
            base_model=job.model,
            job_id=job.job_id,
            checkpoint=checkpoint.checkpoint,
            directory=checkpoint.directory,
            now=now,
        )
    queries.set_checkpoint_exported(connection, job.job_id, checkpoint.checkpoint, model_name, display_name)


def _datasets(request: JobRequest) -> list[dict[str, Any]]:
    """The one training dataset, from either form of asking for it.

    Raises: InvalidParameter
    """
    if request.training_file_ids and request.training_datasets:
        raise InvalidParameter("Give training_file_ids or training_datasets, not both.")
    datasets = request.training_datasets or [
        {"data_source_type": "file_id", "file_id": file_id} for file_id in request.training_file_ids or []
    ]
    if not datasets:
        raise InvalidParameter("Missing training files")
    if len(datasets) > 1:
        name = "training_datasets" if request.training_datasets else "training_file_ids"
        raise InvalidParameter(f"{name} must have exactly one entry (got {len(datasets)}).")
    return [_checked_dataset(datasets[0], "training_datasets[0]")]


def _validation_datasets(request: JobRequest) -> list[dict[str, Any]]:
    """Raises: InvalidParameter: training splits off its own validation clips"""
    if request.validation_file_ids or request.validation_datasets:
        name = "validation_file_ids" if request.validation_file_ids else "validation_datasets"
        raise InvalidParameter(f"{name} is not supported; leave it out, training sets validation clips aside itself.")
    return []


def _checked_dataset(dataset: dict[str, Any], where: str) -> dict[str, Any]:
    source = dataset.get("data_source_type", "file_id")
    if source != "file_id":
        raise InvalidParameter(f"{where}.data_source_type must be file_id (got {source}); upload the zip first.")
    file_id = dataset.get("file_id")
    if not isinstance(file_id, str) or not file_id:
        raise InvalidParameter(f"{where}.file_id is missing.")
    return {"data_source_type": "file_id", "file_id": file_id}
