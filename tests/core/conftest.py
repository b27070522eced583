"""A workspace with a small base and two domains' data; its runner is not started, the tests do its work by hand."""

from pathlib import Path

import pytest

from core.phases import service
from core.store.engine import Store, open_store
from core.workspace import Workspace
from tests.conftest import use_base
from tests.imitate import base_folder, chat_lines, do_all

DOMAINS = ("healthcare", "business")


@pytest.fixture
def ready_workspace(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace whose starter base is a small folder."""
    monkeypatch.setattr("core.runner.client.ensure_runner", lambda _workspace: 0)
    use_base(workspace, base_folder(tmp_path / "base"))
    for name in DOMAINS:
        chat_lines(workspace.data / f"{name}.jsonl", answer=name)
    return workspace


@pytest.fixture
def phase_one(ready_workspace: Workspace) -> Workspace:
    """The same with phase 1 of two domains."""
    service.create_phase(ready_workspace, 1, DOMAINS)
    return ready_workspace


@pytest.fixture
def built(phase_one: Workspace) -> Workspace:
    """The same, built."""
    service.build_phase(phase_one, 1)
    do_all(phase_one)
    return phase_one


@pytest.fixture
def store(phase_one: Workspace) -> Store:
    """The open store of phase_one."""
    return open_store(phase_one)
