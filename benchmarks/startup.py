"""How fast TARA starts, beside its peers: `make bench-startup`.

Ours: `tara --version`, `tara list-phases --json`, and the console's first useful paint (a domain's name on a terminal
of 120x36) on a workspace with 28 domains and 200 jobs. Peers of the same run: a bare interpreter, a minimal Textual
app (peer_app.py: what Textual costs without an application), and toolong, a Textual log viewer of the package index,
in an environment of its own. Rounds alternate between all of them; medians and ratios are reported, the last line is
`RESULT ` and one JSON object. The exit status is 1 only when something of ours could not be measured.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from peer_app import MARKER
from peer_environment import install
from terminal_timer import NotPainted, terminal_environment, time_to_text
from year_of_jobs import make_phases, phases_of

from core.catalog import load_catalog
from core.store.engine import dump, open_store
from core.store.tables import Job, Measurement, Metric
from core.workspace import Workspace

HERE = Path(__file__).resolve().parent
TOOLONG = "toolong==1.5.0"
JOBS = 200
LOG_LINES = 2000
LOG_MARKER = "bench-log-line"
GOALS_MS = {"tara --version": 150.0, "tara list-phases --json": 600.0, "tara console": 700.0}
# Which peer a measurement is set against.
PEERS = {
    "tara --version": ("python -c pass", "tl --version"),
    "tara list-phases --json": ("python -c pass", "tl --version"),
    "tara console": ("peer_app.py", "tl FILE"),
}


class NotMeasured(Exception):
    """A run that cannot be counted, with the reason."""


@dataclass
class Subject:
    """One thing that is timed. `measure` returns seconds; `error` says why it was given up."""

    name: str
    measure: Callable[[], float]
    ours: bool
    times: list[float] = field(default_factory=list)
    error: str | None = None

    def run(self, *, keep: bool) -> None:
        """Measure once; a failure ends this subject's measurements, not the benchmark."""
        if self.error is not None:
            return
        try:
            seconds = self.measure()
        except (NotMeasured, NotPainted) as error:
            self.error = str(error)
            return
        if keep:
            self.times.append(seconds)

    @property
    def median_ms(self) -> float | None:
        """The median in milliseconds, None where nothing was measured."""
        return statistics.median(self.times) * 1000 if self.times and self.error is None else None


def main() -> int:
    """Measure and print; the exit status."""
    options = argparse.ArgumentParser(description="Start-up times of TARA beside its peers.")
    options.add_argument("--runs", type=int, default=7, help="rounds that count (default 7)")
    runs = max(1, options.parse_args().runs)
    with tempfile.TemporaryDirectory(prefix="tara-bench-") as folder:
        scratch = Path(folder)
        subjects = _subjects(scratch, _filled_workspace(scratch / "workspace"))
        for subject in subjects:
            subject.run(keep=False)  # the first start fills the file cache and the byte-code
        for _ in range(runs):
            for subject in subjects:
                subject.run(keep=True)
    found = {subject.name: subject for subject in subjects}
    _print_table(subjects, found)
    print("RESULT " + json.dumps(_result(subjects, found, runs), sort_keys=True))
    return int(any(subject.ours and subject.error is not None for subject in subjects))


# -- what is measured ------------------------------------------------------------------------------------------------


def _subjects(scratch: Path, workspace: Workspace) -> list[Subject]:
    tara = str(Path(sys.executable).with_name("tara"))
    root = ["--root", str(workspace.root)]
    log = scratch / "sample.log"
    log.write_text("".join(f"12:00:00 INFO {LOG_MARKER} {number}\n" for number in range(LOG_LINES)))
    marker = load_catalog(workspace).domains["healthcare"].name
    subjects = [
        Subject("tara --version", lambda: _command([tara, "--version"], scratch), ours=True),
        Subject("python -c pass", lambda: _command([sys.executable, "-c", "pass"], scratch), ours=False),
        Subject("tara list-phases --json", lambda: _list_phases([tara, *root], scratch), ours=True),
        Subject("tara console", lambda: _paint([tara, *root, "console"], marker, scratch), ours=True),
        Subject(
            "peer_app.py", lambda: _paint([sys.executable, str(HERE / "peer_app.py")], MARKER, scratch), ours=False
        ),
    ]
    program, error = install(TOOLONG, "tl")
    viewer = str(program)
    subjects += [
        Subject("tl --version", lambda: _command([viewer, "--version"], scratch), ours=False, error=error),
        Subject("tl FILE", lambda: _paint([viewer, str(log)], LOG_MARKER, scratch), ours=False, error=error),
    ]
    return subjects


