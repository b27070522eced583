"""Vectors remembered by text, so that the catalogue's hundreds of examples are read by the encoder once."""

import base64
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.catalog.hashes import cache_file
from core.encoder.client import Encoder
from core.encoder.graph_file import BY_FLOATS, FLOATS, kept_by
from core.files import write_atomically

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MOST_REMEMBERED = 20_000
log = logging.getLogger(__name__)


class RememberingEncoder:
    """An encoder that keeps what it read in the user's cache folder, in half precision, apart by how it was read."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def identity(self) -> str:
        """SHA-256 of the encoder's file."""
        return self._encoder.identity

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that would have to be read now, each once."""
        return _missing(texts, self._load())

    def embed(self, texts: Sequence[str]) -> "npt.NDArray[np.float32]":
        """As `Encoder.embed`, in half precision. Raises EncoderError."""
        import numpy as np

        known = self._load()
        missing = _missing(texts, known)
        if missing:
            for text, row in zip(missing, self._encoder.embed(missing), strict=True):
                known[_key(text)] = base64.b64encode(row.astype("<f2").tobytes()).decode("ascii")
            if self._encoder.reads.startswith(BY_FLOATS) == (self._read_as == FLOATS):
                self._save(known)
            else:
                log.warning("vectors are not remembered: they were read by %s", self._encoder.reads)
        rows = [np.frombuffer(base64.b64decode(known[_key(text)]), "<f2") for text in texts]
        if not rows:
            return np.zeros((0, self._encoder.dimension), np.float32)
        return np.stack(rows).astype(np.float32)

    @cached_property
    def _read_as(self) -> str:
        return kept_by(self._encoder.gguf)

    @property
    def _file(self) -> Path:
        return cache_file().parent / f"vectors-{self.identity[:16]}-{self._read_as}.json"

    def _load(self) -> dict[str, Any]:
        try:
            known = json.loads(self._file.read_text("ascii"))
        except (OSError, ValueError):  # not there yet, or not whole: it can be made again
            return {}
        size = 4 * ((2 * self._encoder.dimension + 2) // 3)
        if not isinstance(known, dict):
            return {}
        return {key: row for key, row in known.items() if isinstance(row, str) and len(row) == size}

    def _save(self, known: dict[str, Any]) -> None:
        kept = dict(list(known.items())[-MOST_REMEMBERED:])
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(kept))
        except OSError as error:  # a cache that cannot be written costs time, nothing else
            log.warning("vectors cannot be remembered in %s: %s", self._file, error.strerror)


def _missing(texts: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if _key(text) not in known]


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]
