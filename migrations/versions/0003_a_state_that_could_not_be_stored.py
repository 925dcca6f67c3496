"""A state that could not be stored locks its environment.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """``environment.unkept_run_id`` is the run whose newest state is missing, ``run.unkept`` what is known of it."""
    with op.batch_alter_table("environment", schema=None) as batch_op:
        batch_op.add_column(sa.Column("unkept_run_id", sa.Integer(), nullable=True))
    with op.batch_alter_table("run", schema=None) as batch_op:
        batch_op.add_column(sa.Column("unkept", sa.JSON(), nullable=True))
