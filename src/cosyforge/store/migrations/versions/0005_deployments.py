"""what is wanted of a deployment apart from what is seen of it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deployments", sa.Column("wanted", sa.String(16), nullable=False, server_default="running"))
    op.add_column("deployments", sa.Column("generation", sa.Integer, nullable=False, server_default="1"))
    op.add_column("deployments", sa.Column("seen_generation", sa.Integer, nullable=False, server_default="1"))
    op.add_column("deployment_events", sa.Column("status", sa.String(16)))
    op.add_column("deployment_events", sa.Column("capacity", sa.Integer))
    # one column told both until now
    op.execute("UPDATE deployments SET wanted = 'deleted', status = 'STOPPED' WHERE status = 'DELETING'")
