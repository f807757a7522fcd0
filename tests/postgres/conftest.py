"""A PostgreSQL server for these tests: the one of COSYFORGE_TEST_DATABASE_URL, or one that is started for them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from cluster import running_cluster, why_not


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    given = os.environ.get("COSYFORGE_TEST_DATABASE_URL")
    if given:
        yield given
        return
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster() as url:
        yield url