def _command(argv: list[str], cwd: Path) -> float:
    """Seconds until a command that prints has ended."""
    started = time.perf_counter()
    done = subprocess.run(argv, cwd=cwd, env=terminal_environment(), stdin=subprocess.DEVNULL, capture_output=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise NotMeasured(f"{Path(argv[0]).name} ended with {done.returncode}: {said[-1] if said else 'no word'}")
    return seconds


def _list_phases(tara: list[str], cwd: Path) -> float:
    return _command([*tara, "list-phases", "--json"], cwd)


def _paint(argv: list[str], text: str, cwd: Path) -> float:
    return time_to_text(argv, text, cwd=cwd).text_s


def _filled_workspace(root: Path) -> Workspace:
    """A workspace as after some weeks: the catalogue's phases and domains, 200 jobs with figures and measurements."""
    _command([str(Path(sys.executable).with_name("tara")), "init", str(root)], root.parent)
    workspace = Workspace(root)
    make_phases(workspace)
    homes = [(number, name) for number, names in sorted(phases_of(workspace).items()) for name in names]
    now = time.time()
    with open_store(workspace).write() as session:
        for index in range(JOBS):
            number, name = homes[index // 2 % len(homes)]
            kind = ("train", "evaluate")[index % 2]
            at = now - (JOBS - index) * 60
            job = Job(
                kind=kind, title=f"{kind} {name}", state="succeeded", key=f"{index:064x}", phase=number, domain=name,
                attempt=1, created_at=at, started_at=at, ended_at=at + 50, step=200, total=200, unit="step",
                metrics=dump({"loss": 2.1, "tokens_per_s": 250.0}), run_dir=f"runs/{index + 1}",
            )  # fmt: skip
            session.add(job)
            session.flush()
            assert job.id is not None
            if kind == "train":
                for step in range(0, 200, 10):
                    loss = 3.0 - step / 200
                    session.add(Metric(job_id=job.id, attempt=1, step=step, name="loss", value=loss, at=at))
                continue
            for what, value in (("base_loss", 3.1), ("tuned_loss", 2.2), ("base_accuracy", 0.41), ("quality", 0.52)):
                session.add(
                    Measurement(
                        job_id=job.id, domain=name, name=what, value=value, method="bench", n=900, measured_at=at
                    )
                )
    return workspace


# -- what is said ----------------------------------------------------------------------------------------------------


def _print_table(subjects: list[Subject], found: dict[str, Subject]) -> None:
    print(f"{'what':<26}{'median':>9}{'least':>9}{'most':>9}{'goal':>9}  beside its peers")
    for subject in subjects:
        median = subject.median_ms
        if median is None:
            print(f"{subject.name:<26}not measured: {subject.error}")
            continue
        goal = GOALS_MS.get(subject.name)
        least, most = min(subject.times) * 1000, max(subject.times) * 1000
        line = f"{subject.name:<26}{median:>6.0f} ms{least:>6.0f} ms{most:>6.0f} ms"
        line += f"{goal:>6.0f} ms" if goal is not None else " " * 9
        peers = [f"{ratio:.2f} x {peer}" for peer, ratio in _ratios(subject, found).items()]
        over = "; over the goal" if goal is not None and median > goal else ""
        print(f"{line}  {', '.join(peers)}{over}".rstrip())


def _ratios(subject: Subject, found: dict[str, Subject]) -> dict[str, float]:
    """Our median over each peer's."""
    ours = subject.median_ms
    ratios: dict[str, float] = {}
    for name in PEERS.get(subject.name, ()):
        theirs = found[name].median_ms
        if ours is not None and theirs:
            ratios[name] = round(ours / theirs, 3)
    return ratios


def _result(subjects: list[Subject], found: dict[str, Subject], runs: int) -> dict[str, object]:
    medians = {subject.name: subject.median_ms for subject in subjects}
    return {
        "benchmark": "startup",
        "runs": runs,
        "jobs": JOBS,
        "median_ms": {name: round(value, 1) for name, value in medians.items() if value is not None},
        "goal_ms": GOALS_MS,
        "met": {name: (value := medians[name]) is not None and value <= goal for name, goal in GOALS_MS.items()},
        "ratio": {subject.name: _ratios(subject, found) for subject in subjects if subject.ours},
        "errors": {subject.name: subject.error for subject in subjects if subject.error is not None},
        "peer": TOOLONG,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1m": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    sys.exit(main())
