import hashlib
import os
import shutil
import stat

import pytest

from cosyforge.errors import AccessDenied, NotFound, OutOfSpace
from cosyforge.store.artifacts import LocalArtifacts, SignedLinks, load_secret, new_artifact


@pytest.fixture
def artifacts(tmp_path):
    return LocalArtifacts(tmp_path / "artifacts")


def _put(artifacts, key, contents):
    with new_artifact(artifacts) as writer:
        writer.write(contents)
        writer.commit(key)


def _all_files(tmp_path):
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_size_and_hashes_are_those_of_the_bytes(artifacts):
    with new_artifact(artifacts) as writer:
        writer.write(b"one ")
        writer.write(b"two")
        assert writer.size == 7
        assert writer.md5 == hashlib.md5(b"one two").hexdigest()
        assert writer.sha256 == hashlib.sha256(b"one two").hexdigest()
        writer.commit("files/a")
    assert artifacts.local_path("files/a").read_bytes() == b"one two"


def test_without_a_commit_nothing_is_left(artifacts, tmp_path):
    def break_off():
        with new_artifact(artifacts) as writer:
            writer.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert _all_files(tmp_path) == []


def test_what_a_killed_server_left_is_removed_at_start(artifacts, tmp_path):
    artifacts.create().write(b"half")
    assert _all_files(tmp_path) != []
    LocalArtifacts(tmp_path / "artifacts")
    assert _all_files(tmp_path) == []


def test_a_copy_outlives_its_original(artifacts):
    _put(artifacts, "files/a", b"bytes")
    artifacts.copy("files/a", "packages/job.zip")
    artifacts.delete("files/a")
    assert artifacts.local_path("packages/job.zip").read_bytes() == b"bytes"
    with pytest.raises(NotFound):
        artifacts.local_path("files/a")


@pytest.mark.parametrize("key", ["../secret", "/etc/passwd", "a/../../b", ".staging/x", "", "a//b", "a/"])
def test_no_key_leads_out_of_the_store(artifacts, tmp_path, key):
    (tmp_path / "secret").write_text("x")
    with pytest.raises(NotFound):
        artifacts.local_path(key)


def test_old_results_can_be_deleted(artifacts):
    _put(artifacts, "results/old.wav", b"1")
    _put(artifacts, "results/new.wav", b"2")
    os.utime(artifacts.local_path("results/old.wav"), (1000, 1000))
    assert artifacts.delete_older_than("results", 2000) == 1
    assert artifacts.local_path("results/new.wav").is_file()


def test_finished_bytes_can_be_committed_later(artifacts, tmp_path):
    writer = artifacts.create()
    writer.write(b"bytes")
    writer.finish()
    assert list(artifacts.keys("files")) == []
    writer.commit("files/a")
    writer.discard()
    assert artifacts.local_path("files/a").read_bytes() == b"bytes"


def test_keys_are_listed_below_their_prefix_alone(artifacts):
    for key in ["files/a", "files/deep/b", "results/c.wav"]:
        _put(artifacts, key, b"x")
    artifacts.create().write(b"half")
    assert sorted(artifacts.keys("files")) == ["files/a", "files/deep/b"]
    assert list(artifacts.keys("nothing")) == []


def test_so_much_of_the_disk_stays_free(tmp_path, monkeypatch):
    artifacts = LocalArtifacts(tmp_path / "artifacts", min_free_bytes=1000)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("cosyforge.store.artifacts.shutil.disk_usage", lambda path: usage._replace(free=999))
    with pytest.raises(OutOfSpace, match="Out of space"), new_artifact(artifacts) as writer:
        writer.write(b"x")
    assert _all_files(tmp_path) == []


def test_room_is_looked_for_again_while_a_large_file_comes(tmp_path, monkeypatch):
    artifacts = LocalArtifacts(tmp_path / "artifacts", min_free_bytes=1000)
    usage = shutil.disk_usage(tmp_path)
    free = iter([usage.free, 10])
    monkeypatch.setattr("cosyforge.store.artifacts.shutil.disk_usage", lambda path: usage._replace(free=next(free)))
    with new_artifact(artifacts) as writer:
        for _ in range(8):
            writer.write(bytes(1 << 20))
        with pytest.raises(OutOfSpace):
            writer.write(b"x")
    assert writer.size == 8 << 20
    assert _all_files(tmp_path) == []


@pytest.mark.parametrize("act", ["write", "finish", "commit"])
def test_a_full_disk_is_out_of_space_and_leaves_nothing(artifacts, tmp_path, act):
    """/dev/full refuses every byte, as a full disk does; small writes show it at the flush."""
    with new_artifact(artifacts) as writer:
        writer._file.close()
        writer._file = open("/dev/full", "wb")  # noqa: SIM115 - closed with the writer
        if act != "write":
            writer.write(b"x")
        arguments = {"write": [bytes(1 << 20)], "finish": [], "commit": ["files/a"]}[act]
        with pytest.raises(OutOfSpace, match="no room left"):
            getattr(writer, act)(*arguments)
    assert _all_files(tmp_path) == []


class TestSignedLinks:
    links = SignedLinks(b"secret")

    def _parts(self, link):
        path, _, query = link.partition("?")
        values = dict(part.split("=") for part in query.split("&"))
        return path.removeprefix("/artifacts/"), int(values["Expires"]), values["Signature"]

    def test_a_link_opens_until_it_expires(self):
        key, expires_at, signature = self._parts(self.links.sign("results/a.wav", 1000))
        self.links.check(key, expires_at, signature, 999.9)
        with pytest.raises(AccessDenied, match="expired"):
            self.links.check(key, expires_at, signature, 1000)

    def test_neither_key_nor_expiry_can_be_changed(self):
        key, expires_at, signature = self._parts(self.links.sign("results/a.wav", 1000))
        for wrong in [("results/b.wav", expires_at, signature), (key, 2000, signature), (key, expires_at, "é")]:
            with pytest.raises(AccessDenied, match="signature"):
                self.links.check(*wrong, 0)

    def test_another_installation_signs_differently(self):
        key, expires_at, signature = self._parts(SignedLinks(b"other").sign("a", 1000))
        with pytest.raises(AccessDenied):
            self.links.check(key, expires_at, signature, 0)


def test_the_secret_is_made_once_and_is_private(tmp_path):
    secret = load_secret(tmp_path / "data" / "secret")
    assert len(secret) == 32
    assert load_secret(tmp_path / "data" / "secret") == secret
    assert stat.S_IMODE((tmp_path / "data" / "secret").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret"]
