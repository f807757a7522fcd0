"""Fine-tuning jobs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from cosyforge.api.context import Caller, PageNo, PlatformParameter, date_and_time, iso_time, now
from cosyforge.api.envelope import answer
from cosyforge.bootstrap import Platform
from cosyforge.jobs.records import FINAL, CheckpointStatus, FineTuneJob, JobCheckpoint, JobStatus
from cosyforge.jobs.service import JobRequest
from cosyforge.training.checkpoints import MAX_CHECKPOINTS

router = APIRouter(prefix="/api/v1/fine-tunes", tags=["fine-tunes"])

_NEVER = "9999-12-31T23:59:59"
"""The expiry of what does not expire: clients expect a date."""


class CreateJob(BaseModel):
    """Unknown fields are ignored, as official clients send some."""

    model_config = ConfigDict(strict=True, protected_namespaces=())

    model: str
    hyper_parameters: Any = None  # checked field by field where they are used
    training_type: str | None = None
    training_file_ids: list[str] | None = None
    training_datasets: list[dict[str, Any]] | None = None
    validation_file_ids: list[str] | None = None
    validation_datasets: list[dict[str, Any]] | None = None
    job_name: str | None = Field(None, max_length=200)
    model_name: str | None = Field(None, max_length=200)
    finetuned_output_suffix: str | None = None


@router.post("")
def create_job(request: Request, platform: PlatformParameter, caller: Caller, body: CreateJob) -> JSONResponse:
    job = platform.jobs.create(JobRequest(**body.model_dump()), caller.workspace_id, caller.user_id, now())
    return answer(request, _job_json(platform, job))


@router.get("")
def list_jobs(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    page_no: PageNo = 1,
    page_size: Annotated[int, Query(ge=1, le=1000)] = 10,
    model: str | None = None,
    status: JobStatus | None = None,
) -> JSONResponse:
    """Newest first. `status` is ours: the service we are compatible with has no such filter."""
    total, jobs = platform.jobs.page(caller.workspace_id, page_no, page_size, model=model, status=status)
    shown = [_job_json(platform, job) for job in jobs]
    return answer(request, {"page_no": page_no, "page_size": page_size, "total": total, "jobs": shown})


@router.get("/{job_id}")
def get_job(request: Request, platform: PlatformParameter, caller: Caller, job_id: str) -> JSONResponse:
    return answer(request, _job_json(platform, platform.jobs.get(caller.workspace_id, job_id)))


@router.delete("/{job_id}")
def delete_job(request: Request, platform: PlatformParameter, caller: Caller, job_id: str) -> JSONResponse:
    platform.jobs.delete(caller.workspace_id, job_id)
    return answer(request, {"status": "success"})


@router.post("/{job_id}/cancel")
def cancel_job(request: Request, platform: PlatformParameter, caller: Caller, job_id: str) -> JSONResponse:
    platform.jobs.cancel(caller.workspace_id, job_id, now())
    return answer(request, {"status": "success"})


@router.get("/{job_id}/logs")
def get_logs(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    job_id: str,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    line: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JSONResponse:
    total, lines = platform.jobs.logs(caller.workspace_id, job_id, offset, line)
    return answer(request, {"total": total, "logs": lines})


@router.get("/{job_id}/checkpoints")
def list_checkpoints(request: Request, platform: PlatformParameter, caller: Caller, job_id: str) -> JSONResponse:
    checkpoints = platform.jobs.checkpoints(caller.workspace_id, job_id)
    return answer(request, [_checkpoint_json(platform, checkpoint) for checkpoint in checkpoints])


@router.get("/{job_id}/export/{checkpoint}")
def export_checkpoint(
    request: Request, platform: PlatformParameter, caller: Caller, job_id: str, checkpoint: str, model_name: str
) -> JSONResponse:
    """A GET that changes something, as the service we are compatible with has it."""
    platform.jobs.export(caller.workspace_id, job_id, checkpoint, model_name, now())
    return answer(request, True)


def _job_json(platform: Platform, job: FineTuneJob) -> dict[str, Any]:
    shown = {
        "job_id": job.job_id,
        "job_name": job.job_name,
        "status": job.status,
        "finetuned_output": job.finetuned_output,
        "model": job.model,
        "base_model": job.model,
        "training_file_ids": [],  # superseded by training_datasets, but clients want the list
        "training_datasets": job.training_datasets,
        "validation_file_ids": [],
        "validation_datasets": job.validation_datasets,
        "hyper_parameters": job.hyper_parameters,
        "training_type": job.training_type,
        "model_name": job.model_name,
        "create_time": date_and_time(platform, job.created_at),
        "charge_type": "token",
        "output_cnt": job.output_cnt,
        "max_output_cnt": MAX_CHECKPOINTS,
        "workspace_id": job.workspace_id,
        "user_identity": job.creator,
        "creator": job.creator,
        "modifier": job.creator,
        "group": "llm",
    }
    if job.status in FINAL:
        shown["end_time"] = date_and_time(platform, job.ended_at or job.created_at)
    if job.usage is not None:
        shown["usage"] = job.usage
    if job.status is JobStatus.FAILED:
        shown |= {"code": job.code, "message": job.message}
    return shown


def _checkpoint_json(platform: Platform, checkpoint: JobCheckpoint) -> dict[str, Any]:
    full_name = f"{checkpoint.job_id}:{checkpoint.checkpoint}"
    expires_at = platform.jobs.expiry_of(checkpoint)
    shown: dict[str, Any] = {
        "create_time": iso_time(platform, checkpoint.created_at),
        "full_name": full_name,
        "job_id": checkpoint.job_id,
        "checkpoint": checkpoint.checkpoint,
        "checkpoint_id": full_name,
        "status": checkpoint.status,
        "step": checkpoint.lm_epoch * 10_000 + checkpoint.fm_epoch,
        "expire_time": _NEVER if expires_at is None else iso_time(platform, expires_at),
    }
    if checkpoint.status is CheckpointStatus.SUCCEEDED:
        shown |= {"model_name": checkpoint.model_name, "model_display_name": checkpoint.display_name}
    return shown
