"""`cosyforge doctor`: finds what is broken, says what to do, changes nothing."""

import json
import socket
import stat
from datetime import UTC, datetime

import pytest
from sqlalchemy import insert, text
from typer.testing import CliRunner

from cosyforge import doctor
from cosyforge.cli_platform import app as cli
from cosyforge.settings import Settings, load_settings
from cosyforge.store.database import Database
from cosyforge.store.tables import models
from fakes import LiveServer


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"COSYFORGE_{name.upper()}", raising=False)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def settings(tmp_path, free_port):
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    return load_settings(data_dir=data_dir, port=free_port)


def _find(check, settings, name):
    return next(finding for finding in check(settings) if finding.name == name)


def _changed(settings, **values):
    return settings.model_copy(update=values)


def _tree(directory):
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_a_sound_installation_passes_every_check(tmp_path, free_port):
    """The real thing: torch and the encoders in their own process, the digests of the shipped model."""
    result = CliRunner().invoke(
        cli, ["doctor", "--json", "--data-dir", str(tmp_path / "new"), "--port", str(free_port)]
    )
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"]) == (0, True), report
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert {"python", "torch", "gpu", "audio encoders", "cores", "memory", "clock", "data directory", "disk", "database",
            "base model", "port"} <= set(statuses)  # fmt: skip
    assert "fail" not in statuses.values()
    assert not (tmp_path / "new").exists(), "it changes nothing"


