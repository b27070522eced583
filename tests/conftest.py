"""Workspaces for tests: the shipped configs in a temporary folder, optionally on a tiny base, runners stopped after."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.runner.client import stop_runner
from core.runner.presence import runner_pid
from core.workspace import Workspace
from tests.models import build_tiny

ROOT = Path(__file__).resolve().parent.parent
MOST_WORKERS = 4  # each may train the embedded base, which takes 1.5 GB


def pytest_xdist_auto_num_workers() -> int:
    """A worker a core, up to MOST_WORKERS."""
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)))


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker cores of its own, and with it every process its tests start: numeric threads of two processes
    that meet on one core make both crawl."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        cores = sorted(os.sched_getaffinity(0))
        share = max(1, len(cores) // worker["workercount"])
        number = int(worker["workerid"].removeprefix("gw"))
        os.sched_setaffinity(0, cores[number * share : (number + 1) * share] or cores)


LONGEST = (
    "end_to_end/test_real_phase",
    "terminal/test_ssh",
    "test_runner_settings",
    "faults/",
    "test_runner_trainings",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: next((at for at, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Remembered hashes of the tests' files stay out of the person's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer llama, as a base that trains in moments."""
    return build_tiny("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A fresh workspace with the shipped configs; whatever runs in it is ended afterwards."""
    found = new_workspace(tmp_path / "workspace")
    yield found
    end_everything(found)


@pytest.fixture
def tiny_workspace(workspace: Workspace, tiny_llama: Path) -> Workspace:
    """A workspace whose starter base is a tiny random model, so that whole phases run in seconds."""
    use_base(workspace, tiny_llama)
    return workspace


def new_workspace(root: Path, base: Path | None = None) -> Workspace:
    """A workspace with the shipped configs; its starter base is the model folder `base`, where one is named."""
    shutil.copytree(ROOT / "configs", root / "configs")
    found = Workspace(root)
    if base is not None:
        use_base(found, base)
    return found


def use_base(workspace: Workspace, folder: Path, name: str = "starter-135M") -> None:
    """Map a generic base name to a local model folder."""
    path = workspace.configs / "model_mapping.json"
    mapping = json.loads(path.read_text("utf-8"))
    mapping["models"][name] = {
        "kind": "local",
        "path": str(folder),
        "architecture": json.loads((folder / "config.json").read_text("utf-8"))["architectures"][0],
        "parameters": 1_000_000,
        "context_length": 512,
        "licence": "none: random weights",
    }
    path.write_text(json.dumps(mapping), "utf-8")


def end_everything(workspace: Workspace) -> None:
    """Stop the workspace's runner, then kill every job still alive in its run folders."""
    if runner_pid(workspace) is not None:
        stop_runner(workspace)
    for record in workspace.runs.glob("*/shim.json"):
        if not record.with_name("exit.json").exists():
            who = json.loads(record.read_text())
            for pid in (who["pid"], who.get("job", who)["pid"]):
                try:
                    if str(record.parent).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
                except (FileNotFoundError, ProcessLookupError):
                    continue
