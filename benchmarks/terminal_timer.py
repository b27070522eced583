"""Programs on a pseudo-terminal: how long from fork until a text is on the screen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SIZE = (120, 36)  # columns, rows
LEAVE_S = 3.0
# Control sequences: CSI, OSC and DCS strings, character sets, single-character ones.
_ESCAPES = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]P_^][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()*+][0-9A-Za-z]|\x1b[=>78DEHMNOZc]"
)
_ASKS_2026 = b"\x1b[?2026$p"  # "do you know synchronized output?"
_KNOWS_2026 = b"\x1b[?2026;2$y"


class NotPainted(Exception):
    """The text did not appear; the message says what was seen instead."""


@dataclass(frozen=True)
class Paint:
    """Seconds from fork until the first byte and until the text, and bytes written up to there."""

    first_byte_s: float
    text_s: float
    bytes: int


def time_to_text(argv: Sequence[str], text: str, *, cwd: Path, timeout_s: float = 30.0) -> Paint:
    """Start `argv` on a terminal of 120x36 and wait until `text` is in what it wrote, escapes apart; then end it.

    The terminal answers one query only, the one for synchronized output (mode 2026), as a plain xterm-like one does.
    Raises NotPainted when the program ends or `timeout_s` passes first.
    """
    wanted = text.encode()
    started = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        _become(argv, cwd)
    seen, answered, first_byte = b"", 0, None
    try:
        while (left := started + timeout_s - time.perf_counter()) > 0:
            if not select.select([terminal], [], [], left)[0]:
                break
            data = _read(terminal)
            now = time.perf_counter() - started
            if not data:
                break
            first_byte = now if first_byte is None else first_byte
            seen += data
            if seen.count(_ASKS_2026) > answered:
                answered += 1
                os.write(terminal, _KNOWS_2026)
            if wanted in _ESCAPES.sub(b"", seen):
                return Paint(first_byte, now, len(seen))
    finally:
        _end(pid, terminal)
    shown = b" ".join(_ESCAPES.sub(b" ", seen).split())[-200:].decode(errors="replace")
    raise NotPainted(f"{text!r} did not appear within {timeout_s:g} s; the last that was written: {shown!r}")


def _become(argv: Sequence[str], cwd: Path) -> None:
    """In the child: set the size before the program asks for it, then be the program."""
    try:
        columns, rows = SIZE
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.chdir(cwd)
        os.execvpe(argv[0], list(argv), terminal_environment())
    except OSError as error:
        os.write(2, f"{argv[0]}: {error}".encode())
    finally:
        os._exit(127)


def terminal_environment() -> dict[str, str]:
    """The environment of a plain colour terminal, without what would change how a program draws."""
    dropped = ("TMUX", "STY", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TARA_ROOT")
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("TEXTUAL")}
    return {**kept, "TERM": "xterm-256color", "COLORTERM": "truecolor"}


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how Linux says that the other side was closed
        return b""


def _end(pid: int, terminal: int) -> None:
    """End the program: asked first, then killed. What it still writes is read, or it could not leave."""
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + LEAVE_S
    gone = False
    while not gone and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.02)[0] and not _read(terminal):
            break
        gone = os.waitpid(pid, os.WNOHANG)[0] == pid
    if not gone and os.waitpid(pid, os.WNOHANG)[0] != pid:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(terminal)
