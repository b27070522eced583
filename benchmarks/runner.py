"""What the runner costs, beside huey with SQLite: `make bench-runner`.

Dispatch: one job at a time on an idle queue, from the request until the job's process is there, its task says its
first word, it is over, and the store says so. Throughput: 1,000 trivial jobs queued at once. Idle: processor and memory
of the waiting runner. Scale: the same, and the commands, on a store with 10,000 finished jobs beside one without.

Ours is `clean` of a tiny adapter, a real job: a supervised process in a session of its own, its folder, spec and end
flushed to disk, its artifact recorded. huey (with as many process workers as there are cores) deletes the row when it
takes it and runs a function in its worker; nothing is left of a task that dies with it. So it is measured three ways:
the function call it is made for, a function that starts a bare Python process and waits, and one that starts the very
process that ours starts. The last line is `RESULT ` and one JSON object; the exit status is 1 only where something of
ours could not be measured. It takes about half an hour on two cores: `--jobs 100` for a first look.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import store_scale
import year_of_jobs
from huey_driver import EAGER, HUEY, SHIPPED, Huey, huey_python
from idle_cost import Idle, idle_cost
from store_scale import Compared
from trivial_jobs import (
    NotMeasured,
    Times,
    empty_queue,
    has_light_slots,
    make_workspace,
    own_seconds,
    requests,
    runner_of,
    set_light_slots,
)

from core.store.place import file_system_of

SEED = 1
GOALS = {"dispatch_ms": 100.0, "idle_cpu_percent": 0.3, "idle_rss_mb": 60.0}
OURS, FULL = "tara, empty store", "tara, {jobs} finished jobs"
WAYS = {"function": "huey, function call", "process": "huey, bare process", "job": "huey, the same process"}
WHAT_THEY_DO = """\
  tara                    a row flushed to disk; run folder and spec flushed; a parent in its own session starts the
                          job and flushes how it ended; artifact and measurement recorded
  huey, function call     the row is deleted when a worker takes it, which then runs a function; no process, no record
  huey, bare process      that function starts `python -c` and waits for it
  huey, the same process  that function starts what tara's parent starts, on a run folder made beforehand, and waits"""
POLLING = {"as it comes": SHIPPED, "polling every 10 ms": EAGER}


