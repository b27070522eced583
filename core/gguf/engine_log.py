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
_interruption: BaseException | None = None


@llama_cpp.llama_log_callback
def _receive(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    """Called from C, where nothing can be raised: what is raised here, a signal's exception too, is kept."""
    global _interruption
    try:
        _line_piece(level, (text or b"").decode("utf-8", "replace"))
    except BaseException as error:  # noqa: BLE001 - raised again by raise_interruption when C has returned
        _interruption = _interruption or error


def _line_piece(level: int, piece: str) -> None:
    global _level
    if level != _CONTINUED:
        _level = _LEVELS.get(level, logging.DEBUG)
    _partial.append(piece)
    line = "".join(_partial)
    if piece.endswith("\n"):
        _partial.clear()
        line = line.strip()
        if line and _level >= logging.ERROR:
            _errors.append(line)
        if line and (not _quiet or _level >= logging.ERROR):
            logger.log(_level, "%s", line)
    if line:  # an unfinished one too: "[ 12/ 272] name … converting …" tells progress before it ends
        for listener in _listeners:
            listener(line)


def capture_log() -> None:
    """Send llama.cpp's log to the Python logger `llama.cpp` from now on, in this process."""
    llama_cpp.llama_log_set(_receive, ctypes.c_void_p(0))


@contextmanager
def listening(listener: Callable[[str], None], *, quiet: bool = False) -> Iterator[None]:
    """Also give every line (and the beginning of an unfinished one) to `listener` inside the block.

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


def raise_interruption() -> None:
    """Raise what came up while C called the log: a stop signal, an error of a listener. Call it when C has returned."""
    global _interruption
    error, _interruption = _interruption, None
    if error is not None:
        raise error


def last_error() -> str:
    """The engine's newest error lines since the last call, joined; empty when there were none."""
    text = "; ".join(_errors)
    _errors.clear()
    return text
