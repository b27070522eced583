"""What is kept from before, in this process's memory alone: answers, routing decisions, readings of emotion.

Each is bounded, least recently used first to go, and keyed by everything its value depends on, so that a new build,
other weights or another history is another key; nothing has to be told that something changed.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from core.chat.protocol import SamplingOptions
from core.files import hash_json

if TYPE_CHECKING:
    from core.chat.events import Done
    from core.chat.holdings import Adapter, Base
    from core.routing.emotion import Emotion, EmotionReader
    from core.routing.vectors import Embedding
    from core.routing.words import Word

MOST_ANSWERS, MOST_ANSWER_CHARACTERS = 200, 2_000_000
MOST_ROUTES = 1000
MOST_EMOTIONS = 1000
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class Figures:
    """How often a cache knew what it was asked, and what it holds."""

    hits: int
    misses: int
    held: int

    @property
    def rate(self) -> float | None:
        """Share of the questions it knew; None where it was asked nothing."""
        return self.hits / (self.hits + self.misses) if self.hits + self.misses else None


class Cache(Generic[K, V]):
    """Values by key, at most `most` of them and, where `weigh` is given, of `most_weight` together. Of any thread."""

    def __init__(self, most: int, most_weight: float | None = None, weigh: Callable[[V], float] | None = None) -> None:
        self._most, self._most_weight, self._weigh = most, most_weight, weigh
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weight = 0.0
        self._hits = self._misses = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, which is then the one used last; None where there is none. Counts as asked."""
        with self._lock:
            if key not in self._values:
                self._misses += 1
                return None
            self._hits += 1
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: K, value: V) -> None:
        """Keep a value; the ones not used for longest go where it becomes too much."""
        with self._lock:
            if key in self._values:
                self._weight -= self._of(self._values.pop(key))
            self._values[key] = value
            self._weight += self._of(value)
            while len(self._values) > self._most or (
                self._most_weight is not None and self._weight > self._most_weight
            ):
                self._weight -= self._of(self._values.popitem(last=False)[1])

    def _of(self, value: V) -> float:
        return self._weigh(value) if self._weigh is not None else 0.0

    def clear(self) -> None:
        """Forget all values; the counts stay."""
        with self._lock:
            self._values.clear()
            self._weight = 0.0

    @property
    def figures(self) -> Figures:
        """Hits, misses and what is held now."""
        with self._lock:
            return Figures(self._hits, self._misses, len(self._values))


class AnswerCache(Cache[str, "Done"]):
    """Finished answers. What may not be kept (of a crisis, sampled without a seed, cancelled, gone on behind a crash)
    is not asked for and not put in by `core.chat.client`."""

    def __init__(self, most: int = MOST_ANSWERS) -> None:
        super().__init__(most, MOST_ANSWER_CHARACTERS, lambda done: len(done.text))

    @staticmethod
    def key(
        base: "Base",
        adapter: "Adapter | None",
        messages: Sequence[dict[str, str]],
        options: SamplingOptions,
        n_ctx: int,
        context: int,
    ) -> str:
        """SHA-256 of all an answer depends on: the files, by hash and state, the whole prompt and all settings. A
        greedy answer depends on no other setting of the sampler than its length."""
        files = [base.sha256, _state(base.path), adapter.sha256 if adapter else None]
        files.append(_state(adapter.path) if adapter and adapter.path else None)
        settings: Any = options.max_tokens if options.temperature <= 0 else asdict(options)
        return hash_json([files, list(messages), settings, n_ctx, context])

    @staticmethod
    def is_to_keep(done: "Done") -> bool:
        """Whether an answer would come out again: behind a restart the numbers may differ in their last bits from
        those of one go."""
        return done.stopped_by != "cancelled" and not done.restarts


def _state(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


class EmotionCache(Cache[tuple[str, str | None], "Emotion"]):
    """Readings by text and the encoder whose vector they were made from."""

    def __init__(self, most: int = MOST_EMOTIONS) -> None:
        super().__init__(most)

    def reading(self, read: "EmotionReader") -> "EmotionReader":
        """`read` with what it said of a text remembered."""

        def remembered(text: str, words: "list[Word]", embedding: "Embedding | None" = None, /) -> "Emotion":
            key = text, embedding.encoder if embedding is not None else None
            known = self.get(key)
            if known is None:
                known = read(text, words, embedding)
                self.put(key, known)
            return known

        return remembered
