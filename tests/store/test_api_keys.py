from datetime import UTC, datetime

import pytest

from cosyforge.errors import InvalidParameter, NotFound, Unauthenticated
from cosyforge.registry.api_keys import ApiKeys
from cosyforge.store.database import Database

NOW = datetime(2026, 5, 27, tzinfo=UTC)


@pytest.fixture
def keys(tmp_path):
    database = Database(tmp_path / "cosyforge.db")
    database.upgrade()
    yield ApiKeys(database)
    database.close()


def test_a_key_opens_its_workspace(keys):
    key, secret = keys.create("laptop", "llm-a", NOW)
    assert secret.startswith("sk-")
    assert keys.authenticate(secret) == key
    assert key.workspace_id == "llm-a"


def test_an_unknown_key_opens_nothing(keys):
    with pytest.raises(Unauthenticated, match="Invalid API-key provided"):
        keys.authenticate("sk-nobody-issued-this")


def test_a_revoked_key_opens_nothing_and_stays_in_the_list(keys):
    key, secret = keys.create("laptop", "llm-a", NOW)
    keys.revoke(key.key_id, NOW)
    with pytest.raises(Unauthenticated):
        keys.authenticate(secret)
    assert [known.revoked_at for known in keys.all()] == [NOW]


def test_revoking_what_is_not_there_is_an_error(keys):
    with pytest.raises(NotFound, match="7"):
        keys.revoke(7, NOW)


def test_the_database_never_holds_the_secret(keys, tmp_path):
    _, secret = keys.create("laptop", "llm-a", NOW)
    contents = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"laptop" in contents
    assert secret.encode() not in contents


def test_the_first_start_makes_one_key_and_the_second_none(keys):
    secret = keys.ensure_first(None, "llm-a", NOW)
    assert keys.authenticate(secret).name == "first"
    assert keys.ensure_first(None, "llm-a", NOW) is None
    assert len(keys.all()) == 1


def test_a_bootstrap_key_is_accepted_and_not_shown(keys):
    assert keys.ensure_first("sk-operators-choice", "llm-a", NOW) is None
    assert keys.ensure_first("sk-operators-choice", "llm-a", NOW) is None
    assert keys.authenticate("sk-operators-choice").name == "bootstrap"
    assert len(keys.all()) == 1


def test_a_revoked_bootstrap_key_does_not_come_back(keys):
    keys.ensure_first("sk-operators-choice", "llm-a", NOW)
    keys.revoke(keys.all()[0].key_id, NOW)
    keys.ensure_first("sk-operators-choice", "llm-a", NOW)
    with pytest.raises(Unauthenticated):
        keys.authenticate("sk-operators-choice")


def test_a_short_key_is_refused(keys):
    with pytest.raises(InvalidParameter, match="8 characters"):
        keys.create("weak", "llm-a", NOW, "abc")
