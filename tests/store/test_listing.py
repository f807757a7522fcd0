"""Lists stay fast: the benchmark runs, and what it asks for is found by an index, whatever the number of rows."""

import pytest
from sqlalchemy import event, text

from cosyforge.benchmark_platform import fill, listing_times
from cosyforge.jobs import queries
from cosyforge.jobs.records import JobStatus
from fakes import make_database, sqlite_only


def test_the_benchmark_times_every_kind_of_page():
    listings = listing_times(num_jobs=100, num_pages=3)
    assert [listing.name for listing in listings] == ["10 a page", "100 a page", "10 a page, FAILED alone"]
    for listing in listings:
        for median, percentile_95, worst in (listing.http_ms, listing.query_ms):
            assert 0 < median <= percentile_95 <= worst


@sqlite_only
@pytest.mark.parametrize("status", [None, JobStatus.FAILED])
def test_a_page_of_jobs_is_found_by_an_index_and_not_sorted(tmp_path, status):
    database = make_database(tmp_path)
    fill(database, "w", 200)
    statements = []
    event.listen(
        database._engine, "before_cursor_execute", lambda c, cur, sql, values, *more: statements.append((sql, values))
    )
    with database.read() as connection:
        queries.list_jobs(connection, "w", 3, 10, status=status)
        for sql, values in [item for item in statements if item[0].startswith("SELECT")]:
            plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values)]
            assert any("USING" in step and "INDEX" in step for step in plan), plan
            assert not any("TEMP B-TREE" in step or step.startswith("SCAN") for step in plan), plan
    database.close()


@sqlite_only
def test_the_last_mark_of_a_deployment_is_found_by_an_index(tmp_path):
    database = make_database(tmp_path)
    with database.read() as connection:
        sql = "EXPLAIN QUERY PLAN SELECT at FROM unit_marks WHERE deployment_id = 'd' ORDER BY mark_id DESC LIMIT 1"
        plan = [row.detail for row in connection.execute(text(sql))]
    assert any("ix_unit_marks_deployment_id" in step for step in plan)
    assert not any("TEMP B-TREE" in step for step in plan)
    database.close()
