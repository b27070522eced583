"""Sentence vectors by onnxruntime, weights and activations in bytes: for the encoder's process only.

On a processor that adds up products of bytes it takes a third of the time that llama.cpp takes with one thread, for
vectors with a cosine of 0.999 to those. It reads with one thread: two took as long on the two processors of the machine
that this was measured on, and one is not held up by what runs beside it.
"""

import os
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.encoder.embeddings import Embeddings
from core.encoder.engine import Engine
from core.encoder.graph_parts import INPUT
from core.encoder.protocol import EncoderError
from core.encoder.reading import pieces, unit_mean

# Before it is loaded: it reports to its maker what machine this is and what failed, and is not asked to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime


class ByteEngine:
    """A loaded sentence encoder, as `core.encoder.engine.Engine` is one. One call at a time.

    `graph` is that of the file, `graph_under` gives the one under an adapter and may raise; under an adapter for which
    it gives None, or one that cannot be loaded, the engine that `in_floats` gives reads. Raises EncoderError where
    llama.cpp or onnxruntime refuse a file.
    """

    def __init__(
        self,
        gguf: Path,
        graph: Path,
        graph_under: Callable[[Path], Path | None],
        in_floats: Callable[[], Engine],
        processors: Collection[int] = (),
    ) -> None:
        """`processors` are those of the process before llama.cpp was loaded, which may bind threads to places."""
        self._embeddings = Embeddings(gguf, processors)
        self.dimension, self.context_length = self._embeddings.dimension, self._embeddings.most_tokens
        self._graph_under = graph_under
        self._plain = _session(graph)
        self._adapted: dict[Path, onnxruntime.InferenceSession | None] = {}
        self._in_floats = in_floats
        self._floats: Engine | None = None

    def embed(self, text: str, adapters: Sequence[Path | None] = (None,)) -> npt.NDArray[np.float32]:
        """The text's vector under each adapter, None for none: [adapters, dimension] float32, rows of length 1.

        What is longer than the context is left out. Raises EncoderError, and what `graph_under` raises.
        """
        tokens = self._embeddings.tokens(text)
        rows = []
        for one in adapters:
            if one is None:
                rows.append(unit_mean(partial(self._mean, self._plain), [tokens]))
            elif (session := self._adapt(one)) is not None:
                rows.append(unit_mean(partial(self._mean, session), pieces(tokens)))
            else:
                self._floats = self._floats or self._in_floats()
                rows.append(self._floats.embed(text, [one])[0])
        return np.stack(rows)

    def _adapt(self, adapter: Path) -> onnxruntime.InferenceSession | None:
        if adapter not in self._adapted:
            graph = self._graph_under(adapter)
            try:
                self._adapted[adapter] = _session(graph) if graph is not None else None
            except EncoderError as error:
                print(f"{adapter.name} is read in floats: {error.one_line()}", file=sys.stderr)
                self._adapted[adapter] = None
        return self._adapted[adapter]

    def _mean(self, session: onnxruntime.InferenceSession, tokens: list[int]) -> npt.NDArray[np.float32]:
        try:
            (found,) = session.run(None, {INPUT: self._embeddings.of(tokens)})
        except Exception as error:  # its errors have no common class but this one
            raise EncoderError(f"onnxruntime could not read a text of {len(tokens)} tokens: {error}") from error
        return np.asarray(found)

    def close(self) -> None:
        """Free the vocabulary; the graphs go with the object."""
        self._embeddings.close()
        if self._floats is not None:
            self._floats.close()


def _session(graph: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # texts differ in length: an arena only grows
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class but this one
        raise EncoderError(f"onnxruntime could not load {graph}: {error}", "delete it; it is made again") from error
