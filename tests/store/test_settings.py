import re
from decimal import Decimal
from pathlib import Path

import pytest

from cosyforge.errors import InvalidParameter
from cosyforge.settings import Settings, load_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"COSYFORGE_{name.upper()}", raising=False)
    monkeypatch.delenv("COSYFORGE_CONFIG", raising=False)


def _use_file(monkeypatch, tmp_path, text):
    path = tmp_path / "cosyforge.toml"
    path.write_text(text)
    monkeypatch.setenv("COSYFORGE_CONFIG", str(path))


def test_the_document_has_every_setting_and_no_other():
    documented = re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(Settings.model_fields)


def test_no_setting_is_needed():
    settings = load_settings()
    assert settings.port == 8000
    assert settings.base_model == "cosyvoice-v3-flash"
    assert settings.bootstrap_key is None


def test_the_environment_wins_over_the_file_and_an_argument_over_both(monkeypatch, tmp_path):
    _use_file(monkeypatch, tmp_path, 'port = 1\nhost = "file"\nprice_training = "0.25"\nworkspace_id = "file"\n')
    monkeypatch.setenv("COSYFORGE_HOST", "environment")
    monkeypatch.setenv("COSYFORGE_PORT", "2")
    settings = load_settings(port=3)
    assert (settings.port, settings.host, settings.workspace_id) == (3, "environment", "file")
    assert settings.price_training == Decimal("0.25")


def test_an_unknown_key_in_the_file_is_refused(monkeypatch, tmp_path):
    _use_file(monkeypatch, tmp_path, "prot = 8000\n")
    with pytest.raises(InvalidParameter, match="prot"):
        load_settings()


def test_a_wrong_value_names_its_variable(monkeypatch):
    monkeypatch.setenv("COSYFORGE_PORT", "eighty")
    with pytest.raises(InvalidParameter, match=r"COSYFORGE_PORT.*integer"):
        load_settings()


def test_a_file_that_is_not_there_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("COSYFORGE_CONFIG", str(tmp_path / "nothing.toml"))
    with pytest.raises(InvalidParameter, match=r"nothing\.toml"):
        load_settings()


def test_the_bootstrap_key_does_not_appear_when_settings_are_printed(monkeypatch):
    monkeypatch.setenv("COSYFORGE_BOOTSTRAP_KEY", "sk-very-secret")
    assert "sk-very-secret" not in repr(load_settings())
