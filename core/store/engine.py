"""Opening state.db for writing: pragmas, migrations with a copy kept, and transactions that never half-happen."""

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as sqlite
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool
from sqlmodel import Session

from core.errors import EnvironmentLacks, InvalidInput, TaraError
from core.files import FULL
from core.store.place import check_place
from core.store.version import MEND, SCHEMA, read_only_uri, schema_of
from core.workspace import Workspace

BUSY_TIMEOUT_MS = 10_000
_MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """The open store. Every `write()` block is one immediate transaction: all of it, or none."""

    def __init__(self, workspace: Workspace, engine: Engine) -> None:
        self.workspace = workspace
        self._engine = engine

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session in a BEGIN IMMEDIATE transaction, committed when the block ends without an error."""
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DBAPIError as error:
            raise explain(error, self.workspace.state_db) from error
        except OverflowError as error:
            raise InvalidInput(f"a number is too large for the store ({error})") from error

    def data_version(self) -> int:
        """A number that changes with every commit of another connection. Of use where the store keeps its own."""
        try:
            connection = self._engine.raw_connection()
            try:
                row = connection.cursor().execute("PRAGMA data_version").fetchone()
            finally:
                connection.close()  # back to the pool
        except sqlite.Error as error:
            raise explain(error, self.workspace.state_db) from error
        return int(row[0])

    def empty_journal(self) -> None:
        """Write the journal back into the file and empty it, so that nothing that was deleted is left in it. Where a
        reader is in the way it waits for it a moment, then leaves that to the next one who can."""
        try:
            connection = self._engine.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.close()
        except sqlite.Error as error:
            raise explain(error, self.workspace.state_db) from error

    def close(self) -> None:
        """Give back the connections."""
        self._engine.dispose()


def explain(error: Exception, path: Path) -> TaraError:
    """A database failure in the person's words."""
    cause = getattr(error, "orig", None) or error
    text = str(cause).lower()
    if isinstance(cause, OSError) and cause.errno in FULL:
        return EnvironmentLacks(f"no room to write {path} ({cause.strerror})", "free disk space; nothing was changed")
    if isinstance(cause, OSError) or "readonly" in text or "read-only" in text or "unable to open" in text:
        return EnvironmentLacks(f"{path} cannot be written ({cause})", "make the workspace's folder writable")
    if "full" in text:
        return EnvironmentLacks(f"no room to write {path} ({cause})", "free disk space; nothing was changed")
    if "disk i/o" in text:
        return EnvironmentLacks(f"{path} could not be read or written ({cause})", "check the disk and its limits")
    if "locked" in text or "busy" in text:
        return EnvironmentLacks(f"{path} is kept busy by another process ({cause})", "try again")
    if "malformed" in text or "not a database" in text:
        return InvalidInput(f"{path} is damaged ({cause})", MEND)
    return TaraError(f"the store failed: {cause}")


def open_store(workspace: Workspace, *, keep: bool = False) -> Store:
    """Open (or make) the workspace's store, bringing an older file up to date after copying it.

    `keep` holds one connection between transactions, for a process that writes all the time: opening one costs more
    than a transaction. It belongs to the thread that used it, and is closed by `close`.

    Raises InvalidInput for a file newer than this program, which is not touched; EnvironmentLacks where it cannot be
    written, or lies on a network file system.
    """
    path = workspace.state_db
    check_place(path)
    try:
        found = schema_of(path)
        if found != SCHEMA:
            _migrate(workspace, path)
    except (sqlite.Error, DBAPIError, OSError) as error:
        raise explain(error, path) from error
    return Store(workspace, _engine(path, keep))


def make_store(workspace: Workspace, path: Path) -> Store:
    """A store of a workspace in a new file at `path`, which is not (yet) the workspace's own. It keeps a connection,
    and nothing is flushed to the disk: that is for whoever gives the file its final name."""
    try:
        _migrate(workspace, path)
    except (sqlite.Error, DBAPIError, OSError) as error:
        raise explain(error, path) from error
    return Store(workspace, _engine(path, keep=True, synchronous="OFF"))


@contextmanager
def no_store_is_made(workspace: Workspace) -> Iterator[None]:
    """While inside, no process makes or migrates the workspace's store; those that would, wait."""
    workspace.runs.mkdir(parents=True, exist_ok=True)
    with open(workspace.runs / ".store.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _engine(path: Path, keep: bool, synchronous: str = "FULL") -> Engine:
    # Without `keep` every transaction has its own connection, which never crosses threads or outlives its store.
    pool: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 1} if keep else {"poolclass": NullPool}
    engine = create_engine(URL.create("sqlite", database=str(path)), module=sqlite, **pool)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own transaction handling hides BEGIN from DDL
        for pragma in (
            f"busy_timeout = {BUSY_TIMEOUT_MS}",
            "journal_mode = WAL",
            f"synchronous = {synchronous}",  # at NORMAL a commit may be rolled back by a power loss
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # Immediate, because a deferred transaction that turns into a write fails at once where another one writes.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _migrate(workspace: Workspace, path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    with no_store_is_made(workspace):
        found = schema_of(path)  # another process may have done it while this one waited
        if found == SCHEMA:
            return
        if found is not None:
            _copy(path, path.with_name(f"{path.name}.schema-{found}.{time.strftime('%Y%m%dT%H%M%S')}"))
        engine = create_engine(URL.create("sqlite", database=str(path)), module=sqlite, poolclass=NullPool)

        @event.listens_for(engine, "connect")
        def _manual(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
            connection.execute("PRAGMA journal_mode = WAL")

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise TaraError(f"the migration of {path} would break {len(broken)} references; it was undone")
        engine.dispose()


def _copy(source: Path, target: Path) -> None:
    """A copy by SQLite's own backup, which is whole even while another process writes."""
    reader = sqlite.connect(read_only_uri(source), uri=True)
    writer = sqlite.connect(str(target))
    try:
        reader.backup(writer)
    finally:
        writer.close()
        reader.close()


def dump(value: Any) -> str:
    """A value as the JSON text a column keeps."""
    return json.dumps(value, ensure_ascii=False, default=str)