def test_a_failure_ends_with_1_and_says_what_to_do(tmp_path, monkeypatch):
    finding = doctor.Finding("disk", "fail", "0.0 GiB free", "make room")
    monkeypatch.setattr("cosyforge.doctor._CHECKS", (lambda settings: iter([finding]),))
    result = CliRunner().invoke(cli, ["doctor", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "fail  disk  0.0 GiB free\n            -> make room\n0 ok, 0 warn, 1 fail" in result.stdout


def test_a_warning_does_not_fail(tmp_path, monkeypatch):
    finding = doctor.Finding("cores", "warn", "1", "buy another")
    monkeypatch.setattr("cosyforge.doctor._CHECKS", (lambda settings: iter([finding]),))
    assert CliRunner().invoke(cli, ["doctor", "--data-dir", str(tmp_path)]).exit_code == 0


class TestModel:
    def test_a_damaged_file_is_named(self, settings, tmp_path):
        shipped = settings.base_model_dir
        copy = tmp_path / "model"
        copy.mkdir()
        for path in shipped.iterdir():
            if path.is_file():
                (copy / path.name).symlink_to(path)
        copied = _changed(settings, base_model_dir=copy)
        assert _find(doctor._weights, copied, "base model").status == "ok"
        (copy / "lm.safetensors").unlink()
        (copy / "lm.safetensors").write_bytes(b"half of it")
        (copy / "tokenizer.json").unlink()
        finding = _find(doctor._weights, copied, "base model")
        assert finding.status == "fail"
        assert "lm.safetensors" in finding.message
        assert "tokenizer.json" in finding.message

    def test_no_model_is_a_failure(self, settings, tmp_path):
        finding = _find(doctor._weights, _changed(settings, base_model_dir=tmp_path), "base model")
        assert (finding.status, "model.json" in finding.message) == ("fail", True)
        assert "COSYFORGE_BASE_MODEL_DIR" in finding.advice


class TestPlace:
    def test_a_data_directory_that_others_read_is_a_warning(self, settings):
        assert _find(doctor._data_directory, settings, "data directory").status == "ok"
        settings.data_dir.chmod(0o755)
        finding = _find(doctor._data_directory, settings, "data directory")
        assert (finding.status, finding.advice) == ("warn", f"chmod 700 {settings.data_dir}")

    def test_a_secret_that_others_read_is_a_failure(self, settings):
        secret = settings.data_dir / "secret"
        secret.write_bytes(b"x" * 32)
        secret.chmod(0o644)
        finding = _find(doctor._data_directory, settings, "secret")
        assert (finding.status, finding.advice) == ("fail", f"chmod 600 {secret}")

    def test_a_place_that_cannot_be_written_is_a_failure(self, settings, monkeypatch):
        # asked of the system, as the superuser of a test may write anywhere
        monkeypatch.setattr("cosyforge.doctor.os.access", lambda path, mode: False)
        finding = _find(doctor._data_directory, settings, "data directory")
        assert (finding.status, "cannot be written" in finding.message) == ("fail", True)

    def test_a_full_disk_is_a_failure(self, settings):
        finding = _find(doctor._disk, _changed(settings, min_free_disk_bytes=1 << 60), "disk")
        assert (finding.status, "COSYFORGE_MIN_FREE_DISK_BYTES" in finding.advice) == ("fail", True)

    def test_what_a_server_makes_is_private(self, tmp_path):
        server = LiveServer(tmp_path).start()
        server.stop()
        assert stat.S_IMODE(server.data_dir.stat().st_mode) == 0o700
        findings = list(doctor._data_directory(load_settings(data_dir=server.data_dir)))
        assert [(finding.name, finding.status) for finding in findings] == [("data directory", "ok"), ("secret", "ok")]


class TestDatabase:
    def _database(self, settings):
        database = Database(settings.database_path)
        database.upgrade()
        return database

    def test_one_that_is_not_there_yet_is_fine_and_stays_so(self, settings):
        assert _find(doctor._database, settings, "database").status == "ok"
        assert list(settings.data_dir.iterdir()) == []

    def test_an_old_schema_is_a_warning(self, settings):
        database = self._database(settings)
        assert _find(doctor._database, settings, "database").status == "ok"
        with database.transaction() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
        database.close()
        finding = _find(doctor._database, settings, "database")
        assert (finding.status, "0001" in finding.message) == ("warn", True)

    def test_a_newer_schema_is_a_failure(self, settings):
        database = self._database(settings)
        with database.transaction() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        database.close()
        assert _find(doctor._database, settings, "database").status == "fail"

    def test_a_file_that_is_no_database_is_a_failure(self, settings):
        settings.database_path.write_bytes(b"not a database, but long enough to be looked at" * 100)
        assert _find(doctor._database, settings, "database").status == "fail"

    def test_a_server_that_does_not_answer_is_a_failure(self, settings, free_port):
        url = type(settings.database_url)(f"postgresql://user:password@127.0.0.1:{free_port}/cosyforge")
        finding = _find(doctor._database, _changed(settings, database_url=url), "database")
        assert finding.status == "fail"
        assert "password@" not in finding.message

    def test_a_model_whose_files_are_gone_is_named(self, settings):
        database = self._database(settings)
        row = {"workspace_id": "w", "display_name": "d", "base_model": "b", "job_id": "j", "checkpoint": "c"}
        with database.transaction() as connection:
            values = {"model_name": "lost", "directory": "models/lost", "created_at": datetime.now(UTC), **row}
            connection.execute(insert(models).values(**values))
        database.close()
        finding = _find(doctor._database, settings, "tuned models")
        assert (finding.status, "lost" in finding.message) == ("fail", True)


class TestPort:
    def test_a_free_port_is_fine(self, settings):
        assert _find(doctor._port, settings, "port").status == "ok"

    def test_a_taken_port_is_a_failure(self, settings):
        with socket.socket() as other:
            other.bind(("127.0.0.1", settings.port))
            other.listen()
            finding = _find(doctor._port, settings, "port")
        assert (finding.status, "COSYFORGE_PORT" in finding.advice) == ("fail", True)

    def test_a_port_taken_by_our_own_server_is_fine(self, tmp_path):
        server = LiveServer(tmp_path).start()
        try:
            port = int(server.url.rpartition(":")[2])
            finding = _find(doctor._port, load_settings(data_dir=server.data_dir, port=port), "port")
            assert finding.status == "ok"
            assert f"pid {server.process.pid}" in finding.message
        finally:
            server.stop()

    def test_keys_in_the_open_are_a_warning(self, settings):
        assert list(doctor._exposure(settings)) == []
        open_to_all = _changed(settings, host="0.0.0.0")
        assert _find(doctor._exposure, open_to_all, "exposure").status == "warn"
        assert list(doctor._exposure(_changed(open_to_all, public_url="https://speech.example.org"))) == []


def test_a_library_that_breaks_is_a_finding_not_the_end(settings, monkeypatch):
    monkeypatch.setattr("cosyforge.doctor._TORCH", "import os; os.abort()")
    finding = _find(doctor._torch, settings, "torch")
    assert (finding.status, "ended with code" in finding.message) == ("fail", True)
    monkeypatch.setattr("cosyforge.doctor._ENCODERS", "raise ImportError('libopus is missing')")
    finding = _find(doctor._encoders, settings, "audio encoders")
    assert (finding.status, "libopus is missing" in finding.message) == ("fail", True)


def test_a_clock_that_is_wrong_is_found(settings, monkeypatch):
    assert _find(doctor._clock, settings, "clock").status == "ok"
    before = _tree(settings.data_dir)
    monkeypatch.setattr("cosyforge.doctor._disk_time_s", lambda directory: 0.0)
    finding = _find(doctor._clock, settings, "clock")
    assert (finding.status, str(settings.data_dir) in finding.message) == ("warn", True)
    monkeypatch.setattr("cosyforge.doctor.time.time", lambda: 0.0)
    assert _find(doctor._clock, settings, "clock").status == "fail"
    assert _tree(settings.data_dir) == before


def test_a_small_machine_is_a_warning(settings, monkeypatch):
    monkeypatch.setattr("cosyforge.doctor.os.sched_getaffinity", lambda pid: {0})
    monkeypatch.setattr("cosyforge.doctor._memory_bytes", lambda: 2 << 30)
    findings = {finding.name: finding.status for finding in doctor._processors(settings)}
    assert findings == {"cores": "warn", "memory": "warn"}
