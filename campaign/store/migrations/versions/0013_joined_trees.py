"""Trees that images join while their round is verified: which tree of a class counts, and those that are to follow."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("class_tree", sa.Column("generation", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "joined_tree",
        sa.Column("round", sa.Integer(), sa.ForeignKey("round.number"), primary_key=True),
        sa.Column("class_id", sa.Integer(), sa.ForeignKey("class.id"), primary_key=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("masks", sa.Integer(), nullable=False),
        sa.Column("known", sa.Integer(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("joined_tree")
    op.drop_column("class_tree", "generation")
