"""The stamp, the versions of the rings and the wrapped private keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "stamp",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("store_id", sa.String, nullable=False),
        sa.Column("kek_id", sa.String, nullable=False),
        sa.Column("canary", sa.LargeBinary, nullable=False),
        sa.Column("integrity_key", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_stamp_single_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stamp")),
    )
    op.create_table(
        "ring_versions",
        sa.Column("issuer", sa.String, nullable=False),
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "version", name=op.f("pk_ring_versions")),
    )
    op.create_table(
        "private_keys",
        sa.Column("issuer", sa.String, nullable=False),
        sa.Column("kid", sa.String, nullable=False),
        sa.Column("kek_id", sa.String, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("removed", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "kid", name=op.f("pk_private_keys")),
    )
