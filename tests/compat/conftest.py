import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes import live_server  # noqa: F401
