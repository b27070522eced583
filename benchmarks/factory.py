"""Merge, convert and quantize a model of three billion parameters in one gigabyte: `make bench-factory`.

A synthetic model of Qwen2.5-3B's shape (`--parameters small`: of the embedded base's) is written shard by shard, with a
random adapter of rank 16 on all linear layers. Our three tasks run as the worker runs them, each in a process of its
own under a limit of 1 GB that the kernel enforces by a memory control group (root only; elsewhere the peak is measured
and no limit is enforced, which is said). Beside each runs what others use, on the same input and without a limit:
peft's merge_and_unload with save_pretrained, the stock converter, llama_model_quantize with default buffers.

Seconds are of the whole process, from its start until its result is flushed to the disk; ours hash theirs besides. The
inputs are dropped from the page cache before each. Memory is the peak of anonymous memory, looked at 50 times a second
(memory.stat of the group, else RssAnon of the processes). The last line is `RESULT ` and one JSON object; status 1
where a goal was missed, 2 where there is no room on the disk.
"""

import argparse
import contextlib
import filecmp
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from factory_model import SIZES, build_adapter, build_model

from core.files import discard, tree_bytes
from tests.memory_group import MemoryGroup

LIMIT = 10**9
SLOWER = 1.1  # times the peer, at most
SAMPLES_A_SECOND = 50
PEERS = Path(__file__).with_name("factory_peers.py")
ROOT = Path(__file__).parents[1]
NAMES = {"merge": "peft merge_and_unload", "convert": "stock converter", "quantize": "llama_model_quantize"}
# At once on the disk, in bytes a parameter: base, merged model and the peer's merged model, in 2 each, and the rest.
DISK = 6.8


@dataclass(frozen=True)
class Run:
    """One process: seconds, peak of anonymous memory in bytes, exit status, and whether the limit was enforced."""

    seconds: float
    anonymous: int
    status: int
    limited: bool


@contextlib.contextmanager
def group_of(limit: int | None) -> Iterator[MemoryGroup | None]:
    """A control group, or None where none can be made."""
    try:
        group = MemoryGroup(f"tara-factory-{os.getpid()}", limit)
    except OSError:
        yield None
        return
    try:
        yield group
    finally:
        group.remove()


def anonymous_of(pid: int) -> int:
    """Bytes of anonymous memory of a process and its descendants."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{each.pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon:"):
                        total += int(line.split()[1]) * 1024
    return total


def run(command: list[str], log: Path, *, limit: int | None) -> Run:
    """Run a program to its end, its words into `log`, and watch its memory."""
    threads = str(len(os.sched_getaffinity(0)))
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads, "TQDM_DISABLE": "",
    }  # fmt: skip
    with group_of(limit) as group, open(log, "wb") as stream:
        started, peak = time.monotonic(), 0
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            preexec_fn=group.enter if group else None,
        )  # fmt: skip
        try:
            while child.poll() is None:
                peak = max(peak, group.anonymous() if group else anonymous_of(child.pid))
                time.sleep(1 / SAMPLES_A_SECOND)
        finally:
            child.kill()
            child.wait()
        return Run(time.monotonic() - started, peak, child.returncode, limit is not None and group is not None)


def forget(*paths: Path) -> None:
    """Flush files and drop their pages from the cache, so that every program reads them from the disk."""
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                with open(file, "rb") as stream:
                    os.fsync(stream.fileno())
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Bench:
    """One run of the benchmark in a scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.threads = len(os.sched_getaffinity(0))
        self.runs: dict[str, dict[str, Run]] = {}
        self.missed: list[str] = []

    def ours(self, kind: str, out: Path, params: dict[str, Any], inputs: dict[str, Path]) -> None:
        """Run one of our tasks as the worker does, under the limit."""
        folder = self.scratch / "runs" / kind
        folder.mkdir(parents=True)
        spec = {
            "job_id": 1, "kind": kind, "attempt": 1, "key": "0" * 64, "workspace": str(self.scratch), "title": kind,
            "params": params, "inputs": {name: str(path) for name, path in inputs.items()}, "out": str(out),
            "threads": self.threads,
        }  # fmt: skip
        (folder / "spec.json").write_text(json.dumps(spec), "utf-8")
        command = [sys.executable, "-u", "-m", "core.tasks", str(folder)]
        self._keep(kind, "tara", out, lambda log: run(command, log, limit=LIMIT), inputs)

    def peer(self, kind: str, out: Path, arguments: list[str], inputs: dict[str, Path]) -> None:
        """Run what others use, without a limit."""
        command = [sys.executable, str(PEERS), kind, *arguments]
        self._keep(kind, "peer", out, lambda log: run(command, log, limit=None), inputs)

    def _keep(self, kind: str, who: str, out: Path, start: Callable[[Path], Run], inputs: dict[str, Path]) -> None:
        forget(*inputs.values())
        log = self.scratch / f"{kind}-{who}.log"
        done = start(log)
        if done.status or not out.exists():
            words = log.read_text("utf-8", "replace").splitlines()[-12:]
            raise SystemExit("\n".join([*words, f"{kind} ({who}) ended with status {done.status}"]))
        self.runs.setdefault(kind, {})[who] = done
        print(f"{kind:8} {who}: {done.seconds:.1f} s, {done.anonymous / 1e6:.0f} MB", flush=True)

    def same(self, what: str, first: Path, second: Path) -> bool:
        """Whether two files are equal; a difference is a missed goal."""
        equal = filecmp.cmp(first, second, shallow=False)
        if not equal:
            self.missed.append(f"{what} differ")
        return equal

    def judge(self) -> None:
        """Hold the figures against the goals."""
        for kind, runs in self.runs.items():
            ours, peer = runs["tara"], runs["peer"]
            if ours.anonymous >= LIMIT:
                self.missed.append(f"{kind} took {ours.anonymous / 1e6:.0f} MB")
            if ours.seconds > SLOWER * peer.seconds:
                self.missed.append(f"{kind} took {ours.seconds / peer.seconds:.2f} times {NAMES[kind]}'s seconds")

    def table(self) -> str:
        """Seconds and peak anonymous memory, ours and the peer's, and ours over the peer's."""
        lines = [
            f"{'':9} {'seconds':>22}   {'anonymous memory, MB':>24}",
            f"{'':9}{'tara':>8}{'peer':>8}{'ratio':>7}   {'tara':>8}{'peer':>9}{'ratio':>7}   peer",
        ]
        for kind, runs in self.runs.items():
            ours, peer = runs["tara"], runs["peer"]
            lines.append(
                f"{kind:9}{ours.seconds:8.1f}{peer.seconds:8.1f}{ours.seconds / peer.seconds:7.2f}   "
                f"{ours.anonymous / 1e6:8.0f}{peer.anonymous / 1e6:9.0f}{ours.anonymous / peer.anonymous:7.2f}   "
                f"{NAMES[kind]}"
            )
        return "\n".join(lines)


