"""Three consoles on terminals of different sizes that stay open over several faults, are used, and go away."""

import fcntl
import os
import pty
import random
import signal
import struct
import termios
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.scene import TARA

SIZES = ((80, 24), (120, 36), (40, 12))  # columns, rows
KEYS = (b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\t", b"1", b"2", b"3", b"4")
KEPT = 4000  # bytes of what a console wrote last, for the report


@dataclass
class Console:
    """One console and its terminal, read by a thread of its own."""

    root: Path
    columns: int
    rows: int
    pid: int = 0
    terminal: int = -1
    wrote: deque[int] = field(default_factory=lambda: deque(maxlen=KEPT))

    def open(self) -> "Console":
        """Start it."""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))
            os.environ["TERM"] = "xterm-256color"
            os.execv(TARA, [str(TARA), "--root", str(self.root)])
        threading.Thread(target=self._drink, daemon=True).start()
        return self

    def _drink(self) -> None:
        try:
            while data := os.read(self.terminal, 65536):
                self.wrote.extend(data)
        except OSError:
            return  # the terminal is gone, as it should be

    def press(self, key: bytes) -> None:
        """Press a key; where it has gone away meanwhile, `ended` tells."""
        try:
            os.write(self.terminal, key)
        except OSError:
            return

    def ended(self) -> int | None:
        """Its exit status where it ended by itself: negative for a signal."""
        found, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    def close(self, number: int) -> int:
        """End it by a signal, or (SIGHUP) by taking its terminal away as well; its exit status."""
        os.kill(self.pid, number)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(status)

    def last_words(self) -> str:
        """What it wrote last, for a look."""
        return bytes(self.wrote).decode(errors="replace")[-600:]


class Consoles:
    """The consoles of a scene. They must never end by themselves; `broken` says which did."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.open: list[Console] = []
        self.broken: list[str] = []
        self.killed: set[int] = set()  # by a fault
        self._left = 0

    def start(self, order: random.Random) -> str:
        """Three at once, for the next few faults."""
        stay = order.randint(3, 8)
        if self.open:
            self._left += stay
            return "the three stay longer"
        self.open = [Console(self.root, columns, rows).open() for columns, rows in SIZES]
        self._left = stay
        return f"three consoles for {stay} faults"

    def step(self, order: random.Random) -> None:
        """Between two faults: press some keys, see that all live, and let them go when their time has come."""
        keys = [order.choice(KEYS) for _ in SIZES]  # drawn whether or not they are open: the seed decides alone
        ends = [order.choice((signal.SIGKILL, signal.SIGHUP, signal.SIGTERM)) for _ in SIZES]
        for console, key in zip(list(self.open), keys, strict=False):
            status = console.ended()
            if status is not None:
                self._gone(console, status)
            else:
                console.press(key)
        self._left -= 1
        if self._left <= 0:
            self.close(ends)

    def close(self, ends: list[signal.Signals]) -> None:
        """End those that live; each by its signal, and with the status that belongs to that."""
        for console, number in zip(self.open, ends, strict=False):
            status = console.ended()
            if status is not None:
                self._gone(console, status, remove=False)
                continue
            status = console.close(number)
            if status not in (-number, 128 + number, -signal.SIGKILL if console.pid in self.killed else -number):
                self.broken.append(f"a console left with {status} on {number.name}: {console.last_words()!r}")
        self.open = []

    def _gone(self, console: Console, status: int, *, remove: bool = True) -> None:
        if not (status == -signal.SIGKILL and console.pid in self.killed):
            self.broken.append(f"a console ended by itself with {status}: {console.last_words()!r}")
        os.close(console.terminal)
        if remove:
            self.open.remove(console)
