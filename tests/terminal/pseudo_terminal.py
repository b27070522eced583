"""A program on a pseudo-terminal of its own, as a person at a keyboard has one."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable

import pyte

from tests.conftest import ROOT

TIMEOUT_S = 20.0


class Terminal:
    """A program on a pseudo-terminal, and the screen it draws."""

    def __init__(self, *argv: str, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        variables = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **environment}
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            # As in a terminal: who runs the tests in the background of a shell has it ignored, which is inherited.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.chdir(ROOT)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execvpe(argv[0], argv, variables)

    def read_until(self, holds: Callable[[], object], within: float = TIMEOUT_S) -> None:
        """Read what the program writes until the condition holds."""
        deadline = time.monotonic() + within
        while not holds():
            assert time.monotonic() < deadline, "\n".join(self.screen.display)
            if select.select([self.master], [], [], 0.05)[0] and not self.take():
                return

    def take(self) -> bool:
        """Take what was written; False where the other side is closed."""
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.raw += data
        self.stream.feed(data)
        return bool(data)

    def write(self, text: str) -> None:
        """Type a text."""
        os.write(self.master, text.encode())

    def shows(self, text: str, within: float = TIMEOUT_S) -> None:
        """Read until the screen shows the text."""
        self.finds(re.escape(text), within)

    def finds(self, pattern: str, within: float = TIMEOUT_S) -> re.Match[str]:
        """Read until a line of the screen matches; the match."""

        def look() -> re.Match[str] | None:
            return next((found for line in self.screen.display if (found := re.search(pattern, line))), None)

        self.read_until(look, within)
        found = look()
        assert found is not None, "\n".join([f"it left without {pattern!r}", *self.screen.display])
        return found

    def ended(self) -> int:
        """Read until the program closed the terminal; its exit status."""
        self.read_until(lambda: False)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """kill -9 of the program."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0

    def close(self) -> None:
        """End what is left."""
        if self.pid:
            self.kill()
        os.close(self.master)
