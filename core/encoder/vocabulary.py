"""A text as the tokens that an encoder was trained on, by llama.cpp. For the encoder's process only."""

import re
from collections.abc import Mapping
from typing import Any

from core.encoder.protocol import EncoderError
from core.gguf.llama import llama_cpp

MOST_CHARACTERS = 20_000  # of a text that are looked at: more words than an encoder reads
# BERT's tokenizer takes a word of more than 100 characters for unknown, llama.cpp's spells it out.
_LONG_WORD = re.compile(r"[^\W_\u2e80-\u9fff\uf900-\ufaff]{101,}")
_UNKNOWN_TOKEN = "tokenizer.ggml.unknown_token_id"


class Vocabulary:
    """The vocabulary of a model that llama.cpp has loaded, or the vocabulary of which alone it has."""

    def __init__(self, model: Any, metadata: Mapping[str, Any]) -> None:
        self._vocabulary = llama_cpp.llama_model_get_vocab(model)
        words = llama_cpp.llama_vocab_type(self._vocabulary) == llama_cpp.LLAMA_VOCAB_TYPE_WPM
        self._unknown: int | None = metadata.get(_UNKNOWN_TOKEN) if words else None

    def read(self, text: str, most: int) -> list[int]:
        """At most so many tokens of a text, at least one: the first ones and the last, which says that it ends."""
        tokens = self.tokenize(text)
        if not tokens:  # an encoder without begin and end tokens, and nothing to read
            tokens = self.tokenize(" .")
        return tokens if len(tokens) <= most else [*tokens[: most - 1], tokens[-1]]

    def tokenize(self, text: str) -> list[int]:
        """Token ids, with the begin and end the encoder was trained with; no special token is read from the text."""
        text = text[:MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is no text
        if self._unknown is None or not _LONG_WORD.search(text):
            return self._plain(text)
        parts = [self._plain(part) for part in _LONG_WORD.split(text)]
        middle = [token for part in parts for token in (self._unknown, *part[1:-1])][1:]
        return [parts[0][0], *middle, parts[0][-1]]

    def _plain(self, text: str) -> list[int]:
        data = text.encode()
        size = len(data) + 8
        buffer = (llama_cpp.llama_token * size)()
        count = int(llama_cpp.llama_tokenize(self._vocabulary, data, len(data), buffer, size, True, False))
        if count < 0:
            raise EncoderError(f"llama.cpp could not tokenize a text of {len(data)} bytes")
        return list(buffer[:count])
