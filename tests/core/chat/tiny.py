"""A tiny random model as a GGUF file, with the embedded base's vocabulary and template, and adapters for it.

What it says makes no sense and comes fast; sampled with a seed it differs with every weight, so that equal answers mean
equal computations.
"""

import struct
from pathlib import Path

import gguf
import numpy as np

from core.gguf.header import PREFIX_BYTES, padded, read_header
from core.gguf.metadata import BASE_NAME, BASE_SHA256, DOMAIN
from tests.models import embedded_gguf

LAYERS, HIDDEN, HEADS, INNER, CONTEXT = 2, 64, 2, 128, 2048
BASE_ID = "a" * 64
_SIZES = {
    "llama.block_count": LAYERS,
    "llama.context_length": CONTEXT,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": HEADS,
    "llama.rope.dimension_count": HIDDEN // HEADS,
    "general.file_type": 1,  # F16
}
_MATRICES = {
    "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER),
}  # fmt: skip


def write_model(path: Path, seed: int = 0) -> Path:
    """Write the model; its keys are the embedded base's with other sizes."""
    source = embedded_gguf()
    header = read_header(source)
    with open(source, "rb") as stream:
        keys = bytearray(stream.read(header.keys_end))
    for name, value in _SIZES.items():
        at = keys.index(name.encode()) + len(name) + 4  # behind the name and the number of its type
        struct.pack_into("<I", keys, at, value)
    random = np.random.default_rng(seed)
    tensors = {"token_embd.weight": random.normal(0, 0.3, (49152, HIDDEN)), "output_norm.weight": np.ones(HIDDEN)}
    for layer in range(LAYERS):
        for name, shape in _MATRICES.items():
            tensors[f"blk.{layer}.{name}.weight"] = random.normal(0, shape[1] ** -0.5, shape)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = np.ones(HIDDEN)
    infos, data = b"", b""
    for name, values in tensors.items():
        plain = values.ndim == 1
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", values.ndim)
        infos += b"".join(struct.pack("<Q", size) for size in reversed(values.shape))
        infos += struct.pack("<IQ", 0 if plain else 1, len(data))
        block = values.astype(np.float32 if plain else np.float16).tobytes()
        data += block + bytes(padded(len(block), header.alignment) - len(block))
    struct.pack_into("<Q", keys, 8, len(tensors))
    assert len(keys) > PREFIX_BYTES
    start = len(keys) + len(infos)
    path.write_bytes(bytes(keys) + infos + bytes(padded(start, header.alignment) - start) + data)
    return path


def write_adapter(
    path: Path,
    seed: int,
    *,
    base_sha256: str = BASE_ID,
    width: int = HIDDEN,
    layers: tuple[int, ...] = tuple(range(LAYERS)),
    domain: str | None = None,
) -> Path:
    """A rank-4 adapter on the query projections, strong enough to change what the model says."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 8.0)
    writer.add_string(BASE_SHA256, base_sha256)
    writer.add_string(BASE_NAME, "embedded")
    if domain is not None:
        writer.add_string(DOMAIN, domain)
    for layer in layers:
        name = f"blk.{layer}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", random.normal(0, 0.5, (4, width)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", random.normal(0, 0.5, (width, 4)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
