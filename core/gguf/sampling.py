"""From logits to text: the engine's samplers, and pieces that are whole characters and no stop words."""

import codecs
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from core.gguf.llama import llama_cpp


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedily at `temperature` 0, else at random from the `top_k` most probable, of those the
    fewest that together have `top_p`, of those the ones with at least `min_p` of the best one's probability."""

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int = 0


class Sampler:
    """The engine's sampler chain; freed when its block is left."""

    def __init__(self, sampling: Sampling) -> None:
        self._chain: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for link in self._links(sampling):
            llama_cpp.llama_sampler_chain_add(self._chain, link)  # the chain owns its links

    @staticmethod
    def _links(sampling: Sampling) -> list[Any]:
        if sampling.temperature <= 0:
            return [llama_cpp.llama_sampler_init_greedy()]
        return [
            llama_cpp.llama_sampler_init_top_k(sampling.top_k),
            llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
            llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1),
            llama_cpp.llama_sampler_init_temp(sampling.temperature),
            llama_cpp.llama_sampler_init_dist(sampling.seed & 0xFFFFFFFF),
        ]

    def sample(self, context: Any) -> int:
        """Choose the next token from the logits of the last one evaluated."""
        return int(llama_cpp.llama_sampler_sample(self._chain, context, -1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None


class TextAssembler:
    """Joins token bytes into text: characters are held back until whole, text until it cannot begin a stop word."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [word for word in stop if word]
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """The text that is certain after these bytes; sets `stopped` and drops the rest when a stop word came."""
        self._held += self._decoder.decode(data)
        found = [at for at in (self._held.find(word) for word in self._stop) if at >= 0]
        if found:
            self.stopped = True
            return self._release(min(found))
        return self._release(len(self._held) - self._undecided())

    def finish(self, *, whole: bool) -> str:
        """What is left. When the model ended its turn (`whole`), bytes that never became a character are shown as
        U+FFFD; when it was cut off, a character cut in two is dropped."""
        if self.stopped:
            return ""
        if whole:
            self._held += self._decoder.decode(b"", final=True)
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _undecided(self) -> int:
        """Length of the longest end of the held text that a stop word begins with."""
        return max(
            (
                length
                for word in self._stop
                for length in range(min(len(word) - 1, len(self._held)), 0, -1)
                if self._held.endswith(word[:length])
            ),
            default=0,
        )


def token_bytes(vocabulary: Any, token: int) -> bytes:
    """The bytes of a token's text; none for a control token."""
    size = 64
    while True:
        buffer = ctypes.create_string_buffer(size)
        count = int(llama_cpp.llama_token_to_piece(vocabulary, token, buffer, size, 0, False))
        if count >= 0:
            return buffer.raw[:count]
        size = -count
