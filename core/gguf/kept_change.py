"""How much of an adapter's change is left in a file that has it merged in and was rounded afterwards.

A change smaller than the step between two stored values is rounded away where the weight lay on such a value, and
becomes a whole step elsewhere. With Q the rounding of the file, the change that is left is Q(W + D) - Q(W); beside D it
has a share of D (its projection on D, over D) and an error (the length of what differs, over that of D).

Imports the engine: for worker processes only.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from core.errors import InvalidInput
from core.gguf.candidates import importance_of
from core.gguf.imatrix import ImportanceMatrix
from core.gguf.rounding import quantize_rows
from core.gguf.stacking import read_pairs
from core.gguf.weights import Rows, Weights


@dataclass(frozen=True)
class Kept:
    """Sums over weights: of D squared, of what is left of it times D, of the difference squared, and how many of how
    many weights have another stored value than without the change."""

    change: float = 0.0
    along: float = 0.0
    off: float = 0.0
    moved: int = 0
    weights: int = 0

    def __add__(self, other: "Kept") -> "Kept":
        return Kept(
            self.change + other.change,
            self.along + other.along,
            self.off + other.off,
            self.moved + other.moved,
            self.weights + other.weights,
        )

    @property
    def share(self) -> float:
        """The part of the change that is left: 1 where it is whole, 0 where nothing of it is; 1 for no change."""
        return self.along / self.change if self.change else 1.0

    @property
    def error(self) -> float:
        """The length of what differs from the change over that of the change; 0 for no change."""
        return math.sqrt(self.off / self.change) if self.change else 0.0


def kept_change(
    small: Path,
    whole: Path,
    adapter: Path,
    imatrix: ImportanceMatrix | None,
    *,
    threads: int,
    on_tensor: Callable[[int, int, str], None] | None = None,
) -> dict[str, Kept]:
    """By changed tensor, what is left of the change `adapter` (GGUF) in `small`, which was made of the unquantized
    file `whole`, that has it merged in, with this importance matrix.

    W is `whole` less the change. Rows pass through memory a few at a time. Raises InvalidInput where the files are not
    of one model.
    """
    rounded, merged = Weights(small, rounded=True), Weights(whole)
    pairs, _ = read_pairs(adapter)
    found: dict[str, Kept] = {}
    with ThreadPoolExecutor(threads) as pool:
        for number, (name, pair) in enumerate(pairs.items(), start=1):
            tensor, stored = merged.tensors.get(name), rounded.tensors.get(name)
            a, b = pair.a, pair.b
            if tensor is None or stored is None or tensor.shape != stored.shape or (b.shape[0], a.shape[1]) != (
                tensor.elements // tensor.shape[0], tensor.shape[0],
            ):  # fmt: skip
                raise InvalidInput(f"{adapter.name} changes {name}, which {small.name} has not so", "build it again")
            importance = importance_of(imatrix, tensor) if imatrix is not None else None

            def one(
                part: tuple[tuple[int, Rows], tuple[int, Rows]],
                a: Rows = a,
                b: Rows = b,
                kind: str = stored.type,
                importance: Rows | None = importance,
            ) -> Kept:
                (start, rows), (_, after) = part
                change = b[start : start + len(rows)] @ a
                return _compared(change, after - _as_stored(rows - change, kind, importance))

            total = Kept()
            slabs = zip(merged.slabs(tensor), rounded.slabs(stored), strict=True)
            while some := list(islice(slabs, threads)):  # no more of them are held at once
                total = sum(pool.map(one, some), total)
            found[name] = total
            if on_tensor:
                on_tensor(number, len(pairs), name)
    return found


def _as_stored(rows: Rows, kind: str, importance: Rows | None) -> Rows:
    """Rows as a file of this type gives them back."""
    return Weights.floats(kind, quantize_rows(rows, kind, importance))


def _compared(change: Rows, left: Rows) -> Kept:
    def product(one: Rows, other: Rows) -> float:
        return float(np.einsum("ij,ij->", one, other, dtype=np.float64))

    off = left - change
    return Kept(
        product(change, change), product(left, change), product(off, off), int(np.count_nonzero(left)), change.size
    )
