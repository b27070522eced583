"""One answer of the engine while it comes, and its timings."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

ENDED = ("eos", "stop")  # ways to stop by which the model's turn is whole


class Generation:
    """One answer as it comes: iterate over it for pieces of text, then read how it went.

    `stopped_by` is None until the end, then `eos` (the model ended its turn), `stop` (a stop word), `length` (the limit
    or the end of the context) or `cancelled`. `first_token_s` counts from the start of the iteration, prompt included;
    `tokens_per_s` is the rate after the first token, None for a single one. The consumer's own time is not counted.
    """

    def __init__(self, pieces: Callable[["Generation"], Iterator[str]], prompt_tokens: int) -> None:
        self._pieces = pieces(self)
        self.prompt_tokens = prompt_tokens
        self.reused_tokens = 0
        self.tokens: list[int] = []
        self.text = ""
        self.stopped_by: str | None = None
        self.first_token_s: float | None = None
        self.tokens_per_s: float | None = None

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def finish(self) -> Self:
        """Run to the end."""
        for _ in self._pieces:
            pass
        return self


class Clock:
    """The time an answer takes without the consumer's."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._spent = 0.0
        self._ticks = 0

    def tick(self, generation: Generation) -> None:
        """One token more: update the generation's figures."""
        self._spent += time.monotonic() - self._last
        self._last = time.monotonic()
        self._ticks += 1
        if generation.first_token_s is None:
            generation.first_token_s = self._spent
        elif self._spent > generation.first_token_s:
            generation.tokens_per_s = (self._ticks - 1) / (self._spent - generation.first_token_s)

    def paused(self) -> "Clock":
        """A block whose time is not counted."""
        return self

    def __enter__(self) -> None:
        self._spent += time.monotonic() - self._last

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self._last = time.monotonic()
