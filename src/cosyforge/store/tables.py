"""Every table, in one place: what the platform keeps. Statements live beside their records, not here.

Times are aware and UTC in Python and stored as naive UTC; a change here needs a new revision in `migrations/versions`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes, also on databases that forget the zone."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without zone must not reach the database")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class AnyText(TypeDecorator[str]):
    """What programs print, of whatever they are made: a NUL, which PostgreSQL does not keep, becomes its picture."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "replace").decode()


BigNumber = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits on both: every INTEGER of SQLite has them, and only a key of that very type numbers itself there."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

workspaces = Table(
    "workspaces",
    metadata,
    Column("workspace_id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Integer, primary_key=True, autoincrement=True),
    Column("key_hash", String(64), nullable=False, unique=True),  # sha-256 of the whole key; the key is never kept
    Column("hint", String(16), nullable=False),  # first and last characters, to recognise a key in a list
    Column("name", String(200), nullable=False),
    Column("workspace_id", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("is_admin", Boolean, nullable=False, server_default=false()),  # may manage keys and workspaces
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),  # to the minute
)

temporary_tokens = Table(
    "temporary_tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("key_id", Integer, nullable=False, index=True),  # the key that it stands for, and dies with
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

files = Table(
    "files",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("file_id", String(64), nullable=False, unique=True),
    Column("workspace_id", String(64), nullable=False, index=True),
    Column("api_key_id", Integer, nullable=False),
    Column("name", String(500), nullable=False),
    Column("description", Text, nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("md5", String(32), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("artifact", String(500), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

fine_tune_jobs = Table(
    "fine_tune_jobs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # creation order
    Column("job_id", String(64), nullable=False, unique=True),
    Column("workspace_id", String(64), nullable=False, index=True),
    Column("creator", String(64), nullable=False),
    Column("job_name", String(200), nullable=False),
    Column("model_name", String(200), nullable=False),  # display name of the result
    Column("model", String(200), nullable=False),
    Column("training_type", String(64), nullable=False),
    Column("training_datasets", JSON, nullable=False),
    Column("validation_datasets", JSON, nullable=False),
    Column("hyper_parameters", JSON, nullable=False),
    Column("finetuned_output", String(200), nullable=False, unique=True),
    Column("package", String(500), nullable=False),  # artifact key of the job's own copy of the dataset
    Column("status", String(16), nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("usage", BigNumber),  # tokens
    Column("code", String(100)),
    Column("message", AnyText),
    Column("output_cnt", Integer, nullable=False),
    Column("stage", String(32)),
    Column("progress", Float),  # 0..1
    Column("events_offset", BigNumber, nullable=False),  # bytes of the worker's event file already taken in
    Column("worker_pid", Integer),
    Column("lease_owner", String(200)),  # host:pid of the server that runs the worker
    Column("lease_until", UtcDateTime),
    Column("validation_package", String(500)),  # artifact key of the job's own copy
    Column("attempts", Integer, nullable=False, server_default="0"),  # training workers started
    Column("outcome", JSON(none_as_null=True)),  # what the worker said last, once it has
    Column("place", String(64)),  # the farthest that was reported
    Column("saved_place", String(64)),  # the state to resume from
    Column("crash_place", String(160)),  # both of them at the last crash
    Column("crash_count", Integer, nullable=False, server_default="0"),  # crashes in a row there
    Column("retry_at", UtcDateTime),  # a worker is started again then
    Column("audio_s", Float),  # of all rows of data.jsonl
    Column("lm_epochs", Integer, nullable=False, server_default="0"),  # finished
    Column("fm_epochs", Integer, nullable=False, server_default="0"),
    Index("ix_fine_tune_jobs_workspace_id_status", "workspace_id", "status", "number"),  # pages of one status
)

job_turns = Table(
    "job_turns",
    metadata,
    Column("workspace_id", String(64), primary_key=True),
    Column("turn", Integer, nullable=False),  # the highest has been served last
)

job_logs = Table(
    "job_logs",
    metadata,
    Column("job_id", String(64), primary_key=True),
    Column("line_no", BigNumber, primary_key=True, autoincrement=False),  # from 0
    Column("line", AnyText, nullable=False),
)

job_events = Table(
    "job_events",
    metadata,
    Column("event_id", BigNumber, primary_key=True, autoincrement=True),
    Column("job_id", String(64), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("event", JSON, nullable=False),  # a progress TrainingEvent: stage, epoch, step, metrics
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("job_id", String(64), primary_key=True),
    Column("checkpoint", String(64), primary_key=True),
    Column("rank", Integer, nullable=False),
    Column("lm_epoch", Integer, nullable=False),
    Column("fm_epoch", Integer, nullable=False),
    Column("directory", String(500)),  # relative to the data directory; set when the job has succeeded
    Column("status", String(16), nullable=False),
    Column("model_name", String(200)),  # of the deployable model, once exported
    Column("display_name", String(200)),
    Column("created_at", UtcDateTime, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("model_name", String(200), nullable=False, unique=True),
    Column("workspace_id", String(64), nullable=False),
    Column("display_name", String(200), nullable=False),
    Column("base_model", String(200), nullable=False),
    Column("job_id", String(64), nullable=False),
    Column("checkpoint", String(64), nullable=False),
    Column("directory", String(500), nullable=False),  # relative to the data directory
    Column("created_at", UtcDateTime, nullable=False),
)

deployments = Table(
    "deployments",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("deployment_id", String(64), nullable=False, unique=True),  # unlike the name never used twice
    Column("deployed_model", String(200), nullable=False, unique=True),
    Column("workspace_id", String(64), nullable=False, index=True),
    Column("creator", String(64), nullable=False),
    Column("name", String(200), nullable=False),
    Column("model_name", String(200), nullable=False),
    Column("base_model", String(200), nullable=False),
    Column("directory", String(500), nullable=False),  # of the model: absolute, or relative to the data directory
    Column("template_id", String(64), nullable=False),
    Column("model_unit_spec", String(16), nullable=False),
    Column("base_capacity", Integer, nullable=False),  # model units per replica
    # what is wanted; written for users
    Column("wanted", String(16), nullable=False, server_default="running"),  # running, stopped or deleted
    Column("capacity", Integer, nullable=False),  # model units wanted
    Column("generation", Integer, nullable=False, server_default="1"),  # grows with every wish
    # what is seen; written by the reconciler alone
    Column("seen_generation", Integer, nullable=False, server_default="1"),  # the newest wish that it has taken up
    Column("ready_capacity", Integer, nullable=False),  # model units that answer
    Column("status", String(16), nullable=False),
    Column("message", AnyText),  # why it is not RUNNING
    Column("rpm_limit", Integer),
    Column("tpm_limit", Integer),
    Column("billed_units", Integer, nullable=False),
    Column("alive_at", UtcDateTime),  # last time a server saw it while it was billed
    Column("created_at", UtcDateTime, nullable=False),
    Column("modified_at", UtcDateTime, nullable=False),
)

deployment_events = Table(
    "deployment_events",
    metadata,
    Column("event_id", BigNumber, primary_key=True, autoincrement=True),
    Column("deployment_id", String(64), nullable=False, index=True),
    Column("at", UtcDateTime, nullable=False),
    Column("message", AnyText, nullable=False),
    Column("status", String(16)),  # the state that began with it
    Column("capacity", Integer),  # model units wanted from then on
)

# Money is derived from the two tables below, which only ever grow: triggers refuse to change or delete their rows (a
# migration that rebuilds one of them must make its triggers again, see 0004).

usage_entries = Table(
    "usage_entries",
    metadata,
    Column("entry_id", BigNumber, primary_key=True, autoincrement=True),
    Column("workspace_id", String(64), nullable=False),
    Column("kind", String(16), nullable=False),  # tokens, characters
    Column("subject", String(200), nullable=False),  # job id or request id
    Column("model", String(200), nullable=False),
    Column("quantity", BigNumber, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("ix_usage_entries_workspace_id_at", "workspace_id", "at"),
    Index("uq_usage_entries_subject", "workspace_id", "kind", "subject", unique=True),  # nothing is billed twice
)

unit_marks = Table(
    "unit_marks",
    metadata,
    Column("mark_id", BigNumber, primary_key=True, autoincrement=True),
    Column("workspace_id", String(64), nullable=False, index=True),
    Column("deployment_id", String(64), nullable=False, index=True),
    Column("deployed_model", String(200), nullable=False),
    Column("model_unit_spec", String(16), nullable=False),
    Column("units", Integer, nullable=False),  # model units billed from `at` until the next mark
    Column("reason", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
