"""llama.cpp's own log, led into Python's: imports llama_cpp, so for worker and engine processes only."""

import ctypes
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.gguf.llama import llama_cpp

logger = logging.getLogger("llama.cpp")

# ggml_log_level (debug, info, warning, error); what llama.cpp calls information is its loading chatter, detail here.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUED = 5
_KEPT_LINES = 8

_listeners: list[Callable[[str], None]] = []
_errors: deque[str] = deque(maxlen=_KEPT_LINES)
_partial: list[str] = []
_level = logging.DEBUG
_quiet = 0


@llama_cpp.llama_log_callback
def _receive(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    """Join the pieces of a line. Called from C: what it raises would be printed and lost, so it raises nothing."""
    global _level
    if level != _CONTINUED:
        _level = _LEVELS.get(level, logging.DEBUG)
    _partial.append((text or b"").decode("utf-8", "replace"))
    if not _partial[-1].endswith("\n"):
        for listener in _listeners:  # "[ 12/ 272] name … converting …": progress is told before the line ends
            listener("".join(_partial))
        return
    line = "".join(_partial).strip()
    _partial.clear()
    if not line:
        return
    if _level >= logging.ERROR:
        _errors.append(line)
    if not _quiet or _level >= logging.ERROR:
        logger.log(_level, "%s", line)
    for listener in _listeners:
        listener(line)


def capture_log() -> None:
    """Send llama.cpp's log to the Python logger `llama.cpp` from now on, in this process."""
    llama_cpp.llama_log_set(_receive, ctypes.c_void_p(0))


@contextmanager
def listening(listener: Callable[[str], None], *, quiet: bool = False) -> Iterator[None]:
    """Also give every line (and the beginning of an unfinished one) to `listener` inside the block. It must not raise.

    With `quiet` only errors go to the logger: for work that is done again with a log.
    """
    global _quiet
    capture_log()
    _listeners.append(listener)
    _quiet += quiet
    try:
        yield
    finally:
        _quiet -= quiet
        _listeners.remove(listener)


def last_error() -> str:
    """The engine's newest error lines since the last call, joined; empty when there were none."""
    text = "; ".join(_errors)
    _errors.clear()
    return text
