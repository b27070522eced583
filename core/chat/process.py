"""One engine process as its client holds it: started, spoken to, listened to, ended."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import core
from core.chat.protocol import (
    EngineCrashed,
    EngineError,
    Event,
    Failed,
    Load,
    Ready,
    Request,
    decode_event,
    encode,
)

END_S = 5.0  # an engine whose input was closed is killed after this
_LOG_TAIL = 4000  # bytes


class EngineProcess:
    """A child with one base loaded. Made ready by `start`; its answers are read by one thread at a time."""

    def __init__(self, gguf: Path, *, n_ctx: int, threads: int) -> None:
        self.gguf = gguf
        self.n_ctx = n_ctx
        self._threads = threads
        self._writing = threading.Lock()
        self._log = tempfile.TemporaryFile(prefix="tara-engine-")  # noqa: SIM115 - lives as long as the child
        self._logging = threading.Lock()
        self._tail = ""
        self.ready: Ready | None = None
        self._child = subprocess.Popen(
            [sys.executable, "-m", "core.chat.engine_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=Path(core.__file__).parents[1],  # where `core` is found, installed or not
            start_new_session=True,  # Ctrl-C in the terminal is the client's to handle
        )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._child.poll() is None

    def start(self) -> Ready:
        """Load the base. Raises EngineError with the engine's own reason."""
        self.send(Load(str(self.gguf), self.n_ctx, self._threads))
        event = self.receive()
        if isinstance(event, Failed):
            raise EngineError(event.message, event.hint)
        if not isinstance(event, Ready):
            raise EngineError(
                f"the engine of {self.gguf.name} answered a question that was not asked", "start it again"
            )
        self.ready = event
        return event

    def send(self, request: Request) -> None:
        """Say something to the child; from any thread. Raises EngineCrashed when it is gone."""
        assert self._child.stdin is not None
        try:
            with self._writing:
                self._child.stdin.write(encode(request))
                self._child.stdin.flush()
        except (BrokenPipeError, ValueError) as error:  # ValueError: closed by `close` in another thread
            raise EngineCrashed(self.obituary(), "ask again: a new engine is started") from error

    def receive(self) -> Event:
        """The child's next event; waits for it. Raises EngineCrashed when the child ends instead."""
        assert self._child.stdout is not None
        try:
            line = self._child.stdout.readline()
        except ValueError:  # closed by `close` in another thread
            line = b""
        if not line.endswith(b"\n"):
            raise EngineCrashed(self.obituary(), "ask again: a new engine is started")
        return decode_event(line)

    def obituary(self) -> str:
        """How the child ended, in one line, with the last line it wrote."""
        try:
            code = self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            return f"the engine of {self.gguf.name} closed its output and does not end"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = self.log().strip().rpartition("\n")[2]
        return f"the engine of {self.gguf.name} {how}" + (f": {last}" if last else "")

    def log(self) -> str:
        """The end of what the child wrote to its standard error, native messages included."""
        with self._logging:
            if not self._log.closed:
                size = os.fstat(self._log.fileno()).st_size
                tail = os.pread(self._log.fileno(), _LOG_TAIL, max(0, size - _LOG_TAIL))
                self._tail = tail.decode("utf-8", "replace")
            return self._tail

    def kill(self) -> None:
        """End the child at once; whoever listens to it is told. From any thread."""
        if self.alive:
            self._child.kill()

    def close(self, *, kill: bool = False) -> None:
        """End the child: its input is closed, and it is killed if it does not go or if `kill`. May be called twice."""
        if kill:
            self.kill()
        if self._writing.acquire(timeout=END_S):
            try:
                assert self._child.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it is gone already, which is what was wanted
                    self._child.stdin.close()
            finally:
                self._writing.release()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        assert self._child.stdout is not None
        self._child.stdout.close()
        self.log()
        with self._logging:
            self._log.close()
