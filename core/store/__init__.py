"""state.db, the one record of state: tables and writes through SQLModel, fast reads for clients in plain SQL."""
