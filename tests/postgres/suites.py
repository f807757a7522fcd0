"""Runs suites of the platform with every database on PostgreSQL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parents[1]

_ABOUT_ROWS = re.compile(r"server|database|world", re.IGNORECASE)
_NOT_AGAIN = "test_a_gigabyte_needs_no_memory"
"""About the memory of an upload, and long."""


def assert_passes(folder: str, postgres_url: str) -> None:
    """Run the files of a folder that have to do with rows; those that never open a database have passed already."""
    files = [path for path in sorted((TESTS / folder).glob("test_*.py")) if _ABOUT_ROWS.search(path.read_text())]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, files)]
    command += [f"--rootdir={TESTS.parent}", "-k", f"not {_NOT_AGAIN}", "--durations=15"]
    # the outer run's workers leave marks that would make the inner one believe that it is a worker too
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"COSYFORGE_TEST_DATABASE_URL": postgres_url, "PYTHONDONTWRITEBYTECODE": "1"}
    if "COSYFORGE_TEST_DATABASE_URL" not in os.environ:
        environment["COSYFORGE_TEST_DATABASE_IS_TEMPORARY"] = "1"
    # a short name of its own: sockets lie in these folders, and their paths may have 107 bytes
    with tempfile.TemporaryDirectory(prefix="pg-") as folder_of_tests:
        command.append(f"--basetemp={folder_of_tests}/t")
        result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS.parent, check=False)
    output = result.stdout + result.stderr
    print(result.stdout[-3000:])  # shown with -s or -rP: what was slow
    assert result.returncode == 0, output[-8000:]
    # -q prints a dot for each that passed: a suite that ran nothing would print none
    assert re.search(r"^\.[.sx]*", result.stdout, re.MULTILINE), output[-2000:]
