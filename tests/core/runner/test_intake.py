"""Admission with a real runner: what waits for memory, a device each, light jobs beside a heavy one."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.devices import VISIBLE
from core.errors import InvalidInput, Refused
from core.runner.client import ensure_runner, let_in_jobs
from core.runner.executors.local import LocalExecutor
from core.store.engine import open_store
from core.store.tables import Job, JobAttempt
from core.workspace import Workspace
from tests.conftest import ROOT
from tests.core.runner.watch import (
    add_job,
    frozen,
    in_state,
    kill,
    kill_runner,
    over,
    source_folder,
    state,
    until,
    view,
)

TOO_MUCH = 10**15


def test_a_job_that_does_not_fit_waits_and_says_so_until_a_person_lets_it_in(workspace: Workspace) -> None:
    source = source_folder(workspace)
    big = add_job(workspace, source, workspace.root / "big", memory_bytes=TOO_MUCH)
    small = add_job(workspace, source, workspace.root / "small", memory_bytes=1)
    ensure_runner(workspace)
    assert over(workspace, small).state == "succeeded"
    job = view(workspace, big)
    assert job.state == "queued"
    assert job.message.startswith("waits for memory: it takes about 1000000000 MB (estimated), ")
    with pytest.raises(InvalidInput, match="no job 99"):
        let_in_jobs(workspace, [big, 99])
    assert not view(workspace, big).let_in
    let_in_jobs(workspace, [big])
    job = over(workspace, big)
    assert job.state == "succeeded"
    assert not job.message.startswith("waits")
    with pytest.raises(Refused, match="is succeeded, not queued"):
        let_in_jobs(workspace, [big])


def test_what_was_measured_of_the_same_footprint_counts_more_than_an_estimate(workspace: Workspace) -> None:
    source = source_folder(workspace)
    ensure_runner(workspace)
    first = add_job(workspace, source, workspace.root / "first", footprint="clean-a", memory_bytes=1)
    ensure_runner(workspace)
    assert over(workspace, first).state == "succeeded"
    with open_store(workspace).write() as session:
        attempt = session.get(JobAttempt, (first, 1))
        assert attempt is not None
        assert attempt.peak_rss_bytes is not None
        assert 5 * 10**6 < attempt.peak_rss_bytes < 10**9  # a Python process that copies files
        attempt.peak_rss_bytes = TOO_MUCH
    like = add_job(workspace, source, workspace.root / "like", footprint="clean-a", memory_bytes=1)
    other = add_job(workspace, source, workspace.root / "other", footprint="clean-b", memory_bytes=1)
    smaller = add_job(workspace, source, workspace.root / "smaller", footprint="clean-a", memory_bytes=1, smaller=1)
    ensure_runner(workspace)
    assert over(workspace, other).state == "succeeded"
    assert over(workspace, smaller).state == "succeeded"
    assert "1100000000 MB (as measured before)" in view(workspace, like).message


def test_light_jobs_run_beside_a_heavy_one_and_a_second_heavy_one_waits_its_turn(workspace: Workspace) -> None:
    source = source_folder(workspace)
    heavy = add_job(workspace, source, workspace.root / "heavy", heavy=True)
    _, _, process = frozen(workspace, heavy)
    second = add_job(workspace, source, workspace.root / "second", heavy=True)
    light = [add_job(workspace, source, workspace.root / f"light{number}") for number in range(4)]
    ensure_runner(workspace)
    for number in light:
        assert over(workspace, number).state == "succeeded"
    assert (state(workspace, heavy), state(workspace, second)) == ("running", "queued")
    os.kill(process, signal.SIGCONT)
    assert over(workspace, heavy).state == "succeeded"
    assert over(workspace, second).state == "succeeded"


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose nvidia-smi tells of two GPUs: what a device job is given is the same as on a real one."""
    programs = tmp_path / "programs"
    programs.mkdir()
    tool = programs / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU-a, 0, A, 0, 0, 81920\\nGPU-b, 1, A, 0, 8192, 81920\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv(VISIBLE, raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_each_device_job_has_a_device_of_its_own(workspace: Workspace) -> None:
    source = source_folder(workspace)
    numbers = [
        add_job(workspace, source, workspace.root / str(one), heavy=True, on_device=True, device_bytes=10**9)
        for one in range(3)
    ]
    stopped = [frozen(workspace, number) for number in numbers[:2]]
    given = [json.loads((folder / "spec.json").read_text())["device"] for folder, _, _ in stopped]
    assert given == ["GPU-a", "GPU-b"]  # the emptiest first, though only one heavy slot is there
    until(
        lambda: view(workspace, numbers[2]).message == "waits for a device: each of the 2 has a job",
        "the third says why it waits",
    )
    kill_runner(workspace)  # the next runner must not give away what living jobs have
    ensure_runner(workspace)
    other = add_job(workspace, source, workspace.root / "other")
    ensure_runner(workspace)
    assert over(workspace, other).state == "succeeded"
    assert state(workspace, numbers[2]) == "queued"
    for _, _, process in stopped:
        os.kill(process, signal.SIGCONT)
    for number in numbers:
        assert over(workspace, number).state == "succeeded"


def test_a_worker_sees_only_its_own_device(tmp_path: Path) -> None:
    spec = {"job_id": 1, "kind": "absent", "params": {}, "inputs": {}, "key": "k", "workspace": str(tmp_path)}
    (tmp_path / "spec.json").write_text(json.dumps({**spec, "device": "GPU-b", "threads": 1}))
    script = (
        "import os, sys; from pathlib import Path; from core.tasks.__main__ import main; "
        f"main(Path(sys.argv[1])); print('sees', os.environ['{VISIBLE}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "sees GPU-b"


def test_the_end_of_a_job_is_told_once_also_of_one_that_was_taken_over(workspace: Workspace) -> None:
    number = add_job(workspace, source_folder(workspace), workspace.root / "clean")
    run_dir, shim, process = frozen(workspace, number)
    executor = LocalExecutor()  # as the next runner's: it did not start this shim
    (descriptor,) = executor.ends([run_dir])
    assert select.select([descriptor], [], [], 0)[0] == []
    kill(shim)
    assert select.select([descriptor], [], [], 5)[0] == [descriptor]
    executor.seen_end(descriptor)
    assert executor.ends([run_dir]) == []  # its job may live on: nothing more is to be heard
    assert executor.ends([]) == []
    kill(process)


def test_an_old_large_job_is_not_starved_by_small_ones(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience is a matter of minutes; here the runner is told that the job has waited for long."""
    from core.catalog import load_settings
    from core.runner.dependencies import unblocked_jobs
    from core.runner.intake import PATIENCE_S, Intake

    source = source_folder(workspace)
    running = add_job(workspace, source, workspace.root / "running", memory_bytes=10**6)
    frozen(workspace, running)
    in_state(workspace, running, "running")
    kill_runner(workspace)
    old = add_job(workspace, source, workspace.root / "old", memory_bytes=TOO_MUCH)
    young = add_job(workspace, source, workspace.root / "young", memory_bytes=1)
    store = open_store(workspace)
    intake, settings = Intake(store), load_settings(workspace)
    with store.write() as session:
        active = [job for job in [session.get(Job, running)] if job is not None]
        queued = unblocked_jobs(session)
    assert [start.id for start in intake.choose(queued, active, settings).start] == [young]
    later = time.monotonic() + PATIENCE_S + 1
    monkeypatch.setattr("core.runner.intake.time.monotonic", lambda: later)
    decision = intake.choose(queued, active, settings)
    assert decision.start == ()
    assert decision.waits[young] == f"waits its turn: job {old} has waited longer for room"