class Bench:
    """One run of the benchmark: what was found, and what could not be."""

    def __init__(self, scratch: Path, options: argparse.Namespace) -> None:
        self.scratch, self.options = scratch, options
        self.workers, self.load_before = len(os.sched_getaffinity(0)), round(os.getloadavg()[0], 2)
        self.result: dict[str, Any] = {name: {} for name in ("dispatch_ms", "after_idle_ms", "idle", "throughput")}
        self.errors: dict[str, str] = {}
        self.full_name = FULL.format(jobs=f"{options.finished:,}")

    def attempt(self, what: str, act: Callable[[], None]) -> None:
        """Do one part; where it cannot be measured the others go on."""
        print(f"\n{what}", flush=True)
        try:
            act()
        except NotMeasured as error:
            self.errors[what] = str(error)
            print(f"not measured: {error}", flush=True)

    # -- our own ---------------------------------------------------------------------------------------------------

    def stores(self) -> None:
        """The commands, the runner's turn, dispatch and idling, on an empty and a full store."""
        empty, full = make_workspace(self.scratch / "empty"), make_workspace(self.scratch / "full")
        phase = year_of_jobs.make_phases(empty)
        year_of_jobs.make_phases(full)
        rows = year_of_jobs.fill(full, self.options.finished)
        held = ", ".join(f"{count:,} {table}" for table, count in rows.items())
        print(f"the full store: {full.state_db.stat().st_size / 1e6:.0f} MB, rows: {held}")
        compared = store_scale.compare(empty, full, phase, runs=7)
        self.result["store_rows"] = rows
        self.result["scale"] = {one.name: _compared(one) for one in compared}
        with runner_of(empty, full) as pids:
            times = requests([empty, full], self.options.requests, SEED)
            idle = idle_cost(pids, self.options.idle)
            after = requests([empty, full], 1, SEED, warm=True)
        print(_scale_table(compared))
        for name, measured, waiting, [later] in zip(self._ours(), times, idle, after, strict=True):
            self.result["dispatch_ms"][name] = _dispatch(measured)
            self.result["idle"][name] = _idle(waiting)
            self.result["after_idle_ms"][name] = round(later.process * 1000, 1)

    def throughput(self) -> None:
        """The queue of many trivial jobs, with the settings as they come and with as many slots as huey has workers."""
        found = self.result["throughput"]
        slots: list[int | None] = [None, self.workers] if has_light_slots() else [None]
        for number in slots:
            name = "tara, as it comes" if number is None else f"tara, {number} light slots"
            workspace = make_workspace(self.scratch / f"throughput-{number}")
            if number is not None:
                set_light_slots(workspace, number)
            with runner_of(workspace):
                seconds = empty_queue(workspace, self.options.jobs)
            own = own_seconds(workspace)
            found[name] = {
                **self._rate(seconds),
                "own_ms": round(statistics.median(one[0] for one in own) * 1000, 1),
                "own_cpu_ms": round(statistics.median(one[1] for one in own) * 1000, 1),
            }
            print(f"  {name:<28}{_rate_line(found[name])}; of a job {_own_line(found[name])}", flush=True)

    # -- the peer --------------------------------------------------------------------------------------------------

    def peer_dispatch(self) -> None:
        """Dispatch and idling of huey."""
        python, workspace = huey_python(), make_workspace(self.scratch / "peer-dispatch")
        for how, polling in POLLING.items():
            for kind, name in WAYS.items():
                if polling == EAGER and kind != "function":
                    continue
                label = f"{name}, {how}" if polling == EAGER else name
                peer = Huey(python, self.scratch / f"dispatch-{how}-{kind}", self.workers, polling)
                count = self.options.requests
                if kind == "job":
                    peer.prepare_jobs(workspace, count + 1)
                with peer.consumer() as pid:
                    peer.requests("function", 1, SEED)  # not counted: it fills the caches
                    times = [Times(known=one["ended"], **one) for one in peer.requests(kind, count, SEED)]
                    self.result["dispatch_ms"][label] = _dispatch(times)
                    if kind != "function":
                        continue
                    [idle] = idle_cost([pid], self.options.idle)
                    [after] = peer.requests("function", 1, SEED)
                self.result["idle"][f"huey, {how}"] = _idle(idle)
                self.result["after_idle_ms"][f"huey, {how}"] = round(after["process"] * 1000, 1)

    def peer_throughput(self) -> None:
        """huey's queue of as many tasks, each way."""
        python, workspace = huey_python(), make_workspace(self.scratch / "peer-throughput")
        for kind, name in WAYS.items():
            peer = Huey(python, self.scratch / f"throughput-{kind}", self.workers)
            if kind == "job":
                peer.prepare_jobs(workspace, self.options.jobs)
            peer.fill(kind, self.options.jobs)
            with peer.consumer():
                seconds = peer.emptied(self.options.jobs)
            self.result["throughput"][name] = self._rate(seconds)
            print(f"  {name:<28}{_rate_line(self._rate(seconds))}", flush=True)

    # -- what is said ----------------------------------------------------------------------------------------------

    def conclude(self) -> bool:
        """Print the tables and the result; whether all of ours was measured."""
        dispatch, idle = self.result["dispatch_ms"], self.result["idle"]
        _print_dispatch(dispatch, self.result["after_idle_ms"])
        _print_idle(idle)
        worst: dict[str, float] = {}  # of both stores, where both were measured
        if all(one in idle for one in self._ours()):
            worst["dispatch_ms"] = max(dispatch[one]["process"]["median"] for one in self._ours())
            worst["idle_cpu_percent"] = max(idle[one]["cpu_percent"] for one in self._ours())
            worst["idle_rss_mb"] = max(idle[one]["rss_mb"] for one in self._ours())
        place = file_system_of(self.scratch)
        self.result |= {
            "benchmark": "runner", "jobs": self.options.jobs, "requests": self.options.requests,
            "finished": self.options.finished, "idle_s": self.options.idle, "goal": GOALS,
            "met": {name: name in worst and worst[name] <= goal for name, goal in GOALS.items()},
            "ratio": self._ratios(), "errors": self.errors, "peer": HUEY, "python": platform.python_version(),
            "cores": self.workers, "file_system": place[0] if place else None,
            "load_1m": round(os.getloadavg()[0], 2), "load_1m_before": self.load_before,
        }  # fmt: skip
        print("RESULT " + json.dumps(self.result, sort_keys=True))
        return not any("huey" not in what for what in self.errors)

    def _ours(self) -> tuple[str, str]:
        return OURS, self.full_name

    def _rate(self, seconds: float) -> dict[str, float]:
        return {"seconds": round(seconds, 2), "jobs_per_s": round(self.options.jobs / seconds, 2)}

    def _ratios(self) -> dict[str, float]:
        """Ours over huey's that starts the same process, and full over empty."""
        found: dict[str, float] = {}
        dispatch, rates = self.result["dispatch_ms"], self.result["throughput"]
        for name, way in WAYS.items():
            if OURS in dispatch and way in dispatch:
                point = "task" if name == "function" else "process"
                found[f"dispatch to {point} / {way}"] = _over(dispatch[OURS], dispatch[way], point)
            for mine in (one for one in rates if one.startswith("tara")):
                if way in rates:
                    rate = rates[mine]["jobs_per_s"] / rates[way]["jobs_per_s"]
                    found[f"{mine}: jobs per s / {way}"] = round(rate, 4)
        if OURS in dispatch:
            found["dispatch, full / empty store"] = _over(dispatch[self.full_name], dispatch[OURS], "process")
        return found


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description="The runner beside huey with SQLite.")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of the throughput's queue (default 1000)")
    parser.add_argument("--requests", type=int, default=50, help="requests of each dispatch (default 50)")
    parser.add_argument("--finished", type=int, default=10_000, help="jobs in the full store (default 10000)")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of idling that are watched (default 20)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tara-bench-") as folder:
        bench = Bench(Path(folder), options)
        print(f"load before: {bench.load_before} on {bench.workers} cores")
        bench.attempt("an empty and a full store", bench.stores)
        bench.attempt("dispatch and idling of huey", bench.peer_dispatch)
        bench.attempt(f"{options.jobs} trivial jobs", bench.throughput)
        bench.attempt(f"{options.jobs} tasks of huey, {bench.workers} workers", bench.peer_throughput)
        return 0 if bench.conclude() else 1


