"""`tara jobs`: the queue and its history."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from core.cli.common import NUMBER, json_option, print_json, root_option, true_reader, workspace_of
from core.errors import InvalidInput
from core.store.views import ACTIVE_JOB_STATES, JobView, PastJob
from core.text import clean, percent, size, span, table
from core.workspace import Workspace

POLL_S = 0.2


@click.group("jobs")
def jobs() -> None:
    """List, show, follow, pause, resume, cancel and retry jobs."""


@jobs.command("list")
@click.option("--phase", type=NUMBER, help="Only this phase's.")
@click.option("--active", is_flag=True, help="Only those not over.")
@click.option("--limit", type=NUMBER, default=50, show_default=True)
@root_option
@json_option
def list_jobs(phase: int | None, active: bool, limit: int, root: str | None, as_json: bool) -> None:
    """Jobs, newest first."""
    with true_reader(root) as reader:
        found = reader.jobs(phase=phase, states=ACTIVE_JOB_STATES if active else (), limit=limit)
    if as_json:
        print_json([job_json(job) for job in found])
    elif not found:
        click.echo("no jobs")
    else:
        click.echo(
            table(("job", "state", "what", "progress", "time", "note"), [_row(job) for job in found], right=(0,))
        )


@jobs.command("show")
@click.argument("job_id", type=NUMBER)
@root_option
@json_option
def show_job(job_id: int, root: str | None, as_json: bool) -> None:
    """One job: state, progress, figures, result, where its files are."""
    with true_reader(root) as reader:
        job, result, past = reader.job(job_id), reader.result(job_id), next(iter(reader.past_jobs(id=job_id)), None)
    if as_json:
        print_json({**job_json(job), "result": result})
        return
    click.echo(f"job {job.id}: {clean(job.title)} ({job.kind}), {job.state}, attempt {job.attempt}")
    if job.total:
        click.echo(f"progress: {job.step}/{job.total} {job.unit} {clean(job.message)}".rstrip())
    if job.depends_on:
        click.echo(f"needs: jobs {', '.join(map(str, job.depends_on))}")
    for name, value in job.metrics.items():
        click.echo(f"{name}: {value:g}")
    for name, value in result.items():
        click.echo(f"{name}: {clean(str(value))}")
    if job.predicted_memory_bytes is not None:
        click.echo(_predicted(job, past))
    if job.error:
        click.echo(f"error: {clean(job.error)}" + (f" — {clean(job.hint)}" if job.hint else ""))
    if job.run_dir:
        click.echo(f"files: {job.run_dir}")


@jobs.command("logs")
@click.argument("job_id", type=NUMBER)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the job is over.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=1), default=200, show_default=True, help="How many of the last lines."
)
@root_option
def logs(job_id: int, following: bool, lines: int, root: str | None) -> None:
    """The log of a job."""
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    with open_reader(workspace) as reader:
        job = reader.job(job_id)
        if job.run_dir is None and not following:
            raise InvalidInput(f"job {job_id} has not started, so it has no log", "tara jobs logs -f waits for it")
        while job.run_dir is None and _moves(job):
            time.sleep(POLL_S)
            job = reader.job(job_id)
        if job.run_dir is None:
            raise InvalidInput(f"job {job_id} never started: {job.error or job.state}")
        path, offset = workspace.absolute(job.run_dir) / "log", 0
        text, offset = _read_log(path, offset, whole_lines=following)
        for line in text.splitlines()[-lines:]:
            click.echo(clean(line))
        while following:
            job = reader.job(job_id)  # before the file is read: what was written up to the end is read then
            if job.run_dir is not None and path != workspace.absolute(job.run_dir) / "log":
                path, offset = workspace.absolute(job.run_dir) / "log", 0  # it was started again
            text, offset = _read_log(path, offset, whole_lines=_moves(job))
            for line in text.splitlines():
                click.echo(clean(line))
            if not _moves(job):
                return
            time.sleep(POLL_S)


def _moves(job: JobView) -> bool:
    """Whether a job may still do something without being retried."""
    return job.active and job.state not in ("blocked", "paused")


def _read_log(path: Path, offset: int, *, whole_lines: bool) -> tuple[str, int]:
    """What a log holds from an offset on, and where that ends; with `whole_lines` without a line not yet ended."""
    try:
        with open(path, "rb") as stream:
            stream.seek(offset)
            data = stream.read()
    except FileNotFoundError:
        return "", offset
    if whole_lines:
        data = data[: data.rfind(b"\n") + 1]
    return data.decode(errors="replace"), offset + len(data)


@jobs.command("wait")
@click.argument("job_ids", type=NUMBER, nargs=-1)
@root_option
@json_option
def wait(job_ids: tuple[int, ...], root: str | None, as_json: bool) -> None:
    """Wait for jobs (all active ones where none is named); status 1 where one did not succeed."""
    from core.cli.follow import follow, leave_where_failed
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    with open_reader(workspace) as reader:
        if job_ids:
            for job_id in job_ids:
                reader.job(job_id)
            ids = list(job_ids)
        else:
            ids = sorted(job.id for job in reader.jobs(states=("queued", "starting", "running", "stopping")))
    done = follow(workspace, ids, quiet=as_json)
    if as_json:
        print_json([job_json(job) for job in done])
    leave_where_failed(done)


@jobs.command("cancel")
@click.argument("job_ids", type=NUMBER, nargs=-1, required=True)
@root_option
@json_option
def cancel(job_ids: tuple[int, ...], root: str | None, as_json: bool) -> None:
    """Cancel jobs: queued ones at once, running ones by ending their processes."""
    from core.runner.client import cancel_jobs

    workspace = workspace_of(root)
    _tell_stopped(workspace, cancel_jobs(workspace, job_ids), "cancelled", "stopping", as_json)


@jobs.command("retry")
@click.argument("job_ids", type=NUMBER, nargs=-1, required=True)
@root_option
@json_option
def retry(job_ids: tuple[int, ...], root: str | None, as_json: bool) -> None:
    """Queue failed, cancelled or interrupted jobs again, and what waits for them."""
    from core.runner.client import retry_jobs

    _tell_queued(retry_jobs(workspace_of(root), job_ids), as_json)


@jobs.command("start")
@click.argument("job_ids", type=NUMBER, nargs=-1, required=True)
@root_option
@json_option
def start(job_ids: tuple[int, ...], root: str | None, as_json: bool) -> None:
    """Start jobs that wait for memory, disk or a device although what they are expected to need is not free."""
    from core.runner.client import let_in_jobs

    let_in = let_in_jobs(workspace_of(root), job_ids)
    if as_json:
        print_json({"let_in": let_in})
    else:
        click.echo(f"started as soon as a slot is free, whatever they need: {', '.join(map(str, let_in))}")


@jobs.command("pause")
@click.argument("job_ids", type=NUMBER, nargs=-1, required=True)
@root_option
@json_option
def pause(job_ids: tuple[int, ...], root: str | None, as_json: bool) -> None:
    """Pause jobs: a running training finishes its step, saves and leaves, and goes on from there when resumed."""
    from core.runner.client import pause_jobs

    workspace = workspace_of(root)
    _tell_stopped(workspace, pause_jobs(workspace, job_ids), "paused", "finishing its step, then paused", as_json)


@jobs.command("resume")
@click.argument("job_ids", type=NUMBER, nargs=-1, required=True)
@root_option
@json_option
def resume(job_ids: tuple[int, ...], root: str | None, as_json: bool) -> None:
    """Let paused jobs go on."""
    from core.runner.client import resume_jobs

    _tell_queued(resume_jobs(workspace_of(root), job_ids), as_json)


def _tell_stopped(workspace: Workspace, asked: list[int], at_once: str, later: str, as_json: bool) -> None:
    """Which jobs have stopped, and which are still stopping."""
    from core.store.reads import open_reader

    with open_reader(workspace) as reader:
        stopping = [job_id for job_id in asked if reader.job(job_id).state == "stopping"]
    done = [job_id for job_id in asked if job_id not in stopping]
    if as_json:
        print_json({at_once: done, "stopping": stopping})
        return
    for what, ids in ((at_once, done), (later, stopping)):
        if ids:
            click.echo(f"{what}: {', '.join(map(str, ids))}")


def _tell_queued(queued: list[int], as_json: bool) -> None:
    if as_json:
        print_json({"queued": queued})
    else:
        click.echo(f"queued again: {', '.join(map(str, queued))}")


def _predicted(job: JobView, past: PastJob | None) -> str:
    """What was predicted of a job and, once it succeeded, what it took."""
    from core.phases.forecast import error_of

    time = "time not known" if job.predicted_seconds is None else f"{span(job.predicted_seconds)} ({job.predicted_by})"
    said = f"predicted: {size(job.predicted_memory_bytes)}, {time}"
    if past is None:
        return said
    error = error_of(past)
    memory, seconds = percent(error.memory), percent(error.seconds)
    return f"{said}; took {size(past.peak_bytes)} ({memory}), {span(past.seconds)} ({seconds})"


def job_json(job: JobView) -> dict[str, Any]:
    """A job for scripts."""
    return {**asdict(job), "depends_on": list(job.depends_on)}


def _row(job: JobView) -> tuple[Any, ...]:
    progress = f"{100 * job.fraction:.0f}%" if job.fraction is not None else ""
    if job.started_at is None:
        took = ""
    else:
        took = span((job.ended_at or time.time()) - job.started_at)
    note = clean(job.error) if job.error else (f"left {span(job.eta_s)}" if job.eta_s and job.active else "")
    if job.state == "queued" and not note:
        note = clean(job.message)
    return job.id, job.state, job.title, progress, took, note[:80]
