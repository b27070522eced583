"""Opening state.db: made and migrated whole, and refused untouched where it is not ours or too new."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from core.errors import EnvironmentLacks, ExitCode, InvalidInput, TaraError
from core.store import engine, version
from core.store.engine import Store, open_store
from core.store.reads import open_reader
from core.store.tables import Fact, Note, metadata
from core.store.version import KNOWN_SCHEMAS, SCHEMA, schema_of
from core.workspace import Workspace
from tests.imitate import contents

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def bare(tmp_path: Path) -> Workspace:
    """A workspace of which only the store matters."""
    root = tmp_path / "bare"
    root.mkdir()
    return Workspace(root)


def put(workspace: Workspace, name: str, value: str) -> None:
    with open_store(workspace).write() as session:
        session.add(Fact(name=name, value=value))


def snapshot(workspace: Workspace) -> dict[str, bytes]:
    """The folder's files; empty ones count as absent, for SQLite leaves an empty journal beside what it looks at."""
    files = [path for path in workspace.root.iterdir() if path.is_file() and not path.name.endswith("-shm")]
    return {path.name: path.read_bytes() for path in files if path.stat().st_size}


def child(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_fresh_store_is_made_and_found_again(bare: Workspace) -> None:
    assert schema_of(bare.state_db) is None
    put(bare, "a", "1")
    assert schema_of(bare.state_db) == SCHEMA
    with open_store(bare).write() as session:
        fact = session.get(Fact, "a")
        assert fact is not None
        assert fact.value == "1"
        assert session.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert session.connection().exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert session.connection().exec_driver_sql("PRAGMA synchronous").scalar() == 2


def test_an_empty_file_counts_as_none(bare: Workspace) -> None:
    bare.state_db.touch()
    with open_reader(bare) as reader:
        assert reader.phases() == []
    put(bare, "a", "1")
    assert schema_of(bare.state_db) == SCHEMA


@pytest.mark.parametrize("name", ["100%41 sure?", "a#b&mode=memory", "größer"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    workspace = Workspace(tmp_path / name)
    workspace.root.mkdir()
    put(workspace, "a", "1")
    with open_reader(workspace) as reader:
        assert reader.fact("a") == "1"
    assert {path.name for path in workspace.root.iterdir()} <= {"state.db", "state.db-wal", "state.db-shm", "runs"}
    assert os.listdir(tmp_path) == [name]


def test_the_schema_is_the_migrations_head() -> None:
    config = Config()
    config.set_main_option("script_location", str(engine._MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [SCHEMA]
    assert [script.revision for script in scripts.walk_revisions()][::-1] == list(KNOWN_SCHEMAS)


def test_tables_and_migrations_agree(bare: Workspace) -> None:
    open_store(bare)
    migrated = create_engine(f"sqlite:///{bare.state_db}", module=sqlite)
    with migrated.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    declared = create_engine(f"sqlite:///{bare.root / 'declared.db'}", module=sqlite)
    metadata.create_all(declared)
    found = []
    for one in (migrated, declared):  # what the comparison does not look at
        with one.connect() as connection:
            rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'table'").all()
            found.append(
                {
                    name: ("AUTOINCREMENT" in sql, sql.count("CASCADE"), sql.count("SET NULL"))
                    for name, sql in rows
                    if name not in ("alembic_version", "sqlite_sequence")
                }
            )
        one.dispose()
    assert found[0] == found[1]


def newer(workspace: Workspace) -> None:
    put(workspace, "a", "1")
    connection = sqlite.connect(str(workspace.state_db))
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()


def damaged(workspace: Workspace) -> None:
    workspace.state_db.write_bytes(b"this is no database, whatever its name says\n" * 200)


def overwritten(workspace: Workspace) -> None:
    put(workspace, "a", "1")
    data = bytearray(workspace.state_db.read_bytes())
    data[100:4096] = b"\xff" * 3996
    workspace.state_db.write_bytes(data)


def foreign(workspace: Workspace) -> None:
    connection = sqlite.connect(str(workspace.state_db))
    connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("make", "words"),
    [(newer, "schema 9999"), (damaged, "damaged"), (overwritten, "damaged"), (foreign, "not a store of TARA")],
)
@pytest.mark.parametrize("opening", [open_store, open_reader])
def test_what_is_not_ours_is_refused_untouched(bare: Workspace, make, words: str, opening) -> None:  # type: ignore[no-untyped-def]
    make(bare)
    before = snapshot(bare)
    with pytest.raises(InvalidInput, match=words) as caught:
        opening(bare)
    assert caught.value.exit_code == ExitCode.BAD_INPUT == 3
    assert str(bare.state_db) in caught.value.message
    assert "\n" not in caught.value.one_line()
    assert snapshot(bare) == before


def test_damage_found_later_is_told_in_one_line(bare: Workspace) -> None:
    with open_store(bare).write() as session:
        session.add_all([Note(subject="x" * 500, action="a") for _ in range(400)])
    data = bare.state_db.read_bytes()
    bare.state_db.write_bytes(data[:-80_000] + b"\xff" * 80_000)
    with open_reader(bare) as reader, pytest.raises(InvalidInput, match=r"cannot be read: .*malformed"):
        reader._all("SELECT subject FROM note")
    with pytest.raises(InvalidInput, match="damaged"), open_store(bare).write() as session:
        session.connection().exec_driver_sql("SELECT subject FROM note").all()


def test_a_folder_that_cannot_be_written_is_named() -> None:
    workspace = Workspace(Path("/sys/kernel"))  # not even root makes files here
    with pytest.raises(EnvironmentLacks, match=r"/sys/kernel/state\.db cannot be written"):
        open_store(workspace)
    with open_reader(workspace) as reader:
        assert reader.phases() == []


def test_a_file_in_the_way_is_named(bare: Workspace) -> None:
    bare.runs.write_text("not a folder")
    with pytest.raises(EnvironmentLacks, match="cannot be written"):
        open_store(bare)


READ_ONLY = """
import ctypes, sys
from pathlib import Path
header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
assert ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()) == 0  # root obeys permissions now
from core.errors import TaraError
from core.store.engine import open_store
from core.store.tables import Fact
from core.workspace import Workspace
try:
    with open_store(Workspace(Path(sys.argv[1]))).write() as session:
        session.add(Fact(name="b", value="2"))
except TaraError as error:
    print(type(error).__name__, int(error.exit_code), error.one_line())
"""


def test_a_read_only_store_is_told_and_kept(bare: Workspace) -> None:
    assert hasattr(ctypes.CDLL(None), "capset")
    put(bare, "a", "1")
    before = contents(bare)
    bare.state_db.chmod(0o444)
    bare.root.chmod(0o555)
    try:
        told = child(READ_ONLY, str(bare.root))
    finally:
        bare.root.chmod(0o755)
        bare.state_db.chmod(0o644)
    assert told.stdout.startswith(f"EnvironmentLacks 5 {bare.state_db} cannot be"), told
    assert contents(bare) == before


FULL = """
import resource, sys
from pathlib import Path
from core.errors import TaraError
from core.store.engine import open_store
from core.store.tables import Note
from core.workspace import Workspace
store = open_store(Workspace(Path(sys.argv[1])))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
for number in range(1000):
    try:
        with store.write() as session:
            session.add_all([Note(subject=f"{number}", action="x" * 2000) for _ in range(5)])
    except TaraError as error:
        print(type(error).__name__, number, error.one_line())
        break
"""


def test_no_room_loses_nothing_that_was_committed(bare: Workspace) -> None:
    put(bare, "a", "1")
    told = child(FULL, str(bare.root)).stdout.split(maxsplit=2)
    assert told[0] == "EnvironmentLacks", told
    committed = int(told[1])
    assert committed > 0
    connection = sqlite.connect(str(bare.state_db))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    rows = connection.execute("SELECT subject, count(*) FROM note GROUP BY subject").fetchall()
    connection.close()
    assert sorted(rows) == sorted((str(number), 5) for number in range(committed))
    put(bare, "b", "2")  # and it goes on as soon as there is room


WRITER = """
import sys
from pathlib import Path
from core.store.engine import open_store
from core.store.tables import Fact, Note
from core.workspace import Workspace
for number in range(50):
    with open_store(Workspace(Path(sys.argv[1]))).write() as session:
        counter = session.get(Fact, "counter") or Fact(name="counter", value="0")
        counter.value = str(int(counter.value) + 1)
        session.add(counter)
        session.add(Note(subject=sys.argv[2], action=str(number)))
"""


def test_processes_that_write_at_once_lose_nothing(bare: Workspace) -> None:
    # All four also open a store that is not there yet.
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(bare.root), str(number)], cwd=ROOT) for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    with open_store(bare).write() as session:
        counter = session.get(Fact, "counter")
        assert counter is not None
        assert counter.value == "200"
    rows = contents(bare)["note"]
    assert len({(row[2], row[3]) for row in rows}) == len(rows) == 200


def put_and_fail(store: Store) -> None:
    with store.write() as session:
        session.add(Fact(name="b", value="2"))
        session.flush()
        _ = 1 / 0


def test_a_failed_block_leaves_nothing(bare: Workspace) -> None:
    put(bare, "a", "1")
    before = contents(bare)
    store = open_store(bare)
    with pytest.raises(ZeroDivisionError):
        put_and_fail(store)
    with pytest.raises(TaraError, match="UNIQUE"):
        put(bare, "a", "2")
    with pytest.raises(InvalidInput, match="too large"), open_store(bare).write() as session:
        session.get(Note, 10**30)
    assert contents(bare) == before


SECOND = f'''
"""second schema"""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "next", "{SCHEMA}", None, None
def upgrade() -> None:
    with op.batch_alter_table("fact") as batch:
        batch.add_column(sa.Column("origin", sa.String(), nullable=True))
    op.execute("UPDATE fact SET origin = 'before'")
'''


@pytest.fixture
def second_schema(bare: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the schema there is, and a program that knows one more; the new migration's file."""
    put(bare, "a", "1")
    migrations = tmp_path / "migrations"
    shutil.copytree(engine._MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(engine, "_MIGRATIONS", migrations)
    monkeypatch.setattr(engine, "SCHEMA", "next")
    monkeypatch.setattr("core.store.reads.SCHEMA", "next")
    monkeypatch.setattr(version, "SCHEMA", "next")
    monkeypatch.setattr(version, "KNOWN_SCHEMAS", (*KNOWN_SCHEMAS, "next"))
    return migrations / "versions" / "next.py"


@pytest.mark.parametrize("old", KNOWN_SCHEMAS[:-1])
def test_every_released_schema_is_brought_up_with_what_is_in_it(bare: Workspace, old: str) -> None:
    bare.runs.mkdir(parents=True)
    before = create_engine(f"sqlite:///{bare.state_db}", module=sqlite)
    config = Config()
    config.set_main_option("script_location", str(engine._MIGRATIONS))
    with before.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, old)
        connection.exec_driver_sql(
            "INSERT INTO job (id, kind, title, state, key, priority, heavy, attempt, params, inputs, created_at, unit,"
            " message, metrics, result, events_offset) VALUES (7, 'train', 'train a', 'succeeded', 'k', 0, 1, 1, '{}',"
            " '{}', 5.0, '', '', '{}', '{}', 0)"
        )
        connection.exec_driver_sql(
            "INSERT INTO job_attempt (job_id, number, run_dir, started_at, outcome)"
            " VALUES (7, 1, 'runs/7', 5.0, 'succeeded')"
        )
        connection.exec_driver_sql(
            "INSERT INTO chat_turn (session, message, answer, decision, at) VALUES"
            " ('s', 'how?', 'so', '{\"domain\": null}', 6.0), ('s', NULL, NULL, '{}', 7.0)"
        )
    before.dispose()
    open_store(bare).close()
    assert schema_of(bare.state_db) == SCHEMA
    with open_reader(bare) as reader:
        assert (reader.job(7).state, reader.job(7).smaller, reader.job(7).failure) == ("succeeded", 0, None)
        # Of a crisis nothing but that it was one was ever kept.
        turns = [(turn["message"], turn["user"], turn["crisis"]) for turn in reader.chat_turns("s")]
        assert turns == [("how?", None, False), (None, None, True)]
    assert len(contents(bare)["job_attempt"]) == 1


@pytest.mark.parametrize("opening", [open_store, open_reader])
def test_an_older_store_is_copied_and_brought_up(bare: Workspace, second_schema: Path, opening) -> None:  # type: ignore[no-untyped-def]
    second_schema.write_text(SECOND)
    old = contents(bare)
    opening(bare).close()
    assert schema_of(bare.state_db) == "next"
    assert contents(bare)["fact"] == [("a", "1", "before")]
    (copy,) = bare.root.glob(f"state.db.schema-{SCHEMA}.*")
    assert schema_of(copy) == SCHEMA
    kept = Workspace(bare.root / "kept")
    kept.root.mkdir()
    copy.rename(kept.state_db)
    assert contents(kept) == old


def test_a_migration_that_fails_changes_nothing(bare: Workspace, second_schema: Path) -> None:
    second_schema.write_text(SECOND + "    op.execute('UPDATE absent SET a = 1')\n")
    before = contents(bare)
    with pytest.raises(TaraError, match="no such table"):
        open_store(bare)
    assert contents(bare) == before
    assert schema_of(bare.state_db) == SCHEMA


def test_a_migration_that_breaks_references_is_undone(bare: Workspace, second_schema: Path) -> None:
    extra = (
        "    op.execute(\"INSERT INTO domain (name, phase, position, base, created_at) VALUES ('d', 9, 0, 'b', 0)\")\n"
    )
    second_schema.write_text(SECOND + extra)
    before = contents(bare)
    with pytest.raises(TaraError, match="would break 1 references"):
        open_store(bare)
    assert contents(bare) == before
