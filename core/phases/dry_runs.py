"""What a model's files will be, found by a dry run of converter and engine in a process of its own, and remembered."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.catalog.hashes import cache_file
from core.errors import EnvironmentLacks
from core.files import hash_json, write_atomically
from core.fresh_process import Failed, answer_of
from core.gguf.toolchain import engine_version

VERSION = 3  # of what is asked; a change of it asks again
MOST_REMEMBERED = 200

log = logging.getLogger("tara.phases")


@dataclass(frozen=True)
class Outline:
    """A model's files before they are made, sizes in bytes: that of the F16 file; of each plain type; of the smallest
    mixture of types; and of the key-value cache a token, up to `context` tokens."""

    f16_bytes: int
    sizes: Mapping[str, int]
    least_bytes: int
    parameters: int
    cache_bytes_a_token: int
    context: int | None

    def cache_bytes(self, n_ctx: int) -> int:
        """Bytes of the cache for a context, which is never longer than the model's own."""
        return self.cache_bytes_a_token * min(n_ctx, self.context or n_ctx)


def outline_of(source: Path, identity: str) -> Outline:
    """The outline of a GGUF model, or of a folder with config.json, safetensors and tokenizer, of which no weights are
    read. `identity` is a hash of its content, under which it is remembered.

    Raises EnvironmentLacks with the last words where the dry run fails.
    """
    cache = _load()
    key = hash_json([VERSION, engine_version(), identity])
    found = cache.get(key)
    if not isinstance(found, dict):
        found = _ask(source)
        _save({**cache, key: found})
    try:
        sizes = {name: int(one["bytes"]) for name, one in found["sizes"].items()}
        return Outline(
            found["f16_bytes"], sizes, found["least_bytes"], found["parameters"], found["cache_bytes_a_token"],
            found["context_length"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise EnvironmentLacks(
            f"{_file()} holds no outline of {source.name}: {error!r}", "remove the file; it is made again"
        ) from error


def _ask(source: Path) -> dict[str, Any]:
    try:
        return answer_of("core.gguf.outline", str(source.resolve()))
    except Failed as error:
        raise EnvironmentLacks(
            f"the files of {source.name} cannot be foreseen: {error}",
            "tara doctor says whether converter and engine are here",
        ) from error


def _file() -> Path:
    return cache_file().with_name("outlines.json")


def _load() -> dict[str, Any]:
    try:
        cache = json.loads(_file().read_text("utf-8"))
    except (OSError, ValueError):  # not there yet, or not whole: it can be made again
        return {}
    return cache if isinstance(cache, dict) else {}


def _save(cache: dict[str, Any]) -> None:
    path, newest = _file(), dict(list(cache.items())[-MOST_REMEMBERED:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(newest))
    except OSError as error:  # a cache that cannot be written costs time, nothing else
        log.warning("outlines cannot be remembered in %s: %s", path, error.strerror)
