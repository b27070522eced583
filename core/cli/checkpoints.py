"""`tara checkpoints`: what unfinished trainings left, checkpoints of trainings done elsewhere, and removal."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from core.cli.common import json_option, print_json, root_option, see_to_jobs, workspace_of
from core.errors import ExitCode, InvalidInput
from core.text import clean, size, span, table

if TYPE_CHECKING:
    from core.phases.checkpoints import Listed
    from core.workspace import Workspace


@click.group("checkpoints")
def checkpoints() -> None:
    """Show the checkpoints of unfinished trainings, import those of trainings done elsewhere, remove them."""


@checkpoints.command("list")
@click.argument("domain", required=False)
@root_option
@json_option
def list_(domain: str | None, root: str | None, as_json: bool) -> None:
    """Checkpoints of the workspace, or of DOMAIN, and whether the training as configured now goes on from them."""
    from core.phases.checkpoints import list_runs

    workspace = workspace_of(root)
    see_to_jobs(root)
    found = list_runs(workspace, domain)
    if as_json:
        print_json([one.as_dict(workspace) for one in found])
        return
    if not found:
        click.echo(f"no checkpoints{f' of {domain}' if domain else ''}: no training is unfinished")
        return
    click.echo("\n\n".join(_described(workspace, one) for one in found))


def _described(workspace: "Workspace", one: "Listed") -> str:
    """A run's heading, what would become of it, and its checkpoints."""
    run = one.run
    job = f", job {one.job.id} {one.job.state}" if one.job is not None else ""
    lines = [f"{run.name}: {one.stands}, {size(run.bytes)}{job}", f"  {clean(one.becomes)}"]
    now = time.time()
    rows = []
    for kept in one.newest_first():
        rows.append((f"  step {kept.step}", f"{span(now - kept.at)} ago", size(kept.bytes), one.state_of(kept)))
    for aside in run.aside:
        step = aside.path.name.removeprefix("step-").lstrip("0")
        rows.append((f"  step {step}", f"{span(now - aside.at)} ago", size(aside.bytes), f"set aside: {aside.reason}"))
    if rows:
        lines.append(table(("  checkpoint", "age", "size", "state"), rows, right=(2,)))
    return "\n".join(lines)


@checkpoints.command("import")
@click.argument("path")
@click.option("--domain", metavar="NAME", help="Whose they are, where the folders' names do not say.")
@click.option("--replace", "replacing", is_flag=True, help="Also for a domain that has an adapter.")
@click.option("--dry-run", is_flag=True, help="Only find and judge.")
@root_option
@json_option
def import_(path: str, domain: str | None, replacing: bool, dry_run: bool, root: str | None, as_json: bool) -> None:
    """Find the checkpoints of trainings done elsewhere below PATH, judge each, and take a domain's newest good one."""
    from core.phases.old_layouts import WEIGHTS_ONLY, import_checkpoints

    found = import_checkpoints(workspace_of(root), Path(path), domain=domain, dry_run=dry_run, replacing=replacing)
    taken = [one for one in found if one.taken]
    if as_json:
        print_json(
            {
                "path": os.path.abspath(Path(path).expanduser()),
                "dry_run": dry_run,
                "taken_over": WEIGHTS_ONLY,
                "checkpoints": [one.as_dict() for one in found],
            }
        )
    else:
        rows = []
        for one in found:
            verdict = ("taken" if one.taken else "good") if one.good else "refused"
            step = "end" if one.step is None else str(one.step)
            note = "; ".join(part for part in (one.reason, one.unfinished and f"unfinished: {one.unfinished}") if part)
            rows.append((one.domain or "?", step, one.steps or "?", verdict, _below(one.path, path), note))
        click.echo(table(("domain", "step", "of", "verdict", "path", "reason"), rows, right=(1, 2)))
        for one in taken:
            if one.adapter is not None:
                click.echo(f"{one.domain}: {one.adapter}; tara update-domain {one.domain} --train-here undoes it")
        click.echo(WEIGHTS_ONLY if taken else "nothing was taken")
    if not taken:
        click.get_current_context().exit(int(ExitCode.FAILED))


def _below(folder: Path, path: str) -> str:
    """A folder relative to the one that was looked through."""
    return os.path.relpath(folder, Path(path).expanduser())


@checkpoints.command("remove")
@click.argument("name", metavar="DOMAIN|RUN")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@root_option
@json_option
def remove(name: str, dry_run: bool, yes: bool, root: str | None, as_json: bool) -> None:
    """Remove the checkpoints of a run (as `list` names it) or of all runs of a domain, with what was set aside."""
    from core.phases.checkpoints import remove_runs, runs_named

    if as_json and not (yes or dry_run):
        raise InvalidInput("checkpoints remove --json does not ask", "add --yes, or --dry-run to see what would go")
    workspace = workspace_of(root)
    see_to_jobs(root)
    runs = runs_named(workspace, name)
    if not as_json:
        for run in runs:
            lost = f"step {run.newest_good.step} could no longer be gone on from" if run.newest_good else "no good step"
            click.echo(f"{run.name}: {size(run.bytes)}, {lost}")
    if not dry_run:
        if not yes and not click.confirm("Remove them for good?", default=False):
            click.echo("nothing was changed")
            return
        remove_runs(workspace, runs)
    freed = sum(run.bytes for run in runs)
    if as_json:
        print_json({"removed": [run.name for run in runs], "bytes": freed, "done": not dry_run})
    elif not dry_run:
        click.echo(f"removed, {size(freed)} free again")
