"""Asking a bundle: one engine process for each base, started when it is first needed.

No native library is loaded here. A crash in one takes its child; the next question starts a new child, and since every
question carries the whole conversation, nothing is lost.
"""

import contextlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from core.chat.process import EngineProcess
from core.chat.protocol import Ask, Cancel, EngineCrashed, EngineError, Failed, Finished, Piece, SamplingOptions
from core.deploy.manifest import read_manifest
from core.errors import InvalidInput, Refused
from core.files import sha256_of
from core.gguf.cache import cache_bytes
from core.gguf.inspect import inspect_gguf
from core.memory import available_memory

DEFAULT_CONTEXT = 2048  # tokens
MOST_THREADS = 8
PROCESS_BYTES = 150 * 10**6  # an engine process before its model: measured 130 MB, rounded up


@dataclass(frozen=True)
class Token:
    """A piece of the answer, as the model wrote it: not yet cleaned for a terminal."""

    text: str


@dataclass(frozen=True)
class Done:
    """The answer is over. `stopped_by`: eos, stop, length or cancelled. `tokens_per_s` is after the first token, None
    for a single one; `first_token_s` None where there was none. `forgotten` messages no longer fitted the context."""

    text: str
    tokens: int
    tokens_per_s: float | None
    first_token_s: float | None
    stopped_by: str
    domain: str | None
    forgotten: int = 0


@dataclass(frozen=True)
class _Base:
    name: str
    path: Path
    sha256: str | None  # what its adapters name as their base
    merged: bool = False  # domains are part of its weights


@dataclass(frozen=True)
class _Adapter:
    base: str
    path: Path | None  # None: the domain is part of the base's weights
    sha256: str


def available_bytes() -> int:
    """Memory a new process may take."""
    return available_memory()[0]


def idle_cores() -> int:
    """Cores this process may use that nothing else is busy on, from 1 to MOST_THREADS.

    Where one of the engine's threads has to share its core, all wait for it. Busy is what was busy over a tenth of a
    second just now; a load average would still count a training that ended a minute ago.
    """
    cores = len(os.sched_getaffinity(0))
    busy = round(psutil.cpu_percent(interval=0.1) / 100 * (os.cpu_count() or 1))
    return max(1, min(MOST_THREADS, cores - busy))


