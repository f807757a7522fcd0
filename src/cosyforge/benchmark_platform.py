"""How fast the management API lists: pages of 10,000 jobs on SQLite, for `make bench`. No torch.

Every page is asked for over the whole HTTP application in this process (key, routing, queries, JSON; no socket), and once
more as queries and records alone.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from sqlalchemy import insert

from cosyforge.api.app import create_app
from cosyforge.api.logs import configure_logging
from cosyforge.bootstrap import Platform, build_platform
from cosyforge.jobs.records import JobStatus
from cosyforge.settings import load_settings
from cosyforge.store.database import Database
from cosyforge.store.tables import fine_tune_jobs

NUM_JOBS = 10_000
LIMIT_MS = 50.0
"""What a page may take at the 95th percentile."""

_WORKSPACE = "llm-bench"
_STATUSES = ("SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "FAILED", "CANCELED")
_FIRST = datetime(2026, 1, 1, tzinfo=UTC)
_QUERIES: dict[str, dict[str, str | int]] = {
    "10 a page": {"page_size": 10},
    "100 a page": {"page_size": 100},
    "10 a page, FAILED alone": {"page_size": 10, "status": "FAILED"},
}


@dataclass(frozen=True)
class Listing:
    """Milliseconds of one kind of page: the middle, the 95th percentile and the worst."""

    name: str
    http_ms: tuple[float, float, float]
    query_ms: tuple[float, float, float]


def listing_times(num_jobs: int = NUM_JOBS, num_pages: int = 200) -> list[Listing]:
    """Times of random pages of a workspace with so many jobs; another workspace has as many."""
    with tempfile.TemporaryDirectory(prefix="cosyforge-") as temporary:
        configure_logging("console", "error")
        platform = build_platform(load_settings(data_dir=Path(temporary), database_url=""))
        platform.workspaces.ensure(_WORKSPACE, datetime.now(UTC))
        _, secret = platform.api_keys.create("bench", _WORKSPACE, datetime.now(UTC))
        fill(platform.database, _WORKSPACE, num_jobs)
        fill(platform.database, "llm-other", num_jobs)
        times = [_listing(platform, secret, name, query, num_jobs, num_pages) for name, query in _QUERIES.items()]
        platform.database.close()
        platform.lock_file.close()
        return times


def fill(database: Database, workspace_id: str, num_jobs: int) -> None:
    """Jobs as they look when they have ended."""
    dice = random.Random(workspace_id)
    rows = []
    for index in range(num_jobs):
        created_at = _FIRST + timedelta(minutes=index)
        rows.append(
            {
                "job_id": f"ft-{workspace_id}-{index}",
                "workspace_id": workspace_id,
                "creator": "1",
                "job_name": f"job {index}",
                "model_name": f"voice {index}",
                "model": "cosyvoice-v3-flash",
                "training_type": "efficient_sft",
                "training_datasets": [{"data_source_type": "file_id", "file_id": f"file-{index}"}],
                "validation_datasets": [],
                "hyper_parameters": {"lm_max_epoch": 60, "fm_max_epoch": 100},
                "finetuned_output": f"cosyvoice-v3-flash-ft-{workspace_id}-{index}",
                "package": f"packages/{index}.zip",
                "status": dice.choice(_STATUSES),
                "created_at": created_at,
                "started_at": created_at,
                "ended_at": created_at + timedelta(hours=1),
                "usage": 99_406,
                "output_cnt": 4,
                "events_offset": 0,
            }
        )
    with database.transaction() as connection:
        connection.execute(insert(fine_tune_jobs), rows)


def _listing(
    platform: Platform, secret: str, name: str, query: dict[str, str | int], num_jobs: int, num_pages: int
) -> Listing:
    dice = random.Random(name)
    pages = [dice.randint(1, num_jobs // int(query["page_size"])) for _ in range(num_pages)]
    return Listing(
        name,
        _figures(asyncio.run(_over_http(platform, secret, query, pages))),
        _figures([_timed(_query(platform, query, page_no)) for page_no in pages]),
    )


async def _over_http(platform: Platform, secret: str, query: dict[str, str | int], pages: Sequence[int]) -> list[float]:
    transport = httpx.ASGITransport(create_app(platform))
    headers = {"Authorization": f"Bearer {secret}"}
    times = []
    async with httpx.AsyncClient(transport=transport, base_url="http://bench", headers=headers) as client:
        for page_no in [1, *pages]:
            began = time.perf_counter()
            response = await client.get("/api/v1/fine-tunes", params={**query, "page_no": page_no})
            times.append(time.perf_counter() - began)
            response.raise_for_status()
    return times[1:]  # the first one warms up


def _query(platform: Platform, query: dict[str, str | int], page_no: int) -> Callable[[], object]:
    status = JobStatus(str(query["status"])) if "status" in query else None

    return lambda: platform.jobs.page(_WORKSPACE, page_no, int(query["page_size"]), status=status)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _figures(seconds: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(second * 1000 for second in seconds)
    return ordered[len(ordered) // 2], ordered[-(-len(ordered) * 95 // 100) - 1], ordered[-1]
