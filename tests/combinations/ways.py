"""The two ways a person builds: a command, and the console's form on a terminal."""

import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from core.store.reads import open_reader
from core.workspace import Workspace
from tests.combinations.box import DOMAIN, PHASE
from tests.terminal.pseudo_terminal import Terminal

TARA = Path(sys.executable).with_name("tara")
LONGEST_S = 3600.0
DOWN = "\x1b[B"
CLEAR = "\x15"  # Ctrl-U: the line before the cursor goes


def tara(workspace: Workspace, *words: str) -> str:
    """A command's standard output. Raises CalledProcessError where its status is not 0."""
    command = [str(TARA), *words]
    done = subprocess.run(command, cwd=workspace.root, stdout=subprocess.PIPE, text=True, timeout=LONGEST_S, check=True)
    return done.stdout


class ByCommand:
    """`tara create-phase`, then `tara build-phase` for each."""

    name = "command"

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        tara(workspace, "create-phase", str(PHASE), "--domains", DOMAIN)

    def build(self, quantization: str, technique: str) -> None:
        """Build to the end."""
        options = ("--quantization", quantization, "--compression-type", technique, "--target-size", "none")
        tara(self.workspace, "build-phase", str(PHASE), *options, "--json")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open."""


class ByConsole:
    """`n` and `B` in a console on a terminal of 120 columns and 36 rows that stays open."""

    name = "console"

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.console = Terminal(str(TARA), "--root", str(workspace.root), columns=120, rows=36)
        self.console.shows("no phase")
        self._fill("n", ("number", "domains, with commas"), (str(PHASE), DOMAIN))
        self.console.shows(DOMAIN)

    def build(self, quantization: str, technique: str) -> None:
        """Fill in the form and wait until nothing is left to do."""
        self._fill("B", ("quantization: Q2_K", "compression: standard"), (quantization, technique))
        deadline = time.monotonic() + LONGEST_S
        while not self._built(quantization, technique):
            if select.select([self.console.master], [], [], 0.5)[0]:
                self.console.take()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{quantization} {technique}: not in {LONGEST_S:.0f} s\n{self.screen()}")

    def screen(self) -> str:
        """What the terminal shows."""
        return "\n".join(self.console.screen.display)

    def _fill(self, key: str, labels: tuple[str, ...], values: tuple[str, ...]) -> None:
        """Open a form with its key, put values into its first fields and send it off. Each key waits for what the one
        before did: a form handles a binding after the letters that came with it."""
        self.console.write(key)
        self.console.shows(labels[0])
        for number, (label, value) in enumerate(zip(labels, values, strict=True)):
            if number:
                before = self._cells(label)
                self.console.write(DOWN)
                self.console.read_until(lambda label=label, before=before: self._cells(label) != before)
            if self._value(label):
                self.console.write(CLEAR)
                self.console.read_until(lambda label=label: self._value(label) == "")
            self.console.write(value)
            self.console.read_until(lambda label=label, value=value: self._value(label) == value)
        self.console.write("\r")
        self.console.read_until(lambda: labels[0] not in self.screen())

    def _row(self, label: str) -> int:
        """Where a field is: under its label, which moves when the form's notes grow."""
        return next(at for at, line in enumerate(self.console.screen.display) if label in line) + 1

    def _value(self, label: str) -> str:
        return self.console.screen.display[self._row(label)].partition("|")[2].strip(" ┃")

    def _cells(self, label: str) -> list[object]:
        row = self.console.screen.buffer[self._row(label)]
        return [row[column] for column in range(self.console.screen.columns)]

    def _built(self, quantization: str, technique: str) -> bool:
        with open_reader(self.workspace) as reader:
            failed = [job for job in reader.jobs(limit=1000) if job.state in ("failed", "blocked")]
            if failed:
                raise RuntimeError(f"{failed[-1].title}: {failed[-1].message}\n{self.screen()}")
            phase = reader.phase(PHASE)
            asked = (phase.quantization, phase.compression_type) == (quantization, technique)
            return asked and phase.bundle_path is not None and not any(job.active for job in reader.jobs(limit=1000))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.console.close()
