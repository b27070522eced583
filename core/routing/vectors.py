"""Vectors in routing data: half-precision numbers as text, with the identity of the encoder that made them.

numpy is loaded when vectors are used, not when this is imported.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from core.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

_BYTES = 2  # of a number


class TextEncoder(Protocol):
    """What routing needs of an encoder; `core.encoder.Encoder` is one."""

    @property
    def identity(self) -> str:
        """SHA-256 of its file."""

    def embed(self, texts: Sequence[str]) -> "Array":
        """A row of length 1 for each text, [n, dimension]."""


@dataclass(frozen=True)
class Embedding:
    """A message as a vector of length 1, and the identity of the encoder it comes from."""

    vector: "Array"
    encoder: str


def packed(vectors: "Array", identity: str) -> dict[str, Any]:
    """Vectors as JSON data."""
    data = base64.b64encode(vectors.astype("<f2").tobytes()).decode("ascii")
    return {"encoder": identity, "dimension": int(vectors.shape[1]), "data": data}


def unpacked(stored: dict[str, Any], count: int) -> "Array":
    """The vectors again, [count, dimension] of length 1. Raises InvalidInput where they are damaged."""
    import numpy as np

    rows = np.frombuffer(base64.b64decode(stored["data"]), "<f2").reshape(count, stored["dimension"])
    rows = rows.astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or (lengths < 0.5).any():
        raise InvalidInput("the routing data's vectors are damaged", "package the phase again, or restore the file")
    return rows / lengths


def fault_of(stored: Any, count: int) -> str | None:
    """What is wrong with stored vectors of `count` texts; None where nothing is. Loads nothing."""
    if not isinstance(stored, dict) or not isinstance(stored.get("encoder"), str):
        return "is not a mapping with an encoder"
    dimension = stored.get("dimension")
    if not isinstance(dimension, int) or isinstance(dimension, bool) or not 1 <= dimension <= 65536:
        return "has no usable dimension"
    try:
        size = len(base64.b64decode(stored.get("data") or "", validate=True))
    except (binascii.Error, ValueError, TypeError):
        return "holds no base64"
    if size != count * dimension * _BYTES:
        return f"holds {size} bytes, {count} texts of {dimension} numbers take {count * dimension * _BYTES}"
    return None
