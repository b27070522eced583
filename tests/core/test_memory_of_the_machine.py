"""What is free, who holds what, and what the kernel killed, as /proc and the control groups tell it."""

import os
from pathlib import Path

import psutil
import pytest

from core.memory import available_memory, cgroup_available, oom_kills, resident, total_memory


def group(folder: Path, limit: str, used: int, inactive: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {inactive}\n")


def test_the_tightest_limit_of_the_control_groups_counts(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/user/job\n")
    root = tmp_path / "fs"
    group(root / "user" / "job", "max", 10, 0)
    assert cgroup_available(root, membership) is None
    group(root / "user", "1000", 400, 100)
    assert cgroup_available(root, membership) == 700
    group(root / "user" / "job", "500", 300, 0)
    assert cgroup_available(root, membership) == 200


def test_all_there_is_is_the_machines_or_the_tightest_limit(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/user/job\n")
    root, machine = tmp_path / "fs", psutil.virtual_memory().total
    assert total_memory(root, membership) == machine
    group(root / "user" / "job", "max", 10, 0)
    group(root / "user", "1000", 400, 100)
    assert total_memory(root, membership) == 1000
    group(root / "user", str(2 * machine), 400, 100)
    assert total_memory(root, membership) == machine


def test_limits_of_the_first_version_are_read_too(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("7:cpu,cpuacct:/x\n5:memory:/box\n0::/x\n")
    group(tmp_path / "fs" / "memory" / "box", "2000", 500, 50, version=1)
    group(tmp_path / "fs" / "memory", str(1 << 62), 500, 50, version=1)
    assert cgroup_available(tmp_path / "fs", membership) == 1550


def test_without_control_groups_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroup_available(tmp_path, tmp_path / "none") is None
    monkeypatch.setattr("core.memory.cgroup_available", lambda: None)
    free, why = available_memory()
    assert 0 < free <= psutil.virtual_memory().total
    assert "machine" in why
    monkeypatch.setattr("core.memory.cgroup_available", lambda: 5)
    assert available_memory() == (5, "the memory limit of this process's control group")


def test_kills_are_counted_by_group_and_by_machine(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("0::/job\n")
    (tmp_path / "fs" / "job").mkdir(parents=True)
    assert oom_kills(tmp_path / "fs", membership)[0] is None
    (tmp_path / "fs" / "job" / "memory.events").write_text("low 0\noom 2\noom_kill 3\noom_group_kill 0\n")
    assert oom_kills(tmp_path / "fs", membership)[0] == 3
    membership.write_text("3:memory:/old\n")
    (tmp_path / "fs" / "memory" / "old").mkdir(parents=True)
    (tmp_path / "fs" / "memory" / "old" / "memory.oom_control").write_text("oom_kill_disable 0\noom_kill 1\n")
    group_kills, machine = oom_kills(tmp_path / "fs", membership)
    assert group_kills == 1
    assert machine is not None
    assert machine >= 0


def test_what_a_process_holds() -> None:
    own = resident(os.getpid())
    assert own is not None
    assert abs(own - psutil.Process().memory_info().rss) < 20_000_000
    assert resident(2**22 + 1) is None
