"""how a phase's domains are merged into its bundle

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("phase", schema=None) as batch_op:
        batch_op.add_column(sa.Column("merge", sa.String(), server_default="none", nullable=False))
        batch_op.add_column(sa.Column("merge_method", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("merge_margin", sa.Float(), nullable=True))
