"""Hung is told from slow, from stopped and from a machine that slept; where memory ends, the biggest goes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.catalog import Settings
from core.runner import watch
from core.runner.watch import Watch
from tests.core.runner.watch import process_state, until

SILENT = "import sys; print('here', flush=True); sys.stdin.read()"
BUSY = "print('here', flush=True)\nwhile True: pass"
SETTINGS = replace(Settings(), hang_after_s=60, memory_reserve_mb=0)


class Clock:
    """Time that passes when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.slept = 1000.0, 50.0
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(watch, "_asleep", lambda: self.slept)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Jobs:
    """Run folders with a living process each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, script: str) -> tuple[Path, int]:
        process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        run_dir = self.folder / str(process.pid)
        run_dir.mkdir()
        (run_dir / "shim.json").write_text(json.dumps({"job": {"pid": process.pid}}))
        return run_dir, process.pid


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(tmp_path)
    yield found
    for process in found.processes:
        process.kill()
        process.communicate()


def test_silence_without_computing_is_hanging(jobs: Jobs, clock: Clock) -> None:
    run_dir, _ = jobs.start(SILENT)
    eye = Watch()
    assert eye.look([run_dir], SETTINGS) == []
    clock.now += 59
    assert eye.look([run_dir], SETTINGS) == []
    (run_dir / "log").write_text("a sign of life\n")
    clock.now += 59
    assert eye.look([run_dir], SETTINGS) == []
    clock.now += 61
    ((found, why, figures),) = eye.look([run_dir], SETTINGS)
    assert (found, why, figures) == (run_dir, "hung", {"silent_s": 61})
    assert eye.look([run_dir], replace(SETTINGS, hang_after_s=0)) == []


def test_one_that_computes_is_slow_not_hung(jobs: Jobs, clock: Clock) -> None:
    run_dir, pid = jobs.start(BUSY)
    eye = Watch()
    eye.look([run_dir], SETTINGS)
    before = watch._process(pid)[1]
    until(lambda: watch._process(pid)[1] > before, "it has computed for a second")
    clock.now += 3600
    assert eye.look([run_dir], SETTINGS) == []


def test_one_that_was_stopped_on_purpose_is_not_hung(jobs: Jobs, clock: Clock) -> None:
    run_dir, pid = jobs.start(SILENT)
    eye = Watch()
    eye.look([run_dir], SETTINGS)
    os.kill(pid, signal.SIGSTOP)
    until(lambda: process_state(pid) == "T", "it stands still")
    clock.now += 3600
    assert eye.look([run_dir], SETTINGS) == []
    os.kill(pid, signal.SIGCONT)
    until(lambda: process_state(pid) == "S", "it goes on")
    clock.now += 30
    assert eye.look([run_dir], SETTINGS) == []


def test_a_machine_that_slept_did_not_hang(jobs: Jobs, clock: Clock) -> None:
    run_dir, _ = jobs.start(SILENT)
    eye = Watch()
    eye.look([run_dir], SETTINGS)
    clock.now += 100
    clock.slept += 8 * 3600
    assert eye.look([run_dir], SETTINGS) == []
    clock.now += 61
    assert [why for _, why, _ in eye.look([run_dir], SETTINGS)] == ["hung"]


def test_where_memory_ends_the_biggest_job_goes(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    small, _ = jobs.start(SILENT)
    big, _ = jobs.start("block = bytearray(b'x') * 80_000_000; " + SILENT)
    eye = Watch()
    settings = replace(SETTINGS, memory_reserve_mb=100)
    monkeypatch.setattr(watch, "available_memory", lambda: (50_000_001, "a test"))
    assert eye.look([small, big], settings) == []
    monkeypatch.setattr(watch, "available_memory", lambda: (10_000_000, "a test"))
    ((found, why, figures),) = eye.look([small, big], settings)
    assert (found, why) == (big, "memory")
    assert figures["rss_bytes"] > 80_000_000
    assert figures["available_bytes"] == 10_000_000
    assert eye.look([small, big], settings) == []  # what it held comes back first; nobody else is ended meanwhile
    monkeypatch.setattr(watch, "available_memory", lambda: (1, "a test"))
    eye = Watch()
    assert eye.look([small], replace(SETTINGS, memory_reserve_mb=1000)) == []  # its end would not help
