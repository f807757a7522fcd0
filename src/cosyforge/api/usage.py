"""What was used and what it costs, under /platform/v1: ours alone."""

from __future__ import annotations

from datetime import date, datetime, timedelta, tzinfo
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from cosyforge.api.context import Caller, PlatformParameter, iso_time, now
from cosyforge.api.envelope import answer
from cosyforge.billing.ledger import Period
from cosyforge.billing.meter import GroupBy, WorkspaceUsage
from cosyforge.billing.tariff import money, shown_fen
from cosyforge.billing.usage import Bill, Summary, bill_of, start_of
from cosyforge.bootstrap import Platform
from cosyforge.errors import InvalidParameter

router = APIRouter(prefix="/platform/v1", tags=["billing"])

_FORM = "2026-05-27 or 2026-05-27T17:43:02, in the zone of the platform unless it names another"
_YEARS = range(1970, 2200)

From = Annotated[str | None, Query(alias="from", description=f"First day or moment that counts: {_FORM}.")]
To = Annotated[str | None, Query(alias="to", description="Last day that counts, or the moment before which it counts.")]
By = Annotated[GroupBy | None, Query(description="One line for each day, job, deployment or model, and their total.")]


@router.get("/usage")
def get_usage(
    request: Request,
    platform: PlatformParameter,
    caller: Caller,
    start: From = None,
    end: To = None,
    by: By = None,
) -> JSONResponse:
    """What this workspace has used, up to now or in a period; costs in CNY at today's prices."""
    period = _period(platform, start, end)
    shown: dict[str, Any] = {
        "from": None if period.start is None else iso_time(platform, period.start),
        "to": None if period.end is None else iso_time(platform, period.end),
        "time_zone": f"{platform.local_time(period.now):%z}",
    }
    if by is None:
        usage = platform.meter.usage_of(caller.workspace_id, period.now, period)
        return answer(request, _usage_json(platform, usage) | shown)
    summary = platform.meter.summary_of(caller.workspace_id, by, period)
    return answer(request, {"by": by, **shown, **_summary_json(platform, summary)})


def _period(platform: Platform, start: str | None, end: str | None) -> Period:
    """Raises: InvalidParameter"""
    zone = platform.local_time(now()).tzinfo
    assert zone is not None
    period = Period(now(), _moment("from", start, zone), _moment("to", end, zone, is_end=True))
    if period.start is not None and period.end is not None and period.start >= period.end:
        raise InvalidParameter(f"from ({start}) must be before to ({end}).")
    return period


def _moment(name: str, text: str | None, zone: tzinfo, *, is_end: bool = False) -> datetime | None:
    """A day stands for its beginning, or for its end where a period ends."""
    if text is None:
        return None
    try:
        try:
            day = date.fromisoformat(text)
            moment = start_of(day + timedelta(days=1) if is_end else day, zone)
        except ValueError:
            moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise InvalidParameter(f"{name} must look like {_FORM} (got {text!r}; write + as %2B).") from error
    if moment.year not in _YEARS:
        raise InvalidParameter(f"{name} must be between the years {_YEARS.start} and {_YEARS.stop - 1} (got {text!r}).")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)


def _usage_json(platform: Platform, usage: WorkspaceUsage) -> dict[str, Any]:
    trainings = [
        {
            "job_id": entry.subject,
            "model": entry.model,
            "tokens": entry.quantity,
            "cost_cny": money(cost),
            "time": iso_time(platform, entry.at),
        }
        for entry, cost in usage.trainings
    ]
    deployments = [
        {
            "deployment_id": item.deployment_id,
            "deployed_model": item.deployed_model,
            "model_unit_spec": item.model_unit_spec,
            "unit_seconds": str(item.unit_seconds),
            "units_now": item.units_now,
            "cost_cny": money(cost),
            "start_time": iso_time(platform, item.started_at),
        }
        for item, cost in usage.deployments
    ]
    synthesis = [
        {
            "model": item.model,
            "characters": item.characters,
            "requests": item.num_requests,
            "cost_cny": money(item.cost_cny),
        }
        for item in usage.characters
    ]
    totals = _bill_json(bill_of(usage.amounts))
    lists = {"trainings": trainings, "deployments": deployments, "synthesis": synthesis}
    return {**lists, "totals": totals, "total_cny": totals["total_cny"]}


def _summary_json(platform: Platform, summary: Summary) -> dict[str, Any]:
    groups = [_key_json(platform, group.key) | _bill_json(group.bill) for group in summary.groups]
    totals = _bill_json(summary.total)
    return {"groups": groups, "totals": totals, "total_cny": totals["total_cny"]}


def _key_json(platform: Platform, key: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in key.items() if name != "at"}
    return shown | {"time": iso_time(platform, key["at"])} if "at" in key else shown


def _bill_json(bill: Bill) -> dict[str, Any]:
    amounts = bill.amounts
    return {
        "tokens": amounts.tokens,
        "training_cny": shown_fen(bill.training_fen),
        "unit_seconds": str(amounts.unit_seconds),
        "deployment_cny": shown_fen(bill.deployment_fen),
        "characters": amounts.characters,
        "requests": amounts.num_requests,
        "synthesis_cny": shown_fen(bill.synthesis_fen),
        "total_cny": shown_fen(bill.total_fen),
    }
