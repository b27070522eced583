"""Messages that people write to each domain, one a line in configs/examples/NAME.txt: the router compares with them.

`_outside.txt` beside them holds messages of no domain. A file that a workspace does not have is the shipped one, so
that workspaces of before have examples as well.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from core.catalog.names import is_domain_name
from core.catalog.shipped import template
from core.errors import EnvironmentLacks, InvalidInput
from core.files import write_atomically
from core.workspace import Workspace

OUTSIDE = "_outside"
MOST_LINES = 5000
LONGEST = 2000  # characters of a line


def examples_folder(workspace: Workspace) -> Path:
    """Where the examples are."""
    return workspace.configs / "examples"


def example_files(workspace: Workspace) -> dict[str, Path]:
    """The file of every domain that has one, by name, and that of OUTSIDE."""
    own = examples_folder(workspace)
    try:
        folders = [template() / "examples", own]
    except EnvironmentLacks:  # an installation without configs
        folders = [own]
    found = {path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.txt"))}
    return {name: path for name, path in sorted(found.items()) if name == OUTSIDE or is_domain_name(name)}


def read_example_messages(files: Mapping[str, Path]) -> tuple[dict[str, list[str]], list[str]]:
    """The messages of the domains, by name, and those of none. Raises InvalidInput for a file that cannot be used."""
    read = {name: read_messages(path) for name, path in files.items()}
    general = read.pop(OUTSIDE, [])
    return {name: messages for name, messages in read.items() if messages}, general


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


def read_given(path: Path) -> list[str]:
    """Messages in a file that a person gives: one a line, or JSON lines of objects with `text`. Raises InvalidInput."""
    if path.suffix == ".txt":
        return read_messages(path)
    messages = []
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text", "save it as UTF-8") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, TypeError, KeyError, RecursionError):
            text = None
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
            raise InvalidInput(
                f"{path}, line {number}: not an object with a `text` of at most {LONGEST} characters",
                'a message a line in a .txt file, {"text": …} a line, or training data',
            )
        messages.append(" ".join(text.split()))
    return messages


def write_messages(workspace: Workspace, name: str, messages: Iterable[str]) -> Path:
    """Keep messages as a domain's examples; returns the file."""
    path = examples_folder(workspace) / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(f"{message}\n" for message in messages))
    return path
