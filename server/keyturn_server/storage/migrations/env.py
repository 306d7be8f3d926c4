"""Alembic runs this file for each command, with the caller's connection and inside the caller's transaction."""

from alembic import context

from keyturn_server.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()
