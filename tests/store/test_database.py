import threading
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import StatementError

from cosyforge.store.database import Database, newest_revision
from cosyforge.store.tables import api_keys, metadata

NOW = datetime(2026, 5, 27, 9, 43, 2, 123456, tzinfo=UTC)


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "new" / "cosyforge.db")
    database.upgrade()
    yield database
    database.close()


def _key(connection, name):
    values = {"key_hash": name, "hint": "h", "name": name, "workspace_id": "w", "created_at": NOW}
    connection.execute(insert(api_keys).values(**values))


def test_the_migrations_make_exactly_the_tables(database):
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_upgrading_again_changes_nothing_and_keeps_rows(database):
    with database.transaction() as connection:
        _key(connection, "a")
    database.upgrade()
    with database.read() as connection:
        assert connection.execute(select(api_keys.c.name)).scalars().all() == ["a"]
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == newest_revision()


def test_servers_that_start_together_upgrade_once(tmp_path):
    databases = [Database(tmp_path / "cosyforge.db") for _ in range(4)]
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


def test_it_is_in_wal_mode_with_foreign_keys(database):
    with database.read() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_transaction_that_fails_leaves_nothing(database):
    def break_off():
        with database.transaction() as connection:
            _key(connection, "a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    with database.read() as connection:
        assert connection.execute(select(api_keys)).all() == []


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
    with database.read() as connection:
        assert connection.execute(select(api_keys.c.name)).scalar_one() == "160"


def test_times_come_back_aware_and_to_the_microsecond(database):
    with database.transaction() as connection:
        _key(connection, "a")
    with database.read() as connection:
        assert connection.execute(select(api_keys.c.created_at)).scalar_one() == NOW


def test_a_time_without_zone_is_refused(database):
    with pytest.raises(StatementError, match="without zone"), database.transaction() as connection:
        connection.execute(update(api_keys).values(created_at=NOW.replace(tzinfo=None)))
