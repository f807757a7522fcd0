"""jobs that go on after a crash"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cosyforge.store.tables import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("fine_tune_jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("validation_package", sa.String(length=500), nullable=True))
        batch_op.add_column(sa.Column("attempts", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("outcome", sa.JSON(none_as_null=True), nullable=True))
        batch_op.add_column(sa.Column("place", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("saved_place", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("crash_place", sa.String(length=160), nullable=True))
        batch_op.add_column(sa.Column("crash_count", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("retry_at", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("audio_s", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("lm_epochs", sa.Integer(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("fm_epochs", sa.Integer(), server_default="0", nullable=False))
    op.create_table(
        "job_turns",
        sa.Column("workspace_id", sa.String(length=64), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_job_turns")),
    )


def downgrade() -> None:
    op.drop_table("job_turns")
    with op.batch_alter_table("fine_tune_jobs", schema=None) as batch_op:
        for name in (
            "validation_package",
            "attempts",
            "outcome",
            "place",
            "saved_place",
            "crash_place",
            "crash_count",
            "retry_at",
            "audio_s",
            "lm_epochs",
            "fm_epochs",
        ):
            batch_op.drop_column(name)
