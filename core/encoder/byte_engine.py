"""Sentence vectors by onnxruntime, weights and activations in bytes: for the encoder's process only.

On a processor that adds up products of bytes it takes a third of the time that llama.cpp takes with one thread, for
vectors with a cosine of 0.999 to those. It reads with one thread: two took as long on the two processors of the machine
that this was measured on, and one is not held up by what runs beside it.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from core.encoder.embeddings import Embeddings
from core.encoder.graph_parts import INPUT
from core.encoder.protocol import EncoderError
from core.encoder.reading import pieces, unit_mean


class ByteEngine:
    """A loaded sentence encoder, as `core.encoder.engine.Engine` is one. One call at a time.

    `graph` is that of the file, `graph_under` gives the one under an adapter and may raise. Raises EncoderError where
    llama.cpp or onnxruntime refuse a file.
    """

    def __init__(
        self, gguf: Path, graph: Path, graph_under: Callable[[Path], Path], processors: Collection[int] = ()
    ) -> None:
        """`processors` are those of the process before llama.cpp was loaded, which may bind threads to places."""
        self._embeddings = Embeddings(gguf, processors)
        self.dimension, self.context_length = self._embeddings.dimension, self._embeddings.most_tokens
        self._graph_under = graph_under
        self._plain = _session(graph)
        self._adapted: dict[Path, onnxruntime.InferenceSession] = {}

    def embed(self, text: str, adapters: Sequence[Path | None] = (None,)) -> npt.NDArray[np.float32]:
        """The text's vector under each adapter, None for none: [adapters, dimension] float32, rows of length 1.

        What is longer than the context is left out. Raises EncoderError, and what `graph_under` raises.
        """
        tokens = self._embeddings.tokens(text)
        return np.stack(
            [
                unit_mean(partial(self._mean, self._plain), [tokens])
                if one is None
                else unit_mean(partial(self._mean, self._adapt(one)), pieces(tokens))
                for one in adapters
            ]
        )

    def _adapt(self, adapter: Path) -> onnxruntime.InferenceSession:
        if adapter not in self._adapted:
            self._adapted[adapter] = _session(self._graph_under(adapter))
        return self._adapted[adapter]

    def _mean(self, session: onnxruntime.InferenceSession, tokens: list[int]) -> npt.NDArray[np.float32]:
        (found,) = session.run(None, {INPUT: self._embeddings.of(tokens)})
        return np.asarray(found)

    def close(self) -> None:
        """Free the vocabulary; the graphs go with the object."""
        self._embeddings.close()


def _session(graph: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # texts differ in length: an arena only grows
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class but this one
        raise EncoderError(f"onnxruntime could not load {graph}: {error}", "delete it; it is made again") from error
