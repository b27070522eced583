"""Configuration files as plain values, with the line each key stands on and every fault of form collected."""

import codecs
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

# YAML 1.1 takes 1e-3 for text, because it has no dot; people mean the number.
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+")
_Key = tuple[str, ...]


class Faults(list[str]):
    """What is wrong, a line each, in the order it was found."""

    def add(self, where: str, what: str) -> None:
        """Note a fault; the same one is noted once."""
        text = f"{where}: {what}"
        if text not in self:
            self.append(text)


@dataclass
class Document:
    """One configuration file. `name` is how messages call it; `data` is empty where it could not be read (`broken`)."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[_Key, int] = field(default_factory=dict)
    raw: bytes = b""
    broken: bool = False

    def place(self, path: _Key) -> str:
        """File, line (where known) and dotted key."""
        line = self.lines.get(path) or self.lines.get(path[:-1])
        at = f"{self.name}, line {line}" if line else self.name
        return f"{at}: {'.'.join(path)}" if path else at


def read_document(path: Path, name: str, faults: Faults) -> Document:
    """Read a YAML or JSON mapping; faults of form go to `faults` with their line."""
    document = Document(name, broken=True)
    before = len(faults)
    try:
        document.raw = path.read_bytes()
        text = document.raw.decode("utf-8-sig")
    except OSError as error:
        faults.add(name, f"cannot be read: {error.strerror}")
        return document
    except UnicodeDecodeError as error:
        line = document.raw.count(b"\n", 0, error.start) + 1
        wide = document.raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        faults.add(f"{name}, line {line}", f"not UTF-8{' but UTF-16' if wide else ''}; save it as UTF-8")
        return document
    try:
        data = _read_json(document, text, faults) if path.suffix == ".json" else _read_yaml(document, text, faults)
    except RecursionError:
        faults.add(name, "nested too deeply")
        return document
    if len(faults) == before and not isinstance(data, dict):
        faults.add(name, "is empty" if data is None else "must hold names with values, not a list or a single value")
    if isinstance(data, dict):
        document.data = data
        document.broken = False
    return document


def _read_json(document: Document, text: str, faults: Faults) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in items:
            if key in found:
                faults.add(document.name, f"the key {key!r} is there twice")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        faults.add(f"{document.name}, line {error.lineno}", f"not JSON: {error.msg}")
    except ValueError as error:  # a number with too many digits
        faults.add(document.name, f"not JSON: {error}")
    return None


def _read_yaml(document: Document, text: str, faults: Faults) -> Any:
    # Nodes rather than finished values: they know their lines, and a mapping with a key twice is still visible.
    loader = yaml.CSafeLoader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _Converter(document, loader, faults).convert(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{document.name}, line {mark.line + 1}" if mark else document.name
        faults.add(where, f"not YAML: {error.problem or error.context}")
    except yaml.reader.ReaderError as error:
        line = text.encode().count(b"\n", 0, error.position) + 1
        what = f"holds the character U+{int(error.character):04X}, which YAML forbids"
        faults.add(f"{document.name}, line {line}", what)
    finally:
        loader.dispose()
    return None


class _Converter:
    """Nodes to values: mappings with text keys, lists, and the five kinds of scalars; nothing else is built."""

    def __init__(self, document: Document, loader: Any, faults: Faults) -> None:
        self._document = document
        self._loader = loader
        self._faults = faults
        self._open: set[int] = set()
        self._done: dict[int, Any] = {}

    def convert(self, node: Any, path: _Key) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._done:  # an alias: the same value again, not another copy of it
            return self._done[id(node)]
        if id(node) in self._open:
            self._fault(node, "refers to itself")
            return None
        self._open.add(id(node))
        value = self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._sequence(node, path)
        self._open.discard(id(node))
        self._done[id(node)] = value
        return value

    def _mapping(self, node: Any, path: _Key) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if node.tag != "tag:yaml.org,2002:map":
            self._fault(node, f"the tag {node.tag} is not used here")
        for key_node, value_node in node.value:
            # A key is its text as written: `on` and `no` may be names.
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                self._fault(key_node, "a key must be a plain word")
                continue
            key = key_node.value
            here = (*path, key)
            if key in found:
                self._fault(key_node, f"{'.'.join(here)} is there twice (first on line {self._document.lines[here]})")
                continue
            self._document.lines[here] = key_node.start_mark.line + 1
            found[key] = self.convert(value_node, here)
        return found

    def _sequence(self, node: Any, path: _Key) -> list[Any]:
        if node.tag != "tag:yaml.org,2002:seq":
            self._fault(node, f"the tag {node.tag} is not used here")
        return [self.convert(item, path) for item in node.value]

    def _scalar(self, node: Any, path: _Key) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text: str = node.value
        if kind == "str":
            return float(text) if not node.style and _NUMBER.fullmatch(text) else text
        if kind == "null":
            return None
        try:
            if kind == "int":
                return self._loader.construct_yaml_int(node)
            if kind == "float":
                value = self._loader.construct_yaml_float(node)
                return value if math.isfinite(value) else text
            if kind == "bool":
                return self._loader.construct_yaml_bool(node)
        except (ValueError, KeyError):
            self._fault(node, f"{text[:40]!r} is no {kind}")
            return None
        if kind in ("timestamp", "value"):
            return text
        self._fault(node, f"the tag {node.tag} is not used here")
        return None

    def _fault(self, node: Any, what: str) -> None:
        self._faults.add(f"{self._document.name}, line {node.start_mark.line + 1}", what)
