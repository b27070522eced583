"""Messages that people write to each domain, one a line in configs/examples/NAME.txt: the router compares with them.

`_outside.txt` beside them holds messages of no domain. A workspace without the folder has none.
"""

from collections.abc import Iterable
from pathlib import Path

from core.catalog.names import is_domain_name
from core.errors import InvalidInput
from core.files import write_atomically
from core.workspace import Workspace

OUTSIDE = "_outside"
MOST_LINES = 5000
LONGEST = 2000  # characters of a line


def examples_folder(workspace: Workspace) -> Path:
    """Where the examples are."""
    return workspace.configs / "examples"


def read_example_messages(workspace: Workspace) -> dict[str, list[str]]:
    """The messages of every domain that has any, by name. Raises InvalidInput for a file that cannot be used."""
    folder = examples_folder(workspace)
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    return {path.stem: read_messages(path) for path in files if is_domain_name(path.stem)}


def read_outside(workspace: Workspace) -> list[str]:
    """Messages that belong to no domain."""
    path = examples_folder(workspace) / f"{OUTSIDE}.txt"
    return read_messages(path) if path.is_file() else []


def read_messages(path: Path) -> list[str]:
    """The messages of a file, one a line; empty lines are left out. Raises InvalidInput naming file and line."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text", "save it as UTF-8") from error
    lines = [" ".join(line.split()) for line in text.splitlines()]
    if len(lines) > MOST_LINES:
        raise InvalidInput(f"{path} has {len(lines)} lines, at most {MOST_LINES} are read", "keep the typical ones")
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST:
            raise InvalidInput(f"{path}, line {number}: longer than {LONGEST} characters", "a message a line")
    return [line for line in lines if line]


def write_messages(workspace: Workspace, name: str, messages: Iterable[str]) -> Path:
    """Keep messages as a domain's examples; returns the file."""
    path = examples_folder(workspace) / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{message}\n" for message in messages))
    return path
