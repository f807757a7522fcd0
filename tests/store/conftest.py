from fakes import live_server  # noqa: F401 - a fixture
