"""What a job would cost: read from headers, and equal to what validation and the bill say later."""

import io
import json
import math
import struct
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from cosyforge.billing.forecast import DEFAULT_PACE, Forecaster, pace_of
from cosyforge.dataset.survey import survey
from cosyforge.dataset.validate import check_package
from cosyforge.errors import InvalidDataset
from cosyforge.store.tables import fine_tune_jobs, job_events
from cosyforge.training.hyper_parameters import HyperParameters
from fakes import HYPER_PARAMETERS, assert_error, make_database, output_of

T0 = datetime(2026, 5, 27, 9, 0, tzinfo=UTC)
QUICK = HyperParameters.parse(HYPER_PARAMETERS)
SUBTYPES = ["PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"]


def _wav(num_frames, rate_hz=24_000, channels=1, subtype="PCM_16", form="WAV"):
    tone = 0.3 * np.sin(np.arange(num_frames) * 0.05)[:, None] * np.ones((1, channels))
    file = io.BytesIO()
    soundfile.write(file, tone, rate_hz, subtype=subtype, format=form)
    return file.getvalue()


def _package(path, clips, rows=None, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        names = rows or list(clips)
        lines = [
            json.dumps({"wav_fn": f"train/{name}", "text": f"Sentence number {i}."}) for i, name in enumerate(names)
        ]
        archive.writestr("voice/data.jsonl", "\n".join(lines))
        for name, contents in clips.items():
            archive.writestr(f"voice/train/{name}", contents)
    return path


clip = st.tuples(
    st.integers(10_000, 200_000),
    st.sampled_from([8_000, 16_000, 22_050, 48_000]),
    st.integers(1, 2),
    st.sampled_from(SUBTYPES),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(clip, min_size=1, max_size=4), st.sampled_from(["WAV", "WAVEX", "RF64"]))
def test_headers_tell_the_same_seconds_as_decoding(tmp_path, clips, form):
    def fits(subtype):
        return subtype if soundfile.check_format(form, subtype) else "PCM_16"

    files = {
        f"{i}.wav": _wav(frames, rate, channels, fits(sub), form)
        for i, (frames, rate, channels, sub) in enumerate(clips)
    }
    package = _package(tmp_path / "p.zip", files, rows=[*files, "0.wav"])
    quick, thorough = survey(package), check_package(package)
    assert (quick.num_clips, quick.total_seconds) == (thorough.num_clips, thorough.total_seconds)
    shared = {"too-short", "too-long", "low-sample-rate", "not-mono", "short", "long", "few-clips", "little-audio"}
    rules = [[p.rule for p in report.problems if p.rule in shared] for report in (quick, thorough)]
    # a clip listed twice is judged once by both
    assert sorted(rules[0]) == sorted(rules[1])


def _streamed(contents):
    """As written into a pipe: sizes that nobody knew yet."""
    return contents.replace(struct.pack("<I", len(contents) - 44), b"\xff\xff\xff\xff", 1)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"RIFF",
        b"not audio at all",
        _wav(48_000)[:30_000],
        _streamed(_wav(48_000)),
        _wav(48_000, form="FLAC"),
        _wav(48_000)[:12] + b"fmt \xff\xff\xff\x7f" + _wav(48_000)[20:],
        _wav(48_000)[:12] + b"LIST\x05\x00\x00\x00abcde\x00" + _wav(48_000)[12:],
    ],
    ids=["empty", "cut-in-the-header", "text", "cut", "streamed", "flac", "a-chunk-that-never-ends", "odd-chunk"],
)
def test_an_unusual_file_is_judged_as_validation_judges_it(tmp_path, contents):
    package = _package(tmp_path / "p.zip", {"a.wav": contents, "b.wav": _wav(48_000)})
    quick, thorough = survey(package), check_package(package)
    assert (quick.num_clips, quick.total_seconds) == (thorough.num_clips, thorough.total_seconds)
    assert quick.is_valid == thorough.is_valid


def test_a_clip_that_is_missing_is_named(tmp_path):
    report = survey(_package(tmp_path / "p.zip", {"a.wav": _wav(48_000)}, rows=["a.wav", "b.wav"]))
    assert [(problem.rule, problem.line) for problem in report.errors] == [("missing-file", 2)]


