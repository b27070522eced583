"""Alembic's scripts: each brings state.db from one schema to the next."""
