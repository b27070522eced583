"""Reading a run's event file: whole lines only, from an offset."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_READ = 4 << 20


def read_events(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The events written since `offset`, and the offset behind the last whole line.

    A line that is not JSON is returned as an event `garbled`, so that it is seen instead of lost.
    """
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            data = stream.read(MAX_READ)
            if len(data) == MAX_READ:
                data += stream.readline()  # the rest of a line that did not fit: without it no reader gets past it
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return [_parse(line) for line in data[:end].splitlines() if line.strip()], offset + end


def all_events(path: Path) -> Iterator[dict[str, Any]]:
    """Every event of a finished run, in order."""
    offset = 0
    while True:
        events, following = read_events(path, offset)
        if following == offset:
            return
        yield from events
        offset = following


def _parse(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {"event": "garbled", "line": line[:200].decode(errors="replace")}
    return event if isinstance(event, dict) else {"event": "garbled", "line": str(event)[:200]}
