"""A module of ours run in a process of its own, for what may not be loaded here or must not share memory with us."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import core
from core.errors import ExitCode, TaraError

LAST_LINES = 3


class Failed(Exception):
    """It ended with a status other than 0; the message has its last words."""


def answer(arguments: Sequence[str], usage: str, compute: Callable[..., dict[str, Any]]) -> int:
    """The other side: print what `compute` makes of the arguments, of which `usage` names each in capitals; the exit
    status. Of a TaraError its line goes to standard error."""
    if len(arguments) != len([word for word in usage.split() if word.isupper()]):
        print(f"usage: {usage}", file=sys.stderr)
        return int(ExitCode.USAGE)
    try:
        print(json.dumps(compute(*arguments)))
    except TaraError as error:
        print(error.one_line(), file=sys.stderr)
        return int(error.exit_code)
    return 0


def answer_of(module: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that `python -m MODULE ARGUMENTS` prints on its last line. Raises Failed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(core.__file__).parents[1],  # where `core` is found, installed or not
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = " / ".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        raise Failed(f"status {done.returncode}" + (f": {last}" if last else ""))
    return dict(json.loads(done.stdout.splitlines()[-1]))
