"""Indexes: pages by kind and by name, images by task."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_index("page_kind", "page", ["kind", "number"])
    op.create_index("page_name", "page", ["name"])
    op.create_index("image_task", "image", ["source_task"])


def downgrade() -> None:
    op.drop_index("image_task", table_name="image")
    op.drop_index("page_name", table_name="page")
    op.drop_index("page_kind", table_name="page")
