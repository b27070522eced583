"""Hashes of large files, remembered by path, size and time of change, so that a second look costs nothing."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from core.files import sha256_of, write_atomically

MOST_REMEMBERED = 2000
log = logging.getLogger(__name__)


def cache_file() -> Path:
    """Where hashes are remembered: the user's cache folder."""
    named = os.environ.get("XDG_CACHE_HOME")
    folder = Path(named) if named and Path(named).is_absolute() else Path.home() / ".cache"
    return folder / "tara" / "hashes.json"


def remembered_sha256(paths: list[Path]) -> list[str]:
    """SHA-256 of each file, as hex; a file is read again only when its size or time of change differ."""
    cache = _load()
    found, added = [], False
    for path in paths:
        status, name = path.stat(), str(path.resolve())
        entry = cache.get(name)
        seen = [status.st_size, status.st_mtime_ns]
        if not isinstance(entry, list) or entry[:2] != seen or len(entry) != 3:
            entry, added = [*seen, sha256_of(path)], True
            cache[name] = entry
        found.append(str(entry[2]))
    if added:
        _save(cache)
    return found


def _load() -> dict[str, Any]:
    try:
        cache = json.loads(cache_file().read_text("utf-8"))
    except (OSError, ValueError):  # not there yet, or not whole: it can be made again from the files
        return {}
    return cache if isinstance(cache, dict) else {}


def _save(cache: dict[str, Any]) -> None:
    if len(cache) > MOST_REMEMBERED:
        cache = {name: entry for name, entry in cache.items() if os.path.exists(name)}
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(cache, sort_keys=True))
    except OSError as error:  # a cache that cannot be written costs time, nothing else
        log.warning("hashes cannot be remembered in %s: %s", path, error.strerror)
