"""What a job would cost and how long it would take, under /platform/v1: ours alone."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from cosyforge.api.context import Caller, PlatformParameter
from cosyforge.api.envelope import answer
from cosyforge.billing.estimate import Estimate
from cosyforge.billing.forecast import Forecast
from cosyforge.billing.tariff import money
from cosyforge.bootstrap import Platform
from cosyforge.dataset.report import Problem
from cosyforge.errors import InvalidParameter, NotFound
from cosyforge.registry.api_keys import ApiKey
from cosyforge.training.hyper_parameters import MAX_VALUE, HyperParameters

router = APIRouter(prefix="/platform/v1", tags=["billing"])

_SHOWN_PROBLEMS = 50

Value = Annotated[int, Query(ge=1, le=MAX_VALUE)]


class EstimateRequest(BaseModel):
    """A job as it would be created, or its `file_id` and hyper-parameters alone; other fields are ignored."""

    model_config = ConfigDict(strict=True)

    hyper_parameters: Any = None  # checked field by field where they are used
    file_id: str | None = None
    training_file_ids: list[str] | None = None
    training_datasets: list[dict[str, Any]] | None = None


@router.post("/estimate")
def post_estimate(request: Request, platform: PlatformParameter, caller: Caller, body: EstimateRequest) -> JSONResponse:
    """Tokens, cost in CNY and minutes of a job, from the body that would create it. Nothing is started."""
    estimate = _estimate(platform, caller, _file_id(body), HyperParameters.parse(body.hyper_parameters))
    return answer(request, _estimate_json(estimate))


@router.get("/estimate")
def get_estimate(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    file_id: str,
    lm_max_epoch: Value = 60,
    lm_step: Value = 5,
    lm_num: Value = 3,
    lm_batch_size: Value = 1000,
    fm_max_epoch: Value = 100,
    fm_step: Value = 10,
    fm_num: Value = 3,
    fm_batch_size: Value = 2000,
) -> JSONResponse:
    """The same for a file; hyper-parameters that are not given are the ones that the product document recommends."""
    hyper_parameters = HyperParameters(
        lm_max_epoch, lm_step, lm_num, lm_batch_size, fm_max_epoch, fm_step, fm_num, fm_batch_size
    )
    return answer(request, _estimate_json(_estimate(platform, caller, file_id, hyper_parameters)))


def _estimate(platform: Platform, caller: ApiKey, file_id: str, hyper_parameters: HyperParameters) -> Estimate:
    """Raises: NotFound, also for a file of another workspace; InvalidDataset"""
    try:
        file = platform.files.get(caller.workspace_id, file_id)
    except InvalidParameter as error:
        raise NotFound(error.message) from error
    return platform.estimator.estimate(platform.artifacts.local_path(file.artifact), hyper_parameters)


def _file_id(body: EstimateRequest) -> str:
    """Raises: InvalidParameter unless exactly one file is named, in one of the forms"""
    named = [] if body.file_id is None else [body.file_id]
    named += body.training_file_ids or []
    for index, dataset in enumerate(body.training_datasets or []):
        file_id = dataset.get("file_id")
        if not isinstance(file_id, str):
            raise InvalidParameter(f"training_datasets[{index}].file_id is missing.")
        named.append(file_id)
    if len(named) != 1:
        raise InvalidParameter(
            f"Name exactly one file, by file_id, training_file_ids or training_datasets (got {len(named)})."
        )
    return named[0]


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    report = estimate.report
    return {
        "hyper_parameters": estimate.hyper_parameters.to_json(),
        "clips": report.num_clips,
        "audio_s": round(report.total_seconds, 3),
        "tokens": estimate.tokens,
        "cost_cny": money(estimate.cost_cny),
        "checkpoints": [candidate.name for candidate in estimate.checkpoints],
        "forecast": _forecast_json(estimate.forecast),
        "dataset": {
            "is_valid": report.is_valid,
            "summary": report.summary,
            "errors": _problems_json(report.errors),
            "warnings": _problems_json(report.warnings),
        },
    }


def _forecast_json(forecast: Forecast) -> dict[str, Any]:
    minutes = None if forecast.duration_s is None else round(forecast.duration_s / 60, 1)
    return {"minutes": minutes, "basis": forecast.basis, "explanation": forecast.explanation}


def _problems_json(problems: list[Problem]) -> list[dict[str, str]]:
    return [{"rule": problem.rule, "message": str(problem)} for problem in problems[:_SHOWN_PROBLEMS]]
