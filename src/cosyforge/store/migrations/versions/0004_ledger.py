"""the ledger only grows, counts nothing twice, and holds large numbers"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("usage_entries", "unit_marks")
_BIG_KEYS = (
    ("usage_entries", "entry_id"),
    ("unit_marks", "mark_id"),
    ("job_events", "event_id"),
    ("deployment_events", "event_id"),
)
_BIG_COLUMNS = (
    ("usage_entries", "quantity"),
    ("fine_tune_jobs", "usage"),
    ("fine_tune_jobs", "events_offset"),
    ("job_logs", "line_no"),
)


def upgrade() -> None:
    op.create_index("uq_usage_entries_subject", "usage_entries", ["workspace_id", "kind", "subject"], unique=True)
    op.create_index("ix_unit_marks_deployment_id", "unit_marks", ["deployment_id"], unique=False)
    op.create_index(
        "ix_fine_tune_jobs_workspace_id_status", "fine_tune_jobs", ["workspace_id", "status", "number"], unique=False
    )
    if op.get_bind().dialect.name == "sqlite":  # whose integers are wide already
        for table in _APPEND_ONLY:
            _refuse_on_sqlite(table)
    else:
        _widen(sa.BigInteger(), "bigint")
        _refuse_on_postgres()


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in _APPEND_ONLY:
            for change in ("update", "delete"):
                op.execute(f"DROP TRIGGER {table}_no_{change}")
    else:
        for table in _APPEND_ONLY:
            op.execute(f"DROP TRIGGER {table}_append_only ON {table}")
        op.execute("DROP FUNCTION refuse_change()")
        _widen(sa.Integer(), "integer")
    op.drop_index("ix_fine_tune_jobs_workspace_id_status", "fine_tune_jobs")
    op.drop_index("ix_unit_marks_deployment_id", "unit_marks")
    op.drop_index("uq_usage_entries_subject", "usage_entries")


def _refuse_on_sqlite(table: str) -> None:
    for change in ("update", "delete"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{change} BEFORE {change.upper()} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} only grows: bills are made of it'); END"
        )


def _refuse_on_postgres() -> None:
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% only grows: bills are made of it', TG_TABLE_NAME; END $$"
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )


def _widen(width: sa.types.TypeEngine[int], name: str) -> None:
    for table, column in (*_BIG_KEYS, *_BIG_COLUMNS):
        op.alter_column(table, column, type_=width)
    for table, column in _BIG_KEYS:
        op.execute(f"ALTER SEQUENCE {table}_{column}_seq AS {name}")
