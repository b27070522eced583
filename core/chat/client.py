"""Asking a bundle: one engine process for each base, started when it is first needed.

No native library is loaded here. A crash in one takes its child; a new child is started and the answer goes on, and
since every question carries the whole conversation, nothing is lost.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from core.chat.caches import AnswerCache
from core.chat.events import Done, Restarted, Token
from core.chat.health import Health
from core.chat.holdings import Adapter, Base, Holdings
from core.chat.pool import Pool, available_bytes
from core.chat.process import EngineProcess
from core.chat.protocol import (
    Ask,
    Cancel,
    EngineClosed,
    EngineCrashed,
    EngineError,
    EngineTimeout,
    Event,
    Failed,
    Finished,
    Judge,
    Judged,
    LowMemory,
    Piece,
    PromptRefused,
    SamplingOptions,
)
from core.chat.watchdog import Watchdog
from core.errors import Refused

__all__ = ["Done", "Engine", "Restarted", "Token"]
DEFAULT_CONTEXT = 2048  # tokens
DEFAULT_LIMIT_S = 120.0  # without a word


class Engine:
    """The bases and adapters of a bundle or release folder, or of `holdings`, to be asked.

    One answer at a time; `cancel` and `close` may be called from other threads. Several bases are kept loaded while
    memory, or `budget` bytes, allow, the one not used for longest is let go first. `limit_s` is how long an engine may
    take for the first word and between two, None for ever; `health` says for how long one that failed is left out.
    Raises EngineError (InvalidInput for a folder that is no bundle).
    """

    def __init__(
        self,
        folder: Path | Holdings,
        *,
        n_ctx: int = DEFAULT_CONTEXT,
        threads: int | None = None,
        available: Callable[[], int] = available_bytes,
        budget: int | None = None,
        limit_s: float | None = DEFAULT_LIMIT_S,
        answers: AnswerCache | None = None,
        health: Health | None = None,
    ) -> None:
        self.holdings = folder if isinstance(folder, Holdings) else Holdings.of_folder(folder)
        self.n_ctx = n_ctx
        self.answers = answers if answers is not None else AnswerCache()
        self.health = health if health is not None else Health()
        self._limit_s = limit_s
        self._pool = Pool(threads, available, budget)
        self._answering = threading.Lock()
        self._changing = threading.RLock()  # guards the fields below
        self._ids = itertools.count(1)
        self._current: tuple[int, EngineProcess | None] | None = None
        self._cancelled: set[int] = set()
        self._closed = False

    # -- what it holds ---------------------------------------------------------------------------------------------

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that can be asked."""
        return self.holdings.domains

    def resident(self) -> frozenset[str]:
        """The domains whose base is loaded now."""
        loaded = self._pool.resident()
        return frozenset(name for name, adapter in self.holdings.adapters.items() if adapter.base in loaded)

    def unavailable(self) -> dict[str, str]:
        """The domains that cannot answer now, each with the reason: a file that is missing or changed its size, a base
        that does not fit in memory, a failure of a moment ago. One that is named is tried all the same."""
        found: dict[str, str] = {}
        for name, adapter in self.holdings.adapters.items():
            base = self.holdings.bases[adapter.base]
            why = (
                self.holdings.fault(name)
                or self.health.trouble(name, base.name)
                or self._pool.shortage(base, self.n_ctx)
            )
            if why is not None:
                found[name] = why
        return found

    def pids(self) -> dict[str, int]:
        """The process of each base that has one."""
        return self._pool.pids()

    # -- asking ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        messages: Sequence[dict[str, str]],
        domain: str | None = None,
        sampling: SamplingOptions | None = None,
        *,
        context: int = 0,
        cached: bool = True,
    ) -> Iterator[Token | Restarted | Done]:
        """Answer a conversation with a domain's adapter on its base; None is a base alone.

        `messages` are role and content, the newest question last. `context` is how much of the context may be used, in
        tokens, 0 for all. An answer that is known from before (the same files, prompt and settings, and `cached`) comes
        at once. The last event is Done; leaving the iteration earlier cancels the answer. An engine that dies in the
        middle is started again once and the answer goes on behind what was said, as it would have.

        Raises EngineError: for a missing or changed file, an adapter of another base, a domain that is not in the
        bundle; EngineCrashed where the process died again, EngineTimeout, LowMemory, PromptRefused, EngineClosed;
        Refused while another answer is being made.
        """
        with self._one_at_a_time() as ask_id:
            with self._noting(None, domain):
                base, adapter = self._chosen(domain)
            options = sampling or SamplingOptions()
            key = None
            if cached and options.repeatable:
                key = self.answers.key(base, adapter, messages, options, self.n_ctx, context)
            known = self.answers.get(key) if key is not None else None
            if known is not None:
                yield Token(known.text)
                yield known.again(domain)
                return
            ask = Ask(
                ask_id,
                [dict(message) for message in messages],
                str(adapter.path) if adapter and adapter.path else None,
                base.identity if adapter and adapter.path else None,
                options,
                context=context,
            )
            with self._noting(base, domain):
                for event in self._answer(base, ask, domain):
                    if isinstance(event, Done) and event.stopped_by != "cancelled":
                        self.health.answered(base.name, domain)
                    if isinstance(event, Done) and key is not None and self.answers.is_to_keep(event):
                        self.answers.put(key, event)
                    yield event

    def judge(self, messages: Sequence[dict[str, str]], answer: str) -> Judged:
        """How probable a base without an adapter finds an answer. Raises EngineError as `ask` does."""
        with self._one_at_a_time() as ask_id:
            base, _ = self._chosen(None)
            with self._watched() as dog:
                process, _ = self._started(base, dog, ask_id)
                try:
                    process.send(Judge(ask_id, [dict(message) for message in messages], answer))
                    event = self._next(process, dog, ask_id)
                except EngineCrashed as error:
                    self._pool.drop(base.name)
                    raise self._timed_out(base) if dog.expired else error from error
                assert isinstance(event, Judged)
                return event

    def prepare(self, domain: str | None = None) -> None:
        """Have the base of a domain loaded, so that the next question does not wait for it. Raises as `ask` does."""
        with self._one_at_a_time() as ask_id:
            base, _ = self._chosen(domain)
            with self._watched() as dog:
                self._started(base, dog, ask_id)

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

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[int]:
        if not self._answering.acquire(blocking=False):
            raise Refused("the engine is answering another question", "wait for it, or cancel it")
        ask_id = next(self._ids)
        try:
            with self._changing:
                if self._closed:
                    raise EngineClosed("the engine is closed", "open the chat again")
                self._current = (ask_id, None)
            yield ask_id
        finally:
            with self._changing:
                self._current = None
                self._cancelled.discard(ask_id)
            self._answering.release()

    @contextlib.contextmanager
    def _noting(self, base: Base | None, domain: str | None) -> Iterator[None]:
        """Note a question that the engine could not answer; what its owner or the prompt is to blame for is none, nor
        is a lack of memory: whether a base fits is looked at anew for each message."""
        try:
            yield
        except (EngineClosed, PromptRefused, LowMemory):
            raise
        except EngineError as error:
            self.health.failed(base.name if base is not None else None, domain, error.message)
            raise

    def _answer(self, base: Base, ask: Ask, domain: str | None) -> Iterator[Token | Restarted | Done]:
        asked = time.monotonic()
        waited: float | None = None
        load_s: float | None = None
        said: list[int] = []
        restarts = 0
        for attempt in (1, 2):
            over = False
            with self._watched() as dog:
                process: EngineProcess | None = None
                try:
                    process, started = self._started(base, dog, ask.id)
                    load_s = load_s if started is None else started
                    if self._is_cancelled(ask.id):
                        over = True
                        yield Done("", 0, None, None, "cancelled", domain, load_s=load_s)
                        return
                    process.send(replace(ask, begun=said) if said else ask)
                    while True:
                        event = self._next(process, dog, ask.id)
                        if isinstance(event, Piece):
                            waited = time.monotonic() - asked if waited is None else waited
                            said += event.ids
                            yield Token(event.text)
                        else:
                            assert isinstance(event, Finished)
                            over = True
                            if dog.expired and event.stopped_by == "cancelled":
                                raise self._timed_out(base)
                            yield _done(event, domain, load_s, waited, restarts)
                            return
                except EngineCrashed as error:
                    over = True
                    self._pool.drop(base.name)
                    if dog.expired:
                        raise self._timed_out(base) from error
                    # A child that died between two questions shows only now; one that dies again is at fault itself.
                    if self._closed:
                        raise EngineClosed(error.message, error.hint) from error
                    if attempt == 2:
                        raise
                    if said:
                        restarts += 1
                        yield Restarted(error.message)
                except EngineError:
                    over = True
                    raise
                finally:
                    if not over and process is not None:
                        # The consumer left: the rest of this answer must not be read as the next one's.
                        self._drain(base.name, process, ask.id, dog)

    def _next(self, process: EngineProcess, dog: Watchdog, ask_id: int) -> Event:
        """What the engine says next about a question. Raises EngineError where it could not answer it."""
        while True:
            dog.listening()
            event = process.receive()
            dog.heard()
            if isinstance(event, Failed):
                raise (PromptRefused if event.of_prompt else EngineError)(event.message, event.hint)
            if getattr(event, "id", None) == ask_id:
                return event

    def _watched(self) -> Watchdog:
        return Watchdog(self._limit_s, self._ask_to_stop, self._end_current)

    def _ask_to_stop(self) -> None:
        with self._changing:
            current = self._current
        if current is not None and current[1] is not None:
            with contextlib.suppress(EngineCrashed):  # the thread that reads the answer says so
                current[1].send(Cancel(current[0]))

    def _end_current(self) -> None:
        with self._changing:
            process = self._current[1] if self._current is not None else None
        if process is not None:
            process.kill()

    def _timed_out(self, base: Base) -> EngineTimeout:
        return EngineTimeout(
            f"the engine of {base.path.name} said nothing for {self._limit_s:g} s",
            "the machine is busy or the model too large for it; chat.limit_s sets how long is waited",
        )

    def _drain(self, name: str, process: EngineProcess, ask_id: int, dog: Watchdog) -> None:
        dog.listening()
        try:
            process.send(Cancel(ask_id))
            while not (isinstance(event := process.receive(), Finished | Failed) and event.id == ask_id):
                pass
        except EngineError:
            self._pool.drop(name)

    def _started(self, base: Base, dog: Watchdog, ask_id: int) -> tuple[EngineProcess, float | None]:
        """The base's process, started if there is none that lives, and what that took."""

        def watched(process: EngineProcess) -> None:
            with self._changing:
                self._current = (ask_id, process)
            dog.listening()

        try:
            process, seconds = self._pool.get(base, self.n_ctx, watched)
        except EngineError as error:
            silent = self._timed_out(base) if dog.expired and isinstance(error, EngineCrashed) else None
            if not isinstance(error, (EngineClosed, LowMemory)):
                self.health.base_failed(base.name, (silent or error).message)
            if silent is not None:
                raise silent from error
            raise
        finally:
            dog.heard()
        with self._changing:
            self._current = (ask_id, process)
        return process, seconds

    def _is_cancelled(self, ask_id: int) -> bool:
        with self._changing:
            return ask_id in self._cancelled

    def _chosen(self, domain: str | None) -> tuple[Base, Adapter | None]:
        """The model and adapter for a domain; for None the base that was used last, else the one most domains use, of
        those that could be started and for which there is memory."""
        if domain is not None:
            return self.holdings.domain(domain)
        loaded = self._pool.resident()
        if loaded:
            return self.holdings.base(loaded[-1]), None
        short = {name for name, base in self.holdings.bases.items() if self._pool.shortage(base, self.n_ctx)}
        return self.holdings.base(self.holdings.most_used(self.health.unfit | short)), None

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End every engine process, an answer in progress included; from any thread, and more than once."""
        with self._changing:
            self._closed = True
            busy = self._current[1] if self._current is not None else None
        self._pool.close(busy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def _done(event: Finished, domain: str | None, load_s: float | None, waited_s: float | None, restarts: int) -> Done:
    return Done(
        event.text,
        event.tokens,
        event.tokens_per_s,
        event.first_token_s,
        event.stopped_by,
        domain,
        event.forgotten,
        load_s,
        event.switch_s,
        waited_s,
        event.reused_tokens,
        restarts=restarts,
        ids=tuple(event.ids),
    )
