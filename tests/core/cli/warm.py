"""Many commands, each in a process of its own, forked from one that has loaded the modules: a second less for each.

Reads {"cwd": folder, "commands": [words, …]} from standard input and writes [[status, out, err], …].
"""

import json
import os
import sys
import tempfile
from typing import Any

import core.cli.group
import core.deploy.service
import core.hygiene
import core.phases.cleanup
import core.phases.service
import core.runner.client  # noqa: F401 - loaded here, used by the commands
from core.cli.main import main


def run(words: list[str]) -> tuple[int, str, str]:
    """One command: its status, standard output and standard error."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["tara", *words]
            main()
            sys.exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts: list[Any] = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
        return status, texts[0], texts[1]


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    os.chdir(asked["cwd"])
    answers = [run(words) for words in asked["commands"]]
    print(json.dumps(answers))
