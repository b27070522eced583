"""Peers of the package index, each pinned and in a virtual environment of its own under .bench-venv/."""

import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parent.parent / ".bench-venv"


def install(requirement: str, program: str) -> tuple[Path, str | None]:
    """The path of a peer's program, and why it cannot be used. It is installed once: it may want other versions of
    what TARA needs."""
    folder = ENVIRONMENTS / requirement.partition("==")[0]
    path, done = folder / "bin" / program, folder / ".installed"
    if done.is_file() and done.read_text() == requirement and path.is_file():
        return path, None
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / ".gitignore").write_text("*\n")
    print(f"installing {requirement} for the comparison, once", flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement],
    ):
        made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        if made.returncode:
            reason = next((line for line in made.stderr.splitlines() if line.startswith("ERROR")), "no reason given")
            return path, f"{requirement} could not be installed: {reason}"
    done.write_text(requirement)
    return path, None
