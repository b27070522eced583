"""A limit on silence: what to do when an engine says nothing for too long."""

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

GRACE_S = 5.0  # from the first step, which asks, to the second, which does not


class Watchdog:
    """Inside its block, runs `ask` in a thread of its own once `listening` has lasted for `limit_s`, and `end` where
    that did not help within GRACE_S. `expired` says whether the limit was passed. Without a limit nothing is watched.
    """

    def __init__(self, limit_s: float | None, ask: Callable[[], None], end: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._steps = ((0.0, ask), (GRACE_S, end))
        self._since = math.inf
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.expired = False

    def listening(self) -> None:
        """The wait begins, or begins anew."""
        self._since = time.monotonic()

    def heard(self) -> None:
        """Something came; what its reader does with it is not counted."""
        self._since = math.inf

    def _watch(self) -> None:
        assert self._limit_s is not None
        for more, step in self._steps:
            while (left := self._since + self._limit_s + more - time.monotonic()) > 0:
                if self._over.wait(min(left, self._limit_s)):
                    return
            self.expired = True
            step()

    def __enter__(self) -> Self:
        if self._limit_s is not None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
