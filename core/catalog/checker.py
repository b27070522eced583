"""One mapping of a configuration file, read key by key: each fault is noted with its file, line and key."""

import math
import re
from collections.abc import Iterable
from typing import Any

from core.catalog.model import nearest
from core.catalog.reading import Document, Faults

# Escape sequences could drive the terminal they are shown in; half surrogates cannot be written anywhere.
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_KINDS = {dict: "names with values", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
_MISSING: Any = object()


def kind_of(value: object) -> str:
    """What a value is, in words."""
    return _KINDS.get(type(value), "a number")


class Section:
    """A mapping at `path` of a document. Reading a key that is missing, or of the wrong kind, notes a fault and
    returns a harmless value of the right kind: what is built from it is thrown away."""

    def __init__(self, document: Document, faults: Faults, value: Any, path: tuple[str, ...] = ()) -> None:
        self.document = document
        self.faults = faults
        self.path = path
        self.values: dict[str, Any] = value if isinstance(value, dict) else {}
        self._absent = not isinstance(value, dict)  # said once; its keys are not asked for one by one
        if self._absent and value is not _MISSING:
            self._note(path, f"must be names with values, this is {kind_of(value)}")

    def fault(self, key: str | None, what: str) -> None:
        """Note a fault of a key, or of the section itself."""
        self._note(self.path if key is None else (*self.path, key), what)

    def only(self, known: Iterable[str]) -> None:
        """Note keys that mean nothing here."""
        allowed = tuple(known)
        for key in self.values:
            if key not in allowed:
                guess = nearest(key, allowed) or f" (known: {', '.join(allowed)})"
                self.fault(key, f"unknown key{guess}")

    def section(self, key: str, *, optional: bool = False) -> "Section":
        """The mapping under a key."""
        return Section(self.document, self.faults, self._get(key, {} if optional else _MISSING), (*self.path, key))

    def text(self, key: str, default: Any = _MISSING, *, longest: int = 300, lines: bool = False) -> Any:
        """Text of 1 to `longest` characters, on one line unless `lines`; or `default`, which may be None."""
        value = self._get(key, default)
        if value is _MISSING:
            return ""
        if value is default and default is not _MISSING and key not in self.values:
            return default
        return self._checked_text(key, value, longest, lines)

    def texts(self, key: str, *, longest: int = 60) -> tuple[str, ...]:
        """A list of at least one text, none twice (whatever its case)."""
        value = self._get(key, _MISSING)
        if value is _MISSING:
            return ()
        if not isinstance(value, list) or not value:
            shown = "empty" if value == [] else kind_of(value)
            self.fault(key, f"must be a list of at least one text, this is {shown}")
            return ()
        found = tuple(self._checked_text(key, item, longest, False) for item in value)
        seen: set[str] = set()
        for item in found:
            if item and item.casefold() in seen:
                self.fault(key, f"{item!r} is there twice")
            seen.add(item.casefold())
        return found

    def integer(self, key: str, low: int, high: int, default: Any = _MISSING) -> int:
        """A whole number from `low` to `high`."""
        value = self._get(key, default)
        if value is _MISSING:
            return low
        if isinstance(value, bool) or not isinstance(value, int):
            what = str(value) if isinstance(value, float) else kind_of(value)
            self.fault(key, f"must be a whole number, this is {what}")
            return low
        return value if self._in_range(key, value, low, high) else low

    def number(self, key: str, low: float, high: float, default: Any = _MISSING) -> float:
        """A number from `low` to `high`, both included."""
        value = self._get(key, default)
        if value is _MISSING:
            return low
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fault(key, f"must be a number, this is {kind_of(value)}")
            return low
        return float(value) if self._in_range(key, value, low, high) else low

    def choice(self, key: str, options: tuple[str, ...], default: Any = _MISSING) -> str:
        """One of the options."""
        value = self._get(key, default)
        if value is not _MISSING and value not in options:
            shown = repr(value[:40]) if isinstance(value, str) else kind_of(value)
            self.fault(key, f"must be one of {', '.join(options)}; this is {shown}")
        return value if isinstance(value, str) and value in options else options[0]

    def _get(self, key: str, default: Any) -> Any:
        if key in self.values:
            return self.values[key]
        if default is _MISSING and not self._absent:
            self.fault(key, "is missing")
        return default

    def _checked_text(self, key: str, value: Any, longest: int, lines: bool) -> str:
        if not isinstance(value, str):
            quotes = "; put it in quotes" if isinstance(value, bool | int | float) else ""
            self.fault(key, f"must be text, this is {kind_of(value)}{quotes}")
        elif not value.strip():
            self.fault(key, "is empty")
        elif len(value) > longest:
            self.fault(key, f"has {len(value)} characters, at most {longest} are allowed")
        elif _CONTROL.search(value) or ("\n" in value and not lines):
            self.fault(key, "holds a control character" + ("" if lines else " or a line break"))
        else:
            return value
        return ""

    def _in_range(self, key: str, value: float, low: float, high: float) -> bool:
        if low <= value <= high:
            return True
        self.fault(key, f"is {value}, must be from {low:g} to {high:g}")
        return False

    def _note(self, path: tuple[str, ...], what: str) -> None:
        if not self.document.broken:
            self.faults.add(self.document.place(path), what)
