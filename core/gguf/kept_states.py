"""What each adapter computed of its conversation, put aside while another is on the base. Imports llama_cpp."""

import ctypes
from collections import OrderedDict
from typing import Any

from core.gguf.llama import llama_cpp

SEQUENCE = 0  # the one a context of ours has


class KeptStates:
    """The key-value cache of one context by adapter, as bytes in this process's memory, at most `most_bytes` together;
    the one not used for longest goes. None stands for the base without an adapter. What an adapter computed is only
    ever given back to that adapter."""

    def __init__(self, context: Any, most_bytes: int) -> None:
        self._context = context
        self._most_bytes = most_bytes
        self._kept: OrderedDict[int | None, tuple[list[int], Any]] = OrderedDict()
        self.bytes = 0

    def keep(self, adapter: Any, tokens: list[int]) -> None:
        """Copy what the context holds, which is exactly `tokens`."""
        self.drop(adapter)
        size = int(llama_cpp.llama_state_seq_get_size(self._context, SEQUENCE))
        if not 0 < size <= self._most_bytes:
            return
        buffer = (ctypes.c_uint8 * size)()
        if int(llama_cpp.llama_state_seq_get_data(self._context, buffer, size, SEQUENCE)) != size:
            return
        while self._kept and self.bytes + size > self._most_bytes:
            self.drop_key(next(iter(self._kept)))
        self._kept[_key(adapter)] = (list(tokens), buffer)
        self.bytes += size

    def tokens(self, adapter: Any) -> list[int]:
        """The tokens that are kept of an adapter, none where there is nothing."""
        found = self._kept.get(_key(adapter))
        return found[0] if found is not None else []

    def restore(self, adapter: Any) -> bool:
        """Put what is kept into the context, which is empty. False where that could not be done: it is empty still."""
        key = _key(adapter)
        _, buffer = self._kept[key]
        self._kept.move_to_end(key)
        taken = int(llama_cpp.llama_state_seq_set_data(self._context, buffer, len(buffer), SEQUENCE))
        if taken != len(buffer):
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
            self.drop(adapter)
            return False
        return True

    def drop(self, adapter: Any) -> None:
        """Forget what an adapter computed; to be called before it is freed, for its place may become another's."""
        self.drop_key(_key(adapter))

    def drop_key(self, key: int | None) -> None:
        """The same by key."""
        found = self._kept.pop(key, None)
        if found is not None:
            self.bytes -= len(found[1])


def _key(adapter: Any) -> int | None:
    return None if adapter is None else id(adapter)
