"""What is particular to PostgreSQL: errors in words, one server a database, values that it does not keep."""

from __future__ import annotations

import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, delete, insert, make_url, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from cosyforge.bootstrap import open_database
from cosyforge.errors import Conflict, Internal, InvalidParameter, NotReady, PlatformError
from cosyforge.settings import load_settings
from cosyforge.store import postgres
from cosyforge.store.database import Database
from cosyforge.store.tables import job_logs

SECRET = "hunter2-very-secret"


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    """An empty database."""
    name = "test_server_of_its_own"
    _execute(postgres_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"CREATE DATABASE {name}")
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    _execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database(url, pool_size=3)
    database.upgrade()
    yield database
    database.close()


def _execute(url: str, *statements: str) -> None:
    driver_url = make_url(url).set(drivername="postgresql+psycopg")
    with create_engine(driver_url, poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def _refusal(url: str) -> PlatformError:
    """What is said when a database cannot be opened; the password of the URL must be nowhere in it."""
    password = make_url(url).password
    with pytest.raises(PlatformError) as caught:
        Database(url, pool_size=1).upgrade()
    printed = "".join(traceback.format_exception(caught.value))
    assert password is None or str(password) not in printed
    return caught.value


def test_a_wrong_password_is_said_without_saying_it(url: str) -> None:
    wrong = make_url(url).set(password=SECRET)
    error = _refusal(wrong.render_as_string(hide_password=False))
    assert isinstance(error, InvalidParameter)
    assert "check the user and the password in COSYFORGE_DATABASE_URL" in error.message


def test_a_database_that_is_not_there_is_named(url: str) -> None:
    error = _refusal(make_url(url).set(database="no_such_place").render_as_string(hide_password=False))
    assert isinstance(error, InvalidParameter)
    assert "no_such_place" in error.message
    assert "createdb" in error.message


def test_a_server_that_does_not_answer_is_named() -> None:
    error = _refusal(f"postgresql://me:{SECRET}@127.0.0.1:1/db")
    assert isinstance(error, NotReady)
    assert "127.0.0.1:1 cannot be reached: check that the server runs" in error.message


def test_a_schema_that_is_not_there_is_an_error(url: str) -> None:
    missing = make_url(url).update_query_dict({"options": "-csearch_path=no_such_schema"})
    error = _refusal(missing.render_as_string(hide_password=False))
    assert "search_path" in error.message


@pytest.mark.parametrize("url", ["mysql://me:{}@host/db", "host=me password={}", "postgresql://me:{}@host:port/db"])
def test_another_kind_of_url_is_refused_with_the_form_that_is_right(url: str) -> None:
    with pytest.raises(InvalidParameter, match="postgresql://user:password@host:5432/database") as caught:
        Database(url.format(SECRET))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_without_the_driver_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from cosyforge.store.database import Database\n"
        f"try: Database('postgresql://me:{SECRET}@host/db')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.startswith("InvalidParameter")
    assert "pip install 'cosyforge[postgres]'" in output
    assert SECRET not in output


def test_the_password_is_in_no_picture_of_the_settings(url: str) -> None:
    settings = load_settings(database_url=f"postgresql://me:{SECRET}@127.0.0.1:1/db")
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"
    with pytest.raises(NotReady):
        open_database(settings)


def test_a_database_has_one_server(database: Database, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_RESERVE_S", 0.3)
    database.reserve()
    second = Database(url, pool_size=1)
    with pytest.raises(Conflict, match="Another server uses PostgreSQL database test_server_of_its_own"):
        second.reserve()
    with second.read() as connection:  # a command beside the server is welcome
        assert connection.execute(text("SELECT 1")).scalar() == 1
    database.close()
    second.reserve()
    second.close()


def test_a_server_waits_for_what_a_killed_one_left_behind(database: Database, url: str) -> None:
    """Its last transaction may live on for a moment in PostgreSQL, with the write lock."""
    second = Database(url, pool_size=1)
    is_reserved = threading.Event()

    def reserve() -> None:
        second.reserve()
        is_reserved.set()

    with database.transaction() as connection:
        connection.execute(insert(job_logs).values(job_id="ft-left", line_no=0, line="x"))
        thread = threading.Thread(target=reserve)
        thread.start()
        assert not is_reserved.wait(0.5)
    assert is_reserved.wait(60)
    thread.join()
    second.close()
    with database.transaction() as connection:
        connection.execute(delete(job_logs))


def test_a_reader_cannot_write(database: Database) -> None:
    row = {"job_id": "ft-1", "line_no": 0, "line": "x"}
    with pytest.raises(DBAPIError, match="read-only"), database.read() as connection:
        connection.execute(insert(job_logs).values(**row))


@pytest.mark.parametrize("value", ["a" * 65, "nul \0 inside"])
def test_a_value_that_cannot_be_kept_is_the_callers_fault(database: Database, value: str) -> None:
    with pytest.raises(InvalidParameter, match="cannot be kept"), database.transaction() as connection:
        connection.execute(insert(job_logs).values(job_id=value, line_no=0, line="x"))
    with database.read() as connection:
        assert connection.execute(select(job_logs)).all() == []


def test_a_connection_that_was_cut_is_replaced(database: Database, postgres_url: str) -> None:
    with database.read() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    _execute(postgres_url, f"SELECT pg_terminate_backend({pid})")
    with database.transaction() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid


def test_a_database_that_went_away_is_an_error_that_may_pass() -> None:
    gone = Database("postgresql://me@127.0.0.1:1/db", pool_size=1)
    with pytest.raises(Internal) as caught, gone.read():
        pass
    assert caught.value.fields["is_temporary"]
    assert "127.0.0.1" not in caught.value.message


def test_a_writer_that_never_ends_does_not_stop_the_others_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.close()
    monkeypatch.setattr(postgres, "_LOCK_TIMEOUT_MS", 200)
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with database.transaction():
            begun.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    with pytest.raises(DBAPIError, match="lock timeout"), database.transaction():
        pass
    done.set()
    thread.join()
    with database.transaction():
        pass
