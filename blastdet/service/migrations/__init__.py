"""Versions of the database, one module each, which Alembic finds by their ``revision``.

They import SQLAlchemy and Alembic only: a migration must not change when the tables do.
"""
