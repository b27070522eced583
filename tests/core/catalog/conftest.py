"""A workspace with a copy of the configuration files that ship."""

import shutil
from pathlib import Path

import pytest

from core.workspace import Workspace

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("starter_data"))
    return Workspace(tmp_path)
