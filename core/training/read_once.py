"""A GGUF file's fields read once where transformers reads them three times."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import gguf


@contextmanager
def read_once() -> Iterator[None]:
    """Inside it, what transformers asks of the `gguf` package again and again is remembered.

    To load a GGUF model and its tokenizer transformers 5.23 opens the file three times, each time making an object of
    every token and merge, and makes the table of tensor names anew for every module of the model: half of the time a
    base takes. Both follow from their arguments alone, and transformers looks them up in the package when it calls.
    """
    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = cache(reader), cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names
