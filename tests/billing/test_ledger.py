"""The ledger refuses to be changed, counts nothing twice, and never runs backwards."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import delete, insert, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from cosyforge.billing.ledger import (
    Period,
    add_unit_mark,
    add_usage,
    deployment_usage_of,
    token_entries_of,
)
from cosyforge.store.tables import unit_marks, usage_entries
from fakes import make_database

T0 = datetime(2026, 5, 27, 9, 0, tzinfo=UTC)


def _after(seconds):
    return T0 + timedelta(seconds=seconds)


@pytest.fixture
def database(tmp_path):
    database = make_database(tmp_path)
    yield database
    database.close()


def _use(database, subject="ft-1", quantity=100, workspace="w", kind="tokens"):
    with database.transaction() as connection:
        return add_usage(
            connection, workspace_id=workspace, kind=kind, subject=subject, model="base", quantity=quantity, now=T0
        )


def _mark(database, units, at, deployment_id="d"):
    with database.transaction() as connection:
        add_unit_mark(
            connection,
            workspace_id="w",
            deployment_id=deployment_id,
            deployed_model="m",
            model_unit_spec="MU5",
            units=units,
            reason="test",
            now=at,
        )


def _unit_seconds(database, at):
    with database.read() as connection:
        return [usage.unit_seconds for usage in deployment_usage_of(connection, "w", at)]


@pytest.mark.parametrize("table", [usage_entries, unit_marks], ids=str)
@pytest.mark.parametrize("change", ["update", "delete", "truncate"])
def test_no_row_can_be_changed_or_removed(database, table, change):
    _use(database)
    _mark(database, 1, T0)
    statement = {
        "update": update(table).values(workspace_id="other"),
        "delete": delete(table),
        "truncate": text(f"TRUNCATE {table}"),
    }[change]
    with database.read() as connection:
        if change == "truncate" and connection.dialect.name == "sqlite":
            pytest.skip("SQLite has no TRUNCATE")
    with pytest.raises(DBAPIError, match="only grows"), database.transaction() as connection:
        connection.execute(statement)
    with database.read() as connection:
        assert len(token_entries_of(connection, "w", Period(T0))) == 1
    assert _unit_seconds(database, _after(1)) == [1]


def test_a_job_is_billed_once_and_the_first_bill_stands(database):
    assert _use(database, quantity=100)
    assert not _use(database, quantity=200)
    with database.read() as connection:
        assert [entry.quantity for entry in token_entries_of(connection, "w", Period(T0))] == [100]


def test_the_database_itself_refuses_a_second_bill(database):
    _use(database)
    values = {"workspace_id": "w", "kind": "tokens", "subject": "ft-1", "model": "base", "quantity": 1, "at": T0}
    with pytest.raises(IntegrityError), database.transaction() as connection:
        connection.execute(insert(usage_entries).values(**values))


def test_another_kind_or_workspace_may_have_the_same_subject(database):
    assert _use(database)
    assert _use(database, kind="characters")
    assert _use(database, workspace="other")


def test_the_largest_job_fits(database):
    largest = 2 * (2**31 - 1) * 25 * 36_000
    _use(database, quantity=largest)
    with database.read() as connection:
        assert [entry.quantity for entry in token_entries_of(connection, "w", Period(T0))] == [largest]


def test_a_clock_that_was_set_back_takes_nothing_off_the_bill(database):
    _mark(database, 1, T0)
    _mark(database, 4, _after(100))
    _mark(database, 0, _after(40))  # the clock went back by an hour and some came again: the mark stands at 100 s
    assert _unit_seconds(database, _after(1000)) == [Decimal(100)]


def test_a_period_cuts_what_runs_across_its_ends(database):
    _mark(database, 2, T0)
    _mark(database, 3, _after(100))
    _mark(database, 0, _after(200))
    with database.read() as connection:
        usages = deployment_usage_of(connection, "w", _after(999), Period(_after(999), _after(50), _after(150.5)))
    assert [usage.unit_seconds for usage in usages] == [2 * 50 + 3 * Decimal("50.5")]


def test_a_period_that_has_not_ended_bills_until_now(database):
    _mark(database, 2, T0)
    with database.read() as connection:
        (usage,) = deployment_usage_of(connection, "w", _after(10), Period(_after(10), None, _after(3600)))
    assert (usage.unit_seconds, usage.units_now) == (20, 2)


def test_a_deployment_that_had_ended_before_a_period_is_not_in_it(database):
    _mark(database, 2, T0)
    _mark(database, 0, _after(10))
    with database.read() as connection:
        assert deployment_usage_of(connection, "w", _after(99), Period(_after(99), _after(10))) == []
