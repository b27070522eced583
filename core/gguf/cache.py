"""What the key-value cache of a model takes, by the keys of its header."""

from core.gguf.inspect import GgufInfo

MOST_KEPT_BYTES = 64 * 10**6
_VALUES = 2 * 2  # a key and a value, in float16


def bytes_a_token(info: GgufInfo) -> int:
    """Bytes of the cache for one position: two values for each layer and key-value channel. 0 where the header does not
    tell."""
    width, heads = _number(info, "embedding_length", 0), max(1, _number(info, "attention.head_count", 1))
    channels = _number(info, "attention.head_count_kv", heads) * _number(info, "attention.key_length", width // heads)
    return _VALUES * _number(info, "block_count", 0) * channels


def kept_bytes(info: GgufInfo, n_ctx: int) -> int:
    """Most bytes of what adapters computed that an engine keeps for when a conversation comes back to them."""
    return min(MOST_KEPT_BYTES, 2 * cache_bytes(info, n_ctx))


def longest_context(info: GgufInfo) -> int | None:
    """Positions the model was trained for; None where the header does not tell."""
    return _number(info, "context_length", 0) or None


def cache_bytes(info: GgufInfo, n_ctx: int) -> int:
    """Bytes of the cache for a context, which is never longer than the model's own."""
    return bytes_a_token(info) * min(n_ctx, longest_context(info) or n_ctx)


def _number(info: GgufInfo, key: str, default: int) -> int:
    value = info.metadata.get(f"{info.architecture}.{key}", default)
    return int(value) if isinstance(value, int) else default
