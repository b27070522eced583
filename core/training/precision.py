"""The number format to compute in: measured on this machine, because a preset cannot know it."""

import json
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from core.files import write_atomically
from core.tasks.context import TaskError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Rows, inner and outer size of the probe: a batch of a few hundred tokens through a feed-forward layer.
PROBE_SHAPE = (256, 1024, 2048)
PROBE_SECONDS = 0.5
LEAST_ROUNDS = 8
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


def choose_precision(wanted: str, device: torch.device, memory: Path | None = None) -> Precision:
    """`float32` and `bfloat16` are taken as they are; `auto` is bfloat16 where it is faster here.

    What was measured is kept in the file `memory`: two attempts of a training, or two trainings that should be equal,
    must not differ because the machine was busy when one of them was started.

    The same machine may have no instructions for bfloat16 and emulate it tens of times slower, so on a CPU both are
    timed for half a second. Only the frozen base is affected: adapter weights are trained in float32.
    """
    if wanted in DTYPES:
        return Precision(wanted, "set in the preset")
    if wanted != "auto":
        raise TaskError(f"dtype {wanted!r} is unknown", "use auto, float32 or bfloat16")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bfloat16", "the device computes in bfloat16")
        return Precision("float32", "the device has no bfloat16")
    where = f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    known = _remembered(memory, where)
    if known is not None:
        plain, short = known
    else:
        plain, short = probe_gflops()
        _remember(memory, where, plain, short)
    chosen = "bfloat16" if short > plain * WORTHWHILE else "float32"
    reason = f"bfloat16 ran {short / plain:.1f} times as fast as float32 in a probe"
    return Precision(chosen, reason, round(plain, 1), round(short, 1))


def probe_gflops(seconds: float = PROBE_SECONDS) -> tuple[float, float]:
    """Speed of a matrix product on the CPU in float32 and in bfloat16, in 10^9 operations a second.

    The two are timed in turns and the best of each counts, so that a neighbour's burst does not decide.
    """
    rows, inner, outer = PROBE_SHAPE
    pairs = {}
    for name, dtype in DTYPES.items():
        pairs[name] = torch.ones(rows, inner, dtype=dtype), torch.ones(outer, inner, dtype=dtype)
        torch.nn.functional.linear(*pairs[name])  # the first call chooses kernels and allocates
    best = dict.fromkeys(DTYPES, float("inf"))
    started, rounds = time.perf_counter(), 0
    while rounds < LEAST_ROUNDS or time.perf_counter() - started < seconds:
        rounds += 1
        for name, pair in pairs.items():
            before = time.perf_counter()
            torch.nn.functional.linear(*pair)
            best[name] = min(best[name], time.perf_counter() - before)
    operations = 2 * rows * inner * outer
    return operations / best["float32"] / 1e9, operations / best["bfloat16"] / 1e9


def cpu_name() -> str:
    """What the machine calls its processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not told here: the machine's kind is all that is known
    return platform.machine()


def _remembered(memory: Path | None, where: str) -> tuple[float, float] | None:
    if memory is None:
        return None
    try:
        found = json.loads(memory.read_text("utf-8"))[where]
        return float(found["float32_gflops"]), float(found["bfloat16_gflops"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not probed yet, or the file is damaged: probed again


def _remember(memory: Path | None, where: str, plain: float, short: float) -> None:
    if memory is None:
        return
    try:
        known = dict(json.loads(memory.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        known = {}
    known[where] = {"float32_gflops": plain, "bfloat16_gflops": short}
    write_atomically(memory, json.dumps(known) + "\n")
