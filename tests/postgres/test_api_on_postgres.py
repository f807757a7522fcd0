"""The suite of the API on PostgreSQL."""

from __future__ import annotations

import pytest
from suites import assert_passes


@pytest.mark.parametrize("folder", ["api"])
def test_the_same_suite_passes(folder: str, postgres_url: str) -> None:
    assert_passes(folder, postgres_url)
