"""what jobs need of the machine, and indexes for stores of many thousand jobs

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("subject", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("memory_bytes", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("disk_bytes", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("device_bytes", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("beside_device_bytes", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("on_device", sa.Boolean(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("footprint", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("let_in", sa.Boolean(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("device", sa.String(), nullable=True))
        batch_op.create_index("ix_job_newest", ["phase", "kind", "domain", "subject"])
        batch_op.create_index("ix_job_domain_kind", ["domain", "kind"])
        batch_op.create_index("ix_job_footprint", ["footprint"])
    op.execute("UPDATE job SET subject = COALESCE(json_extract(params, '$.name'), json_extract(params, '$.base.name'))")
    with op.batch_alter_table("measurement", schema=None) as batch_op:
        batch_op.create_index("ix_measurement_name_domain_subject", ["name", "domain", "subject"])
