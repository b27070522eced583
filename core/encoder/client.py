"""The sentence encoder as its users hold it: a small child process, started at the first text and after a crash."""

import base64
import contextlib
import itertools
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import core
from core.catalog.hashes import remembered_sha256
from core.encoder.place import find_encoder
from core.encoder.protocol import EncoderError, decode, encode
from core.gguf.header import read_header

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Encoder", "EncoderError", "configured_encoder"]

ANSWER_S = 60.0  # an encoder that says nothing for so long is ended
LOAD_S = 600.0  # with making a graph of a large encoder
END_S = 5.0
TEXTS_AT_ONCE = 16  # in one request, so that ANSWER_S is long for any of them
MOST_THREADS = 4  # of a text that a person waits for: two take half the time of one; more than two were not measured
_BLOCK = 1 << 16
_STARTED = itertools.count()
# glibc's allocator: one heap for all threads, and of what is freed 4 MB stay for the next step. Given back at once they
# would be asked for again at each step, a quarter of the time of a text of 64 tokens; others ignore these settings.
_SMALL = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "4194304", "MALLOC_MMAP_THRESHOLD_": "4194304"}


class _Ended(EncoderError):
    """The child ended, or was ended, instead of answering."""


class Encoder:
    """Texts as unit vectors. Give it a GGUF of a sentence encoder; `close` it, or use it in a `with`.

    May be used from several threads, one text after the other. Nothing is started before the first text. `identity` is
    the SHA-256 of the file, `dimension` the length of its vectors.
    """

    def __init__(self, gguf: Path, *, threads: int | None = None) -> None:
        """`threads` are those of llama.cpp, which reads what cannot be read by bytes (`graph_file.graph_of_file`)."""
        self.gguf = gguf
        self.reads = ""  # by what, once it was started
        header = read_header(gguf)
        self.dimension = int(header.metadata.get(f"{header.architecture}.embedding_length", 0))
        self._threads = threads or min(MOST_THREADS, len(os.sched_getaffinity(0)))
        self._using = threading.Lock()
        self._child: _Child | None = None
        self._identity: str | None = None

    @property
    def identity(self) -> str:
        """SHA-256 of the encoder's file, as hex: vectors of encoders with different ones cannot be compared."""
        if self._identity is None:
            self._identity = remembered_sha256([self.gguf])[0]
        return self._identity

    @property
    def pid(self) -> int | None:
        """The child's process id; None before the first text."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start the child and load the file, so that the first text does not wait for it. Raises EncoderError."""
        with self._using:
            self._running()

    def embed(self, texts: Sequence[str], meanwhile: Callable[[], None] | None = None) -> "npt.NDArray[np.float32]":
        """A row of length 1 for each text, [n, dimension] float32; the same text always has the same row.

        What is longer than the encoder's context is cut. `meanwhile` is called while the child reads the first of them.
        Raises EncoderError, after one new start where the child ended, and what `meanwhile` raises.
        """
        return self._ask(texts, {}, meanwhile).reshape(len(texts), self.dimension)

    def embed_adapted(self, texts: Sequence[str], adapters: Sequence[Path | None]) -> "npt.NDArray[np.float32]":
        """As `embed` under each of some GGUF adapters of this encoder, None for none: [n, adapters, dimension].

        Raises EncoderError, also for a file that is no adapter of this encoder.
        """
        named = [None if one is None else str(one.resolve()) for one in adapters]
        return self._ask(texts, {"adapters": named}).reshape(len(texts), len(adapters), self.dimension)

    def _ask(
        self, texts: Sequence[str], how: dict[str, Any], meanwhile: Callable[[], None] | None = None
    ) -> "npt.NDArray[np.float32]":
        import numpy as np

        rows, left = [], [meanwhile] if meanwhile is not None else []

        def once() -> None:
            if left:
                left.pop()()

        with self._using:
            for at in range(0, len(texts), TEXTS_AT_ONCE):
                request = {"texts": list(texts[at : at + TEXTS_AT_ONCE]), **how}
                try:
                    answer = self._running().ask(request, once)
                except _Ended:
                    answer = self._running().ask(request, once)
                rows.append(base64.b64decode(answer["vectors"]))
        return np.frombuffer(b"".join(rows), "<f4")

    def _running(self) -> "_Child":
        if self._child is not None and not self._child.alive:
            self._child.close()
            self._child = None
        if self._child is None:
            child = _Child(self.gguf)
            try:
                load = {"load": str(self.gguf.resolve()), "threads": self._threads}
                ready = child.ask(load, most_s=LOAD_S)["ready"]
            except BaseException:
                child.close()
                raise
            self.dimension, self.reads, self._child = int(ready["dimension"]), str(ready["reads"]), child
        return self._child

    def close(self) -> None:
        """End the child. A later text starts a new one."""
        with self._using:
            if self._child is not None:
                self._child.close()
                self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def configured_encoder(setting: str) -> Encoder | None:
    """The encoder that `routing.encoder` of the settings names, as `find_encoder`; None where it is switched off.

    Nothing is started. Raises EnvironmentLacks, InvalidInput.
    """
    file = find_encoder(setting)
    return Encoder(file) if file is not None else None


