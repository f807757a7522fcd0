"""The commands that need the platform: serve, keys, workspaces, doctor."""

from __future__ import annotations

import os
import re
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cosyforge.errors import InvalidParameter, PlatformError
from cosyforge.settings import Settings, load_settings

if TYPE_CHECKING:
    from cosyforge.registry.api_keys import ApiKeys
    from cosyforge.registry.workspaces import Workspaces

app = typer.Typer(no_args_is_help=True)
keys_app = typer.Typer(no_args_is_help=True, help="API keys of this installation.")
app.add_typer(keys_app, name="keys")
workspaces_app = typer.Typer(no_args_is_help=True, help="Workspaces: keys of one see nothing of another.")
app.add_typer(workspaces_app, name="workspaces")

_MAX_LIFETIME_S = 36_500 * 86_400
_DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept.")]


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


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    host: Annotated[str | None, typer.Option(help="Address that the server will listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port that the server will listen on.")] = None,
    data_dir: _DataDir = None,
) -> None:
    """Check this machine and installation, and say what to do; changes nothing. Ends with 1 when something fails."""
    from cosyforge.doctor import examine, to_json, to_text

    findings = examine(_settings(host=host, port=port, data_dir=data_dir))
    typer.echo(to_json(findings) if as_json else to_text(findings))
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What or whom the key is for.")] = "unnamed",
    workspace: Annotated[str | None, typer.Option(help="Workspace; keys see what belongs to theirs.")] = None,
    expires_in: Annotated[str | None, typer.Option(help="How long it works: 90 (seconds), 45m, 12h, 30d.")] = None,
    admin: Annotated[bool, typer.Option(help="It may manage keys and workspaces over HTTP.")] = False,
    data_dir: _DataDir = None,
) -> None:
    """Make a key and print it. It cannot be shown again. A workspace that is not there yet is made too."""
    settings = _settings(data_dir=data_dir)
    workspace_id = workspace or settings.workspace_id
    try:
        lifetime_s = None if expires_in is None else parse_duration_s(expires_in)
        if _workspaces(settings).ensure(workspace_id, datetime.now(UTC)):
            typer.echo(f"made the workspace {workspace_id}", err=True)
        _, secret = _keys(settings).create(
            name, workspace_id, datetime.now(UTC), is_admin=admin, expires_in_s=lifetime_s
        )
    except PlatformError as error:
        _give_up(error.message)
    typer.echo(secret)


@keys_app.command("list")
def list_keys(data_dir: _DataDir = None) -> None:
    """List all keys, without their secrets: number, hint, name, workspace, made, role, state, last used."""
    now = datetime.now(UTC)
    for key in _keys(_settings(data_dir=data_dir)).all():
        since = {"revoked": key.revoked_at, "expired": key.expires_at}.get(key.status(now))
        state = key.status(now) + (f" {_minute(since)}" if since else "")
        if not since and key.expires_at:
            state += f" until {_minute(key.expires_at)}"
        role = "admin" if key.is_admin else "user"
        used = f"used {_minute(key.last_used_at)}" if key.last_used_at else "never used"
        line = [str(key.key_id), key.hint, key.name, key.workspace_id, _minute(key.created_at), role, state, used]
        typer.echo("\t".join(line))


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[int, typer.Argument(help="Number of the key in the list.")],
    data_dir: _DataDir = None,
) -> None:
    """Refuse a key from now on, and the temporary tokens made with it."""
    try:
        key = _keys(_settings(data_dir=data_dir)).revoke(key_id, datetime.now(UTC))
    except PlatformError as error:
        _give_up(error.message)
    typer.echo(f"{key.hint} ({key.name}) is revoked")


@workspaces_app.command("create")
def create_workspace(
    workspace_id: Annotated[str, typer.Argument(help="Id: letters, digits, dots, _ and -.")],
    name: Annotated[str | None, typer.Option(help="What people call it; default is the id.")] = None,
    data_dir: _DataDir = None,
) -> None:
    """Make a workspace."""
    try:
        _workspaces(_settings(data_dir=data_dir)).create(workspace_id, name or workspace_id, datetime.now(UTC))
    except PlatformError as error:
        _give_up(error.message)
    typer.echo(f"made the workspace {workspace_id}")


@workspaces_app.command("list")
def list_workspaces(data_dir: _DataDir = None) -> None:
    """List all workspaces: id, name, made."""
    _, found = _workspaces(_settings(data_dir=data_dir)).page(1, 1_000_000)
    for workspace in found:
        typer.echo("\t".join([workspace.workspace_id, workspace.name, _minute(workspace.created_at)]))


def parse_duration_s(text: str) -> int:
    """90, 45m, 12h, 30d -> seconds.

    Raises: InvalidParameter
    """
    found = re.fullmatch(r"(\d{1,9})([smhd]?)", text.strip())
    duration_s = int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]] if found else 0
    if not 1 <= duration_s <= _MAX_LIFETIME_S:
        raise InvalidParameter(f"{text} is no length of time; write 90 (seconds), 45m, 12h or 30d, at most 36500d.")
    return duration_s


def _minute(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _settings(**values: Any) -> Settings:
    """Options that were given win over the environment and the file."""
    try:
        return load_settings(**{name: value for name, value in values.items() if value is not None})
    except PlatformError as error:
        _give_up(error.message)


def _keys(settings: Settings) -> ApiKeys:
    from cosyforge.bootstrap import open_database
    from cosyforge.registry.api_keys import ApiKeys

    try:
        return ApiKeys(open_database(settings))
    except PlatformError as error:
        _give_up(error.message)


def _workspaces(settings: Settings) -> Workspaces:
    from cosyforge.bootstrap import open_database
    from cosyforge.registry.workspaces import Workspaces

    try:
        return Workspaces(open_database(settings))
    except PlatformError as error:
        _give_up(error.message)


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
    from cosyforge.serving import run_server

    def announce(port: int) -> None:
        if port_file is not None:
            _write_whole(port_file, str(port))

    run_server(application, settings, listener, announce)


def _write_whole(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    os.replace(draft, path)
