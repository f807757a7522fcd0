"""The only reader of the environment and of the TOML file. Everything has a default; docs/settings.md explains each."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cosyforge.errors import InvalidParameter

PREFIX = "COSYFORGE_"
CONFIG_VARIABLE = f"{PREFIX}CONFIG"


_DEVICE = r"^(cpu|cuda(:\d+)?)$"


def _listed(value: object) -> object:
    """A list in the file, or one line with commas as an environment variable has it."""
    if isinstance(value, str):
        return tuple(entry.strip() for entry in value.split(",") if entry.strip())
    return value


def _packaged_base_model() -> Path:
    return Path(__file__).parent / "assets" / "nano"


def _half_of_the_cores() -> int:
    return max(1, (os.cpu_count() or 1) // 2)


class Settings(BaseSettings):
    """One server. A variable COSYFORGE_NAME wins over the key `name` of the TOML file, which wins over the default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)

    # ---- where
    data_dir: Path = Field(default_factory=lambda: user_data_path("cosyforge", appauthor=False))
    """Everything that is kept: database, uploads, models, results."""
    database_url: SecretStr = SecretStr("")
    """postgresql://user:password@host:5432/database; empty: a SQLite file in the data directory."""
    database_pool_size: int = Field(16, ge=1, le=1000)
    """Connections to PostgreSQL kept open; at peaks twice as many."""
    host: str = "127.0.0.1"
    """Address the server listens on."""
    port: int = Field(8000, ge=0, le=65535)
    """Port the server listens on; 0 takes a free one."""
    public_url: str = ""
    """Start of the links handed out, such as https://speech.example.org; empty: as the request addressed us."""

    # ---- base model
    base_model: str = "cosyvoice-v3-flash"
    """Name under which the base model is trained from and spoken with."""
    base_model_dir: Path = Field(default_factory=_packaged_base_model)
    """Model directory of the base model."""
    serve_base_model: Literal["lazy", "start", "off"] = "lazy"
    """Load the base model at the first request, at start, or never."""

    # ---- access
    bootstrap_key: SecretStr | None = None
    """An API key to accept from the start; without it the first start makes one and prints it once."""
    workspace_id: str = "llm-cosyforge"
    """Workspace of the first key, and of keys made without naming another."""
    requests_per_second: float = Field(0.0, ge=0)
    """Requests of one key, a second's worth of which may come at once; more are refused with 429; 0: no limit."""
    base_synthesis_per_second: float = Field(0.0, ge=0)
    """Requests of a workspace to speak with the base model; the service we are compatible with allows 3; 0: no limit."""
    metrics_access: Literal["loopback", "key", "off"] = "loopback"
    """Who may read /metrics: this machine, an administrator's key, nobody."""

    # ---- files and results
    max_upload_bytes: int = Field(1 << 30, ge=1)
    """Largest file that may be uploaded."""
    max_files: int = Field(10_000, ge=0)
    """Most files of a workspace; 0: no limit."""
    max_workspace_bytes: int = Field(100 << 30, ge=0)
    """Most bytes that the files of a workspace may have together; 0: no limit."""
    min_free_disk_bytes: int = Field(256 << 20, ge=0)
    """With less free on the disk, uploads and results are refused and /readyz says not ready."""
    url_lifetime_s: int = Field(86_400, ge=1)
    """How long links to results and files work; results are deleted an hour after that."""

    # ---- training
    export_checkpoints: Literal["all", "top"] = "all"
    """Which checkpoints of a finished job become deployable models at once; the others by the export call."""
    max_jobs: int = Field(0, ge=0)
    """Most jobs of a workspace that wait, run or have succeeded; 0: no limit."""
    training_threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processor threads of the training worker."""
    training_seed: int = 1986
    """Seed of every training run."""
    max_running_jobs: int = Field(1, ge=1)
    """Jobs that train at the same time; the others wait, and the workspaces take turns."""
    checkpoint_interval_s: float = Field(60.0, gt=0)
    """So often a training saves the state from which it goes on after an interruption."""
    job_backoff_s: float = Field(5.0, gt=0)
    """Wait before a crashed training is started again; doubles with every crash at the same place, up to 60 s."""
    checkpoint_lifetime_days: float = Field(0.0, ge=0, le=36_500)
    """Checkpoints that nobody exports are deleted after so long; 0: never."""
    job_lease_s: float = Field(15.0, gt=0)
    """A training whose server has not been heard of for so long is taken over."""
    cancel_grace_s: float = Field(20.0, ge=0)
    """How long a training may take to save and stop, for a cancel or with the server, before it is killed."""

    # ---- replicas
    template_mu5_threads: int = Field(default_factory=_half_of_the_cores, ge=1)
    """Processor threads of a replica of the MU5 template."""
    template_mu5_memory_mb: int = Field(0, ge=0)
    """Resident memory (MiB) of an MU5 replica, which is replaced when it uses more; 0: no limit."""
    template_mu5_device: str = Field("cpu", pattern=_DEVICE)
    """Where an MU5 replica computes: `cpu`, `cuda`, `cuda:0`, `cuda:1` and so on."""
    template_mu2_threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Processor threads of a replica of the MU2 template."""
    template_mu2_memory_mb: int = Field(0, ge=0)
    """Resident memory (MiB) of an MU2 replica, which is replaced when it uses more; 0: no limit."""
    template_mu2_device: str = Field("cpu", pattern=_DEVICE)
    """Where an MU2 replica computes, as for MU5."""
    max_parallel_starts: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """Replicas that load their models at the same time, also when a restarted server brings all of them back."""
    replica_start_timeout_s: float = Field(120.0, gt=0)
    """A replica that is not ready by then is killed and started again."""
    replica_backoff_s: float = Field(0.5, gt=0)
    """Wait before a dead replica is started again; doubles up to 30 s."""
    replica_max_start_failures: int = Field(3, ge=1)
    """So many failed starts in a row make a deployment FAILED."""
    replica_stable_s: float = Field(60.0, gt=0)
    """A replica that lived so long sets the wait back to its beginning."""
    replica_wait_s: float = Field(10.0, ge=0)
    """How long a request waits for a replica that is being restarted."""
    replica_ping_timeout_s: float = Field(20.0, gt=0)
    """A replica that has not answered a ping for so long is killed and started again."""
    replica_drain_s: float = Field(20.0, ge=0)
    """How long a replica that must go may finish what it is saying."""
    replica_max_requests: int = Field(32, ge=1)
    """Requests that one replica takes at the same time; more are refused with 429."""

    # ---- prices, CNY
    price_training: Decimal = Field(Decimal("0.2"), ge=0)
    """Per 1,000 training tokens."""
    price_mu5: Decimal = Field(Decimal("20"), ge=0)
    """Per hour of one MU5 model unit."""
    price_mu2: Decimal = Field(Decimal("80"), ge=0)
    """Per hour of one MU2 model unit."""
    price_synthesis: Decimal = Field(Decimal("1.0"), ge=0)
    """Per 10,000 characters spoken by the base model."""

    # ---- sounds that SSML names
    fetch_allow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Hosts, addresses or networks outside the public internet, or other ports, from which sounds may be fetched."""
    fetch_timeout_s: float = Field(15.0, gt=0)
    """Longest time that fetching one sound may take, redirects and all."""
    fetch_connect_timeout_s: float = Field(5.0, gt=0)
    """Longest time until a server is connected to."""
    background_max_bytes: int = Field(10_000_000, ge=1)
    """Largest file of background music; 10 MB are five minutes. Sounds within the text have 2 MB."""

    # ---- the server itself
    utc_offset_hours: float = Field(8.0, ge=-12, le=14)
    """Zone of the times in answers and ids; 8 is the zone of the service we are compatible with."""
    request_timeout_s: float = Field(300.0, gt=0)
    """Longest time one synthesis may take; over a socket, the longest time without progress after its text has ended."""
    websocket_text_gap_s: float = Field(23.0, gt=0)
    """A socket that sends no text for so long, while its task still waits for some, has failed."""
    websocket_idle_s: float = Field(60.0, gt=0)
    """How long a socket may stay open after a task without beginning another one."""
    max_websockets: int = Field(2000, ge=1)
    """Sockets open at the same time; more are refused with 429."""
    max_websocket_tasks: int = Field(200, ge=1)
    """Tasks of sockets that speak at the same time; more fail with Throttling.RateQuota."""
    max_synthesis_threads: int = Field(64, ge=1)
    """Synthesis requests that the server handles at the same time."""
    shutdown_grace_s: float = Field(5.0, ge=0)
    """How long a stopping server waits for open requests."""
    shutdown_notice_s: float = Field(0.0, ge=0)
    """How long a stopping server at least answers "not ready" before it closes its port, for load balancers."""
    log_format: Literal["json", "console"] = "json"
    """Logs for machines or for people."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important log line that is written."""

    # ---- seams
    trainer: str = "cosyforge.training.finetune:finetune"
    """module:function that the training worker calls."""
    engine: str = "cosyforge.synthesis.engine:Engine"
    """module:Class that a replica holds."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = (init_settings, env_settings)
        path = os.environ.get(CONFIG_VARIABLE)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(path))) if path else sources

    @property
    def database_path(self) -> Path:
        return self.data_dir / "cosyforge.db"


def load_settings(**values: object) -> Settings:
    """Settings from the arguments, the environment and the file that COSYFORGE_CONFIG names, in this order.

    Raises: InvalidParameter naming each wrong setting, its variable and what is allowed
    """
    path = os.environ.get(CONFIG_VARIABLE)
    if path and not Path(path).is_file():
        raise InvalidParameter(f"{CONFIG_VARIABLE} names {path}, which is not a file.")
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [_problem(details["loc"], details["msg"]) for details in error.errors()]
        raise InvalidParameter("The settings are not valid: " + "; ".join(problems)) from error


def _problem(location: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in location)
    return f"{name} ({PREFIX}{name.upper()}): {message}"
