"""GGUF adapters kept loaded beside their base. Imports llama_cpp: for worker and engine processes only."""

import ctypes
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import InvalidInput, Refused, TaraError
from core.gguf.engine_log import last_error
from core.gguf.inspect import inspect_gguf
from core.gguf.llama import llama_cpp
from core.gguf.metadata import BASE_NAME, BASE_SHA256

WARM_ADAPTERS = 8


class EngineError(TaraError):
    """llama.cpp could not do what was asked; the message has its own words."""


class WarmAdapters:
    """The adapters of one loaded model, at most `most`: the one not used for longest is freed first. `let_go` is called
    with a handle before it is freed, for a context keeps the pointer."""

    def __init__(self, model: Any, most: int, let_go: Callable[[Any], None]) -> None:
        self._model = model
        self._most = most
        self._let_go = let_go
        self._loaded: OrderedDict[tuple[str, int, int], Any] = OrderedDict()

    def get(self, path: Path) -> Any:
        """An adapter's handle, loaded where it is not. Raises InvalidInput for another file, EngineError where the
        engine does not take it for this model."""
        try:
            status = path.stat()
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}", "build the phase again") from error
        key = (str(path.resolve()), status.st_mtime_ns, status.st_size)  # a replaced file is another adapter
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        info = inspect_gguf(path)
        if info.kind != "adapter":
            raise InvalidInput(
                f"{path} is a GGUF file of kind {info.kind}, not an adapter", "give the adapter's GGUF file"
            )
        last_error()
        handle = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not handle:
            raise EngineError(
                f"llama.cpp does not take {path.name} for this base: {last_error() or 'no reason given'}",
                "give the adapter the base it was trained on",
            )
        while len(self._loaded) >= self._most:
            _, oldest = self._loaded.popitem(last=False)
            self._let_go(oldest)
            llama_cpp.llama_adapter_lora_free(oldest)
        self._loaded[key] = handle
        return handle

    def free(self) -> None:
        """Free all; none may be on a context any more."""
        while self._loaded:
            llama_cpp.llama_adapter_lora_free(self._loaded.popitem()[1])


def check_provenance(path: Path, handle: Any, base: str, base_sha256: str) -> None:
    """Refuse an adapter that does not name `base_sha256`, the identity of the file called `base`, as its base:
    llama.cpp compares shapes only."""
    named = _text(handle, BASE_SHA256)
    if named is None:
        raise Refused(f"{path.name} does not say which base it belongs to", "convert the adapter again with TARA")
    if named != base_sha256:
        raise Refused(
            f"{path.name} belongs to {_text(handle, BASE_NAME) or 'another base'} ({named[:12]}), "
            f"the loaded base is {base} ({base_sha256[:12]})",
            "give the domain an adapter that was trained on this base",
        )


def _text(handle: Any, key: str) -> str | None:
    buffer = ctypes.create_string_buffer(1024)
    count = int(llama_cpp.llama_adapter_meta_val_str(handle, key.encode(), buffer, len(buffer)))
    return None if count < 0 else buffer.value.decode("utf-8", "replace")