def test_what_is_no_zip_is_refused(tmp_path):
    (tmp_path / "p.zip").write_bytes(b"nothing")
    with pytest.raises(InvalidDataset, match="not a readable zip"):
        survey(tmp_path / "p.zip")


def test_a_large_clip_with_a_strange_header_is_not_decoded_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("cosyforge.dataset.survey._MAX_DECODED_BYTES", 1 << 20)
    large = b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\xff" + np.random.default_rng(0).bytes(2 << 20)
    (problem,) = survey(_package(tmp_path / "p.zip", {"a.wav": large})).errors
    assert (problem.rule, problem.line) == ("unreadable-audio", 1)
    assert "too large to look further" in problem.found


# ---- the forecast


def _events(start, *, audio_s=100.0, features_s=10.0, lm_s=(20.0, 20.0), flow_s=(30.0, 30.0), gap_s=0.0):
    """Progress of a run: (seconds after its start, event)."""

    def event(stage, epoch=0, step=0, metrics=None):
        return {"stage": stage, "epoch": epoch, "step": step, "metrics": metrics or {}}

    at = start
    events = [(at, event("data", metrics={"audio_s": audio_s}))]
    at += features_s
    events.append((at, event("features", step=10)))
    for stage, durations in (("lm", lm_s), ("flow", flow_s)):
        for epoch, duration_s in enumerate(durations, start=1):
            events.append((at + duration_s / 2, event(stage, epoch, step=3)))
            at += duration_s
            events.append((at, event(stage, epoch)))
        at += gap_s
    return [(T0 + timedelta(seconds=seconds), event) for seconds, event in events]


def _job(database, number, events, *, status="SUCCEEDED", ended_s=200.0):
    values = {
        "job_id": f"ft-{number}",
        "workspace_id": "w",
        "creator": "1",
        "job_name": "j",
        "model_name": "m",
        "model": "base",
        "training_type": "efficient_sft",
        "training_datasets": [],
        "validation_datasets": [],
        "hyper_parameters": HYPER_PARAMETERS,
        "finetuned_output": f"base-ft-{number}",
        "package": "p",
        "status": status,
        "created_at": T0,
        "started_at": T0,
        "ended_at": T0 + timedelta(seconds=ended_s),
        "output_cnt": 1,
        "events_offset": 0,
    }
    with database.transaction() as connection:
        connection.execute(insert(fine_tune_jobs).values(**values))
        for at, event in events:
            connection.execute(insert(job_events).values(job_id=f"ft-{number}", at=at, event=event))


def test_a_forecast_is_made_of_what_the_last_jobs_took(tmp_path):
    database = make_database(tmp_path)
    _job(database, 1, _events(5.0), ended_s=5 + 10 + 40 + 60 + 3)
    forecast = Forecaster(database, is_builtin_base=True).forecast(QUICK, 200.0)
    # twice the audio, 4 + 4 epochs: 5 s + 2 x (10 + 4 x 20 + 4 x 30) s + 3 s
    assert (forecast.basis, forecast.duration_s) == ("measured", pytest.approx(5 + 2 * (10 + 80 + 120) + 3))
    database.close()


def test_a_job_that_did_not_finish_tells_nothing(tmp_path):
    database = make_database(tmp_path)
    _job(database, 1, _events(5.0), status="FAILED")
    forecast = Forecaster(database, is_builtin_base=True).forecast(QUICK, 100.0)
    assert (forecast.basis, forecast.duration_s) == ("default", DEFAULT_PACE.duration_s(QUICK, 100.0))
    assert "no job has finished here" in forecast.explanation
    forecast = Forecaster(database, is_builtin_base=False).forecast(QUICK, 100.0)
    assert (forecast.basis, forecast.duration_s) == ("none", None)
    database.close()


def test_one_slow_job_among_the_last_five_does_not_matter(tmp_path):
    database = make_database(tmp_path)
    for number in range(1, 7):
        slow = 10 if number in (1, 5) else 1  # the first of six is too old to count
        _job(database, number, _events(5.0, lm_s=(20.0 * slow,) * 2), ended_s=5 + 10 + 40 * slow + 60 + 3)
    forecast = Forecaster(database, is_builtin_base=True).forecast(QUICK, 100.0)
    assert forecast.duration_s == pytest.approx(5 + 10 + 80 + 120 + 3)
    database.close()


