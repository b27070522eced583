"""What a fix is: a change of one key in one file, or the reason why there is none."""

from dataclasses import dataclass
from typing import Any

SCALE_FOLDED = "scale-folded"
INDEX_REBUILT = "index-rebuilt"


@dataclass(frozen=True)
class Change:
    """One value changed: file (relative to the folder), key, old and new value, and where the new one comes from."""

    code: str
    file: str
    key: str
    old: Any
    new: Any
    reason: str


@dataclass(frozen=True)
class Cannot:
    """Something wrong that cannot be mended here, and why."""

    code: str
    file: str
    key: str
    reason: str


Outcome = Change | Cannot
