"""Alembic's entry: runs the migrations on the connection it is given."""

from alembic import context

from campaign.store.models import Base

if (connection := context.config.attributes.get("connection")) is None:
    raise RuntimeError("migrations run through campaign.store.database.open_database")
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