def test_an_interruption_is_not_part_of_the_pace():
    usual = pace_of(T0, T0 + timedelta(seconds=300), _events(5.0, lm_s=(20.0,) * 4))
    broken = pace_of(T0, T0 + timedelta(seconds=4000), _events(5.0, lm_s=(20.0, 3600.0, 20.0, 20.0)))
    assert usual is not None
    assert broken is not None
    assert (broken.lm_s, broken.flow_s) == (usual.lm_s, usual.flow_s) == (0.2, 0.3)


@given(
    st.floats(0, 1e4),
    st.floats(0.01, 1e4),
    st.lists(st.floats(0.01, 1e4), min_size=1),
    st.lists(st.floats(0.01, 1e4), min_size=1),
)
def test_a_pace_foretells_its_own_run_when_every_epoch_is_alike(start_s, features_s, lm, flow):
    lm_s, flow_s = (lm[0],) * len(lm), (flow[0],) * len(flow)
    events = _events(start_s, features_s=features_s, lm_s=lm_s, flow_s=flow_s)
    total_s = (events[-1][0] - T0).total_seconds() + 7
    pace = pace_of(T0, T0 + timedelta(seconds=total_s), events)
    hyper = HyperParameters(len(lm), 1, 1, 1000, len(flow), 1, 1, 2000)
    assert pace is not None
    assert math.isclose(pace.duration_s(hyper, 100.0), total_s, rel_tol=1e-4, abs_tol=1e-3)


# ---- the route


@pytest.fixture(scope="module")
def file_id(live_server, tmp_path_factory):
    clips = {f"{index}.wav": _wav(24_000 * 5) for index in range(3)}
    package = _package(tmp_path_factory.mktemp("package") / "p.zip", clips)
    with open(package, "rb") as file:
        response = live_server.client.post("/api/v1/files", files={"files": ("p.zip", file)})
    return response.json()["data"]["uploaded_files"][0]["file_id"]


def _ask(server, **body):
    return server.client.post("/platform/v1/estimate", json={"hyper_parameters": HYPER_PARAMETERS, **body})


def test_the_body_of_a_job_gets_its_price(live_server, file_id):
    estimate = output_of(_ask(live_server, model="cosyvoice-v3-flash", training_file_ids=[file_id]))
    assert (estimate["clips"], estimate["audio_s"]) == (3, 15.0)
    assert (estimate["tokens"], estimate["cost_cny"]) == (15 * 25 * 8, "0.60")
    assert estimate["checkpoints"] == [
        "checkpoint-00040004",
        "checkpoint-00030004",
        "checkpoint-00040002",
        "checkpoint-00030002",
    ]
    assert estimate["dataset"]["is_valid"]
    assert {warning["rule"] for warning in estimate["dataset"]["warnings"]} == {"few-clips", "little-audio"}


def test_every_form_of_naming_the_file_is_the_same(live_server, file_id):
    forms = [{"file_id": file_id}, {"training_datasets": [{"data_source_type": "file_id", "file_id": file_id}]}]
    first, second = (output_of(_ask(live_server, **form)) for form in forms)
    got = output_of(live_server.client.get("/platform/v1/estimate", params={"file_id": file_id, **HYPER_PARAMETERS}))
    assert first == second == got


def test_a_get_takes_the_recommended_values(live_server, file_id):
    estimate = output_of(live_server.client.get("/platform/v1/estimate", params={"file_id": file_id}))
    assert estimate["tokens"] == 15 * 25 * 160
    assert len(estimate["checkpoints"]) == 9


def test_what_cannot_be_estimated_is_said(live_server, file_id):
    assert_error(_ask(live_server, file_id="none"), 404, "NotFound", "File not found")
    assert_error(_ask(live_server), 400, "InvalidParameter", "exactly one file")
    assert_error(
        _ask(live_server, file_id=file_id, hyper_parameters={}), 400, "InvalidParameter", "lm_max_epoch is missing"
    )
    other = live_server.upload()  # its clip is no WAV
    assert not output_of(_ask(live_server, file_id=other))["dataset"]["is_valid"]


def test_estimating_needs_no_torch():
    code = "import sys, cosyforge.dataset.survey, cosyforge.billing.estimate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
