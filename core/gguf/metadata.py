"""Our own keys in a GGUF file: which base an adapter belongs to, from which folder it was made; how a model was."""

import os
import shutil
import struct
from pathlib import Path

from core.errors import InvalidInput
from core.gguf.header import MAGIC, PREFIX_BYTES, STRING, read_header

BASE_SHA256 = "tara.base.sha256"
BASE_NAME = "tara.base.name"
DOMAIN = "tara.domain"
ADAPTER_SHA256 = "tara.adapter.sha256"
COMPRESSION = "tara.compression"  # of a model file that is not one of the engine's own mixes: how it was made


def add_metadata(source: Path, target: Path, keys: dict[str, str]) -> None:
    """Write `source` with added string keys to the new file `target`; tensors are copied as they are.

    Tensor offsets count from the start of the data, so only the keys, the padding and the key count change. Raises
    InvalidInput when the source has one of the keys already.
    """
    header = read_header(source)
    present = sorted(keys.keys() & (header.metadata.keys() | header.arrays.keys()))
    if present:
        raise InvalidInput(f"{source} already has the key {present[0]}", "start from a freshly converted file")
    added = b"".join(_string(key) + struct.pack("<I", STRING) + _string(value) for key, value in keys.items())
    with open(source, "rb") as read, open(target, "xb") as write:
        write.write(struct.pack("<4sIQQ", MAGIC, header.version, len(header.tensors), header.key_count + len(keys)))
        read.seek(PREFIX_BYTES)
        write.write(read.read(header.keys_end - PREFIX_BYTES))
        write.write(added)
        write.write(read.read(header.tensors_end - header.keys_end))
        write.write(b"\0" * (-write.tell() % header.alignment))
        read.seek(header.data_start)
        shutil.copyfileobj(read, write, 1 << 20)
        write.flush()
        os.fsync(write.fileno())


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
