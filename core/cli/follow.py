"""Following jobs to their end: one live line a job on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence

import click

from core.cli.common import is_terminal, job_line
from core.errors import ExitCode
from core.runner.client import ensure_runner
from core.runner.presence import runner_pid
from core.store.reads import open_reader
from core.store.views import JobView
from core.text import clean, span
from core.workspace import Workspace

POLL_S = 0.2
PLAIN_EVERY_S = 10.0
_OVER = ("succeeded", "failed", "cancelled", "interrupted", "blocked", "paused")


def follow(workspace: Workspace, ids: Sequence[int], *, quiet: bool = False) -> list[JobView]:
    """Show jobs until all are over; their last views in the order of `ids`."""
    if not ids:
        return []
    show = _Nothing() if quiet else (_Bars() if is_terminal() else _Lines())
    with open_reader(workspace) as reader, show:
        watched_runner = time.monotonic()
        while True:
            found = {job.id: job for job in reader.jobs(ids=list(ids), limit=len(ids))}
            jobs = [found[job_id] for job_id in ids if job_id in found]
            show.update(jobs)
            if all(job.state in _OVER for job in jobs):
                return jobs
            while not reader.changed():
                time.sleep(POLL_S)
                show.tick()
                if time.monotonic() - watched_runner > 2.0:
                    watched_runner = time.monotonic()
                    if runner_pid(workspace) is None:
                        ensure_runner(workspace)  # it died: its successor finds the jobs as they are


def wait_for(workspace: Workspace, ids: Sequence[int], *, quiet: bool = False) -> list[JobView]:
    """Follow jobs, say which failed, and leave with status 1 where any did."""
    jobs = follow(workspace, ids, quiet=quiet)
    leave_where_failed(jobs)
    return jobs


def leave_where_failed(jobs: Sequence[JobView]) -> None:
    """Say which of these jobs failed, and leave with status 1 where any did."""
    bad = [job for job in jobs if job.state != "succeeded"]
    if bad:
        first = next((job for job in bad if job.state in ("failed", "interrupted")), bad[0])
        hint = f" — {first.hint}" if first.hint else ""
        click.echo(f"tara: {job_line(first)} {first.state}: {clean(first.error or 'no reason given')}{hint}", err=True)
        if first.run_dir and first.state == "failed":
            click.echo(f"tara: its log: tara jobs logs {first.id}", err=True)
        click.get_current_context().exit(int(ExitCode.FAILED))


class _Nothing:
    """Shows nothing."""

    def __enter__(self) -> "_Nothing":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, jobs: Sequence[JobView]) -> None:
        """Jobs as they stand now."""

    def tick(self) -> None:
        """Some time has passed."""


class _Lines(_Nothing):
    """A line when a job starts or ends, and one now and then between."""

    def __init__(self) -> None:
        self._said: dict[int, str] = {}
        self._when: dict[int, float] = {}

    def update(self, jobs: Sequence[JobView]) -> None:
        for job in jobs:
            now = time.monotonic()
            if self._said.get(job.id) != job.state and job.state not in ("queued", "starting"):
                self._said[job.id] = job.state
                self._when[job.id] = now
                click.echo(_plain(job))
            elif job.state == "running" and job.total and now - self._when.get(job.id, now) > PLAIN_EVERY_S:
                self._when[job.id] = now
                click.echo(_plain(job))


class _Bars(_Nothing):
    """A bar a job: what, how far, rate, time left."""

    def __enter__(self) -> "_Bars":
        from rich.live import Live

        self._jobs: Sequence[JobView] = ()
        self._live = Live(auto_refresh=False, transient=False)
        self._live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.__exit__(*exc)  # type: ignore[arg-type]

    def update(self, jobs: Sequence[JobView]) -> None:
        self._jobs = jobs
        self._draw()

    def tick(self) -> None:
        if any(job.state == "running" for job in self._jobs):
            self._draw()

    def _draw(self) -> None:
        from rich.text import Text

        self._live.update(Text("\n").join(_bar(job) for job in self._jobs), refresh=True)


_MARKS = {
    "succeeded": "done",
    "failed": "FAILED",
    "cancelled": "cancelled",
    "interrupted": "LOST",
    "blocked": "blocked",
    "paused": "paused",
}


def _bar(job: JobView):  # type: ignore[no-untyped-def]  # a rich Text; rich is loaded only where bars are drawn
    from rich.text import Text

    title = clean(job.title)[:30].ljust(30)
    if job.state == "succeeded":
        return Text(
            f"{title} done    {span((job.ended_at or 0) - (job.started_at or 0)):>7}  {_figures(job)}".rstrip(), "green"
        )
    if job.state in _MARKS:
        return Text(f"{title} {_MARKS[job.state]}  {clean(job.error or '')[:60]}", "red")
    if job.state == "queued":
        return Text(f"{title} waiting", "dim")
    width = 20
    filled = round((job.fraction or 0) * width)
    bar = "#" * filled + "-" * (width - filled)
    share = f"{100 * job.fraction:3.0f}%" if job.fraction is not None else "   …"
    left = f"left {span(job.eta_s)}" if job.eta_s is not None else span(time.time() - (job.started_at or time.time()))
    return Text(f"{title} [{bar}] {share}  {left:>10}  {_rate(job)} {_figures(job)}".rstrip())


def _plain(job: JobView) -> str:
    parts = [f"{job.id:>4}", clean(job.title), job.state]
    if job.state == "running" and job.total:
        parts.append(f"{job.step}/{job.total} {job.unit}")
        parts.append(_rate(job))
        if job.eta_s is not None:
            parts.append(f"left {span(job.eta_s)}")
    if job.state in ("succeeded", "failed") and job.ended_at and job.started_at:
        parts.append(f"in {span(job.ended_at - job.started_at)}")
    parts.append(_figures(job))
    if job.state != "succeeded" and job.error:
        parts.append(clean(job.error))
    return "  ".join(part for part in parts if part)


def _rate(job: JobView) -> str:
    if not job.rate:
        return ""
    return f"{job.rate:.1f} {job.unit}/s" if job.rate < 1000 else f"{job.rate / 1e6:.1f} M{job.unit}/s"


def _figures(job: JobView) -> str:
    shown = []
    if "loss" in job.metrics:
        shown.append(f"loss {job.metrics['loss']:.3f}")
    if "tokens_per_s" in job.metrics:
        shown.append(f"{job.metrics['tokens_per_s']:.0f} tok/s")
    return "  ".join(shown)
