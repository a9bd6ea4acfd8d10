"""What was known after each turn."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    numbers = (
        "precision", "precision_low", "precision_high", "promised", "recall", "recall_low", "recall_high",
        "recall_looked", "recall_promised",
    )  # fmt: skip
    op.create_table(
        "course",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("target", sa.Double(), nullable=False),
        sa.Column("questions", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("masks", sa.Integer(), nullable=False),
        sa.Column("looked", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.Double(), nullable=True) for name in numbers),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("course")
