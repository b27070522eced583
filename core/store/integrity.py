"""Whether state.db is whole: SQLite's own checks, for the runner after an unclean stop and for `tara doctor`."""

from pathlib import Path

import pysqlite3.dbapi2 as sqlite

from core.errors import EnvironmentLacks
from core.store.version import read_only_uri

MOST_FAULTS = 5


def faults_of(path: Path, *, thorough: bool = False) -> list[str]:
    """What is wrong with a store's file, at most a few lines; empty where it is whole, or not there.

    The quick check reads every page; the thorough one also holds indexes against their tables, and references.
    Raises EnvironmentLacks where the file cannot be read.
    """
    if not path.exists() or path.stat().st_size == 0:
        return []
    connection: sqlite.Connection | None = None
    try:
        connection = sqlite.connect(read_only_uri(path), uri=True)
        connection.execute("PRAGMA busy_timeout = 5000")
        check = "integrity_check" if thorough else "quick_check"
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {check}({MOST_FAULTS})") if row[0] != "ok"]
        if thorough and not found:
            broken = connection.execute("PRAGMA foreign_key_check").fetchmany(MOST_FAULTS)
            found = [f"row {row[1]} of {row[0]} points to nothing in {row[2]}" for row in broken]
    except sqlite.OperationalError as error:
        raise EnvironmentLacks(f"{path} cannot be read: {error}", "check its permissions, then try again") from error
    except sqlite.DatabaseError as error:
        return [str(error)]
    finally:
        if connection is not None:
            connection.close()
    return [" ".join(line.split()) for line in found]
