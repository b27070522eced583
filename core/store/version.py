"""Which schema this program speaks, and which one a file has.

Apart from the migrations and SQLAlchemy, so that a client can check it without loading them.
"""

from pathlib import Path

import pysqlite3.dbapi2 as sqlite

from core.errors import InvalidInput

SCHEMA = "0007"
KNOWN_SCHEMAS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")  # oldest first; the last is SCHEMA
MEND = "tara doctor --rebuild makes it anew from what can be read of it and from the run folders"


def read_only_uri(path: Path) -> str:
    """A file's address for a connection that only reads; quoted, for a folder's name may hold `?`, `#` or `%`."""
    return f"{path.absolute().as_uri()}?mode=ro"


def schema_of(path: Path) -> str | None:
    """The schema a file has, or None where there is no file or nothing in it yet.

    Raises InvalidInput for a schema this program does not know, and for another program's file.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    connection = sqlite.connect(read_only_uri(path), uri=True)
    try:
        return schema_in(connection, path)
    finally:
        connection.close()


def schema_in(connection: sqlite.Connection, path: Path) -> str | None:
    """As `schema_of`, through a connection to the file that is open already."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None  # another process is making it this instant, or was ended while it did
    if "alembic_version" not in tables:
        raise InvalidInput(f"{path} is not a store of TARA", "move it away")
    rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    found = str(rows[0][0]) if rows else "none"
    if found not in KNOWN_SCHEMAS:
        raise InvalidInput(
            f"{path} has schema {found}, this program knows up to {SCHEMA}; it was not touched", "update TARA"
        )
    return found