def work(bench: Bench, scratch: Path, parameters: str, seed: int) -> dict[str, Any]:
    """Build, run all six, compare; returns what the result line says. What is done with is deleted."""
    size = SIZES[parameters]
    base, adapter, merged, by_peft = (scratch / name for name in ("base", "adapter", "merged", "by-peft"))
    started = time.monotonic()
    build_model(base, size, seed)
    build_adapter(adapter, size, seed + 1)
    print(f"built {size.parameters:,} parameters, {tree_bytes(base) / 1e9:.1f} GB, in "
          f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    inputs = {"base": base, "adapter": adapter}
    bench.ours("merge", merged, {"domain": "synthetic"}, inputs)
    bench.peer("merge", by_peft, [str(base), str(adapter), str(by_peft)], inputs)
    discard(base)
    discard(by_peft)
    f16, by_stock = scratch / "f16.gguf", scratch / "stock" / "f16.gguf"
    by_stock.parent.mkdir()
    bench.ours("convert", f16, {"name": "synthetic"}, {"model": merged})
    bench.peer("convert", by_stock, [str(merged), str(by_stock)], {"model": merged})
    converted = bench.same("converted bytes", f16, by_stock)
    discard(merged)
    discard(by_stock)
    small, by_engine = scratch / "q4.gguf", scratch / "engine.gguf"
    bench.ours("quantize", small, {"name": "synthetic", "type": "Q4_K_M"}, {"gguf": f16})
    bench.peer("quantize", by_engine, [str(f16), str(by_engine), str(bench.threads)], {"gguf": f16})
    return {
        "parameters": size.parameters,
        "converted_bytes_equal": converted,
        "quantized_bytes_equal": bench.same("quantized bytes", small, by_engine),
    }


def main() -> int:
    """Check the disk, work, print the table and the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", choices=SIZES, default="3b", help="shape of the model (default: 3b)")
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="tara-factory-", dir=options.folder))
    try:
        wanted = int(DISK * SIZES[options.parameters].parameters)
        free = shutil.disk_usage(scratch).free
        print(f"takes {wanted / 1e9:.1f} GB of {scratch} at most, {free / 1e9:.1f} GB are free", flush=True)
        if free < wanted:
            print("there is no room: name another folder with --folder")
            return 2
        bench = Bench(scratch)
        found = work(bench, scratch, options.parameters, options.seed)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    bench.judge()
    limited = all(runs["tara"].limited for runs in bench.runs.values())
    enforced = "enforced by a control group" if limited else "not enforced: a control group takes root"
    print(
        f"\n{found['parameters']:,} parameters, {bench.threads} cores; limit for tara 1 GB, {enforced}\n{bench.table()}"
    )
    for what in ("converted", "quantized"):
        print(f"{what} bytes equal: {'yes' if found[f'{what}_bytes_equal'] else 'NO'}")
    print(f"missed: {'; '.join(bench.missed) or 'nothing'}")
    runs = {kind: {who: asdict(each) for who, each in runs.items()} for kind, runs in bench.runs.items()}
    machine = {"cores": bench.threads, "python": platform.python_version(), "limit_enforced": limited}
    print("RESULT " + json.dumps({**found, "machine": machine, "runs": runs, "missed": bench.missed}, sort_keys=True))
    return 1 if bench.missed else 0


if __name__ == "__main__":
    sys.exit(main())
