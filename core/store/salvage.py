"""Reading what can be read of a damaged store: a copy of the file, table by table, row by row around what is broken.

The file itself is never opened, for even looking can change what lies beside it.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as sqlite
from pydantic import ValidationError
from sqlmodel import SQLModel

from core.errors import InvalidInput
from core.store.tables import TABLES, Job, JobAttempt
from core.store.version import KNOWN_SCHEMAS, SCHEMA
from core.store.views import ACTIVE_JOB_STATES, FINAL_JOB_STATES

SIDES = ("", "-wal", "-shm")
_JSON = {"params", "inputs", "metrics", "result", "meta", "decision", "detail"}
_GAP = 200_000  # row numbers looked up one by one between what reads before and what reads behind a damaged page
_BLIND = 10_000  # as many where nothing says up to which number there were rows
_HEADER = 100  # bytes of SQLite's file header


@dataclass
class Salvage:
    """What was read. `rows` by table name; `whole` names the tables of which every row was; `expected` says how many
    rows a table had, where an index still tells."""

    source: Path | None = None
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    highest: dict[str, int] = field(default_factory=dict)  # the last number given to a row of a table

    def of(self, table: type[SQLModel]) -> list[dict[str, Any]]:
        """The rows read of a table, each by column name."""
        return self.rows.get(name_of(table), [])


def name_of(table: type[SQLModel]) -> str:
    """A table's name in the file."""
    return str(table.__tablename__)


def salvage(state_db: Path, template: Path, folder: Path) -> Salvage:
    """Read what can be read of the store at `state_db`; where that cannot be opened at all, of the newest copy beside
    it that can. `template` is a fresh store, whose first page stands in for a broken one; copies are made in `folder`.

    Raises InvalidInput for a file of a newer program or of another one.
    """
    beside = [path for path in state_db.parent.glob(f"{state_db.name}.*") if not path.name.endswith(SIDES[1:])]
    for path in (state_db, *sorted(beside, key=lambda one: one.stat().st_mtime, reverse=True)):
        if not path.is_file() or path.stat().st_size == 0:
            continue
        copy = folder / f"salvage-{path.name}"
        for mend in (_as_it_is, _new_header, _new_first_page):
            copy_store(path, copy)
            mend(copy, template)
            found = _read(copy, path)
            if found is not None and (mend is _as_it_is or any(found.rows.values())):
                return found
    return Salvage()


def copy_store(path: Path, copy: Path) -> None:
    """Copy a store that nobody writes to, with its journal."""
    for side in SIDES:
        source, target = path.with_name(f"{path.name}{side}"), copy.with_name(f"{copy.name}{side}")
        target.unlink(missing_ok=True)
        if source.is_file() and side != SIDES[2]:  # the index of the journal is made anew
            shutil.copyfile(source, target)


def _read(copy: Path, path: Path) -> Salvage | None:
    """What a copy holds; None where not even its list of tables can be read."""
    connection = sqlite.connect(str(copy), isolation_level=None)
    connection.text_factory = bytes  # a text that is not UTF-8 spoils its row, not the reading of all
    try:
        # A file shorter than its header says is read as far as it goes.
        connection.execute("PRAGMA writable_schema = ON")
        names = {bytes(row[0]).decode() for row in connection.execute("SELECT name FROM sqlite_master")}
        if not names:
            return None
        if not {"alembic_version", "job"} <= names:
            raise InvalidInput(f"{path} is not a store of TARA", "move it away")
        _check_version(connection, path)
    except (sqlite.DatabaseError, UnicodeDecodeError):
        connection.close()
        return None
    found = Salvage(source=path)
    for table in TABLES:
        name = name_of(table)
        found.rows[name] = []
        if name in names:
            _read_table(connection, table, found)
    connection.close()
    return found


def _check_version(connection: sqlite.Connection, path: Path) -> None:
    try:
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite.DatabaseError:
        return  # its page is gone; the columns tell enough
    version = rows[0][0].decode(errors="replace") if rows and isinstance(rows[0][0], bytes) else SCHEMA
    if version not in KNOWN_SCHEMAS and version.isalnum() and version > SCHEMA:
        raise InvalidInput(f"{path} has schema {version}, this program knows up to {SCHEMA}", "update TARA")


