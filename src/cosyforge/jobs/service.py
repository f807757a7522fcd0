"""What a user may do with fine-tuning jobs."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from cosyforge import metrics
from cosyforge.errors import InvalidParameter, NotFound, Throttled, UnsupportedOperation
from cosyforge.jobs import queries
from cosyforge.jobs.checkpoint_files import delete_checkpoint_files
from cosyforge.jobs.records import FINAL, WITH_WORKER, CheckpointStatus, FineTuneJob, JobCheckpoint, JobStatus
from cosyforge.registry.files import get_file
from cosyforge.registry.models import is_display_name_taken, register_model
from cosyforge.store.artifacts import ArtifactStore
from cosyforge.store.database import Database
from cosyforge.store.tables import models
from cosyforge.training.hyper_parameters import HyperParameters

TRAINING_TYPE = "efficient_sft"
_EXPORTABLE = (JobStatus.SUCCEEDED, JobStatus.CANCELED)
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
    """max_jobs: most jobs of a workspace that run, wait or have succeeded; 0 is no limit.

    checkpoint_lifetime: of checkpoints that are never exported; None is for ever. models_directory: one folder per job
    """

    base_model: str
    max_jobs: int
    local_time: Callable[[datetime], datetime] = field(repr=False)
    models_directory: Path
    checkpoint_lifetime: timedelta | None = None


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
        datasets, validation_datasets = _datasets(request), _validation_datasets(request)
        with self._database.transaction() as connection:
            self._check_limit(connection, workspace_id)
            job_id, tail = self._new_job_id(connection, now)
            package, validation_package = f"packages/{job_id}.zip", None
            copies = {package: _artifact(connection, workspace_id, datasets[0], "training")}
            if validation_datasets:
                validation_package = f"packages/{job_id}-validation.zip"
                copies[validation_package] = _artifact(connection, workspace_id, validation_datasets[0], "validation")
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
                    "validation_datasets": validation_datasets,
                    "hyper_parameters": hyper_parameters,
                    "finetuned_output": f"{request.model}-{suffix}ft-{tail}",
                    "package": package,
                    "validation_package": validation_package,
                    "status": str(JobStatus.PENDING),
                    "created_at": now,
                    "output_cnt": 0,
                    "events_offset": 0,
                },
            )
            # the job keeps its own copies: the files may be deleted while it waits
            for copy, original in copies.items():
                self._artifacts.copy(original, copy)
            return queries.get_job(connection, job_id)

    def get(self, workspace_id: str, job_id: str) -> FineTuneJob:
        """Raises: NotFound"""
        with self._database.read() as connection:
            return queries.get_job(connection, job_id, workspace_id)

    def page(
        self,
        workspace_id: str,
        page_no: int,
        page_size: int,
        *,
        model: str | None = None,
        status: JobStatus | None = None,
    ) -> tuple[int, list[FineTuneJob]]:
        """One page, newest first, and the number of jobs in all."""
        with self._database.read() as connection:
            return queries.list_jobs(connection, workspace_id, page_no, page_size, model=model, status=status)

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

        Raises: NotFound; UnsupportedOperation before the job has ended with checkpoints; InvalidParameter for a bad or
            taken name
        """
        if not _DISPLAY_NAME.fullmatch(display_name):
            raise InvalidParameter("model_name must be 1 to 200 letters, digits, _ and -.")
        with self._database.transaction() as connection:
            job = queries.get_job(connection, job_id, workspace_id)
            if job.status not in _EXPORTABLE:
                raise UnsupportedOperation(
                    f"Job {job_id} is {job.status}; checkpoints can be exported once it is SUCCEEDED or CANCELED."
                )
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
        if job.status not in WITH_WORKER:
            metrics.jobs_ended.labels(JobStatus.CANCELED).inc()
            self._delete_packages(job)

    def delete(self, workspace_id: str, job_id: str) -> None:
        """Remove the record of a job; its models and their deployments stay, checkpoints that are no models go.

        Raises: NotFound; UnsupportedOperation while it runs or waits
        """
        with self._database.transaction() as connection:
            job = queries.get_job(connection, job_id, workspace_id)
            if job.status not in FINAL:
                raise UnsupportedOperation(f"Job {job_id} is {job.status}; cancel it before deleting it.")
            unexported = [
                item.checkpoint
                for item in queries.list_checkpoints(connection, job_id)
                if item.status is not CheckpointStatus.SUCCEEDED
            ]
            queries.delete_job(connection, job_id)
        delete_checkpoint_files(self._rules.models_directory / job_id, unexported)

    def delete_expired_checkpoints(self, now: datetime) -> int:
        """Delete, also from the disk, checkpoints that nobody has exported in their lifetime; returns how many."""
        if self._rules.checkpoint_lifetime is None:
            return 0
        # in two steps, so that a crash between them leaves no files that nobody knows of
        with self._database.transaction() as connection:
            queries.expire_checkpoints(connection, now - self._rules.checkpoint_lifetime)
            expired = queries.expired_checkpoints(connection)
        for job_id, group in groupby(expired, key=lambda checkpoint: checkpoint.job_id):
            names = [checkpoint.checkpoint for checkpoint in group]
            delete_checkpoint_files(self._rules.models_directory / job_id, names)
            with self._database.transaction() as connection:
                queries.delete_checkpoints(connection, job_id, names)
        return len(expired)

    def expiry_of(self, checkpoint: JobCheckpoint) -> datetime | None:
        """When a checkpoint will be deleted; None: never."""
        if checkpoint.status is CheckpointStatus.SUCCEEDED or self._rules.checkpoint_lifetime is None:
            return None
        return checkpoint.created_at + self._rules.checkpoint_lifetime

    def _delete_packages(self, job: FineTuneJob) -> None:
        for package in (job.package, job.validation_package):
            if package is not None:
                self._artifacts.delete(package)

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
    datasets = _one_dataset("training", request.training_file_ids, request.training_datasets)
    if not datasets:
        raise InvalidParameter("Missing training files")
    return datasets


