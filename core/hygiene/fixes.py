"""Mending what can be derived from the files themselves; for the rest, an honest "cannot" with the reason."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.files import write_atomically
from core.hygiene.fix_adapter import adapter_fixes, fold_scale
from core.hygiene.fix_model import model_fixes, rebuild_index
from core.hygiene.fix_tokenizer import tokenizer_fixes
from core.hygiene.fixing import INDEX_REBUILT, SCALE_FOLDED, Cannot, Change, Outcome
from core.hygiene.kinds import Kind, content_kind
from core.hygiene.reading import object_or_empty


@dataclass(frozen=True)
class Fixes:
    """What can be changed, and what cannot and why."""

    changes: tuple[Change, ...]
    cannot: tuple[Cannot, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fixes as plain JSON data."""
        return {"changes": [asdict(one) for one in self.changes], "cannot": [asdict(one) for one in self.cannot]}


def find_fixes(folder: Path) -> Fixes:
    """What could be mended in an adapter's or model's folder. Reads only; every value comes from the folder's files."""
    found: list[Outcome] = []
    content = content_kind(folder)
    if content is Kind.ADAPTER:
        found += adapter_fixes(folder)
    elif content is Kind.MODEL:
        found += model_fixes(folder)
    if content is not Kind.UNKNOWN:
        found += tokenizer_fixes(folder)
    return Fixes(
        tuple(one for one in found if isinstance(one, Change)),
        tuple(one for one in found if isinstance(one, Cannot)),
    )


def apply_fixes(folder: Path, fixes: Fixes) -> None:
    """Carry out changes in a folder (a copy: the caller's source is never given here)."""
    codes = {change.code for change in fixes.changes}
    if SCALE_FOLDED in codes:  # first: it reads the settings that are changed below
        fold_scale(folder)
    if INDEX_REBUILT in codes:
        rebuild_index(folder)
    by_file: dict[str, list[Change]] = {}
    for change in fixes.changes:
        if change.code not in (SCALE_FOLDED, INDEX_REBUILT):
            by_file.setdefault(change.file, []).append(change)
    for name, changes in by_file.items():
        values = object_or_empty(folder / name)
        values |= {change.key: change.new for change in changes}
        write_atomically(folder / name, json.dumps(values, indent=2) + "\n")