def _read_table(connection: sqlite.Connection, table: type[SQLModel], found: Salvage) -> None:
    name = name_of(table)
    for query, into in (
        (f"SELECT count(*) FROM {name}", found.expected),
        (f"SELECT seq FROM sqlite_sequence WHERE name = '{name}'", found.highest),
    ):
        number = _number(connection, query)
        if number is not None:
            into[name] = number
    try:
        there = {bytes(row[1]).decode() for row in connection.execute(f"PRAGMA table_info({name})")}
    except sqlite.DatabaseError:
        return
    columns = [column for column in table.model_fields if column in there]
    if not columns:
        return
    raw, whole = _rows(connection, name, columns, found.highest.get(name))
    rows = [_checked(table, dict(zip(columns, values, strict=True))) for values in raw.values()]
    found.rows[name] = [row for row in rows if row is not None]
    if whole and None not in rows:
        found.whole.add(name)


def _number(connection: sqlite.Connection, query: str) -> int | None:
    try:
        rows = connection.execute(query).fetchall()
    except sqlite.DatabaseError:
        return None
    return rows[0][0] if rows and isinstance(rows[0][0], int) and 0 <= rows[0][0] < 1 << 53 else None


def _rows(
    connection: sqlite.Connection, name: str, columns: Sequence[str], highest: int | None
) -> tuple[dict[int, tuple[Any, ...]], bool]:
    """The rows of a table that can be read, by row number, and whether those were all: from the front until it breaks,
    from the back until it breaks, and one by one between. `highest` is the last number given, where that is known."""
    head = f"SELECT rowid, {', '.join(columns)} FROM {name}"
    found: dict[int, tuple[Any, ...]] = {}
    front = back = None
    for direction in ("ASC", "DESC"):
        last: int | None = None
        try:
            for number, *values in connection.execute(f"{head} ORDER BY rowid {direction}"):
                found[number] = tuple(values)
                last = number
            return found, True
        except sqlite.DatabaseError:
            if direction == "ASC":
                front = last
            else:
                back = last
    start = (front or 0) + 1
    behind = back if back is not None else start + _BLIND if highest is None else highest + 1
    for number in range(start, min(behind, start + _GAP)):
        try:
            for _, *values in connection.execute(f"{head} WHERE rowid = ?", (number,)):
                found[number] = tuple(values)
        except sqlite.DatabaseError:
            continue  # on the damaged page
    return dict(sorted(found.items())), False


def _checked(table: type[SQLModel], raw: dict[str, Any]) -> dict[str, Any] | None:
    """A row whose every value is of its column's kind, or None."""
    try:
        row = {name: value.decode() if isinstance(value, bytes) else value for name, value in raw.items()}
        checked: dict[str, Any] = table.model_validate(row).model_dump()
        for name in _JSON & row.keys():
            if row[name] is not None and not (table is JobAttempt and name == "detail"):
                json.loads(row[name])
    except (UnicodeDecodeError, ValidationError, ValueError, TypeError):
        return None
    if table is Job and checked["state"] not in (*ACTIVE_JOB_STATES, *FINAL_JOB_STATES):
        return None
    return checked


def _as_it_is(_copy: Path, _template: Path) -> None:
    """Nothing is mended."""


def _new_header(copy: Path, template: Path) -> None:
    """Put the header of a fresh store over the copy's, with the number of pages that there are."""
    _put_front(copy, template.read_bytes()[:_HEADER], template)


def _new_first_page(copy: Path, template: Path) -> None:
    """Put the first page of a fresh store over the copy's: one made by the same migrations has its tables in the same
    places. Where it has not, the rows do not fit their columns and are left out."""
    whole = template.read_bytes()
    _put_front(copy, whole[: _page_size(whole)], template)


def _put_front(copy: Path, front: bytes, template: Path) -> None:
    pages = copy.stat().st_size // _page_size(template.read_bytes())
    counted = bytearray(front)
    counted[28:32] = pages.to_bytes(4, "big")
    counted[32:40] = bytes(8)  # no list of free pages: nothing is written here
    counted[92:96] = counted[24:28]  # the count of pages holds for this state of the file
    with open(copy, "r+b") as stream:
        stream.write(counted)


def _page_size(header: bytes) -> int:
    size = int.from_bytes(header[16:18], "big")
    return 65536 if size == 1 else size
