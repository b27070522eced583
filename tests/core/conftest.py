"""A workspace with a small base and two domains' data; its runner is not started, the tests do its work by hand."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pysqlite3.dbapi2 as sqlite
import pytest

from core.phases import service
from core.store.engine import Store, open_store
from core.workspace import Workspace
from tests.conftest import ROOT, use_base
from tests.imitate import base_folder, chat_lines, do_all

DOMAINS = ("healthcare", "business")


def prepare(workspace: Workspace, base: Path) -> None:
    """Map the starter base to a small folder and write the domains' data."""
    use_base(workspace, base_folder(base))
    for name in DOMAINS:
        chat_lines(workspace.data / f"{name}.jsonl", answer=name)


@pytest.fixture
def ready_workspace(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose starter base is a small folder."""
    monkeypatch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
    prepare(workspace, tmp_path / "base")
    return workspace


@contextmanager
def kept_open(workspace: Workspace) -> Iterator[Workspace]:
    """A connection beside the test's: else each transaction is the last to close, and writes its journal back."""
    connection = sqlite.connect(str(workspace.state_db))
    connection.execute("SELECT * FROM fact").fetchall()
    yield workspace
    connection.close()


@pytest.fixture
def phase_one(ready_workspace: Workspace) -> Iterator[Workspace]:
    """The same with phase 1 of two domains."""
    service.create_phase(ready_workspace, 1, DOMAINS)
    with kept_open(ready_workspace):
        yield ready_workspace


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a workspace whose phase 1 is built, to be copied."""
    root = tmp_path_factory.mktemp("built") / "workspace"
    shutil.copytree(ROOT / "configs", root / "configs")
    workspace = Workspace(root)
    prepare(workspace, root.parent / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
        service.create_phase(workspace, 1, DOMAINS)
        service.build_phase(workspace, 1)
        do_all(workspace)
    return root


@pytest.fixture
def built(workspace: Workspace, built_once: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace with phase 1 built: paths in the store are relative, so it may be copied."""
    monkeypatch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
    shutil.copytree(built_once, workspace.root, dirs_exist_ok=True)
    with kept_open(workspace):
        yield workspace


@pytest.fixture
def store(phase_one: Workspace) -> Store:
    """The open store of phase_one."""
    return open_store(phase_one)
