from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Column, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import OperationalError

from cosyforge.errors import (
    AccessDenied,
    Conflict,
    InvalidParameter,
    NotFound,
    Unauthenticated,
    UnsupportedOperation,
)
from cosyforge.registry.api_keys import ApiKeys, _hash
from cosyforge.registry.workspaces import Workspaces
from cosyforge.store import migrations
from cosyforge.store.database import Database
from cosyforge.store.tables import UtcDateTime, api_keys, temporary_tokens
from fakes import make_database, sqlite_only

MIGRATIONS = Path(migrations.__file__).parent
NOW = datetime(2026, 5, 27, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def database(tmp_path):
    database = make_database(tmp_path)
    yield database
    database.close()


@pytest.fixture
def workspaces(database):
    workspaces = Workspaces(database)
    workspaces.create("llm-a", "A", NOW)
    return workspaces


@pytest.fixture
def keys(database, workspaces):
    return ApiKeys(database)


def _is_refused(keys, secret, now, reason):
    with pytest.raises(Unauthenticated, match="Invalid API-key provided") as error:
        keys.authenticate(secret, now)
    return error.value.fields["reason"] == reason


def test_a_key_opens_its_workspace(keys):
    key, secret = keys.create("laptop", "llm-a", NOW)
    assert secret.startswith("sk-")
    assert keys.authenticate(secret, NOW) == key
    assert (key.workspace_id, key.is_admin, key.status(NOW)) == ("llm-a", False, "active")


def test_an_unknown_key_opens_nothing(keys):
    assert _is_refused(keys, "sk-nobody-issued-this", NOW, "unknown")


def test_a_revoked_key_opens_nothing_and_stays_in_the_list(keys):
    key, secret = keys.create("laptop", "llm-a", NOW)
    keys.revoke(key.key_id, NOW)
    assert _is_refused(keys, secret, NOW, "revoked")
    assert [known.revoked_at for known in keys.all()] == [NOW]


def test_revoking_twice_keeps_the_first_time(keys):
    key, _ = keys.create("laptop", "llm-a", NOW)
    keys.revoke(key.key_id, NOW)
    assert keys.revoke(key.key_id, LATER).revoked_at == NOW


def test_revoking_what_is_not_there_is_an_error(keys):
    with pytest.raises(NotFound, match="7"):
        keys.revoke(7, NOW)


def test_a_key_ends_to_the_second(keys):
    key, secret = keys.create("visitor", "llm-a", NOW, expires_in_s=60)
    assert keys.authenticate(secret, NOW + timedelta(seconds=59)).key_id == key.key_id
    assert _is_refused(keys, secret, NOW + timedelta(seconds=60), "expired")


def test_an_unknown_workspace_gets_no_keys(keys):
    with pytest.raises(NotFound, match="nowhere") as error:
        keys.create("laptop", "nowhere", NOW)
    assert error.value.fields["code"] == "WorkSpaceNotFound"


def test_use_is_noted_to_the_minute(keys):
    _, secret = keys.create("laptop", "llm-a", NOW)
    for seconds in (0, 59, 61):
        keys.authenticate(secret, NOW + timedelta(seconds=seconds))
    assert keys.all()[0].last_used_at == NOW + timedelta(seconds=61)
    keys.authenticate(secret, NOW + timedelta(seconds=100))
    assert keys.all()[0].last_used_at == NOW + timedelta(seconds=61)


def test_a_use_that_cannot_be_noted_still_opens(keys, database, monkeypatch):
    _, secret = keys.create("laptop", "llm-a", NOW)

    def refuse():
        raise OperationalError("UPDATE", {}, Exception("database or disk is full"))

    monkeypatch.setattr(database, "transaction", refuse)
    assert keys.authenticate(secret, NOW).name == "laptop"


@sqlite_only
def test_the_database_never_holds_a_secret(keys, tmp_path):
    key, secret = keys.create("laptop", "llm-a", NOW)
    token, _ = keys.issue_token(key, 60, NOW)
    contents = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"laptop" in contents
    assert secret.encode() not in contents
    assert token.encode() not in contents


class TestTokens:
    def test_a_token_stands_for_its_key_until_it_ends(self, keys):
        key, _ = keys.create("laptop", "llm-a", NOW)
        token, expires_at = keys.issue_token(key, 60, NOW)
        assert token.startswith("st-")
        assert expires_at == NOW + timedelta(seconds=60)
        caller = keys.authenticate(token, NOW + timedelta(seconds=59))
        assert (caller.key_id, caller.workspace_id, caller.is_temporary) == (key.key_id, "llm-a", True)
        assert _is_refused(keys, token, NOW + timedelta(seconds=60), "unknown")

    def test_a_token_dies_with_its_key(self, keys):
        key, _ = keys.create("laptop", "llm-a", NOW, expires_in_s=30)
        token, _ = keys.issue_token(key, 1800, NOW)
        assert _is_refused(keys, token, NOW + timedelta(seconds=30), "expired")
        keys.revoke(key.key_id, NOW)
        assert _is_refused(keys, token, NOW, "unknown")

    def test_a_token_of_a_key_that_another_server_revoked_is_refused_too(self, keys, database):
        key, _ = keys.create("laptop", "llm-a", NOW)
        token, _ = keys.issue_token(key, 1800, NOW)
        with database.transaction() as connection:
            connection.execute(update(api_keys).values(revoked_at=NOW))
        assert _is_refused(keys, token, NOW, "revoked")

    @pytest.mark.parametrize("lifetime_s", [0, -1, 1801])
    def test_a_token_lives_for_a_second_to_half_an_hour(self, keys, lifetime_s):
        key, _ = keys.create("laptop", "llm-a", NOW)
        with pytest.raises(InvalidParameter, match="expire_in_seconds"):
            keys.issue_token(key, lifetime_s, NOW)

    def test_a_token_manages_nothing_and_makes_no_other(self, keys):
        key, _ = keys.create("boss", "llm-a", NOW, is_admin=True)
        token, _ = keys.issue_token(key, 60, NOW)
        caller = keys.authenticate(token, NOW)
        assert not caller.is_admin
        with pytest.raises(AccessDenied, match="temporary"):
            keys.issue_token(caller, 60, NOW)

    def test_tokens_that_are_over_are_not_kept(self, keys, database):
        key, _ = keys.create("laptop", "llm-a", NOW)
        for seconds in range(5):
            keys.issue_token(key, 1, NOW + timedelta(seconds=10 * seconds))
        with database.read() as connection:
            assert len(connection.execute(select(temporary_tokens)).all()) == 1

    def test_a_key_cannot_look_like_a_token(self, keys):
        with pytest.raises(InvalidParameter, match="st-"):
            keys.create("clever", "llm-a", NOW, "st-0123456789")


class TestFirst:
    def test_the_first_start_makes_one_key_and_the_second_none(self, keys):
        secret = keys.ensure_first(None, "llm-new", NOW)
        key = keys.authenticate(secret, NOW)
        assert (key.name, key.workspace_id, key.is_admin) == ("first", "llm-new", True)
        assert keys.ensure_first(None, "llm-new", NOW) is None
        assert len(keys.all()) == 1

    def test_a_bootstrap_key_is_accepted_and_not_shown(self, keys):
        assert keys.ensure_first("sk-operators-choice", "llm-a", NOW) is None
        assert keys.ensure_first("sk-operators-choice", "llm-a", NOW) is None
        assert keys.authenticate("sk-operators-choice", NOW).name == "bootstrap"
        assert len(keys.all()) == 1

    def test_an_older_bootstrap_key_becomes_an_administrator(self, keys):
        keys.create("old", "llm-a", NOW, "sk-operators-choice")
        keys.ensure_first("sk-operators-choice", "llm-a", NOW)
        assert [key.is_admin for key in keys.all()] == [True]

    def test_a_revoked_bootstrap_key_does_not_come_back(self, keys):
        keys.ensure_first("sk-operators-choice", "llm-a", NOW)
        keys.revoke(keys.all()[0].key_id, NOW)
        keys.ensure_first("sk-operators-choice", "llm-a", NOW)
        assert _is_refused(keys, "sk-operators-choice", NOW, "revoked")


def test_a_short_key_is_refused(keys):
    with pytest.raises(InvalidParameter, match="8 characters"):
        keys.create("weak", "llm-a", NOW, "abc")


class TestWorkspaces:
    @pytest.mark.parametrize("workspace_id", ["", "a b", "ü", "-a", "../a", "x" * 65])
    def test_ids_are_plain(self, workspaces, workspace_id):
        with pytest.raises(InvalidParameter, match="workspace_id"):
            workspaces.create(workspace_id, "x", NOW)

    def test_ids_are_taken_once(self, workspaces):
        with pytest.raises(Conflict, match="llm-a"):
            workspaces.create("llm-a", "again", NOW)
        assert workspaces.ensure("llm-a", NOW) is False
        assert workspaces.ensure("llm-b", NOW) is True

    def test_pages_are_newest_first(self, workspaces):
        workspaces.create("llm-b", "B", LATER)
        total, page = workspaces.page(1, 1)
        assert (total, [item.workspace_id for item in page]) == (2, ["llm-b"])

    def test_one_with_a_key_that_works_is_not_deleted(self, workspaces, keys):
        key, _ = keys.create("laptop", "llm-a", NOW)
        with pytest.raises(UnsupportedOperation, match="1 API key"):
            workspaces.delete("llm-a")
        keys.revoke(key.key_id, NOW)
        assert workspaces.delete("llm-a").name == "A"
        assert not workspaces.exists("llm-a")

    def test_what_is_not_there_is_not_deleted(self, workspaces):
        with pytest.raises(NotFound, match="nowhere"):
            workspaces.delete("nowhere")


def test_keys_of_an_older_installation_live_on(tmp_path):
    """Their workspaces are made; the oldest key, which was the operator's, may manage the others."""
    database = Database(tmp_path / "old.db")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    old = Table(
        "api_keys", MetaData(), *[Column(name, String) for name in ("key_hash", "hint", "name", "workspace_id")]
    )
    old.append_column(Column("created_at", UtcDateTime))
    with database.transaction() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for name, workspace_id in (("first", "llm-a"), ("second", "llm-a"), ("third", "llm-b")):
            values = {"hint": "h", "name": name, "workspace_id": workspace_id, "created_at": NOW}
            connection.execute(insert(old).values(key_hash=_hash(f"sk-{name}-0123456789"), **values))
    database.upgrade()
    keys = ApiKeys(database)
    assert [(key.name, key.is_admin, key.expires_at) for key in keys.all()] == [
        ("first", True, None), ("second", False, None), ("third", False, None),
    ]  # fmt: skip
    assert keys.authenticate("sk-third-0123456789", NOW).workspace_id == "llm-b"
    assert {item.workspace_id for item in Workspaces(database).page(1, 10)[1]} == {"llm-a", "llm-b"}
    database.close()
