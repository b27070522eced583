"""A damaged store as a person meets it: what commands, runner and console say of it, and `tara doctor --rebuild`."""

import json
import os
import threading
from pathlib import Path

import pytest
from textual.message import Message

from core.phases import service
from core.runner.client import ensure_runner, stop_runner
from core.runner.presence import runner_pid, stopped_mark, unclean_mark
from core.store.engine import open_store
from core.store.tables import ChatTurn
from core.store.version import SCHEMA
from core.workspace import Workspace
from tara_tui.feed import watch_store
from tara_tui.messages import SnapshotArrived, StoreFailed
from tara_tui.store_backend import StoreBackend
from tests.core.cli.command import assert_one_line, tara
from tests.core.rebuild import looking
from tests.core.runner.watch import add_job, frozen, kill_runner, over, source_folder, until
from tests.imitate import contents, tree

NAMES_IT = "tara doctor --rebuild"


@pytest.fixture
def busy(workspace: Workspace) -> Workspace:
    """Phase 1, a job that a real runner did, and enough turns for a file of many pages; the runner was stopped."""
    service.create_phase(workspace, 1, ["healthcare"])
    number = add_job(workspace, source_folder(workspace), workspace.root / "cleaned" / "1")
    with open_store(workspace).write() as session:
        session.add_all(ChatTurn(session="s", message=f"question {n}", answer="x" * 900) for n in range(100))
    ensure_runner(workspace)
    assert over(workspace, number).state == "succeeded"
    stop_runner(workspace)
    looking.settle(workspace)
    return workspace


def test_doctor_says_whether_the_store_is_whole(busy: Workspace) -> None:
    def check() -> tuple[int, dict[str, str]]:
        answer = tara("doctor", "--json", cwd=busy.root)
        return answer.status, next(one for one in json.loads(answer.out)["checks"] if one["name"] == "state.db")

    _, whole = check()
    assert (whole["state"], whole["found"]) == ("ok", f"whole, schema {SCHEMA}")
    looking.overwrite_the_middle(busy.state_db)
    status, middle = check()
    assert status == 1
    assert middle["state"] == "damaged"
    assert middle["found"].startswith("damaged: ")
    assert middle["fix"].startswith(NAMES_IT)
    looking.spoil_the_header(busy.state_db)
    status, header = check()
    assert (status, header["found"]) == (1, "damaged: file is not a database")


def test_whoever_meets_the_damage_names_the_way_out(busy: Workspace) -> None:
    looking.spoil_the_header(busy.state_db)
    for words in (("list-phases",), ("jobs", "list", "--json"), ("build-phase", "1"), ("runner", "start")):
        answer = tara(*words, cwd=busy.root)
        assert_one_line(answer, 3)
        assert NAMES_IT in answer.err


def test_after_an_unclean_stop_the_runner_reads_the_store_through_and_does_not_go_on(busy: Workspace) -> None:
    assert not unclean_mark(busy).exists()  # it was stopped, and left of its own accord
    ensure_runner(busy)
    until(lambda: unclean_mark(busy).exists(), "the runner has the store open")
    kill_runner(busy)
    looking.overwrite_the_middle(busy.state_db)
    before = tree(busy.runs)
    answer = tara("runner", "start", cwd=busy.root)
    assert answer.status == 5, answer
    assert "damaged" in answer.err
    assert NAMES_IT in answer.err
    assert runner_pid(busy) is None
    assert NAMES_IT in (busy.runs / "runner.log").read_text().splitlines()[-1]
    after = tree(busy.runs)
    assert {name for name in after if after[name] != before.get(name)} <= {"runner.log"}
    assert tara("doctor", "--rebuild", "--yes", cwd=busy.root).status == 0
    assert tara("runner", "start", cwd=busy.root).status == 0


