"""The next smaller way to run a training that did not fit into memory. Standard library only: the runner asks too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEAST_TOKENS = 32  # of an example; below it nothing worth learning is left


@dataclass(frozen=True)
class Smaller:
    """How a preset is run: examples computed at once, tokens of an example, and a sentence on what is different."""

    micro_batch: int
    sequence_length: int
    says: str


def steps_down(preset: Mapping[str, Any]) -> list[Smaller]:
    """All ways to run a preset in less memory, each smaller than the one before.

    First fewer examples at once: gradients are accumulated, so what is learned stays the same. Then shorter examples,
    which does change what is learned, and is said so.
    """
    batch, length = int(preset["batch_size"]), int(preset["sequence_length"])
    found = []
    micro = batch
    while micro > 1:
        micro //= 2
        found.append(Smaller(micro, length, f"{micro} example{'s' * (micro > 1)} at once in place of {batch}"))
    cut = length
    while cut // 2 >= LEAST_TOKENS:
        cut //= 2
        found.append(Smaller(1, cut, f"examples cut to {cut} tokens in place of {length}"))
    return found


def smaller(preset: Mapping[str, Any], times: int) -> Smaller:
    """The preset, `times` steps down; as it is for 0. Raises IndexError where there is nothing that small."""
    if times == 0:
        return Smaller(int(preset["batch_size"]), int(preset["sequence_length"]), "")
    return steps_down(preset)[times - 1]
