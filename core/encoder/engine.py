"""Sentence vectors by llama.cpp. Imports llama_cpp, whose faults end the process: for the encoder's process only."""

import ctypes
import os
import re
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.encoder.graph_file import check_adapter
from core.encoder.protocol import EncoderError
from core.encoder.reading import MOST_TOKENS, PIECE_TOKENS, pieces, unit_mean
from core.encoder.vocabulary import Vocabulary
from core.errors import InvalidInput
from core.gguf.engine_log import capture_log, last_error
from core.gguf.inspect import inspect_gguf
from core.gguf.llama import llama_cpp

# Of a text that is read without flash attention, which on a CPU takes a fifth to a third longer. Of more tokens memory
# counts; and since any context costs 5 MB, there is one of the two at a time.
SHORT_TOKENS = 96
LOOKS = 4  # at what runs, before fewer threads are taken
_RUNNING = re.compile(r"\S+ \S+ \S+ (\d+)/")  # of /proc/loadavg: what runs or waits for a processor now


class Engine:
    """A loaded sentence encoder. One call at a time, by up to `threads` threads.

    Adapters share the weights and have a context of their own.

    Raises InvalidInput for a file that is no model, EncoderError when llama.cpp refuses it.
    """

    def __init__(self, gguf: Path, *, threads: int = 1, processors: Collection[int] = ()) -> None:
        """`processors` are those of the process before llama.cpp was loaded, which may bind threads to places."""
        self._place = os.sched_getaffinity(0)
        self._processors = set(processors) or self._place
        info = inspect_gguf(gguf)
        if info.kind != "model":
            raise InvalidInput(f"{gguf} is an {info.kind}, not a sentence encoder", "name another file")
        capture_log()
        last_error()
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        settings.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), settings)
        if not self._model:
            raise EncoderError(f"llama.cpp could not load {gguf}: {last_error() or 'no reason given'}")
        self.vocabulary = Vocabulary(self._model, info.metadata)
        self.dimension = int(llama_cpp.llama_model_n_embd(self._model))
        trained = int(llama_cpp.llama_model_n_ctx_train(self._model))
        self.context_length = min(MOST_TOKENS, trained) if trained > 0 else MOST_TOKENS
        self._threads, self._pooling = threads, llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED
        self._context: Any = self._make_context(SHORT_TOKENS)
        self._short = True
        pooling = llama_cpp.llama_pooling_type(self._context)
        if pooling == llama_cpp.LLAMA_POOLING_TYPE_NONE:  # the file does not say how: the usual way
            self._free_context()
            self._pooling = llama_cpp.LLAMA_POOLING_TYPE_MEAN
            self._context = self._make_context(SHORT_TOKENS)
        elif pooling == llama_cpp.LLAMA_POOLING_TYPE_RANK:
            raise InvalidInput(f"{gguf} compares pairs of texts; it is not a sentence encoder", "name another file")
        self._adapted: dict[Path, tuple[Any, Any]] = {}  # adapter and context, by the adapter's file

    def _make_context(self, tokens: int) -> Any:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = min(tokens, self.context_length)
        options.n_seq_max = 1
        options.embeddings = True
        options.pooling_type = self._pooling
        options.n_threads = options.n_threads_batch = 1
        if tokens <= SHORT_TOKENS:  # of more, what it saves in memory counts
            options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(self._model, options)
        if not context:
            raise EncoderError(f"llama.cpp has no room for the encoder: {last_error() or 'no reason given'}")
        return context

    def embed(self, text: str, adapters: Sequence[Path | None] = (None,)) -> npt.NDArray[np.float32]:
        """The text's vector under each adapter, None for none: [adapters, dimension] float32, rows of length 1.

        What is longer than the context is left out. Raises EncoderError where llama.cpp fails or a vector has no
        length, InvalidInput for a file that is no adapter of this encoder.
        """
        tokens = self.vocabulary.read(text, self.context_length)
        return np.stack(
            [
                unit_mean(partial(self._pooled, self._plain_context(len(tokens))), [tokens])
                if one is None
                else unit_mean(partial(self._pooled, self._adapt(one)), pieces(tokens))
                for one in adapters
            ]
        )

    def _plain_context(self, tokens: int) -> Any:
        """The context without an adapter, with room for so many tokens."""
        short = tokens <= SHORT_TOKENS
        if short != self._short or self._context is None:
            self._free_context()
            self._context = self._make_context(SHORT_TOKENS if short else self.context_length)
            self._short = short
        return self._context

    def _free_context(self) -> None:
        if self._context is not None:
            llama_cpp.llama_free(self._context)
            self._context = None

    def _adapt(self, path: Path) -> Any:
        """The context with an adapter on it; made at its first text."""
        if path not in self._adapted:
            check_adapter(path)
            last_error()
            handle = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(path))
            if not handle:
                raise InvalidInput(f"{path.name} is no adapter of this encoder: {last_error() or 'no reason given'}")
            context = self._make_context(PIECE_TOKENS)
            one = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(handle)
            if llama_cpp.llama_set_adapters_lora(context, one, 1, (ctypes.c_float * 1)(1.0)):
                raise EncoderError(f"llama.cpp could not put {path.name} on: {last_error() or 'no reason given'}")
            self._adapted[path] = handle, context
        return self._adapted[path][1]

    def _pooled(self, context: Any, tokens: list[int]) -> npt.NDArray[np.float32]:
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for at, token in enumerate(tokens):
                batch.token[at], batch.pos[at], batch.logits[at] = token, at, 1
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
            threads = threads_now(self._threads, len(self._processors))
            # Bound to its place it could not go where there is room, and alone it has nobody to keep apart from.
            os.sched_setaffinity(0, self._processors if threads == 1 else self._place)
            llama_cpp.llama_set_n_threads(context, threads, threads)
            memory = llama_cpp.llama_get_memory(context)
            if memory:  # an encoder made of a language model has a cache
                llama_cpp.llama_memory_clear(memory, True)
            failed = llama_cpp.llama_decode(context, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        found = None if failed else llama_cpp.llama_get_embeddings_seq(context, 0)
        if not found:
            raise EncoderError(f"llama.cpp could not read a text of {len(tokens)} tokens: {last_error() or failed}")
        return np.ctypeslib.as_array(found, (self.dimension,)).astype(np.float32)  # a copy: the engine's is reused

    def close(self) -> None:
        """Free the contexts, the adapters and the model."""
        for handle, context in self._adapted.values():
            llama_cpp.llama_free(context)
            llama_cpp.llama_adapter_lora_free(handle)
        self._free_context()
        llama_cpp.llama_model_free(self._model)


def threads_now(most: int, processors: int) -> int:
    """How many threads to read with: of `most`, no more than there are of `processors` that do nothing.

    Threads wait for each other after each step of a layer. One of two that has to share its processor with another
    program makes both several times slower than one alone. What runs on processors that are not this process's counts
    as well: nobody tells which, and one thread is the safe number, as it is where nothing can be known.
    """
    free = 1
    for look in range(LOOKS):
        if look:
            time.sleep(1e-4)  # who asked may only be on the way to sleep
        try:
            running = _RUNNING.match(Path("/proc/loadavg").read_text("ascii"))  # this process is one of them
        except OSError:
            return 1
        if running is None:
            return 1
        free = max(free, min(most, processors + 1 - int(running[1])))
        if free == most:
            break
    return free