# -- figures ---------------------------------------------------------------------------------------------------------


def _spread(values: Sequence[float], scale: float = 1000.0) -> dict[str, float]:
    """Median, 95th percentile and most, of seconds, in milliseconds."""
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {
        "median": round(statistics.median(ordered) * scale, 2),
        "p95": round(high * scale, 2),
        "most": round(ordered[-1] * scale, 2),
    }


def _dispatch(times: Sequence[Times]) -> dict[str, dict[str, float]]:
    points = ("committed", "process", "task", "ended", "known")
    return {point: _spread([getattr(one, point) for one in times]) for point in points}


def _idle(idle: Idle) -> dict[str, float]:
    return {
        "cpu_percent": round(idle.cpu_percent, 3),
        "wakeups_per_s": round(idle.wakeups_per_s, 2),
        "rss_mb": round(idle.rss_bytes / 1e6, 1),
        "uss_mb": round(idle.uss_bytes / 1e6, 1),
        "processes": idle.processes,
    }


def _compared(one: Compared) -> dict[str, Any]:
    empty, full = _spread(one.empty), _spread(one.full)
    return {"empty_ms": empty, "full_ms": full, "ratio": round(full["median"] / empty["median"], 3)}


def _over(mine: dict[str, Any], theirs: dict[str, Any], point: str) -> float:
    return round(mine[point]["median"] / theirs[point]["median"], 3)


# -- tables ----------------------------------------------------------------------------------------------------------


def _scale_table(compared: Sequence[Compared]) -> str:
    lines = [f"  {'median (p95) in ms':<36}{'empty':>18}{'full':>18}{'full/empty':>12}"]
    for one in compared:
        cells = _compared(one)
        empty, full = (f"{cells[at]['median']:.2f} ({cells[at]['p95']:.2f})" for at in ("empty_ms", "full_ms"))
        lines.append(f"  {one.name:<36}{empty:>18}{full:>18}{cells['ratio']:>12.2f}")
    return "\n".join(lines)


def _print_dispatch(dispatch: dict[str, Any], after_idle: dict[str, float]) -> None:
    print("\nfrom the request until …, median (p95) in ms")
    print(f"  {'':<44}{'committed':>16}{'process there':>16}{'task runs':>16}{'it is over':>16}{'client knows':>16}")
    for name, points in dispatch.items():
        cells = [f"{point['median']:.0f} ({point['p95']:.0f})" for point in points.values()]
        print(f"  {name:<44}{''.join(f'{cell:>16}' for cell in cells)}")
    said = ", ".join(f"{name}: {value:.0f} ms" for name, value in after_idle.items())
    print(f"  the first one after idling, once each: {said}")
    print(WHAT_THEY_DO)


def _print_idle(idle: dict[str, Any]) -> None:
    print("\nidle")
    print(f"  {'':<44}{'CPU %':>10}{'wake-ups/s':>12}{'resident MB':>13}{'unique MB':>12}{'processes':>11}")
    for name, one in idle.items():
        print(
            f"  {name:<44}{one['cpu_percent']:>10.3f}{one['wakeups_per_s']:>12.1f}{one['rss_mb']:>13.1f}"
            f"{one['uss_mb']:>12.1f}{one['processes']:>11}"
        )


def _rate_line(found: dict[str, float]) -> str:
    return f"{found['seconds']:>9.1f} s{found['jobs_per_s']:>9.1f} a second"


def _own_line(found: dict[str, float]) -> str:
    return f"{found['own_ms']:.0f} ms are its process, {found['own_cpu_ms']:.0f} ms of processor"


if __name__ == "__main__":
    sys.exit(main())