def _validation_datasets(request: JobRequest) -> list[dict[str, Any]]:
    """The validation dataset if there is one; without, training sets some clips aside itself.

    Raises: InvalidParameter
    """
    return _one_dataset("validation", request.validation_file_ids, request.validation_datasets)


def _one_dataset(
    use: str, file_ids: Sequence[str] | None, datasets: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    if file_ids and datasets:
        raise InvalidParameter(f"Give {use}_file_ids or {use}_datasets, not both.")
    name = f"{use}_datasets" if datasets else f"{use}_file_ids"
    found = datasets or [{"data_source_type": "file_id", "file_id": file_id} for file_id in file_ids or []]
    if len(found) > 1:
        raise InvalidParameter(f"{name} must have exactly one entry (got {len(found)}).")
    return [_checked_dataset(dataset, f"{use}_datasets[0]") for dataset in found]


def _artifact(connection: Connection, workspace_id: str, dataset: dict[str, Any], use: str) -> str:
    """Where the bytes of a dataset are.

    Raises: InvalidParameter when there is no such file
    """
    try:
        return get_file(connection, workspace_id, dataset["file_id"]).artifact
    except InvalidParameter as error:
        raise InvalidParameter(f"{error.message} The {use} file {dataset['file_id']} is not there.") from error


def _checked_dataset(dataset: dict[str, Any], where: str) -> dict[str, Any]:
    source = dataset.get("data_source_type", "file_id")
    if source != "file_id":
        raise InvalidParameter(f"{where}.data_source_type must be file_id (got {source}); upload the zip first.")
    file_id = dataset.get("file_id")
    if not isinstance(file_id, str) or not file_id:
        raise InvalidParameter(f"{where}.file_id is missing.")
    return {"data_source_type": "file_id", "file_id": file_id}
