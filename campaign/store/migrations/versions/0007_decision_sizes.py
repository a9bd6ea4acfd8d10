"""Decisions by kind and size, so that they are counted and paged without being walked through."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_index("decision_kind", "decision", ["round", "class_id", "kind", "size", "asked"])
    op.create_index("decision_size", "decision", ["round", "class_id", "size"])


def downgrade() -> None:
    op.drop_index("decision_size", table_name="decision")
    op.drop_index("decision_kind", table_name="decision")
