"""Runs migrations on the connection that the store hands over; there is no other way to run them."""

from alembic import context

from core.store import tables

connection = context.config.attributes["connection"]
# Batch mode, because SQLite alters a table by copying it.
context.configure(connection=connection, target_metadata=tables.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
