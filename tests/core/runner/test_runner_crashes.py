"""kill -9 of every process at its worst moment: never two copies, and what is recorded is what happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from core.files import check_manifest
from core.runner.client import cancel_jobs, ensure_runner, stop_runner
from core.runner.executors.local import LocalExecutor
from core.runner.presence import hold, runner_pid
from core.runner.shim import STOP_GRACE_S, take_lock
from core.runner.supervisor import Supervisor
from core.store.engine import dump, open_store
from core.store.reads import open_reader
from core.store.tables import Job
from core.workspace import Workspace
from tests.conftest import ROOT
from tests.core.cli.command import tara
from tests.core.runner.watch import (
    add_job,
    at_once,
    attempts,
    frozen,
    gone,
    in_state,
    kill,
    kill_runner,
    kill_shim,
    locked,
    over,
    process_state,
    processes,
    session_of,
    source_folder,
    state,
    until,
    view,
)


def test_runner_killed_and_its_job_ends_meanwhile(workspace: Workspace) -> None:
    good = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    run_dir, shim, job = frozen(workspace, good)
    kill_runner(workspace)
    os.kill(job, signal.SIGCONT)
    until(lambda: (run_dir / "exit.json").exists() and gone(shim), "the job is over")
    assert state(workspace, good) in ("starting", "running")
    ensure_runner(workspace)
    done = over(workspace, good)
    assert (done.state, done.exit_code, done.attempt) == ("succeeded", 0, 1)
    assert done.ended_at == json.loads((run_dir / "exit.json").read_text())["ended"]
    with open_reader(workspace) as reader:
        assert reader.result(good)["dropped"] == 1


def test_runner_killed_and_its_job_killed_meanwhile(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    run_dir, _, job = frozen(workspace, number)
    kill_runner(workspace)
    kill(job)
    until((run_dir / "exit.json").exists, "the shim has recorded it")
    at_once(workspace)
    ensure_runner(workspace)
    assert over(workspace, number).state == "succeeded"
    assert attempts(workspace, number) == [("retried", "killed", None, 9), ("succeeded", None, 0, None)]


def test_shim_killed_while_its_job_lives(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    run_dir, shim, job = frozen(workspace, number)
    kill_shim(shim, job)
    kill_runner(workspace)  # a runner that never knew the shim must not take its job for ended either
    ensure_runner(workspace)
    in_state(workspace, number, "running")
    assert locked(run_dir)
    LocalExecutor().submit(run_dir)  # not even when asked to
    assert session_of(shim) == [job]
    os.kill(job, signal.SIGCONT)
    done = over(workspace, number)
    # Nobody saw its exit; the task's own last word says how it ended, so it is not done twice.
    assert (done.state, done.attempt) == ("succeeded", 1)
    assert not (run_dir / "exit.json").exists()
    check_manifest(workspace.root / "clean")
    assert not workspace.run_folder(number, 2).exists()


def test_job_without_shim_is_stopped(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    run_dir, shim, job = frozen(workspace, number)
    kill_shim(shim, job)
    cancel_jobs(workspace, [number])
    log = workspace.runs / "runner.log"
    until(lambda: f"stopping job {number}" in log.read_text(), "the job was asked to stop")
    os.kill(job, signal.SIGCONT)
    ended = over(workspace, number)
    assert (ended.state, ended.error) == ("cancelled", "stopped on request")
    until(lambda: gone(job), "the job is gone")
    assert not locked(run_dir)


def test_job_without_shim_that_does_not_listen_is_killed(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    run_dir, shim, job = frozen(workspace, number)
    kill_shim(shim, job)
    stop_runner(workspace)
    lock = hold(workspace)
    assert lock is not None
    with open_store(workspace).write() as session:
        row = session.get(Job, number)
        assert row is not None
        row.state, row.stop_requested_at = "stopping", 1.0
    runner = Supervisor(workspace, open_store(workspace), lock)
    assert runner.turn()
    assert runner.turn()
    assert process_state(job) == "T"  # it was asked, and does not hear
    runner._stop_asked[str(run_dir)] -= runner.settings.stop_grace_s + STOP_GRACE_S + 1
    assert runner.turn()
    until(lambda: gone(job), "the job is killed")
    runner.turn()
    assert view(workspace, number).state == "cancelled"
    os.close(lock)


def test_force_kills_a_job_under_its_shim(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    at_once(workspace)
    run_dir, shim, job = frozen(workspace, number)
    assert LocalExecutor().stop(run_dir, force=True)
    until(lambda: gone(job) and gone(shim), "the job is dead, and its shim has recorded it")
    assert over(workspace, number).state == "succeeded"
    assert attempts(workspace, number)[0] == ("retried", "killed", None, 9)


def test_all_killed_is_started_again_a_few_times_and_then_interrupted(workspace: Workspace) -> None:
    at_once(workspace)
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    child = add_job(workspace, workspace.root / "source", workspace.root / "child", needs=(number,))
    for attempt in (1, 2, 3, 4):
        _, shim, job = frozen(workspace, number, attempt)
        kill_runner(workspace)
        kill(shim)
        kill(job)
    ensure_runner(workspace)
    ended = over(workspace, number)
    assert (ended.state, ended.attempt, ended.exit_code, ended.exit_signal) == ("interrupted", 4, None, None)
    assert ended.error is not None
    assert "vanished without an exit record" in ended.error
    assert view(workspace, child).error == f"waits for job {number} (clean source), which was interrupted"


def test_whoever_looks_after_a_crash_sees_what_is_true(workspace: Workspace) -> None:
    at_once(workspace)
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    _, shim, job = frozen(workspace, number)
    kill_runner(workspace)
    kill(shim)
    kill(job)
    assert state(workspace, number) in ("starting", "running")  # what the dead left in the store
    shown = tara("jobs", "show", str(number), "--json", cwd=workspace.root)
    assert shown.status == 0
    assert shown.json()["state"] != "running" or shown.json()["attempt"] == 2
    assert over(workspace, number).state == "succeeded"
    assert attempts(workspace, number)[0][:2] == ("retried", "lost")


def test_a_runner_that_a_person_stopped_is_not_started_by_looking(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    _, _, job = frozen(workspace, number)
    stop_runner(workspace)
    shown = tara("jobs", "list", cwd=workspace.root)
    assert shown.status == 0
    assert "the runner was stopped" in shown.err
    assert runner_pid(workspace) is None
    os.kill(job, signal.SIGCONT)
    ensure_runner(workspace)
    assert over(workspace, number).state == "succeeded"


def test_runner_killed_between_claim_and_start(workspace: Workspace) -> None:
    """Three moments, as a killed runner leaves them: before the spec, before the spawn, just after it."""
    source = source_folder(workspace)
    before_spec, cancelled, before_spawn, just_after = (
        add_job(workspace, source, workspace.root / f"clean-{moment}") for moment in range(4)
    )
    with open_store(workspace).write() as session:
        for number in (before_spec, cancelled, before_spawn, just_after):
            job = session.get(Job, number)
            assert job is not None
            job.state, job.attempt, job.run_dir = "starting", 1, f"runs/{number}"
            job.started_at, job.heavy = 1.0, number == just_after  # the others do not wait for its slot
        job = session.get(Job, cancelled)
        assert job is not None
        job.state, job.stop_requested_at = "stopping", 2.0
    for number in (before_spawn, just_after):
        folder = workspace.runs / str(number)
        folder.mkdir(parents=True)
        spec = {
            "job_id": number, "kind": "clean", "attempt": 1, "key": f"k{number}", "workspace": str(workspace.root),
            "params": {"source": str(source), "output": str(workspace.root / f"clean-{number}")}, "inputs": {},
        }  # fmt: skip
        (folder / "spec.json").write_text(json.dumps(spec))
    # Just after: the lock is with the shim from its birth on, before its Python has even started.
    folder = workspace.runs / str(just_after)
    lock = take_lock(folder)
    assert lock is not None
    newborn = subprocess.Popen(["sleep", "60"], pass_fds=(lock,), start_new_session=True)
    os.close(lock)
    try:
        ensure_runner(workspace)
        assert over(workspace, cancelled).state == "cancelled"
        assert [over(workspace, number).state for number in (before_spec, before_spawn)] == ["succeeded"] * 2
        assert (state(workspace, just_after), view(workspace, just_after).attempt) == ("running", 1)
        assert not workspace.run_folder(just_after, 2).exists()
    finally:
        newborn.kill()
        newborn.wait()


def test_shim_ends_what_the_job_left_behind(tmp_path: Path) -> None:
    """A shim alone: told to stop while its job starts; nothing of its session is left, and the record says why."""
    run_dir = tmp_path / "1"
    run_dir.mkdir()
    spec = {"kind": "clean", "key": "k", "workspace": str(tmp_path), "params": {}, "inputs": {}, "threads": 1}
    (run_dir / "spec.json").write_text(json.dumps(spec))
    shim = subprocess.Popen([sys.executable, "-m", "core.runner.shim", str(run_dir)], cwd=ROOT, start_new_session=True)
    who = processes(run_dir)
    os.kill(who["job"]["pid"], signal.SIGSTOP)
    double = subprocess.run([sys.executable, "-m", "core.runner.shim", str(run_dir)], cwd=ROOT, timeout=30)
    assert double.returncode == 75
    shim.terminate()
    os.kill(who["job"]["pid"], signal.SIGCONT)
    assert shim.wait(timeout=30) == 0
    record = json.loads((run_dir / "exit.json").read_text())
    assert record["stopped"] is True
    assert record["signal"] == signal.SIGTERM or record["code"] == 128 + signal.SIGTERM
    assert session_of(shim.pid) == []
    again = subprocess.run([sys.executable, "-m", "core.runner.shim", str(run_dir)], cwd=ROOT, timeout=30)
    assert again.returncode == 75


def test_what_a_killed_cleaning_left_beside_its_output_is_removed(workspace: Workspace) -> None:
    """Also where the runner was dead when the job died; what only looks alike stays."""
    output = workspace.root / "cleaned" / "0"
    number = add_job(workspace, source_folder(workspace), output)
    _, _, process = frozen(workspace, number)
    kill_runner(workspace)
    left, other = output.parent / f".tmp-{process}-0", output.parent / f".tmp-{process}-10-0"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    other.mkdir()
    kill(process)
    ensure_runner(workspace)
    assert over(workspace, number).state == "succeeded"
    assert (left.exists(), other.exists()) == (False, True)


def test_the_folder_a_killed_conversion_works_in_is_removed(workspace: Workspace) -> None:
    """It stands still in the middle by itself: the config it reads there is a pipe that nobody writes into."""
    settings = workspace.configs / "settings.yaml"
    settings.write_text(settings.read_text("utf-8").replace("retry_delay_s: 5 ", "retry_delay_s: 600 "), "utf-8")
    model = workspace.artifacts / "small" / "tiny-0badcafe"
    model.mkdir(parents=True)
    os.mkfifo(model / "config.json")
    number = add_job(
        workspace, model, model, kind="convert", params=dump({"name": "tiny"}),
        inputs=dump({"model": workspace.relative(model)}), out="artifacts/gguf/tiny-F16-0badcafe.gguf",
    )  # fmt: skip
    ensure_runner(workspace)
    job = int(processes(workspace.run_folder(number, 1))["job"]["pid"])
    until(lambda: list(workspace.artifacts.glob("gguf/.tmp-*")), "the job has begun")
    kill(job)
    assert in_state(workspace, number, "queued").exit_signal == signal.SIGKILL
    assert list(workspace.artifacts.glob("gguf/*")) + list(workspace.artifacts.glob("gguf/.*")) == []
