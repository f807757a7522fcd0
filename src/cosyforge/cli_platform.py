"""The commands that need the platform: serve, keys."""

from __future__ import annotations

import os
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cosyforge.errors import PlatformError
from cosyforge.settings import Settings, load_settings

if TYPE_CHECKING:
    from cosyforge.registry.api_keys import ApiKeys

app = typer.Typer(no_args_is_help=True)
keys_app = typer.Typer(no_args_is_help=True, help="API keys of this installation.")
app.add_typer(keys_app, name="keys")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    port_file: Annotated[Path | None, typer.Option(help="Write the port here once the server answers.")] = None,
) -> None:
    """Run the server until it is told to stop (Ctrl-C or SIGTERM)."""
    # imported here, as the other commands do not need a web server
    from cosyforge.api.app import create_app
    from cosyforge.api.logs import configure_logging
    from cosyforge.bootstrap import build_platform

    settings = _settings(host=host, port=port, data_dir=data_dir)
    configure_logging(settings.log_format, settings.log_level)
    try:
        listener = _listen(settings.host, settings.port)
        platform = build_platform(settings)
        _announce_key(platform.api_keys, settings)
    except PlatformError as error:
        _give_up(error.message)
    _run(create_app(platform), settings, listener, port_file)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What or whom the key is for.")] = "unnamed",
    workspace: Annotated[str | None, typer.Option(help="Workspace; keys see what belongs to theirs.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
) -> None:
    """Make a key and print it. It cannot be shown again."""
    settings = _settings(data_dir=data_dir)
    _, secret = _keys(settings).create(name, workspace or settings.workspace_id, datetime.now(UTC))
    typer.echo(secret)


@keys_app.command("list")
def list_keys(data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None) -> None:
    """List all keys, without their secrets."""
    for key in _keys(_settings(data_dir=data_dir)).all():
        state = "active" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d %H:%M}"
        created = f"{key.created_at:%Y-%m-%d %H:%M}"
        typer.echo("\t".join([str(key.key_id), key.hint, key.name, key.workspace_id, created, state]))


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[int, typer.Argument(help="Number of the key in the list.")],
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
) -> None:
    """Refuse a key from now on."""
    try:
        key = _keys(_settings(data_dir=data_dir)).revoke(key_id, datetime.now(UTC))
    except PlatformError as error:
        _give_up(error.message)
    typer.echo(f"{key.hint} ({key.name}) is revoked")


def _settings(**values: Any) -> Settings:
    """Options that were given win over the environment and the file."""
    try:
        return load_settings(**{name: value for name, value in values.items() if value is not None})
    except PlatformError as error:
        _give_up(error.message)


def _keys(settings: Settings) -> ApiKeys:
    from cosyforge.bootstrap import open_database
    from cosyforge.registry.api_keys import ApiKeys

    return ApiKeys(open_database(settings))


def _give_up(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2)


def _announce_key(api_keys: ApiKeys, settings: Settings) -> None:
    bootstrap_key = settings.bootstrap_key.get_secret_value() if settings.bootstrap_key else None
    secret = api_keys.ensure_first(bootstrap_key, settings.workspace_id, datetime.now(UTC))
    if secret is not None:
        typer.echo(f"API key (shown this once; more by `cosyforge keys create`): {secret}")
        sys.stdout.flush()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        _give_up(f"cannot listen on {host}:{port}: {error.strerror}; choose another one by --host and --port")
    return listener


def _run(application: Any, settings: Settings, listener: socket.socket, port_file: Path | None) -> None:
    import structlog
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                host, port = listener.getsockname()[:2]
                structlog.get_logger().info("serving", url=f"http://{host}:{port}", pid=os.getpid())
                if port_file is not None:
                    _write_whole(port_file, str(port))

    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        ws_per_message_deflate=False,  # compressing coded audio costs time and saves nothing
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
        server_header=False,
    )
    Server(config).run(sockets=[listener])


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    os.replace(draft, path)
