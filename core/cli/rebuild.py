"""`tara doctor --rebuild`: the questions before the store is made anew, and what came of it as a table."""

import sys
from typing import TYPE_CHECKING

import click

from core.cli.common import print_json
from core.errors import InvalidInput, Refused
from core.runner.client import stop_runner
from core.runner.presence import runner_pid, stopped_mark
from core.text import table
from core.workspace import Workspace

if TYPE_CHECKING:
    from core.rebuild.rebuild import Report, TableLine


def rebuild_store(workspace: Workspace, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Make a workspace's store anew, or say what would come of it. Raises Refused while its runner or a job lives."""
    from core.rebuild.rebuild import nobody_works, rebuild

    if as_json and not (dry_run or yes):
        raise InvalidInput("doctor --rebuild --json does not ask", "add --yes, or --dry-run to see what comes of it")
    stopped = _without_runner(workspace, dry_run=dry_run, yes=yes, may_ask=not as_json)
    try:
        with nobody_works(workspace):
            if not (dry_run or yes):
                _show(rebuild(workspace, dry_run=True))
                if not click.confirm("Set the old store aside and take this one?", default=False):
                    click.echo("nothing was changed")
                    return
            report = rebuild(workspace, dry_run=dry_run)
    finally:
        if stopped:  # it was stopped for this alone: whoever looks next starts it again
            stopped_mark(workspace).unlink(missing_ok=True)
    if as_json:
        print_json(report.as_dict())
        return
    if dry_run or yes:
        _show(report)
    click.echo(_last_line(report))


def _without_runner(workspace: Workspace, *, dry_run: bool, yes: bool, may_ask: bool) -> bool:
    """See that the runner is gone; whether it was stopped for this. Jobs that run go on, and refuse it later."""
    pid = runner_pid(workspace)
    if pid is None:
        return False
    from core.rebuild.folders import living

    if not living(workspace) and not dry_run:
        terminal = may_ask and sys.stdin.isatty()
        if yes or (terminal and click.confirm(f"The runner (process {pid}) lives. Stop it?", default=False)):
            stop_runner(workspace)
            return True
    raise Refused(f"the runner of this workspace lives (process {pid})", "tara runner stop, then again; jobs go on")


def _show(report: "Report") -> None:
    click.echo(f"damage: {'; '.join(report.damage) if report.damage else 'none found'}")
    click.echo(f"read: {report.source or 'nothing; the run folders alone'}")
    rows = [(line.table, line.salvaged, line.rebuilt, _lost(line)) for line in report.tables]
    click.echo(table(("table", "salvaged", "rebuilt", "lost"), rows, right=(1, 2)))
    states = ", ".join(f"{count} {state}" for state, count in sorted(report.jobs.items()))
    click.echo(f"jobs: {states or 'none'}")
    for line in report.left:
        click.echo(f"  {line}")


def _lost(line: "TableLine") -> str:
    what = f": {line.lost_what}" if line.lost_what else ""
    if line.lost is None:
        return f"not known{what}" if what else "-"
    return f"{line.lost}{what}" if line.lost else "0"


def _last_line(report: "Report") -> str:
    if not report.done:
        return "nothing was changed"
    aside = f"the old one is {report.aside}" if report.aside else "there was no old one"
    return f"state.db is made anew; {aside}"
