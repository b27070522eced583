"""state.db damaged in every way that can be thought of, and made anew from what is left of it and the run folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as sqlite
import pytest

from core.deploy.service import rollback
from core.errors import InvalidInput, Refused, TaraError
from core.phases import service
from core.rebuild.rebuild import Report, nobody_works, rebuild
from core.runner.presence import hold
from core.store.engine import open_store
from core.store.integrity import faults_of
from core.store.reads import open_reader
from core.store.tables import Job
from core.workspace import Workspace
from tests.core.rebuild import looking
from tests.core.rebuild.looking import rows, settle, shown
from tests.imitate import tree

DAMAGES = [
    looking.delete,
    looking.overwrite_the_middle,
    looking.cut_to_half,
    looking.spoil_the_header,
    looking.spoil_the_first_page,
]
# What run folders, artifacts and releases hold, whatever became of the store.
FROM_FOLDERS = ("needs", "figures", "artifacts", "parents", "measurements", "releases", "switches", "phases", "facts")


def made_anew(workspace: Workspace, *, dry_run: bool = False) -> Report:
    with nobody_works(workspace):
        return rebuild(workspace, dry_run=dry_run)


def with_folder(jobs: list[Any], workspace: Workspace) -> list[Any]:
    """The jobs that were started once: of the others only the store knew."""
    return [job for job in jobs if list(workspace.runs.glob(f"{job[0]}")) + list(workspace.runs.glob(f"{job[0]}.*"))]


def undeclared(domains: list[Any]) -> list[Any]:
    """Domains without what a person declared of them."""
    return [(*row[:7], *row[10:]) for row in domains]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_jobs_did_is_there_again_whatever_happened_to_the_file(
    old: Workspace, damage: Callable[[Path], None]
) -> None:
    before, seen = rows(old), shown(old)
    files = {name: it for name, it in tree(old.root).items() if name != "runs/runner.lock"}
    damage(old.state_db)
    report = made_anew(old)
    after = rows(old)
    assert report.done
    assert report.damage
    assert with_folder(after["jobs"], old) == with_folder(before["jobs"], old)
    assert set(before["attempts"]) == set(after["attempts"])
    for name in FROM_FOLDERS:
        kept = [row for row in before[name] if name != "needs" or row[0] in {job[0] for job in after["jobs"]}]
        assert after[name] == [row for row in kept if name != "needs" or row[1] in {job[0] for job in after["jobs"]}], (
            name
        )
    assert undeclared(after["domains"]) == undeclared(before["domains"])
    assert shown(old) == seen
    assert faults_of(old.state_db, thorough=True) == []
    assert {name: it for name, it in tree(old.root).items() if name != "runs/runner.lock"} == files
    # And it works: nothing of the phase is to be built again, and the release before can be switched to.
    assert service.build_phase(old, 1) == []
    left, chosen, _ = rollback(old, 1, to=2)
    assert (left, chosen) == (1, 2)
    rollback(old, 1, to=1)


def test_of_a_sound_store_everything_is_as_it_was(old: Workspace) -> None:
    before, seen = rows(old), shown(old)
    report = made_anew(old)
    assert report.damage == []
    assert rows(old) == before
    assert shown(old) == seen
    assert {line.table: line.lost for line in report.tables if line.lost != 0} == {}
    assert report.left == []


def test_a_bad_header_costs_nothing(old: Workspace) -> None:
    before = rows(old)
    looking.spoil_the_header(old.state_db)
    with pytest.raises(InvalidInput, match=r"damaged.*not a database"):
        open_store(old)
    report = made_anew(old)
    assert rows(old) == before
    (aside,) = old.root.glob("state.db.damaged-*")
    assert report.aside == aside.name
    assert not aside.read_bytes().startswith(b"SQLite")  # kept as it was found


def test_without_a_store_the_report_says_what_only_it_knew(old: Workspace) -> None:
    looking.delete(old.state_db)
    report = made_anew(old)
    lines = {line.table: line for line in report.tables}
    assert report.source is None
    assert report.aside is None
    assert (lines["chat_turn"].rebuilt, lines["chat_turn"].lost, lines["chat_turn"].lost_what) == (
        0, None, "conversations",
    )  # fmt: skip
    assert lines["job"].salvaged == 0
    assert lines["job"].rebuilt == sum(report.jobs.values()) > 10
    assert "queued" not in report.jobs  # nothing is started by itself that nobody is known to have queued
    assert any(line.startswith("phase 1: made anew") for line in report.left)


def test_turns_around_a_bad_page_are_read_and_the_lost_are_counted(old: Workspace) -> None:
    before = rows(old)["turns"]
    settle(old)
    data = bytearray(old.state_db.read_bytes())
    at = data.index(b"question 30") // looking.PAGE * looking.PAGE
    data[at : at + looking.PAGE] = b"\x0d" + bytes(looking.PAGE - 1)
    data[at + 1 : at + 100] = b"\xff" * 99
    old.state_db.write_bytes(bytes(data))
    assert faults_of(old.state_db)
    report = made_anew(old)
    after = rows(old)["turns"]
    line = next(line for line in report.tables if line.table == "chat_turn")
    assert 50 <= len(after) < len(before) == 60
    assert set(after) < set(before)
    assert after[0] == before[0]
    assert after[-1] == before[-1]
    assert line.lost == 60 - len(after)


def test_a_copy_beside_it_stands_in_where_nothing_of_it_can_be_opened(old: Workspace) -> None:
    shutil.copyfile(old.state_db, old.state_db.with_name("state.db.schema-0001.20260101T000000"))
    before = rows(old)
    old.state_db.write_bytes(b"this is no database, whatever its name says\n" * 2000)
    report = made_anew(old)
    assert report.source == "state.db.schema-0001.20260101T000000"
    assert rows(old)["turns"] == before["turns"]
    assert rows(old)["jobs"] == before["jobs"]


def test_folders_of_an_older_program_are_enough(old: Workspace) -> None:
    """Specs without what the store knows, and imports without a key: what follows from the jobs themselves."""
    seen = shown(old)
    kept = {}
    for path in old.runs.glob("*/spec.json"):
        kept[path] = path.read_bytes()
        spec = json.loads(kept[path])
        del spec["store"]
        path.write_text(json.dumps(spec))
    try:
        looking.delete(old.state_db)
        report = made_anew(old)
        after = shown(old)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    for was, now in zip(seen, after, strict=True):
        assert now[:3] == was[:3]
        assert now[4:] == was[4:]
    assert any("what was declared is lost" in line for line in report.left)


def test_a_store_made_since_keeps_its_own_and_gets_the_old_jobs_back(old: Workspace) -> None:
    """state.db was deleted, and work went on: the same numbers mean other jobs now."""
    before = with_folder(rows(old)["jobs"], old)
    looking.delete(old.state_db)
    with open_store(old).write() as session:
        session.add(Job(kind="clean", title="of today", key="today", state="queued"))
    made_anew(old)
    after = rows(old)["jobs"]
    assert ("of today", "queued") in {(job[2], job[3]) for job in after}
    keys = [job[4] for job in after]
    assert set(keys) == {job[4] for job in before} | {"today"}
    assert len(keys) == len(set(keys)) + len(before) - len({job[4] for job in before})
    assert next(job[0] for job in after if job[4] == "today") == 1
    with open_reader(old) as reader:
        assert reader.phase(1).complete == 3


def test_numbers_are_never_given_again(old: Workspace) -> None:
    highest = max(job[0] for job in with_folder(rows(old)["jobs"], old))
    looking.delete(old.state_db)
    record = old.root / "trash" / "phase-7-20260101T000000" / "phase.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"tables": {"Job": [{"id": highest + 40}], "Artifact": [{"id": 900}]}}))
    try:
        made_anew(old)
    finally:
        shutil.rmtree(old.root / "trash")
    with open_store(old).write() as session:
        job = Job(kind="clean", title="next", key="next")
        session.add(job)
        session.flush()
        assert job.id == highest + 41


def test_a_dry_run_says_the_same_and_changes_nothing(old: Workspace) -> None:
    looking.overwrite_the_middle(old.state_db)
    before = {path.name: path.read_bytes() for path in old.root.glob("state.db*")}
    told = made_anew(old, dry_run=True)
    assert {path.name: path.read_bytes() for path in old.root.glob("state.db*")} == before
    assert not list(old.root.glob(".tmp-*"))
    done = made_anew(old)
    assert (told.tables, told.jobs, told.left) == (done.tables, done.jobs, done.left)
    assert (told.done, done.done) == (False, True)


def test_a_newer_or_foreign_file_is_not_touched(old: Workspace) -> None:
    connection = sqlite.connect(str(old.state_db))
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    settle(old)
    before = old.state_db.read_bytes()
    with pytest.raises(InvalidInput, match="schema 9999"):
        made_anew(old)
    assert old.state_db.read_bytes() == before
    assert not list(old.root.glob(".tmp-*"))


def test_while_it_is_done_no_runner_starts(old: Workspace) -> None:
    with nobody_works(old):
        assert _hold_elsewhere(old) == "None"
    lock = hold(old)
    assert lock is not None


def test_a_failure_on_the_way_leaves_the_old_one(old: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    looking.overwrite_the_middle(old.state_db)
    before = old.state_db.read_bytes()
    monkeypatch.setattr("core.rebuild.rebuild.faults_of", lambda *_, **__: ["page 7 is never used"])
    with pytest.raises(TaraError, match="not sound"):
        made_anew(old)
    assert old.state_db.read_bytes() == before
    assert not list(old.root.glob(".tmp-*"))


def test_a_runner_that_lives_is_not_worked_beside(old: Workspace) -> None:
    import subprocess
    import sys

    script = "import sys; from core.runner.presence import hold; from core.workspace import Workspace\n"
    script += "from pathlib import Path; hold(Workspace(Path(sys.argv[1]))); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(old.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Refused, match="runner of this workspace lives"), nobody_works(old):
            pass
        other.communicate("\n")


def _hold_elsewhere(workspace: Workspace) -> str:
    import subprocess
    import sys

    script = "import sys; from core.runner.presence import hold; from core.workspace import Workspace\n"
    script += "from pathlib import Path; print(hold(Workspace(Path(sys.argv[1]))))"
    done = subprocess.run(
        [sys.executable, "-c", script, str(workspace.root)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
