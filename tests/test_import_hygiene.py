"""Starting a command, the console or the runner loads nothing that computes: asked of fresh processes."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.phases import service
from core.workspace import Workspace
from tests.conftest import ROOT

HEAVY = ("torch", "transformers", "peft", "llama_cpp", "onnx", "onnxruntime")
SLOW = ("sqlmodel", "sqlalchemy", "textual", "numpy", "gguf", "alembic")  # not for a command that only shows


def loaded(code: str, cwd: Path, *words: str) -> set[str]:
    """The top-level modules a fresh process has after `code`; `words` are its command line."""
    ask = f"import sys\ntry:\n    {code}\nexcept SystemExit as left:\n    assert left.code in (0, None), left.code\n"
    ask += "import json; print('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", ask, *words], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "module",
    [
        "core.cli.main",
        "core.cli.group",
        "core.phases.service",
        "core.deploy.service",
        "core.chat.client",
        "core.hygiene",
        "core.routing",
        "core.runner.client",
        "core.runner.supervisor",
        "core.runner.shim",
        "core.tasks.__main__",
        "tara_tui.app",
        "tara_tui.backend",
    ],
)
def test_importing_loads_nothing_that_computes(module: str) -> None:
    assert loaded(f"import {module}", ROOT).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("words", "light"),
    [
        (["--version"], True),
        (["list-phases"], True),
        (["show-phase", "1", "--json"], True),
        (["jobs", "list"], True),
        (["runner", "status"], True),
        (["build-phase", "1", "--dry-run"], False),
        (["checkpoints", "list"], False),
        (["doctor"], False),
    ],
)
def test_commands_load_nothing_that_computes(workspace: Workspace, words: list[str], light: bool) -> None:
    service.create_phase(workspace, 1, ["healthcare"])
    found = loaded("from core.cli.main import main; main()", workspace.root, *words)
    assert found.isdisjoint(HEAVY)
    if light:
        assert found.isdisjoint(SLOW)


def test_the_parent_of_a_job_is_small() -> None:
    """A shim lives as long as its job, beside it: of what is not Python's own, only the package itself."""
    found = loaded("import core.runner.shim", ROOT) - set(sys.stdlib_module_names)
    bare = loaded("pass", ROOT) - set(sys.stdlib_module_names)  # what the installation loads into every process
    assert found - bare == {"core"}


def test_only_the_console_command_knows_the_console() -> None:
    """And that one imports it when it is called, not before."""
    inner: list[str] = []
    for path in sorted((ROOT / "core").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "tara_tui" for name in names):
                inner.append(str(path.relative_to(ROOT)))
                assert node not in tree.body, f"{path} imports the console when it is loaded"
    assert inner == ["core/cli/console.py"]


def test_contracts_of_the_rooms() -> None:
    """The contracts in pyproject.toml: which room may import which."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout
