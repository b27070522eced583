"""A workspace whose disk is filled under it, for real. Usage: python -m tests.faults.filling tmpfs|limits FOLDER

With `tmpfs` the folder is a small disk (tests.faults.small_disk). With `limits`, for where none may be mounted, the
reserve is set above what is free, and the runner may write no file further (RLIMIT_FSIZE). Prints one JSON object.
"""

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.runner.client import ensure_runner
from core.runner.presence import runner_pid
from core.workspace import Workspace
from tests.conftest import ROOT, end_everything
from tests.core.hygiene.folders import write_adapter
from tests.core.runner.watch import add_job, attempts, frozen, gone, kill_runner, over, state, until, view
from tests.faults.check import broken_promises
from tests.faults.scene import Scene
from tests.faults.small_disk import filled

RESERVE_MB = 60
WAITS = "waits for disk space"


class Disk:
    """The two ways of having a disk that is full."""

    def __init__(self, workspace: Workspace, way: str) -> None:
        self.workspace, self.mounted = workspace, way == "tmpfs"
        self.reserve(RESERVE_MB)

    def reserve(self, megabytes: int) -> None:
        """What must stay free."""
        settings = self.workspace.configs / "settings.yaml"
        shipped = (
            (ROOT / "configs" / "settings.yaml").read_text("utf-8").replace("retry_delay_s: 5 ", "retry_delay_s: 0 ")
        )
        settings.write_text(shipped.replace("disk_reserve_mb: 500 ", f"disk_reserve_mb: {megabytes} "), "utf-8")

    @contextmanager
    def short(self) -> Iterator[None]:
        """Less than the reserve is free, and more than nothing."""
        if self.mounted:
            with filled(self.workspace.root, RESERVE_MB * 500_000):
                yield
            return
        self.reserve(10**7)
        yield
        self.reserve(RESERVE_MB)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is free; by `limits` for the runner alone."""
        if self.mounted:
            with filled(self.workspace.root, 0):
                yield
            return
        pid = runner_pid(self.workspace)
        assert pid is not None
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        yield
        if not gone(pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


def main(way: str, folder: Path) -> int:
    """Fill and free it in every way; what was seen."""
    workspace = Workspace(folder / "workspace")
    shutil.copytree(ROOT / "configs", workspace.configs)
    disk, scene = Disk(workspace, way), Scene(workspace)
    try:
        seen = {"paused": paused(disk, scene), "full": full_while_it_works(disk, scene)}
        seen["runner killed"] = runner_killed_while_full(disk, scene)
        scene.tara("runner", "stop")
        seen["broken"] = broken_promises(scene)
    finally:
        end_everything(workspace)
    print(json.dumps(seen))
    return 0


def queue(scene: Scene, count: int) -> list[int]:
    """Some jobs that each write a folder of a megabyte."""
    root, numbers = scene.workspace.root, []
    for _ in range(count):
        name = f"{len(scene.accepted)}"
        source = write_adapter(root / "sources" / name)
        (source / "README.md").write_text("about\n" * 200_000)
        numbers.append(add_job(scene.workspace, source, root / "cleaned" / name))
        scene.accepted.append(numbers[-1])
    return numbers


def paused(disk: Disk, scene: Scene) -> dict[str, object]:
    """Below the reserve nothing is started, and it is said why; above it, all goes on."""
    numbers = queue(scene, 3)
    with disk.short():
        ensure_runner(scene.workspace)
        until(
            lambda: all(view(scene.workspace, one).message.startswith(WAITS) for one in numbers),
            "the queue says it waits",
        )
        waiting = [(view(scene.workspace, one).state, view(scene.workspace, one).attempt) for one in numbers]
        message = view(scene.workspace, numbers[0]).message
    return {"while": waiting, "message": message, "then": [over(scene.workspace, one).state for one in numbers]}


def full_while_it_works(disk: Disk, scene: Scene) -> dict[str, object]:
    """A job in the middle of its work finds no room, and so does the runner that should record it."""
    (number,) = queue(scene, 1)
    _, _, process = frozen(scene.workspace, number)
    with disk.full():
        os.kill(process, signal.SIGCONT)
        enough = time.monotonic() + 3.0
        until(lambda: gone(process) or time.monotonic() > enough, "it ended, or waits for room")
        during = state(scene.workspace, number)
    return {"while": during, "then": over(scene.workspace, number).state, "attempts": attempts(scene.workspace, number)}


def runner_killed_while_full(disk: Disk, scene: Scene) -> dict[str, object]:
    """And the next one comes up as soon as there is room."""
    (number,) = queue(scene, 1)
    _, _, process = frozen(scene.workspace, number)
    with disk.full():
        os.kill(process, signal.SIGCONT)
        kill_runner(scene.workspace)
        said = scene.tara("runner", "start")
    ensure_runner(scene.workspace)
    return {"start": [said.returncode, said.stderr], "then": over(scene.workspace, number).state}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
