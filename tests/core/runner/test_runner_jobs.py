"""Jobs through the real runner: how they end, what is kept of them, what waits for them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import InvalidInput, Refused
from core.files import check_manifest
from core.runner.client import cancel_jobs, ensure_runner, retry_jobs, runner_status, stop_runner
from core.runner.presence import runner_pid
from core.store.reads import open_reader
from core.workspace import Workspace
from tests.conftest import ROOT
from tests.core.runner.watch import (
    add_job,
    attempts,
    frozen,
    gone,
    in_state,
    over,
    processes,
    session_of,
    source_folder,
    state,
    until,
    view,
)


def test_job_succeeds_and_leaves_its_record(workspace: Workspace) -> None:
    source = source_folder(workspace)
    number = add_job(workspace, source, workspace.root / "clean")
    ensure_runner(workspace)
    job = over(workspace, number)
    assert (job.state, job.exit_code, job.attempt, job.error) == ("succeeded", 0, 1, None)
    assert job.total == job.step
    check_manifest(workspace.root / "clean")
    with open_reader(workspace) as reader:
        assert reader.result(number)["dropped"] == 1
        (artifact,) = reader.artifacts(kind="cleaned")
        assert artifact["path"] == "clean"
        assert [(one.name, one.value) for one in reader.measurements(artifact["id"])] == [("bytes_removed", 5.0)]
    run_dir = workspace.root / str(job.run_dir)
    record = json.loads((run_dir / "exit.json").read_text())
    assert (record["code"], record["signal"], record["stopped"]) == (0, None, False)
    assert record["started"] <= record["ended"]
    assert record["peak_rss_bytes"] > 1e6
    assert "left out train.log" in (run_dir / "log").read_text()


def test_failure_has_the_tasks_own_words_and_blocks_only_what_needs_it(workspace: Workspace) -> None:
    bad = source_folder(workspace, "bad")
    good = source_folder(workspace, "good")
    failing = add_job(workspace, bad, workspace.root / "bad-clean")
    sibling = add_job(workspace, good, workspace.root / "good-clean")
    child = add_job(workspace, good, workspace.root / "child-clean", needs=(failing, sibling))
    grandchild = add_job(workspace, good, workspace.root / "grandchild-clean", needs=(child,))
    bad.rename(workspace.root / "away")
    ensure_runner(workspace)
    job = over(workspace, failing)
    assert (job.state, job.exit_code) == ("failed", 3)
    assert job.error is not None
    assert str(bad) in job.error
    assert over(workspace, sibling).state == "succeeded"
    for waiting in (child, grandchild):
        blocked = view(workspace, waiting)
        assert blocked.state == "blocked"
        assert blocked.error == f"waits for job {failing} (clean bad), which failed"
        assert blocked.hint == f"tara jobs retry {failing}"

    # A job that is cancelled and retried while what it needs has failed does not wait in silence.
    cancel_jobs(workspace, [child])
    assert view(workspace, grandchild).error == f"waits for job {child} (clean good), which was cancelled"
    retry_jobs(workspace, [child])
    assert state(workspace, child) == "blocked"

    (workspace.root / "away").rename(bad)
    retry_jobs(workspace, [failing])
    assert [over(workspace, one).state for one in (failing, child, grandchild)] == ["succeeded"] * 3
    again = view(workspace, failing)
    assert (again.attempt, again.run_dir, again.error) == (2, f"runs/{failing}.2", None)


def test_only_what_can_be_cancelled_or_retried_is(workspace: Workspace) -> None:
    source = source_folder(workspace)
    first = add_job(workspace, source, workspace.root / "one")
    frozen(workspace, first)
    waiting = add_job(workspace, source, workspace.root / "two")
    dependent = add_job(workspace, source, workspace.root / "three", needs=(waiting,))
    cancel_jobs(workspace, [waiting, dependent, waiting])
    assert [state(workspace, one) for one in (waiting, dependent)] == ["cancelled", "cancelled"]
    assert view(workspace, waiting).run_dir is None
    with pytest.raises(Refused, match=f"job {waiting} .* already cancelled"):
        cancel_jobs(workspace, [first, waiting])
    with pytest.raises(InvalidInput, match="no job 99"):
        cancel_jobs(workspace, [first, 99])
    with pytest.raises(Refused, match="nothing to retry"):
        retry_jobs(workspace, [waiting, first])
    assert state(workspace, waiting) == "cancelled"
    assert view(workspace, first).active
    assert state(workspace, first) != "stopping"


def test_job_killed(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean", out="artifacts/adapter/demo")
    _, shim, job = frozen(workspace, number)
    left = workspace.artifacts / "adapter" / ".tmp-99-demo"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    other = left.with_name(".tmp-99-demonstration")
    other.mkdir()
    os.kill(job, signal.SIGKILL)
    until(lambda: gone(shim), "the shim has left")
    until(lambda: not left.exists(), "what the job left half made is gone")
    assert other.exists()
    waiting = in_state(workspace, number, "queued")
    assert (waiting.failure, waiting.exit_code, waiting.exit_signal) == ("killed", None, 9)
    assert waiting.error is not None
    assert waiting.error.startswith("killed by signal 9 from outside (it held ")
    assert waiting.hint == "started again by itself in 5 s"
    ended = over(workspace, number)
    assert (ended.state, ended.attempt, ended.error) == ("succeeded", 2, None)
    assert attempts(workspace, number) == [("retried", "killed", None, 9), ("succeeded", None, 0, None)]


def test_running_training_is_cancelled(tiny_workspace: Workspace) -> None:
    from core.phases.service import train_domain

    presets = tiny_workspace.configs / "presets.yaml"
    text = presets.read_text("utf-8")
    endless = text[text.index("\nultra:") : text.index("\ngpu:")].replace("ultra", "endless", 1)
    endless = endless.replace("epochs: 1\n", "epochs: 1000\n").replace("max_steps: 200", "max_steps: 1000000")
    presets.write_text(text + endless, "utf-8")
    numbers = train_domain(tiny_workspace, "healthcare", preset="endless")
    with open_reader(tiny_workspace) as reader:
        kinds = {job.kind: job.id for job in reader.jobs(ids=numbers)}
    training = kinds["train"]
    until(lambda: (view(tiny_workspace, training).step or 0) > 1, "steps are made", within=60)
    before = view(tiny_workspace, training)
    assert before.state == "running"
    assert before.metrics["loss"] > 0
    assert before.eta_s is not None
    who = processes(tiny_workspace.root / str(before.run_dir))
    assert len(session_of(who["pid"])) >= 2
    # The runner reads their events, and loads nothing of what they compute with.
    runner = runner_pid(tiny_workspace)
    maps = Path(f"/proc/{runner}/maps").read_text()
    assert "pysqlite3" in maps
    assert not [line for line in maps.splitlines() if "torch" in line or "llama" in line]

    cancel_jobs(tiny_workspace, [training])
    job = over(tiny_workspace, training)
    assert (job.state, job.exit_code, job.error) == ("cancelled", 143, "stopped on request")
    assert state(tiny_workspace, kinds["evaluate"]) == "blocked"
    assert session_of(who["pid"]) == []
    assert json.loads((tiny_workspace.root / str(job.run_dir) / "exit.json").read_text())["stopped"] is True
    log = (tiny_workspace.root / str(job.run_dir) / "log").read_text()
    assert log.endswith("stopped on request\n")
    assert "Traceback" not in log
    assert not list(tiny_workspace.artifacts.rglob(".tmp-*"))
    assert not list((tiny_workspace.artifacts / "adapter").glob("*"))


def test_disk_reserve_and_settings_that_change_under_a_living_runner(workspace: Workspace) -> None:
    settings = workspace.configs / "settings.yaml"
    usual = settings.read_text("utf-8")
    settings.write_text(usual.replace("disk_reserve_mb: 500", "disk_reserve_mb: 10000000"), "utf-8")
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    runner = ensure_runner(workspace)
    until(lambda: view(workspace, number).message.startswith("waits for disk space: "), "it says why it waits")
    job = view(workspace, number)
    assert (job.state, job.run_dir) == ("queued", None)
    assert job.message == "waits for disk space: 10000000 MB stay free"
    settings.write_text(usual, "utf-8")
    assert over(workspace, number).state == "succeeded"
    assert runner_pid(workspace) == runner


def test_folder_of_an_earlier_store_is_not_taken_for_this_jobs(workspace: Workspace) -> None:
    """state.db was removed, so numbers begin anew, and the old run folders are still there."""
    source = source_folder(workspace)
    old = workspace.runs / "1"
    old.mkdir(parents=True)
    (old / "spec.json").write_text("{}")
    (old / "exit.json").write_text(json.dumps({"code": 0, "signal": None, "stopped": False, "started": 1, "ended": 2}))
    number = add_job(workspace, source, workspace.root / "clean")
    assert number == 1
    ensure_runner(workspace)
    job = over(workspace, number)
    assert (job.state, job.run_dir) == ("succeeded", "runs/1.2")
    check_manifest(workspace.root / "clean")


def test_a_job_that_cannot_be_started_fails_and_others_go_on(workspace: Workspace) -> None:
    source = source_folder(workspace)
    bad = add_job(workspace, source, workspace.root / "one", inputs='{"base": 7}')
    unknown = add_job(workspace, source, workspace.root / "two", kind="knead")
    good = add_job(workspace, source, workspace.root / "three")
    ensure_runner(workspace)
    assert over(workspace, good).state == "succeeded"
    job = over(workspace, bad)
    assert (job.state, job.error) == ("failed", "it cannot be started: an input is not a path: 7")
    job = over(workspace, unknown)
    assert (job.state, job.exit_code) == ("failed", 1)
    assert job.error is not None
    assert "knead" in job.error


def test_a_workspace_cannot_hide_modules(workspace: Workspace) -> None:
    """A file of the person named like a module is not imported by the processes that work there."""
    for name in ("json.py", "core.py", "yaml.py"):
        (workspace.root / name).write_text("raise SystemExit('imported from the workspace')")
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    ensure_runner(workspace)
    assert over(workspace, number).state == "succeeded"


def test_runner_is_one(workspace: Workspace) -> None:
    pid = ensure_runner(workspace)
    assert ensure_runner(workspace) == pid
    second = subprocess.run(
        [sys.executable, "-m", "core.runner", str(workspace.root)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert runner_status(workspace).pid == pid
    assert stop_runner(workspace) == pid
    assert runner_status(workspace).pid is None
    assert stop_runner(workspace) is None


def test_stopped_runner_leaves_jobs_and_the_next_adopts_them(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    _, shim, job = frozen(workspace, number)
    first = stop_runner(workspace)
    assert not gone(shim)
    assert not gone(job)
    second = ensure_runner(workspace)
    assert second != first
    in_state(workspace, number, "running")
    os.kill(job, signal.SIGCONT)
    done = over(workspace, number)
    assert (done.state, done.attempt) == ("succeeded", 1)


def test_runner_with_faulty_settings_says_so(workspace: Workspace) -> None:
    (workspace.configs / "settings.yaml").write_text("runner: {heavy_slots: many}\n", "utf-8")
    with pytest.raises(InvalidInput, match=r"settings\.yaml.*heavy_slots"):
        ensure_runner(workspace)
    direct = subprocess.run(
        [sys.executable, "-m", "core.runner", str(workspace.root)], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert direct.returncode == 3
    assert "Traceback" not in direct.stdout + direct.stderr


def test_idle_runner_leaves(workspace: Workspace) -> None:
    settings = workspace.configs / "settings.yaml"
    settings.write_text(settings.read_text("utf-8").replace("idle_exit_s: 600", "idle_exit_s: 1"), "utf-8")
    pid = ensure_runner(workspace)
    until(lambda: runner_pid(workspace) is None, "the idle runner has left")
    assert gone(pid)


def test_the_hook_is_told_of_every_end_and_only_of_ends(workspace: Workspace) -> None:
    settings = workspace.configs / "settings.yaml"
    script = workspace.root / "told.py"
    script.write_text(
        "import os\n"
        "said = {name: value for name, value in os.environ.items() if name.startswith('TARA_')}\n"
        "open('told', 'a').write(f\"{said['TARA_JOB_ID']} {said['TARA_JOB_STATE']} {said['TARA_JOB_KIND']}"
        " {said['TARA_JOB_EXIT_CODE']} {said['TARA_ROOT']}\\n\")\n"
    )
    text = settings.read_text("utf-8")
    settings.write_text(text.replace('hook: "" ', f"hook: {sys.executable} told.py "), "utf-8")
    source = source_folder(workspace)
    good = add_job(workspace, source, workspace.root / "one")
    bad = add_job(workspace, workspace.root / "absent", workspace.root / "two")
    ensure_runner(workspace)
    over(workspace, good)
    over(workspace, bad)
    told = workspace.root / "told"
    until(lambda: told.is_file() and len(told.read_text().splitlines()) == 2, "both ends were told")
    assert sorted(told.read_text().splitlines()) == [
        f"{good} succeeded clean 0 {workspace.root}",
        f"{bad} failed clean 3 {workspace.root}",
    ]


def test_a_hook_that_cannot_run_harms_nothing(workspace: Workspace) -> None:
    settings = workspace.configs / "settings.yaml"
    settings.write_text(settings.read_text("utf-8").replace('hook: "" ', "hook: /no/such/command "), "utf-8")
    number = add_job(workspace, source_folder(workspace), workspace.root / "one")
    ensure_runner(workspace)
    assert over(workspace, number).state == "succeeded"
    log = workspace.runs / "runner.log"
    until(lambda: "the hook cannot be run: [Errno 2]" in log.read_text(), "it is told in the log")
    again = add_job(workspace, workspace.root / "source", workspace.root / "two")
    ensure_runner(workspace)
    assert over(workspace, again).state == "succeeded"


def test_an_idle_runner_does_not_leave_a_job_that_waits_for_its_next_attempt(workspace: Workspace) -> None:
    settings = workspace.configs / "settings.yaml"
    settings.write_text(settings.read_text("utf-8").replace("idle_exit_s: 600", "idle_exit_s: 1"), "utf-8")
    number = add_job(workspace, source_folder(workspace), workspace.root / "one", not_before=time.time() + 4)
    runner = ensure_runner(workspace)
    assert over(workspace, number).state == "succeeded"
    assert runner_pid(workspace) in (runner, None)
    assert f"runner {runner} " in (workspace.runs / "runner.log").read_text()
    assert (workspace.runs / "runner.log").read_text().count(" of ") == 1  # no second one was needed
