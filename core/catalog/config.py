"""A base's sizes under the names of its config.json, and how many weights it has, whatever its files are; nothing is
loaded."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from core.catalog.bases import Located, weights_of
from core.errors import InvalidInput
from core.gguf.header import Header, read_header
from core.hygiene.architectures import BUFFERS, HEAD
from core.hygiene.reading import Malformed, read_object
from core.hygiene.safetensors_file import read_header as read_safetensors_header


def config_of(located: Located) -> dict[str, Any] | None:
    """A base's sizes as its config.json gives them, from the header where it is a GGUF; None where they are not told.

    Raises Malformed for a config.json that is none, InvalidInput for a GGUF that is none.
    """
    if located.gguf_file is None:
        return read_object(located.path / "config.json")
    header = _header(located.file)
    kind = header.architecture
    said = {name.removeprefix(f"{kind}."): value for name, value in header.metadata.items()}
    if any(name.startswith(f"{kind}.attention.head_count") for name in header.arrays):
        return None  # sizes that differ from layer to layer
    if kind == "gpt2":
        names = {"n_embd": "embedding_length", "n_layer": "block_count", "n_head": "attention.head_count",
                 "n_inner": "feed_forward_length", "n_positions": "context_length"}  # fmt: skip
    else:
        names = {"hidden_size": "embedding_length", "intermediate_size": "feed_forward_length",
                 "num_hidden_layers": "block_count", "num_attention_heads": "attention.head_count",
                 "num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length"}  # fmt: skip
    sizes = {name: said[key] for name, key in names.items() if key in said}
    vocabulary = said.get("vocab_size", header.arrays.get("tokenizer.ggml.tokens"))
    return {"model_type": kind, "vocab_size": vocabulary, **sizes}


def parameters_of(located: Located) -> int | None:
    """How many weights a base's files hold, by their headers, without masks and without a head that is the embedding
    once more; None where these cannot be read."""
    try:
        if located.gguf_file is not None:
            return sum(tensor.elements for tensor in _header(located.file).tensors)
        config = config_of(located) or {}
        tied = config.get("tie_word_embeddings", config.get("model_type") == "gpt2")  # only gpt2 ties when not told
        files = weights_of(located.name, located.path)
        tensors = [tensor for file in files for tensor in read_safetensors_header(file).values()]
    except (InvalidInput, Malformed, OSError):
        return None
    counted = (one for one in tensors if not one.name.endswith(BUFFERS) and not (tied and one.name == HEAD))
    return sum(tensor.elements for tensor in counted)


def _header(file: Path) -> Header:
    """A GGUF's header, which takes a while to read: sizes and weights are asked for one after the other."""
    try:
        stands = file.stat()
    except OSError:
        return read_header(file)  # which says what is wrong
    return _header_as_it_stands(file, stands.st_size, stands.st_mtime_ns)


@lru_cache(maxsize=4)
def _header_as_it_stands(file: Path, size: int, changed_ns: int) -> Header:
    return read_header(file)
