"""`tara runner`: the process that works the queue."""

import click

from core.cli.common import json_option, print_json, root_option, workspace_of


@click.group("runner")
def runner() -> None:
    """Start, stop and show the runner. Commands that queue work start it by themselves."""


@runner.command("start")
@root_option
@json_option
def start(root: str | None, as_json: bool) -> None:
    """Start the runner unless it lives."""
    from core.runner.client import ensure_runner
    from core.store.engine import open_store

    workspace = workspace_of(root)
    open_store(workspace).close()
    pid = ensure_runner(workspace)
    print_json({"pid": pid}) if as_json else click.echo(f"runner {pid}")


@runner.command("stop")
@root_option
@json_option
def stop(root: str | None, as_json: bool) -> None:
    """Stop the runner; running jobs go on and the next runner takes them over."""
    from core.runner.client import stop_runner

    pid = stop_runner(workspace_of(root))
    if as_json:
        print_json({"stopped": pid})
    else:
        click.echo(f"runner {pid} stopped; running jobs go on" if pid is not None else "no runner lives")


@runner.command("status")
@root_option
@json_option
def status(root: str | None, as_json: bool) -> None:
    """Whether the runner lives, and what the queue holds."""
    from collections import Counter

    from core.runner import service as services
    from core.runner.client import runner_status
    from core.store.reads import open_reader
    from core.store.views import ACTIVE_JOB_STATES

    workspace = workspace_of(root)
    found = runner_status(workspace)
    with open_reader(workspace) as reader:
        counts = Counter(job.state for job in reader.jobs(states=ACTIVE_JOB_STATES))
    kept = services.status(workspace)
    if as_json:
        after = {"after_reboot": kept.after_reboot, "after_logout": kept.after_logout}
        print_json({"pid": found.pid, "log": found.log, "jobs": dict(counts), **after})
        return
    click.echo(f"runner {found.pid}" if found.pid is not None else "no runner lives; the next queued job starts one")
    click.echo("jobs: " + (", ".join(f"{count} {state}" for state, count in counts.items()) or "none waiting"))
    click.echo(f"log: {found.log}")
    click.echo(f"after a restart of the machine: {kept.after_reboot}")
    click.echo(f"after a logout: {kept.after_logout}")
