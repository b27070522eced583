"""The machine's GPUs, as nvidia-smi tells of them; no CUDA library is loaded."""

import os
import shutil
import subprocess
from dataclasses import dataclass

QUERY = ("--query-gpu=uuid,index,name,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits")
TIMEOUT_S = 5.0
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """One GPU. Memory in bytes; `percent`: how busy it is, absent where the device does not say."""

    uuid: str
    index: int
    name: str
    percent: int | None
    used: int
    total: int

    @property
    def free(self) -> int:
        """Bytes nobody holds, other programs included."""
        return self.total - self.used


def program() -> str | None:
    """The nvidia-smi of this machine, where there is one."""
    return shutil.which("nvidia-smi")


def gpus(nvidia_smi: str) -> tuple[Gpu, ...]:
    """The GPUs that this process may use: all of the machine, or those that CUDA_VISIBLE_DEVICES leaves.

    Raises OSError or subprocess.TimeoutExpired where nvidia-smi cannot be run or hangs.
    """
    answer = subprocess.run(
        [nvidia_smi, *QUERY],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    return visible(parse(answer.stdout), os.environ.get(VISIBLE))


def parse(text: str) -> tuple[Gpu, ...]:
    """What nvidia-smi printed, a line a GPU. A line without memory figures is left out."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 6 or not fields[0]:
            continue
        uuid, index, name, percent, used, total = fields
        if not (index.isdigit() and used.isdigit() and total.isdigit()):
            continue  # a figure the device does not give is printed as [N/A]
        busy = int(percent) if percent.isdigit() else None
        found.append(Gpu(uuid, int(index), name, busy, int(used) << 20, int(total) << 20))
    return tuple(found)


def visible(found: tuple[Gpu, ...], chosen: str | None) -> tuple[Gpu, ...]:
    """Those that a value of CUDA_VISIBLE_DEVICES names, by number or by the beginning of their UUID. As CUDA does, a
    name that is not known ends the list."""
    if chosen is None:
        return found
    kept: list[Gpu] = []
    for word in (part.strip() for part in chosen.split(",")):
        one = next((gpu for gpu in found if word and (word == str(gpu.index) or gpu.uuid.startswith(word))), None)
        if one is None:
            break
        kept.append(one)
    return tuple(kept)
