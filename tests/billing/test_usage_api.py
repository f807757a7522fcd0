"""GET /platform/v1/usage against a live server whose ledger is written beforehand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from cosyforge.billing.ledger import add_unit_mark, add_usage
from cosyforge.store.database import Database
from fakes import LiveServer, assert_error, database_url_for, output_of

WORKSPACE = "llm-cosyforge"
NOON = datetime(2026, 5, 27, 4, 0, tzinfo=UTC)  # 12:00 on the 27th at UTC+8


def _fill(database):
    """A training at noon; one MU5 unit from 22:00 to 01:30, two MU2 units for a second of the 29th; some speech."""
    with database.transaction() as connection:
        for kind, subject, model, quantity, hours in [
            ("tokens", "ft-1", "cosyvoice-v3-flash", 99_406, 0),
            ("characters", "r1", "cosyvoice-v3-flash", 15_000, 11.99),
            ("characters", "r2", "cosyvoice-v3-flash", 5_000, 12),  # midnight sharp is the next day
            ("characters", "r3", "tuned", 700, 36),
        ]:
            at = NOON + timedelta(hours=hours)
            add_usage(
                connection, workspace_id=WORKSPACE, kind=kind, subject=subject, model=model, quantity=quantity, now=at
            )
        for deployment_id, spec, units, hours in [
            ("one", "MU5", 1, 10),
            ("one", "MU5", 0, 13.5),
            ("two", "MU2", 2, 36),
            ("two", "MU2", 0, 36 + 1 / 3600),
        ]:
            add_unit_mark(
                connection,
                workspace_id=WORKSPACE,
                deployment_id=deployment_id,
                deployed_model=f"m-{deployment_id}",
                model_unit_spec=spec,
                units=units,
                reason="test",
                now=NOON + timedelta(hours=hours),
            )
        add_usage(connection, workspace_id="other", kind="tokens", subject="ft-9", model="x", quantity=10**9, now=NOON)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    directory = tmp_path_factory.mktemp("usage")
    server = LiveServer(directory).start()
    database = Database(database_url_for(directory) or server.data_dir / "cosyforge.db", pool_size=1)
    _fill(database)
    database.close()
    yield server
    server.stop()


def _usage(server, **query):
    return output_of(server.client.get("/platform/v1/usage", params=query))


def test_each_day_has_its_part_and_midnight_is_the_platforms(server):
    days = {group["day"]: group for group in _usage(server, by="day")["groups"]}
    assert list(days) == ["2026-05-27", "2026-05-28", "2026-05-29"]
    first, second, third = days.values()
    assert (first["tokens"], first["characters"], first["requests"]) == (99_406, 15_000, 1)
    assert Decimal(first["unit_seconds"]) == 2 * 3600  # 22:00 to midnight
    assert (first["training_cny"], first["synthesis_cny"], first["deployment_cny"]) == ("19.88", "1.50", "40.00")
    assert Decimal(second["unit_seconds"]) == 90 * 60  # midnight to 01:30
    assert (second["characters"], second["synthesis_cny"], second["deployment_cny"]) == (5_000, "0.50", "30.00")
    assert Decimal(third["unit_seconds"]) == 2
    assert (third["characters"], third["synthesis_cny"]) == (700, "0.00")  # a tuned model is paid for by model units
    assert third["deployment_cny"] == "0.04"  # 2 s x 80 CNY / 3600 s = 0.0444


@pytest.mark.parametrize("by", ["day", "job", "deployment", "model"])
def test_lines_add_up_to_their_totals(server, by):
    usage = _usage(server, by=by)
    for name in ("tokens", "unit_seconds", "characters", "requests", "training_cny", "deployment_cny", "total_cny"):
        assert sum(Decimal(str(group[name])) for group in usage["groups"]) == Decimal(str(usage["totals"][name]))
    assert usage["total_cny"] == usage["totals"]["total_cny"]


def test_days_and_models_are_two_cuts_through_the_same(server):
    assert _usage(server, by="day")["totals"] == _usage(server, by="model")["totals"] == _usage(server)["totals"]


def test_by_job_and_by_deployment_name_what_was_used(server):
    (job,) = _usage(server, by="job")["groups"]
    assert (job["job_id"], job["tokens"], job["total_cny"]) == ("ft-1", 99_406, "19.88")
    assert job["time"] == "2026-05-27T12:00:00"
    deployments = _usage(server, by="deployment")["groups"]
    assert [item["deployed_model"] for item in deployments] == ["m-one", "m-two"]
    assert [Decimal(item["unit_seconds"]) for item in deployments] == [Decimal(12_600), Decimal(2)]


def test_the_last_day_of_a_period_is_in_it_and_a_moment_is_not(server):
    the_28th = _usage(server, **{"from": "2026-05-28", "to": "2026-05-28"})
    assert Decimal(the_28th["totals"]["unit_seconds"]) == 5400
    assert the_28th["totals"]["characters"] == 5000
    until_midnight = _usage(server, to="2026-05-28T00:00:00", by="day")
    assert [group["day"] for group in until_midnight["groups"]] == ["2026-05-27"]
    in_utc = _usage(server, **{"from": "2026-05-27T16:00:00Z", "by": "day"})
    assert [group["day"] for group in in_utc["groups"]] == ["2026-05-28", "2026-05-29"]
    assert (in_utc["from"], in_utc["time_zone"]) == ("2026-05-28T00:00:00", "+0800")


def test_without_a_question_it_lists_everything_as_before(server):
    usage = _usage(server)
    assert [item["job_id"] for item in usage["trainings"]] == ["ft-1"]
    assert [item["deployed_model"] for item in usage["deployments"]] == ["m-one", "m-two"]
    assert [item["units_now"] for item in usage["deployments"]] == [0, 0]
    assert {item["model"]: item["characters"] for item in usage["synthesis"]} == {
        "cosyvoice-v3-flash": 20_000,
        "tuned": 700,
    }
    assert usage["total_cny"] == "91.92"  # 19.88 + 40 + 30 + 0.04 + 2.00


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ({"by": "week"}, "by"),
        ({"from": "yesterday"}, "from must look like"),
        ({"to": "2026-13-01"}, "to must look like"),
        ({"from": "2026-05-29", "to": "2026-05-28"}, "must be before"),
        ({"to": "9999-12-31"}, "to must"),
        ({"from": "0001-01-01T00:00:00"}, "between the years"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(server, query, part):
    assert_error(server.client.get("/platform/v1/usage", params=query), 400, "InvalidParameter", part)
