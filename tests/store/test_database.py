import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError, StatementError

from cosyforge.errors import InvalidParameter
from cosyforge.store import database as database_module
from cosyforge.store.database import Database, newest_revision
from cosyforge.store.tables import api_keys, job_logs, metadata, unit_marks, usage_entries
from fakes import empty_location, make_database, sqlite_only

NOW = datetime(2026, 5, 27, 9, 43, 2, 123456, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    database = make_database(tmp_path)
    yield database
    database.close()


def _key(connection, name):
    values = {"key_hash": name, "hint": "h", "name": name, "workspace_id": "w", "created_at": NOW}
    connection.execute(insert(api_keys).values(**values))


def _names(database):
    with database.read() as connection:
        return connection.execute(select(api_keys.c.name).order_by(api_keys.c.key_id)).scalars().all()


def test_the_migrations_make_exactly_the_tables(database):
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_upgrading_again_changes_nothing_and_keeps_rows(database):
    with database.transaction() as connection:
        _key(connection, "a")
    database.upgrade()
    assert _names(database) == ["a"]
    with database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == newest_revision()


def test_rows_of_the_first_release_survive_every_migration(tmp_path):
    location = empty_location(tmp_path)
    database = Database(location)
    _migrate_to(database, "0001")
    with database.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO usage_entries (workspace_id, kind, subject, model, quantity, at) VALUES "
                "('w', 'tokens', 'ft-1', 'base', 99406, '2026-05-27 09:00:00.000000')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO unit_marks (workspace_id, deployment_id, deployed_model, model_unit_spec, units, reason, at) "
                "VALUES ('w', 'd', 'm', 'MU5', 1, 'running', '2026-05-27 09:00:00.000000')"
            )
        )
        connection.execute(
            text(
                "INSERT INTO api_keys (key_hash, hint, name, workspace_id, created_at) VALUES "
                "('a', 'h', 'old', 'w', '2026-05-27 09:00:00.000000')"
            )
        )
    database.upgrade()
    assert _names(database) == ["old"]
    with database.read() as connection:
        assert connection.execute(select(usage_entries.c.quantity)).scalar_one() == 99_406
        assert connection.execute(select(unit_marks.c.units)).scalar_one() == 1
    database.close()


def _migrate_to(database, revision):
    config = Config()
    config.set_main_option("script_location", str(database_module._MIGRATIONS))
    with database.transaction() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_servers_that_start_together_upgrade_once(tmp_path):
    location = empty_location(tmp_path)
    databases = [Database(location, pool_size=2) for _ in range(4)]
    problems = []

    def upgrade(database):
        try:
            database.upgrade()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=upgrade, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    with databases[0].read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [
            newest_revision()
        ]
    for database in databases:
        database.close()


def test_a_database_of_a_newer_program_is_refused(database):
    with database.transaction() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidParameter, match=r"revision 9999.*install"):
        database.upgrade()


def test_a_migration_that_fails_leaves_the_schema_as_it_was(tmp_path, monkeypatch):
    database = Database(empty_location(tmp_path))
    _migrate_to(database, "0001")
    real = database_module._migrate

    def break_off(connection):
        real(connection)
        raise RuntimeError

    monkeypatch.setattr(database_module, "_migrate", break_off)
    with pytest.raises(RuntimeError):
        database.upgrade()
    with database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0001"
    monkeypatch.undo()
    database.upgrade()
    database.close()


@sqlite_only
def test_it_is_in_wal_mode_with_foreign_keys(database):
    with database.read() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


@sqlite_only
def test_a_file_that_cannot_be_opened_is_explained(tmp_path):
    (tmp_path / "cosyforge.db").mkdir()
    with pytest.raises(InvalidParameter, match=r"cosyforge\.db: the database cannot be opened"):
        Database(tmp_path / "cosyforge.db").upgrade()


def test_a_transaction_that_fails_leaves_nothing(database):
    def break_off():
        with database.transaction() as connection:
            _key(connection, "a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert _names(database) == []


def test_what_a_transaction_read_is_still_true_when_it_writes(database):
    """Sixteen threads add one to a number each; without the early write lock some would be lost or refused."""
    with database.transaction() as connection:
        _key(connection, "0")

    def add_one():
        for _ in range(10):
            with database.transaction() as connection:
                number = int(connection.execute(select(api_keys.c.name)).scalar_one())
                connection.execute(update(api_keys).values(name=str(number + 1)))

    threads = [threading.Thread(target=add_one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _names(database) == ["160"]


def test_what_is_not_there_yet_stays_so_until_it_is_written(database):
    """Two writers that both look whether a name is free: one of them finds it taken."""
    outcomes = []
    barrier = threading.Barrier(8)

    def take():
        barrier.wait()
        with database.transaction() as connection:
            is_free = connection.execute(select(api_keys.c.key_id).where(api_keys.c.name == "free")).first() is None
            if is_free:
                _key(connection, "free")
        outcomes.append(is_free)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]


def test_a_reader_sees_one_moment_and_stops_no_writer(database):
    with database.transaction() as connection:
        _key(connection, "a")
    with database.read() as reader:
        assert len(reader.execute(select(api_keys)).all()) == 1
        with database.transaction() as connection:
            _key(connection, "b")
        assert len(reader.execute(select(api_keys)).all()) == 1
    assert _names(database) == ["a", "b"]


def test_times_come_back_aware_and_to_the_microsecond(database):
    with database.transaction() as connection:
        _key(connection, "a")
        elsewhere = NOW.astimezone(timezone(timedelta(hours=-7)))
        connection.execute(update(api_keys).values(revoked_at=elsewhere))
    with database.read() as connection:
        assert connection.execute(select(api_keys.c.created_at)).scalar_one() == NOW
        assert connection.execute(select(api_keys.c.revoked_at)).scalar_one() == NOW


def test_a_time_without_zone_is_refused(database):
    with pytest.raises(StatementError, match="without zone"), database.transaction() as connection:
        connection.execute(update(api_keys).values(created_at=NOW.replace(tzinfo=None)))


def test_whatever_a_program_prints_is_kept(database):
    with database.transaction() as connection:
        connection.execute(
            insert(job_logs).values(job_id="ft-1", line_no=2**40, line="nul \0, half a pair \ud800, 你好")
        )
    with database.read() as connection:
        assert connection.execute(select(job_logs.c.line)).scalar_one() == "nul ␀, half a pair ?, 你好"


def test_an_error_shows_the_statement_and_none_of_its_values(database):
    with database.transaction() as connection:
        _key(connection, "a-secret-value")
    with pytest.raises(DBAPIError) as caught, database.transaction() as connection:
        _key(connection, "a-secret-value")
    assert "INSERT INTO api_keys" in str(caught.value)
    # PostgreSQL names the value of the broken rule in its detail, which is its own
    assert "parameters hidden" in str(caught.value)