class Engine:
    """The bases and adapters of a bundle or release folder, to be asked.

    One answer at a time; `cancel` and `close` may be called from other threads. Several bases are kept loaded while
    memory allows, the one not used for longest is let go first. Raises EngineError (InvalidInput for a folder that is
    no bundle).
    """

    def __init__(
        self,
        folder: Path,
        *,
        n_ctx: int = DEFAULT_CONTEXT,
        threads: int | None = None,
        available: Callable[[], int] = available_bytes,
    ) -> None:
        self.folder = folder
        self._n_ctx = n_ctx
        self._threads = threads
        self._available = available
        self._bases, self._adapters = _entries(folder, read_manifest(folder))
        self._processes: OrderedDict[str, EngineProcess] = OrderedDict()
        self._checked: set[tuple[Path, int, int]] = set()
        self._answering = threading.Lock()
        self._changing = threading.RLock()  # guards the fields below and the table of processes
        self._ids = itertools.count(1)
        self._current: tuple[int, EngineProcess | None] | None = None
        self._cancelled: set[int] = set()
        self._closed = False

    # -- what it holds ---------------------------------------------------------------------------------------------

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that can be asked."""
        return tuple(sorted(self._adapters))

    def resident(self) -> frozenset[str]:
        """The domains whose base is loaded now."""
        with self._changing:
            loaded = {name for name, process in self._processes.items() if process.alive}
        return frozenset(name for name, adapter in self._adapters.items() if adapter.base in loaded)

    def pids(self) -> dict[str, int]:
        """The process of each base that has one."""
        with self._changing:
            return {name: process.pid for name, process in self._processes.items() if process.alive}

    # -- asking ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        messages: Sequence[dict[str, str]],
        domain: str | None = None,
        sampling: SamplingOptions | None = None,
    ) -> Iterator[Token | Done]:
        """Answer a conversation with a domain's adapter on its base; None is a base alone.

        `messages` are role and content, the newest question last. The last event is Done; leaving the iteration
        earlier cancels the answer. Raises EngineError: for a missing or changed file, an adapter of another base, a
        domain that is not in the bundle; EngineCrashed if the process died after the answer had begun; Refused while
        another answer is being made.
        """
        if not self._answering.acquire(blocking=False):
            raise Refused("the engine is answering another question", "wait for it, or cancel it")
        ask_id = next(self._ids)
        try:
            with self._changing:
                self._current = (ask_id, None)
            base, adapter = self._chosen(domain)
            ask = Ask(
                ask_id,
                [dict(message) for message in messages],
                str(adapter.path) if adapter and adapter.path else None,
                base.sha256 if adapter and adapter.path else None,
                sampling or SamplingOptions(),
            )
            yield from self._answer(base, ask, domain)
        finally:
            with self._changing:
                self._current = None
                self._cancelled.discard(ask_id)
            self._answering.release()

    def cancel(self) -> None:
        """Stop the answer that is being made, if there is one; its Done says "cancelled". From any thread."""
        with self._changing:
            if self._current is None:
                return
            ask_id, process = self._current
            self._cancelled.add(ask_id)
        if process is not None:
            with contextlib.suppress(EngineCrashed):  # the thread that reads the answer says so
                process.send(Cancel(ask_id))

    def _answer(self, base: _Base, ask: Ask, domain: str | None) -> Iterator[Token | Done]:
        begun = False
        for attempt in (1, 2):
            over = False
            process = self._started(base)
            with self._changing:
                self._current = (ask.id, process)
                cancelled = ask.id in self._cancelled
            if cancelled:
                yield Done("", 0, None, None, "cancelled", domain)
                return
            try:
                process.send(ask)
                while True:
                    event = process.receive()
                    if isinstance(event, Piece) and event.id == ask.id:
                        begun = True
                        yield Token(event.text)
                    elif isinstance(event, Finished) and event.id == ask.id:
                        over = True
                        yield _done(event, domain)
                        return
                    elif isinstance(event, Failed):
                        over = True
                        raise EngineError(event.message, event.hint)
            except EngineCrashed:
                over = True
                self._drop(base.name)
                # A child that died between two questions shows only now; one that dies again is at fault itself.
                if begun or attempt == 2 or self._closed:
                    raise
            finally:
                if not over:  # the consumer left: the rest of this answer must not be read as the next one's
                    self._drain(base.name, process, ask.id)

    def _drain(self, name: str, process: EngineProcess, ask_id: int) -> None:
        try:
            process.send(Cancel(ask_id))
            while not (isinstance(event := process.receive(), Finished | Failed) and event.id == ask_id):
                pass
        except EngineError:
            self._drop(name)

    # -- processes -------------------------------------------------------------------------------------------------

    def _started(self, base: _Base) -> EngineProcess:
        """The base's process, started if there is none that lives."""
        with self._changing:
            if self._closed:
                raise EngineError("the engine is closed", "open the chat again")
            process = self._processes.get(base.name)
            if process is not None and process.alive:
                self._processes.move_to_end(base.name)
                return process
            if process is not None:
                self._drop(base.name)
            self._make_room(base)
            process = EngineProcess(base.path, n_ctx=self._n_ctx, threads=self._threads or idle_cores())
            self._processes[base.name] = process
        try:
            process.start()
        except EngineError:
            self._drop(base.name)
            raise
        return process

    def _make_room(self, base: _Base) -> None:
        """Let other bases go until this one fits. Only what must be in memory can be a reason to refuse: the file
        itself is mapped, and is read again from the disk where memory is short."""
        mapped, needed = base.path.stat().st_size, PROCESS_BYTES + cache_bytes(inspect_gguf(base.path), self._n_ctx)
        while self._processes and self._available() < mapped + needed:
            self._drop(next(iter(self._processes)))
        free = self._available()
        if free < needed:
            raise EngineError(
                f"{base.path.name} needs {needed / 1e6:.0f} MB beside its mapped file, {free / 1e6:.0f} MB are free",
                "end other programs, or choose a shorter context",
            )

    def _drop(self, name: str) -> None:
        with self._changing:
            process = self._processes.pop(name, None)
        if process is not None:
            process.close()

    def close(self) -> None:
        """End every engine process, an answer in progress included; from any thread, and more than once."""
        with self._changing:
            self._closed = True
            processes, self._processes = list(self._processes.values()), OrderedDict()
            busy = self._current[1] if self._current is not None else None
        for process in processes:
            process.close(kill=process is busy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()

    # -- files -----------------------------------------------------------------------------------------------------

    def _chosen(self, domain: str | None) -> tuple[_Base, _Adapter | None]:
        """The model and adapter for a domain; for None the one that is loaded, else the one most domains use."""
        if domain is None:
            with self._changing:
                loaded = [name for name, process in self._processes.items() if process.alive]
            used = [adapter.base for adapter in self._adapters.values()]
            name = loaded[-1] if loaded else max(sorted(self._bases), key=used.count)
            return self._checked_base(name), None
        adapter = self._adapters.get(domain)
        if adapter is None:
            raise EngineError(f"{self.folder.name} has no domain {domain!r}", f"it has: {', '.join(self.domains)}")
        if adapter.path is not None:
            self._check_adapter(domain, adapter.path, adapter.sha256)
        return self._checked_base(adapter.base), adapter

    def _checked_base(self, name: str) -> _Base:
        base = self._bases[name]
        if not base.path.is_file():
            raise EngineError(f"{base.path} is missing", "deploy the phase again")
        return base

    def _check_adapter(self, domain: str, path: Path, sha256: str) -> None:
        """Compare an adapter with the manifest, once for each state of the file."""
        try:
            status = path.stat()
        except OSError as error:
            raise EngineError(f"{path} cannot be read: {error.strerror}", "deploy the phase again") from error
        key = (path, status.st_mtime_ns, status.st_size)
        if key in self._checked:
            return
        if sha256_of(path) != sha256:
            raise EngineError(f"the adapter of {domain} ({path}) differs from the manifest", "deploy the phase again")
        self._checked.add(key)


def _entries(folder: Path, manifest: dict[str, Any]) -> tuple[dict[str, _Base], dict[str, _Adapter]]:
    try:
        bases = {
            name: _Base(name, _inside(folder, entry["file"]), entry.get("base_sha256"), "merged" in entry)
            for name, entry in manifest["bases"].items()
        }
        adapters = {
            name: _Adapter(entry["base"], None, "")
            if entry["base"] in bases and bases[entry["base"]].merged and "adapter" not in entry
            else _Adapter(entry["base"], _inside(folder, entry["adapter"]), entry["sha256"])
            for name, entry in manifest["domains"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"the manifest of {folder} lacks {error}", "deploy the phase again") from error
    if not bases:
        raise InvalidInput(f"the manifest of {folder} names no base", "deploy the phase again")
    for name, adapter in adapters.items():
        if adapter.base not in bases:
            raise InvalidInput(
                f"{folder}: the domain {name} names the base {adapter.base!r}, which is not in the manifest"
            )
    return bases, adapters


def _inside(folder: Path, name: str) -> Path:
    """A file the manifest names; a manifest must not lead out of its folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidInput(f"the manifest of {folder} names {name!r}, which is outside of it")
    return (folder / name).absolute()


def _done(event: Finished, domain: str | None) -> Done:
    return Done(
        event.text,
        event.tokens,
        event.tokens_per_s,
        event.first_token_s,
        event.stopped_by,
        domain,
        event.forgotten,
    )
