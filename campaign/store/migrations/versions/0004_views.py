"""Pages numbered in the order they were opened, rows of derived views, and indexes for what a turn reads."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("page", sa.Column("number", sa.BigInteger(), nullable=True))
    page = sa.table("page", sa.column("key", sa.String), sa.column("number", sa.BigInteger), sa.column("created_at"))
    connection = op.get_bind()
    keys = list(connection.scalars(sa.select(page.c.key).order_by(page.c.created_at, page.c.key)))
    if keys:
        statement = page.update().where(page.c.key == sa.bindparam("page_key")).values(number=sa.bindparam("place"))
        connection.execute(statement, [{"page_key": key, "place": n} for n, key in enumerate(keys, 1)])
    op.create_index("page_number", "page", ["number"], unique=True)
    op.create_index("page_class", "page", ["round", "class_id", "kind"], unique=False)
    gold = sa.text("gold IS NOT NULL")
    op.create_index("question_gold", "question", ["page_key"], sqlite_where=gold, postgresql_where=gold)
    op.create_index("answer_annotator", "answer", ["annotator"], unique=False)
    op.create_index("override_tree", "override", ["round", "class_id"], unique=False)
    op.create_table(
        "view",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("cursor", sa.JSON(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("file", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )


def downgrade() -> None:
    op.drop_table("view")
    op.drop_index("override_tree", table_name="override")
    op.drop_index("answer_annotator", table_name="answer")
    op.drop_index("question_gold", table_name="question")
    op.drop_index("page_class", table_name="page")
    op.drop_index("page_number", table_name="page")
    op.drop_column("page", "number")
