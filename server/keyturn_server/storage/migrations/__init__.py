"""Alembic's environment and the revisions. `keyturn_server.storage.migrate` runs them; there is no alembic.ini."""
