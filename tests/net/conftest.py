from web_server import web  # noqa: F401 - a fixture
