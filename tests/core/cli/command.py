"""Running `tara` as a person does: a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

TARA = Path(sys.executable).with_name("tara")


@dataclass(frozen=True)
class Answer:
    """What a command said and left with."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as the one JSON value that it is."""
        assert self.status == 0, self
        return json.loads(self.out)


def _environment(**more: str) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name != "TARA_ROOT"}, **more}


def tara(*words: str, cwd: Path, stdin: str | None = None, **environment: str) -> Answer:
    """One command in a folder, without a terminal."""
    done = subprocess.run(
        [str(TARA), *words],
        cwd=cwd,
        env=_environment(**environment),
        stdin=subprocess.DEVNULL if stdin is None else None,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def each(commands: Iterable[str], cwd: Path) -> dict[str, Answer]:
    """The answers of several commands, one after the other, from processes forked for them."""
    lines = list(commands)
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.cli.warm"],
        cwd=ROOT,
        env=_environment(),
        input=json.dumps({"cwd": str(cwd), "commands": [line.split() for line in lines]}),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return {line: Answer(*answer) for line, answer in zip(lines, json.loads(done.stdout), strict=True)}


def assert_one_line(answer: Answer, status: int) -> None:
    """Nothing but one line on standard error that begins with the command's name, and the documented status."""
    assert answer.status == status, answer
    assert answer.out == "", answer
    assert answer.err.startswith("tara: "), answer
    assert answer.err.count("\n") == 1, answer
    assert answer.err.endswith("\n"), answer
