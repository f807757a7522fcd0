"""The platform's own suites once more, with every database on PostgreSQL; the long ones have files of their own."""

from __future__ import annotations

import pytest
from suites import assert_passes


@pytest.mark.parametrize("folder", ["store", "billing", "compat"])
def test_the_same_suite_passes(folder: str, postgres_url: str) -> None:
    assert_passes(folder, postgres_url)
