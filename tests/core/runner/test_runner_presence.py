"""Whether a runner lives, who is woken, and that nothing queued is overlooked while one leaves."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from core.errors import Refused
from core.runner import client, supervisor
from core.runner.client import ensure_runner
from core.runner.presence import hold, runner_pid, wake, wake_path
from core.store.engine import open_store
from core.workspace import Workspace
from tests.conftest import ROOT
from tests.core.runner.watch import until

HOLDS = (
    "import sys; from core.runner.presence import hold; from core.workspace import Workspace; from pathlib import Path"
)
HOLDS += "; kept = hold(Workspace(Path(sys.argv[1]))); print(kept is not None, flush=True); sys.stdin.read()"


def test_presence(workspace: Workspace) -> None:
    assert runner_pid(workspace) is None
    assert wake(workspace) is False
    held = hold(workspace)
    assert held is not None
    child = os.fork()
    if child == 0:  # a record lock is seen by others only
        os._exit(0 if runner_pid(workspace) == os.getppid() and hold(workspace) is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(held)
    assert runner_pid(workspace) is None


def test_a_runner_that_leaves_at_this_moment_is_not_woken(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.runs.mkdir(exist_ok=True)
    os.mkfifo(wake_path(workspace))
    reader = os.open(wake_path(workspace), os.O_RDONLY | os.O_NONBLOCK)
    look = os.fstat

    def look_as_it_leaves(descriptor: int) -> os.stat_result:
        os.close(reader)
        return look(descriptor)

    with monkeypatch.context() as during:
        during.setattr(os, "fstat", look_as_it_leaves)
        woken = wake(workspace)
    assert woken is False


def test_what_is_queued_while_an_idle_runner_leaves_is_done(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = hold(workspace)
    assert lock is not None
    runner = supervisor.Supervisor(workspace, open_store(workspace), lock)
    runner.settings = replace(runner.settings, idle_exit_s=1e-9)  # type: ignore[arg-type]
    monkeypatch.setattr(supervisor, "BUSY_POLL_S", 0)
    heard: list[bool] = []

    def turn() -> bool:
        heard.append(wake(workspace))
        runner.stopping = len(heard) == 4
        return heard == [True, False]  # idle; then, where nobody can wake it any more, there is something after all

    monkeypatch.setattr(runner, "turn", turn)
    runner.run()
    assert heard == [True, False, True, False]
    os.close(lock)


def test_a_runner_leaves_a_store_that_was_replaced(workspace: Workspace) -> None:
    open_store(workspace).close()
    before = ensure_runner(workspace)
    until(wake_path(workspace).exists, "it listens")
    workspace.state_db.rename(workspace.root / "old.db")
    open_store(workspace).close()
    wake(workspace)
    until(lambda: runner_pid(workspace) != before, "it has left")
    assert ensure_runner(workspace) != before


def test_a_runner_that_does_not_listen_is_waited_for(workspace: Workspace) -> None:
    """It is leaving: the work asked for now is the next one's."""
    leaving = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(workspace.root)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert leaving.stdout is not None
    assert leaving.stdout.readline() == "True\n"
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(client.ensure_runner, workspace)
        leaving.communicate(timeout=30)
        assert found.result(timeout=60) not in (None, leaving.pid)


def test_a_copied_workspace_has_a_file_where_the_pipe_was(workspace: Workspace) -> None:
    workspace.runs.mkdir()
    wake_path(workspace).write_text("copied")
    pid = client.ensure_runner(workspace)
    assert wake_path(workspace).is_fifo()
    assert client.stop_runner(workspace) == pid


def test_runner_of_another_container_is_not_signalled(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number reads as 0 here, and a signal to 0 would go to this very process and all of its group."""
    monkeypatch.setattr(client, "runner_pid", lambda _workspace: 0)
    with pytest.raises(Refused, match="another container"):
        client.stop_runner(workspace)
