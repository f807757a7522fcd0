"""How long a training run will take on this machine, from how long the last ones took."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from sqlalchemy import Connection, select

from cosyforge.store.database import Database
from cosyforge.store.tables import fine_tune_jobs, job_events
from cosyforge.training.hyper_parameters import HyperParameters

_JOBS_LOOKED_AT = 5
_STAGES = {"lm": "lm_max_epoch", "flow": "fm_max_epoch"}


@dataclass(frozen=True)
class Pace:
    """Seconds that the parts of a run take.

    Units: start_s and end_s are for the whole run, features_s for a second of audio, lm_s and flow_s for an epoch of a
        second of audio
    """

    start_s: float
    features_s: float
    lm_s: float
    flow_s: float
    end_s: float

    def duration_s(self, hyper_parameters: HyperParameters, audio_s: float) -> float:
        epochs_s = self.lm_s * hyper_parameters.lm_max_epoch + self.flow_s * hyper_parameters.fm_max_epoch
        return self.start_s + audio_s * (self.features_s + epochs_s) + self.end_s


DEFAULT_PACE = Pace(start_s=5.0, features_s=0.02, lm_s=0.0125, flow_s=0.0175, end_s=1.0)
"""The built-in base model on one core: 286 s of audio took 5.4 s for the features, 3.5 s an epoch of the LM and 5.0 s an
epoch of the flow, in seconds of the processor (two cores of a cloud server, one thread)."""


@dataclass(frozen=True)
class Forecast:
    """basis: "measured" on this installation, the "default" pace of the built-in base, or "none" when neither applies

    Units: duration_s without the time that the job waits in the queue; None when nothing is known
    """

    basis: str
    duration_s: float | None
    explanation: str


class Forecaster:
    """Looks at the jobs that finished last; what a finished job took never changes, so it is read once.

    is_builtin_base: whether the base model is the one that the default pace was measured with
    """

    def __init__(self, database: Database, *, is_builtin_base: bool) -> None:
        self._database = database
        self._is_builtin_base = is_builtin_base
        self._paces: dict[str, Pace | None] = {}

    def forecast(self, hyper_parameters: HyperParameters, audio_s: float) -> Forecast:
        paces = self._last_paces()
        if paces:
            middle = Pace(*(median(values) for values in zip(*(astuple(pace) for pace in paces), strict=True)))
            jobs = "the last job" if len(paces) == 1 else f"the last {len(paces)} jobs"
            explanation = f"from what {jobs} took on this installation for each epoch and second of audio"
            return Forecast("measured", middle.duration_s(hyper_parameters, audio_s), explanation)
        if self._is_builtin_base:
            explanation = "no job has finished here yet: from the pace of the built-in base model on one core"
            return Forecast("default", DEFAULT_PACE.duration_s(hyper_parameters, audio_s), explanation)
        explanation = "no job has finished here yet, and nothing is known about the pace of this base model"
        return Forecast("none", None, explanation)

    def _last_paces(self) -> list[Pace]:
        with self._database.read() as connection:
            jobs = _last_jobs(connection)
            for job_id, started_at, ended_at in jobs:
                if job_id not in self._paces:
                    self._paces[job_id] = pace_of(started_at, ended_at, _events(connection, job_id))
        job_ids = [job_id for job_id, *_ in jobs]
        self._paces = {job_id: self._paces[job_id] for job_id in job_ids}
        return [pace for job_id in job_ids if (pace := self._paces[job_id]) is not None]


def _last_jobs(connection: Connection) -> list[tuple[str, datetime, datetime]]:
    """Of all workspaces: the machine is the same for all, and nothing but its pace is told."""
    columns = (fine_tune_jobs.c.job_id, fine_tune_jobs.c.started_at, fine_tune_jobs.c.ended_at)
    statement = select(*columns).where(fine_tune_jobs.c.status == "SUCCEEDED")
    rows = connection.execute(statement.order_by(fine_tune_jobs.c.number.desc()).limit(_JOBS_LOOKED_AT))
    return [(row.job_id, row.started_at, row.ended_at) for row in rows]


def _events(connection: Connection, job_id: str) -> list[tuple[datetime, dict[str, Any]]]:
    statement = select(job_events.c.at, job_events.c.event).where(job_events.c.job_id == job_id)
    return [(row.at, row.event) for row in connection.execute(statement.order_by(job_events.c.event_id))]


def pace_of(started_at: datetime, ended_at: datetime, events: Sequence[tuple[datetime, dict[str, Any]]]) -> Pace | None:
    """The pace of a finished run from its progress; None when it does not tell.

    An epoch is as long as the middle one, so that an hour in which the machine was off, or another program was busy,
    is not part of it.
    """
    known = [(at, event) for at, event in events if event["stage"] == "data" and "audio_s" in event["metrics"]]
    if not known or not known[-1][1]["metrics"]["audio_s"]:
        return None
    data_at, audio_s = known[0][0], float(known[-1][1]["metrics"]["audio_s"])
    ends_by_stage = {stage: _epoch_ends(events, stage) for stage in _STAGES}
    if not all(ends_by_stage.values()):
        return None
    features_at = [at for at, event in events if event["stage"] == "features"]
    features_end = features_at[-1] if features_at else data_at
    lm_ends, flow_ends = ends_by_stage["lm"], ends_by_stage["flow"]
    return Pace(
        start_s=_seconds(started_at, data_at),
        features_s=_seconds(data_at, features_end) / audio_s,
        lm_s=_middle([features_end, *lm_ends]) / audio_s,
        flow_s=_middle([lm_ends[-1], *flow_ends]) / audio_s,
        end_s=_seconds(flow_ends[-1], ended_at),
    )


def _epoch_ends(events: Iterable[tuple[datetime, dict[str, Any]]], stage: str) -> list[datetime]:
    """When each epoch ended (for the first time); an event within an epoch has a step."""
    ends: dict[int, datetime] = {}
    for at, event in events:
        if event["stage"] == stage and event["step"] == 0 and event["epoch"]:
            ends.setdefault(event["epoch"], at)
    return [ends[epoch] for epoch in sorted(ends)]


def _middle(moments: Sequence[datetime]) -> float:
    return median(_seconds(start, end) for start, end in pairwise(moments))


def _seconds(start: datetime, end: datetime) -> float:
    return max(0.0, (end - start).total_seconds())
