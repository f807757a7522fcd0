"""workspaces and keys that expire"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from cosyforge.store.tables import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workspaces",
        sa.Column("workspace_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", name=op.f("pk_workspaces")),
    )
    op.create_table(
        "temporary_tokens",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.Integer(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_temporary_tokens")),
    )
    with op.batch_alter_table("temporary_tokens", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_temporary_tokens_key_id"), ["key_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_temporary_tokens_expires_at"), ["expires_at"], unique=False)
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("is_admin", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("expires_at", UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("last_used_at", UtcDateTime(), nullable=True))
    with op.batch_alter_table("files", schema=None) as batch_op:
        # files of more than 2 GiB
        batch_op.alter_column("size", existing_type=sa.Integer(), type_=sa.BigInteger(), existing_nullable=False)
    # what older keys belong to becomes a workspace; the first key that was made may manage the others
    op.execute(
        "INSERT INTO workspaces (workspace_id, name, created_at) "
        "SELECT workspace_id, workspace_id, min(created_at) FROM api_keys GROUP BY workspace_id"
    )
    op.execute("UPDATE api_keys SET is_admin = TRUE WHERE key_id = (SELECT min(key_id) FROM api_keys)")


def downgrade() -> None:
    with op.batch_alter_table("files", schema=None) as batch_op:
        batch_op.alter_column("size", existing_type=sa.BigInteger(), type_=sa.Integer(), existing_nullable=False)
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_column("last_used_at")
        batch_op.drop_column("expires_at")
        batch_op.drop_column("is_admin")
    op.drop_table("temporary_tokens")
    op.drop_table("workspaces")
