"""A growing file read from its end: bounded, cleaned, aware of rotation and truncation. Knows no screen."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 256 * 1024  # read on opening, and for each step back
READ_BYTES = 4 * 1024 * 1024  # at most, for one poll
MAX_LINE = 4096  # bytes of a line that are kept
KEEP_LINES = 20_000  # of one poll; older ones are only counted
ANY_CONTROL = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class LogChunk:
    """What a poll found. `partial` replaces the unfinished last line; `reset` begins a file anew."""

    lines: tuple[str, ...]
    partial: str = ""
    reset: bool = False
    start: int = 0  # offset in the file of the first line of a reset
    uncounted: int = 0  # complete lines before `lines` that were passed over
    more: bool = False  # there is more to read at once
    note: str = ""  # why it begins anew, or why there is nothing


def fold(line: bytes) -> bytes:
    """What a terminal would show of a line with carriage returns: the last part that is not empty, bounded."""
    if b"\r" in line:
        line = next((part for part in reversed(line.split(b"\r")) if part), b"")
    return line if len(line) <= MAX_LINE else line[:MAX_LINE] + b" ..."


def bounded(rest: bytes) -> bytes:
    """An unfinished line kept short: of redrawn progress the last part, of a huge line its beginning."""
    if len(rest) <= 4 * MAX_LINE:
        return rest
    carriage = rest.rfind(b"\r", 0, -1)
    return rest[carriage + 1 :][: 4 * MAX_LINE]


class LogFile:
    """The tail of one file. `clean` makes a decoded line harmless."""

    def __init__(self, path: Path, clean: Callable[[str], str]) -> None:
        self.path = path
        self._clean = clean
        self._descriptor: int | None = None
        self._identity = (0, 0)
        self._offset = 0
        self._rest = b""  # the unfinished last line
        self._absent = False

    def close(self) -> None:
        """Let the file go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def poll(self) -> LogChunk | None:
        """What is new since the last poll, None where nothing is. Raises OSError other than a missing file."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            if self._absent:
                return None
            self._absent = True
            self.close()
            return LogChunk((), reset=True, note="no log yet")
        self._absent = False
        note = ""
        if self._descriptor is not None and (found.st_dev, found.st_ino) != self._identity:
            note = "the file was replaced"
        elif self._descriptor is not None and found.st_size < self._offset:
            note = "the file was cut"
        if note:
            self.close()
        if self._descriptor is None:
            return self._open(note)
        if found.st_size == self._offset:
            return None
        return self._read(found.st_size)

    def _open(self, note: str) -> LogChunk:
        self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(self._descriptor)
        self._identity = (found.st_dev, found.st_ino)
        self._rest = b""
        self._offset = max(0, found.st_size - TAIL_BYTES)
        if self._offset:
            block = os.pread(self._descriptor, TAIL_BYTES, self._offset)
            newline = block.find(b"\n")
            self._offset += newline + 1 if newline >= 0 else len(block) - min(len(block), MAX_LINE)
        start = self._offset
        chunk = self._read(found.st_size) if found.st_size > self._offset else LogChunk(())
        return LogChunk(chunk.lines, chunk.partial, True, start, 0, chunk.more, note)

    def _read(self, size: int) -> LogChunk:
        assert self._descriptor is not None
        block = os.pread(self._descriptor, min(READ_BYTES, size - self._offset), self._offset)
        self._offset += len(block)
        parts = block.split(b"\n")
        parts[0] = self._rest + parts[0]
        self._rest = bounded(parts.pop())
        passed = max(0, len(parts) - KEEP_LINES)
        lines = tuple(self._text(part) for part in parts[passed:])
        return LogChunk(lines, self._text(self._rest), uncounted=passed, more=self._offset < size)

    def _text(self, line: bytes) -> str:
        text = fold(line).decode("utf-8", "replace")
        return self._clean(text.expandtabs(8)) if ANY_CONTROL.search(text) else text


def lines_before(path: Path, start: int, clean: Callable[[str], str]) -> tuple[list[str], int]:
    """The lines of the block that ends at offset `start`, and the offset at which they begin."""
    begin = max(0, start - TAIL_BYTES)
    with open(path, "rb") as file:
        file.seek(begin)
        block = file.read(start - begin)
    if begin:
        newline = block.find(b"\n")
        skip = newline + 1 if 0 <= newline < len(block) - 1 else 0
        begin, block = begin + skip, block[skip:]
    parts = block.split(b"\n")
    if parts and not parts[-1]:
        parts.pop()
    return [clean(fold(part).decode("utf-8", "replace").expandtabs(8)) for part in parts], begin
