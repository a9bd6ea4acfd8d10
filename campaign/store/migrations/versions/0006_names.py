"""Names of pages and masks that say nothing, and what was set aside of the answers."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("page", sa.Column("name", sa.String(length=32), nullable=True))
    op.add_column("question", sa.Column("name", sa.String(length=16), nullable=True))
    op.create_table(
        "set_aside",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("reason", sa.String(length=10), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("page_key", sa.String(length=64), nullable=True),
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("annotator", sa.Text(), nullable=False),
        sa.Column("editor", sa.Text(), nullable=False),
        sa.Column("at", sa.String(length=40), nullable=False),
        sa.Column("what", sa.String(length=200), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("reason", "task_id", "annotation_id", "at"),
    )
    op.create_index(op.f("ix_set_aside_page_key"), "set_aside", ["page_key"], unique=False)
    gone = sa.text("verdict = 'withdrawn'")
    op.create_index("answer_withdrawn", "answer", ["annotation_id"], sqlite_where=gone, postgresql_where=gone)


def downgrade() -> None:
    op.drop_index("answer_withdrawn", table_name="answer")
    op.drop_table("set_aside")
    op.drop_column("question", "name")
    op.drop_column("page", "name")