def _apart() -> dict[str, str]:
    """Settings by which an encoder's threads have a processor each; each encoder begins with another.

    After a pause the system wakes the threads on one processor and parts them 15 ms later, when the text is read.
    """
    own = sorted(os.sched_getaffinity(0))
    first = next(_STARTED) + os.getpid()
    return {
        "OMP_PROC_BIND": "true",
        "OMP_PLACES": ",".join(f"{{{own[(first + at) % len(own)]}}}" for at in range(len(own))),
    }


class _Child:
    """One process of the encoder."""

    def __init__(self, gguf: Path) -> None:
        self._name = gguf.name
        self._log = tempfile.TemporaryFile(prefix="tara-encoder-")  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", "core.encoder.engine_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**_apart(), **os.environ, **_SMALL},
            cwd=Path(core.__file__).parents[1],  # where `core` is found, installed or not
            start_new_session=True,  # Ctrl-C in the terminal is the client's to handle
            bufsize=0,
        )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(
        self, request: dict[str, Any], meanwhile: Callable[[], None] | None = None, most_s: float = ANSWER_S
    ) -> dict[str, Any]:
        """The child's answer, for which nobody waits before `meanwhile` is done. Raises EncoderError with the child's
        own reason, _Ended when it ends instead."""
        assert self._process.stdin is not None
        line = memoryview(encode(request))
        try:
            while line:
                line = line[self._process.stdin.write(line) :]
        except BrokenPipeError as error:
            raise self._ended() from error
        fault: BaseException | None = None
        try:
            if meanwhile is not None:
                meanwhile()
        except BaseException as error:  # noqa: BLE001 - raised below: an answer left unread would be the next text's
            fault = error
        try:
            answer = decode(self._line(most_s))
        except BaseException as error:  # also an interrupt: nobody knows any more what its next answer is to
            self._process.kill()
            self._process.wait()  # else the next text could have the answer that is under way
            if fault is not None:
                raise fault from error
            raise
        if fault is not None:
            raise fault
        if "error" in answer:
            raise EncoderError(str(answer["error"]), answer.get("hint"))
        return answer

    def _line(self, most_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        until = time.monotonic() + most_s
        blocks: list[bytes] = []
        while not blocks or not blocks[-1].endswith(b"\n"):
            if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                self._process.kill()
                raise _Ended(f"the sentence encoder {self._name} did not answer in {most_s:g} s and was ended")
            block = os.read(descriptor, _BLOCK)
            if not block:
                raise self._ended()
            blocks.append(block)
        return b"".join(blocks)

    def _ended(self) -> _Ended:
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        size = os.fstat(self._log.fileno()).st_size
        last = os.pread(self._log.fileno(), _BLOCK, max(0, size - _BLOCK)).decode("utf-8", "replace")
        last = last.strip().rpartition("\n")[2]
        return _Ended(f"the sentence encoder {self._name} {how}" + (f": {last}" if last else ""))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already, which is what was wanted
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
