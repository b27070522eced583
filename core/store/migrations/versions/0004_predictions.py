"""what was predicted of a job when it was queued, and how much work it is

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("work", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("predicted_memory_bytes", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("predicted_seconds", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("predicted_by", sa.String(), nullable=True))
