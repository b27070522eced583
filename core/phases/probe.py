"""How fast this machine is, from a moment's measurement, for jobs of which none has run yet.

The constants that turn the measurement into seconds were read off the jobs of the starter phase: the embedded base of
135 million parameters, five domains, two cores that multiplied 65 GFLOP/s each and copied 5.9 GB/s in this same probe.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from core.phases.scored_work import SCORED

# Of the matrices multiplied, in float32. So small that one thread does it: two that wait for each other on cores that
# a running job has would show a tenth of the speed.
_SIDE = 64
_AT_ONCE = 8
_COPIED = 16 << 20
_MULTIPLYING_S, _COPYING_S = 0.1, 0.05


@dataclass(frozen=True)
class Speed:
    """Floating-point operations a second of one core, and copied bytes a second."""

    flops: float
    copied: float


# Seconds until a kind's own work begins: imports and loading. Training says in its result how long it trained: of 101.5
# seconds 93.7; the first domain of verify took 8.4 seconds, the others 2.4 each; an adapter took 9.5 to be converted.
_STARTUP_S = {
    "base": 7.0, "train": 8.0, "evaluate": 10.0, "merge": 8.0, "convert": 7.0, "adapter-convert": 9.0, "quantize": 2.0,
    "imatrix": 8.0, "verify": 6.0, "package": 2.5, "unify": 8.0, "check-merge": 8.0, "accept-merge": 0.5,
    "prune": 8.0, "teach": 8.0, "heal": 8.0, "distil": 8.0, "slice-adapter": 9.0, "check-small": 4.0,
    "repair": 3.0, "repair-adapter": 4.0, "quality-gate": 0.5, "keep": 0.5, "kept-change": 2.0,
    "type-costs": 5.0, "hybrid": 4.0, "check-delivered": 4.0, "measure": 5.0,
}  # fmt: skip
# Share of the multiplication's rate that training reached: 6 * 135e6 * 13259 tokens in 93.7 seconds. Scoring and the
# importance matrix are counted likewise; LoRA does not work out all gradients that the 6 is for: the share takes it up.
_SHARE = 0.87
_COMPUTING = ("train", "evaluate", "imatrix", "check-merge", "prune", "teach", "heal", "distil", *SCORED)
# The engine reads, and rounds what it reads, at less: 1,530 tokens in 8 to 12 seconds of one core of 94 GFLOP/s.
_SHARE_OF_ENGINE = 0.55
_LINKING = 4.0  # a base that is a folder, or stays as it is: its files are linked and hashed
# Bytes that would be copied in the time that a parameter takes: base 21 seconds of dequantizing for 135e6 parameters,
# convert 2, quantize 2.7, verify 2.4 a domain. No merge was among the jobs: it reads and writes as convert does.
# Unifying two domains by ties took 17 seconds of computing beside the imports, repairing 4; judging reads one small
# file. Five times what is left of a merged change was found in 6.9 seconds, where the probe copied 22 GB/s.
_COPIES = {"base": 920.0, "merge": 88.0, "convert": 88.0, "adapter-convert": 20.0, "quantize": 118.0, "verify": 105.0,
           "package": 9.0, "unify": 375.0, "accept-merge": 0.0, "slice-adapter": 5.0, "quality-gate": 0.0,
           "repair": 290.0, "keep": _LINKING, "kept-change": 816.0}  # fmt: skip


def seconds_by_speed(kind: str, work: float, speed: Speed, *, threads: int, from_gguf: bool) -> float | None:
    """How long a job's work would take at a speed, on so many cores; None for a kind of which nothing is known."""
    if kind not in (*_COMPUTING, *_COPIES):
        return None
    if kind in _COMPUTING:
        share = _SHARE_OF_ENGINE if kind in SCORED else _SHARE
        return _STARTUP_S[kind] + work / (share * threads * speed.flops)
    copies = _LINKING if kind == "base" and not from_gguf else _COPIES[kind]
    return _STARTUP_S[kind] + work * copies / speed.copied


def startup_of(kind: str) -> float:
    """Seconds of a kind's job that do not grow with its work; 0 where that is not known."""
    return _STARTUP_S.get(kind, 0.0)


@cache
def speed() -> Speed:
    """This machine's speed, measured once a process in about 0.15 seconds: the best of several tries, since what else
    runs only ever slows one down."""
    import numpy as np

    matrix, product = np.ones((_SIDE, _SIDE), np.float32), np.empty((_SIDE, _SIDE), np.float32)
    source = np.ones(_COPIED, np.uint8)
    target = np.empty_like(source)

    def multiply() -> None:
        for _ in range(_AT_ONCE):
            np.matmul(matrix, matrix, out=product)

    flops = _AT_ONCE * 2 * _SIDE**3 / _shortest(multiply, _MULTIPLYING_S)
    return Speed(flops, _COPIED / _shortest(lambda: np.copyto(target, source), _COPYING_S))


def _shortest(work: Callable[[], object], for_s: float) -> float:
    """The shortest time of as many tries as fit."""
    best, end = float("inf"), time.perf_counter() + for_s
    while (begun := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - begun)
    return best