def test_the_command_makes_it_anew_and_says_what_it_did(busy: Workspace) -> None:
    looking.overwrite_the_middle(busy.state_db)
    told = tara("doctor", "--rebuild", "--dry-run", "--json", cwd=busy.root).json()
    assert (told["done"], told["aside"]) == (False, None)
    answer = tara("doctor", "--rebuild", cwd=busy.root, stdin="n\n")
    assert answer.status == 0, answer
    assert answer.out.endswith("nothing was changed\n"), answer
    assert not list(busy.root.glob("state.db.damaged-*"))
    answer = tara("doctor", "--rebuild", cwd=busy.root, stdin="y\n")
    assert answer.status == 0, answer
    (aside,) = busy.root.glob("state.db.damaged-*")
    assert answer.out.splitlines()[-1].endswith(f"state.db is made anew; the old one is {aside.name}")
    lines = {line["table"]: line for line in told["tables"]}
    assert lines["job"]["rebuilt"] == 1
    assert any(line.startswith("chat_turn") and str(lines["chat_turn"]["salvaged"]) in line.split() for line in
               answer.out.splitlines())  # fmt: skip
    (job,) = tara("jobs", "list", "--json", cwd=busy.root).json()
    assert (job["state"], job["title"], job["exit_code"]) == ("succeeded", "clean source", 0)
    assert not list(busy.root.glob(".tmp-*"))


def test_a_running_job_is_not_disturbed(busy: Workspace) -> None:
    number = add_job(busy, source_folder(busy, "second"), busy.root / "cleaned" / "2")
    _, _, process = frozen(busy, number)
    for runner_lives in (True, False):
        if not runner_lives:
            kill_runner(busy)
        rows, files = contents(busy), tree(busy.root, without=("runs",))
        answer = tara("doctor", "--rebuild", "--yes", cwd=busy.root)
        assert_one_line(answer, 4)
        assert ("process" if runner_lives else f"job {number} (runs/{number})") in answer.err
        assert (runner_pid(busy) is not None) is runner_lives
        assert (contents(busy), tree(busy.root, without=("runs",))) == (rows, files)
    assert Path(f"/proc/{process}").exists()


def test_an_idle_runner_is_stopped_when_that_is_allowed(busy: Workspace) -> None:
    ensure_runner(busy)
    pid = runner_pid(busy)
    answer = tara("doctor", "--rebuild", cwd=busy.root)
    assert_one_line(answer, 4)
    assert f"process {pid}" in answer.err
    assert runner_pid(busy) == pid
    assert tara("doctor", "--rebuild", "--yes", cwd=busy.root).status == 0
    assert runner_pid(busy) is None
    assert not stopped_mark(busy).exists()  # whoever needs it next may start it


class Told:
    """What the console's thread posts."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def post_message(self, message: Message) -> bool:
        self.messages.append(message)
        return True

    def last(self, kind: type[Message]) -> Message | None:
        return next((one for one in reversed(self.messages) if isinstance(one, kind)), None)


def test_the_console_says_so_and_goes_on_with_the_new_store(busy: Workspace) -> None:
    told, stop, look = Told(), threading.Event(), threading.Event()
    whole = busy.state_db.read_bytes()
    looking.spoil_the_header(busy.state_db)
    thread = threading.Thread(target=watch_store, args=(StoreBackend(busy), told, stop, look))
    thread.start()
    try:
        failed = until(lambda: told.last(StoreFailed), "the damage is told")
        assert isinstance(failed, StoreFailed)
        assert NAMES_IT in failed.line
        assert "damaged" in failed.line
        assert tara("doctor", "--rebuild", "--yes", cwd=busy.root).status == 0
        arrived = until(lambda: told.last(SnapshotArrived), "the new store is shown")
        assert isinstance(arrived, SnapshotArrived)
        assert [job.state for job in arrived.snapshot.jobs] == ["succeeded"]
        # The file is replaced under its open connection, as a rebuild of a store that still opens does it.
        count = len(told.messages)
        replacement = busy.root / "other.db"
        replacement.write_bytes(whole)
        with open_store(busy).write() as session:
            session.add(ChatTurn(session="only in the old one"))
        looking.settle(busy)
        service_phase(replacement)
        os.replace(replacement, busy.state_db)
        until(
            lambda: any(
                isinstance(one, SnapshotArrived) and [phase.number for phase in one.snapshot.phases] == [1, 5]
                for one in told.messages[count:]
            ),
            "what is in the new file is shown",
        )
    finally:
        stop.set()
        look.set()
        thread.join()


def service_phase(path: Path) -> None:
    """Put phase 5 into a store's file."""
    import pysqlite3.dbapi2 as sqlite

    connection = sqlite.connect(str(path))
    connection.execute(
        "INSERT INTO phase (number, quantization, compression_type, speed_priority, created_at) "
        "VALUES (5, 'Q4_K_M', 'standard', 0, 1.0)"
    )
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
