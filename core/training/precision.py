"""The number format to compute in: measured on this machine, because a preset cannot know it."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from core.tasks.context import TaskError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Rows, inner and outer size of the probe: a batch of a few hundred tokens through a feed-forward layer.
PROBE_SHAPE = (256, 1024, 2048)
PROBE_SECONDS = 0.25
# bfloat16 has to win clearly: it also costs precision, and casts around the adapter that the probe does not see.
WORTHWHILE = 1.3


@dataclass(frozen=True)
class Precision:
    """The chosen number format, why, and where it was probed the speeds in 10^9 operations a second."""

    dtype: str
    reason: str
    float32_gflops: float | None = None
    bfloat16_gflops: float | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The format as torch names it."""
        return DTYPES[self.dtype]

    def as_dict(self) -> dict[str, Any]:
        """For results and provenance."""
        return asdict(self)


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """`float32` and `bfloat16` are taken as they are; `auto` is bfloat16 where it is faster here.

    The same machine may have no instructions for bfloat16 and emulate it tens of times slower, so on a CPU both are
    timed for a quarter second. Only the frozen base is affected: adapter weights are trained in float32.
    """
    if wanted in DTYPES:
        return Precision(wanted, "set in the preset")
    if wanted != "auto":
        raise TaskError(f"dtype {wanted!r} is unknown", "use auto, float32 or bfloat16")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "the device computes in bfloat16")
        return Precision("float32", "the device has no bfloat16")
    plain, short = matmul_gflops(torch.float32), matmul_gflops(torch.bfloat16)
    chosen = "bfloat16" if short > plain * WORTHWHILE else "float32"
    reason = f"bfloat16 ran {short / plain:.1f} times as fast as float32 in a probe"
    return Precision(chosen, reason, round(plain, 1), round(short, 1))


def matmul_gflops(dtype: torch.dtype, seconds: float = PROBE_SECONDS) -> float:
    """Speed of a matrix product on the CPU in 10^9 operations a second: the best of the repeats that fit in
    `seconds`, so that a neighbour's burst does not decide."""
    rows, inner, outer = PROBE_SHAPE
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(outer, inner, dtype=dtype)
    torch.nn.functional.linear(left, right)  # the first call chooses kernels and allocates
    best, started = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - before)
    return 2 * rows * inner * outer / best / 1e9
