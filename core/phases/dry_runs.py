"""What a model's files will be, found by a dry run of converter and engine in a process of its own, and remembered."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.catalog.hashes import cache_file
from core.errors import EnvironmentLacks
from core.files import hash_json, write_atomically
from core.fresh_process import Failed, answer_of
from core.gguf.toolchain import engine_version

VERSION = 3  # of what is asked; a change of it asks again
MOST_REMEMBERED = 500

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
        found = _ask(source, "core.gguf.outline", str(source.resolve()))
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


@dataclass(frozen=True)
class CutWish:
    """A file of a model that parts are taken out of: its plain type, and the most bytes it may have or the share of the
    layers' weights that stays at most."""

    type: str
    target_bytes: int | None = None
    keep: float | None = None


@dataclass(frozen=True)
class CutSize:
    """The most bytes that such a file will have, with at most so many of the model's layers; `cuts`: how many there are
    to choose from, 0 where even the least that can stay is too large. `cannot`: why there is none ('': there is)."""

    bytes: int = 0
    layers: int = 0
    of_layers: int = 1
    cuts: int = 0
    cannot: str = ""


def cut_sizes_of(source: Path, identity: str, wishes: Sequence[CutWish]) -> list[CutSize]:
    """The sizes of a model's files with parts taken out, a wish each; source, identity and errors are as for
    `outline_of`."""
    cache = _load()
    keys = {wish: hash_json([VERSION, engine_version(), identity, "cut", asdict(wish)]) for wish in wishes}
    asked = [wish for wish in keys if not isinstance(cache.get(keys[wish]), dict)]
    if asked:
        wanted = json.dumps([asdict(wish) for wish in asked])
        answers = _ask(source, "core.gguf.cut_sizes", str(source.resolve()), wanted)["sizes"]
        cache |= {keys[wish]: answer for wish, answer in zip(asked, answers, strict=True)}
        _save(cache)
    try:
        return [CutSize(**cache[keys[wish]]) for wish in wishes]
    except TypeError as error:
        raise EnvironmentLacks(
            f"{_file()} holds no sizes of {source.name}: {error!r}", "remove the file; it is made again"
        ) from error


def _ask(source: Path, module: str, *arguments: str) -> dict[str, Any]:
    try:
        return answer_of(module, *arguments)
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
