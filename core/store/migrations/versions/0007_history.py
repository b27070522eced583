"""whose chat turns are, what was felt in them, and which were of a crisis

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("chat_turn", schema=None) as batch_op:
        batch_op.add_column(sa.Column("user", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("emotions", sa.String(), server_default="{}", nullable=False))
        batch_op.add_column(sa.Column("crisis", sa.Boolean(), server_default="0", nullable=False))
        batch_op.create_index(batch_op.f("ix_chat_turn_user"), ["user"], unique=False)
    # Of a crisis nothing but that it was one was kept, and its decision is empty.
    op.execute("UPDATE chat_turn SET crisis = 1 WHERE message IS NULL AND decision = '{}'")
