"""A text as the tokens that an encoder was trained on, by llama.cpp, and those as vectors with their places."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from core.encoder.protocol import EncoderError
from core.encoder.reading import MOST_TOKENS, Floats
from core.encoder.vocabulary import Vocabulary
from core.gguf.engine_log import capture_log, last_error
from core.gguf.inspect import inspect_gguf
from core.gguf.llama import llama_cpp
from core.gguf.weights import Weights


class Embeddings:
    """What comes before the first layer of a BERT in a GGUF file, which is mapped. Raises EncoderError."""

    def __init__(self, gguf: Path, processors: Collection[int] = ()) -> None:
        """`processors` are those of the process before llama.cpp was loaded, which may bind threads to places."""
        metadata = inspect_gguf(gguf).metadata
        capture_log()
        last_error()
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.vocab_only = True
        self._model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), settings)
        if not self._model:
            raise EncoderError(f"llama.cpp could not load {gguf}: {last_error() or 'no reason given'}")
        if processors:
            os.sched_setaffinity(0, set(processors))
        self._vocabulary = Vocabulary(self._model, metadata)
        self._weights = Weights(gguf, rounded=True)
        tensors = self._weights.tensors
        self._words = tensors["token_embd.weight"]
        self.most_tokens = min(MOST_TOKENS, tensors["position_embd.weight"].shape[1])
        places = self._weights.rows(tensors["position_embd.weight"], range(self.most_tokens))
        self._places = places + self._weights.rows(tensors["token_types.weight"], [0])

    @property
    def dimension(self) -> int:
        """Of a token's vector."""
        return int(self._places.shape[1])

    def tokens(self, text: str) -> list[int]:
        """At least one token, at most `most_tokens`; what is longer is cut."""
        return self._vocabulary.read(text, self.most_tokens)

    def of(self, tokens: list[int]) -> Floats:
        """[n, dimension] for n tokens."""
        return np.asarray(self._weights.rows(self._words, tokens) + self._places[: len(tokens)])

    def close(self) -> None:
        """Free the vocabulary."""
        llama_cpp.llama_model_free(self._model)
