"""A disk that is full, for real: the queue waits and says so, nothing is lost or broken, and it goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.faults.small_disk import small_disk


def fill(way: str, folder: Path, before: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [*before, sys.executable, "-m", "tests.faults.filling", way, str(folder)],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def held(found: dict[str, Any]) -> None:
    assert found["paused"]["while"] == [["queued", 0]] * 3
    assert found["paused"]["message"].startswith("waits for disk space: ")
    assert found["paused"]["then"] == ["succeeded"] * 3
    assert found["full"]["while"] in ("running", "starting", "queued")  # not failed, not lost
    assert found["full"]["then"] == "succeeded"
    status, said = found["runner killed"]["start"]
    assert status in (0, 5), said
    assert "fault in TARA" not in said
    assert found["runner killed"]["then"] == "succeeded"
    assert found["broken"] == []


def test_a_small_disk_is_filled_to_the_last_byte(tmp_path: Path) -> None:
    words, phrase = small_disk(tmp_path, 160)
    if words is None:
        pytest.skip(phrase)  # the kernel forbids it here; the same is asked by limits below
    found = fill("tmpfs", tmp_path, words)
    held(found)
    ends = found["full"]["attempts"]
    assert ends[-1][0] == "succeeded"
    assert {end[1] for end in ends[:-1]} <= {"disk"}


def test_a_runner_that_may_write_nothing_more_loses_nothing(tmp_path: Path) -> None:
    held(fill("limits", tmp_path, []))
