"""On a real terminal: it is restored after signals, hostile text cannot reach it, and nothing heavy is loaded."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from core.devices import parse
from tara_tui import terminal
from tara_tui.meters import memory_limit, together
from tests.conftest import ROOT
from tests.terminal.pseudo_terminal import TIMEOUT_S, Terminal

HEAVY = ("sqlmodel", "sqlalchemy", "torch", "llama_cpp", "transformers", "peft", "numpy", "yaml", "psutil")


def program(*arguments: str, **environment: str) -> Terminal:
    """Python on a pseudo-terminal."""
    return Terminal(sys.executable, *arguments, **environment)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_restore_the_terminal(number: signal.Signals) -> None:
    it = program("-m", "tests.tara_tui.demo")
    try:
        it.shows("train business: running")
        assert b"\x1b[?1049h" in it.raw
        assert not termios.tcgetattr(it.master)[3] & termios.ECHO
        os.kill(it.pid, number)
        it.read_until(lambda: bool(termios.tcgetattr(it.master)[3] & termios.ECHO))
        assert it.ended() == 128 + number
        for restored in (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1000l", b"\x1b[?2004l"):
            assert it.raw.rindex(restored) > it.raw.index(b"\x1b[?1049h")
    finally:
        it.close()


def test_quit_says_that_jobs_go_on() -> None:
    it = program("-m", "tests.tara_tui.demo", NO_COLOR="1")
    try:
        it.shows("train business: running")
        it.write("q")
        assert it.ended() == 0
        assert b"jobs go on: 1 running, 1 queued" in it.raw
        assert b"\x1b[38;2;" not in it.raw
    finally:
        it.close()


def test_lost_terminal_ends_the_console_even_where_hang_ups_are_ignored() -> None:
    it = program("-c", IGNORING_DEMO)
    it.shows("train business: running")
    os.close(it.master)
    deadline = time.monotonic() + TIMEOUT_S
    pid = 0
    while not pid and time.monotonic() < deadline:
        pid, _ = os.waitpid(it.pid, os.WNOHANG)
        select.select([], [], [], 0.05)
    if not pid:
        os.kill(it.pid, signal.SIGKILL)
        os.waitpid(it.pid, 0)
    assert pid, "it went on without a terminal"


def test_resize_and_a_hostile_log_on_a_real_terminal() -> None:
    it = program("-c", HOSTILE_DEMO)
    try:
        it.shows("after the attack")
        attack = it.raw[it.raw.index(b"\x1b[?1049h") :]
        assert b"\x1b]0;" not in attack
        assert b"\x1b]52;" not in attack
        assert b"\x1bc" not in attack
        assert b"\x1b[5n" not in attack
        fcntl.ioctl(it.master, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        it.screen.resize(36, 120)
        os.kill(it.pid, signal.SIGWINCH)
        it.shows("─Log  job 12 train business: running 140/400 35%")
        it.shows("after the attack")
        it.write("q")
        assert it.ended() == 0
    finally:
        it.close()


IGNORING_DEMO = """
import runpy, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
runpy.run_module("tests.tara_tui.demo", run_name="__main__")
"""
HOSTILE_DEMO = """
import tempfile, sys
from pathlib import Path
from core.workspace import Workspace
from tara_tui.app import run_console
from tests.tara_tui.fake_backend import FakeBackend
folder = Path(tempfile.mkdtemp())
backend = FakeBackend(folder)
backend.write_log(12, "\\x1b]0;owned\\x07\\x1bc\\x1b[5n\\x1b]52;c;aGk=\\x07 [/foo]\\nafter the attack\\n")
sys.exit(run_console(Workspace(folder), backend))
"""


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}])
def test_refuses_a_dumb_terminal_with_a_hint(environment: dict[str, str]) -> None:
    it = program("-m", "tests.tara_tui.demo", **environment)
    try:
        assert it.ended() == 5
        assert b"use the commands: tara --help" in it.raw
        assert b"\x1b[?1049h" not in it.raw
    finally:
        it.close()


def test_refuses_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.tara_tui.demo"],
        cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    assert done.returncode == 5
    assert done.stdout == ""
    assert "needs a terminal for input and output" in done.stderr


def test_importing_the_console_loads_nothing_heavy() -> None:
    code = f"import sys, tara_tui.app; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_clipboard_is_wrapped_for_tmux_and_screen_and_bounded() -> None:
    assert terminal.clipboard_sequence("hi", {"TERM": "xterm"}) == "\x1b]52;c;aGk=\x07"
    assert terminal.clipboard_sequence("hi", {"TMUX": "x"}) == "\x1bPtmux;\x1b\x1b]52;c;aGk=\x07\x1b\\"
    assert terminal.clipboard_sequence("hi", {"TERM": "screen"}) == "\x1bP\x1b]52;c;aGk=\x07\x1b\\"
    assert terminal.clipboard_sequence("x" * 80_000, {}) is None


def test_memory_of_the_control_group(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("600\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 150\n")
    assert memory_limit(tmp_path) == (450, 1000)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) is None


def test_gpu_figures() -> None:
    assert together(parse("")) is None
    assert together(parse("GPU-a, 0, A, [N/A], 1, 2\n")) is None
    gpu = together(parse("GPU-a, 0, A, 12, 100, 1000\nGPU-b, 1, A, 97, 200, 1000\n"))
    assert gpu is not None
    assert (gpu.percent, gpu.used, gpu.total) == (97, 300 << 20, 2000 << 20)
