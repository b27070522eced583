"""what happened to each attempt, when a job is started again, and pauses

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failure", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("not_before", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("smaller", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("stop_reason", sa.String(), nullable=True))
    with op.batch_alter_table("job_attempt", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failure", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("detail", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("reached", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("peak_rss_bytes", sa.Integer(), nullable=True))
