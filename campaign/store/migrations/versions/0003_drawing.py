"""Masks drawn by hand, and pages of other screens than the verification page."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("page", sa.Column("screen", sa.String(length=20), nullable=False, server_default="verification"))
    op.add_column("page", sa.Column("place", sa.JSON(), nullable=True))
    op.create_table(
        "drawing",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("page_key", sa.String(length=64), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("mask_id", sa.BigInteger(), nullable=True),
        sa.Column("image_id", sa.BigInteger(), nullable=False),
        sa.Column("annotator", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("masks", sa.JSON(), nullable=False),
        sa.Column("answered_at", sa.String(length=40), nullable=False),
        sa.Column("lead_time", sa.Double(), nullable=True),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("annotation_id", "answered_at", "state"),
    )
    op.create_index(op.f("ix_drawing_mask_id"), "drawing", ["mask_id"], unique=False)
    op.create_index(op.f("ix_drawing_page_key"), "drawing", ["page_key"], unique=False)


def downgrade() -> None:
    op.drop_table("drawing")
    op.drop_column("page", "place")
    op.drop_column("page", "screen")
