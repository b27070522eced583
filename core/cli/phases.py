"""Commands that change phases and domains without a job."""

from typing import TYPE_CHECKING

import click

from core.cli.common import NUMBER, json_option, print_json, root_option, workspace_of
from core.cli.merging import merge_options, repair_option
from core.errors import InvalidInput
from core.text import size
from core.workspace import Workspace

if TYPE_CHECKING:
    from core.phases.merging import MergeWish


@click.command("create-phase")
@click.argument("phase_number", type=NUMBER)
@click.option("--domains", default="", metavar="A,B,…", help="The phase's domains, separated by commas.")
@click.option("--quantization", metavar="TYPE", help="Q2_K, Q4_K_M, Q5_K_M, Q8_0 or as-is (default: settings.yaml).")
@click.option(
    "--compression-type",
    default="standard",
    show_default=True,
    metavar="NAME",
    help="standard, sparse, hybrid or distilled.",
)
@click.option("--target-size", type=float, metavar="MB", help="Not with standard: each base's file, in 10^6 bytes.")
@click.option("--quality-threshold", type=float, metavar="0..1", help="Least measured quality of each domain.")
@click.option("--speed-priority", is_flag=True, help="Prefer speed where a choice is made.")
@merge_options
@repair_option
@root_option
@json_option
def create_phase(
    phase_number: int,
    domains: str,
    quantization: str | None,
    compression_type: str,
    target_size: float | None,
    quality_threshold: float | None,
    speed_priority: bool,
    merge: "MergeWish | None",
    repair: bool | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Make phase PHASE_NUMBER with its domains."""
    from core.cli.show import phase_json
    from core.phases import service
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    service.create_phase(
        workspace,
        phase_number,
        domains.split(","),
        quantization=quantization,
        compression_type=compression_type,
        target_size_mb=target_size,
        quality_threshold=quality_threshold,
        speed_priority=speed_priority,
        merge=merge,
        repair=bool(repair),
    )
    with open_reader(workspace) as reader:
        phase = reader.phase(phase_number)
        if as_json:
            print_json(phase_json(phase, reader))
            return
    names = ", ".join(domain.name for domain in phase.domains) or "none"
    click.echo(f"phase {phase_number} created: {phase.quantization}, {phase.compression_type}; domains: {names}")
    _tell_of_missing_data(workspace, phase_number)
    click.echo(f"next: {phase.next_step}")


def _tell_of_missing_data(workspace: Workspace, phase_number: int) -> None:
    from core.phases.service import without_data

    missing = without_data(workspace, phase_number)
    if missing:
        files = ", ".join(workspace.relative(workspace.data / f"{name}.jsonl") for name in missing)
        click.echo(f"no data yet for {', '.join(missing)}: write {files}, or name a file with --data")


@click.command("add-domain")
@click.argument("phase_number", type=NUMBER)
@click.argument("domain")
@click.option("--adapter-path", metavar="DIR", help="A PEFT adapter from elsewhere, instead of training one here.")
@click.option("--data", metavar="FILE", help="Training data of the domain.")
@root_option
@json_option
def add_domain(
    phase_number: int, domain: str, adapter_path: str | None, data: str | None, root: str | None, as_json: bool
) -> None:
    """Put DOMAIN into phase PHASE_NUMBER."""
    from core.phases import service

    workspace = workspace_of(root)
    changed = service.add_domain(workspace, phase_number, domain, adapter_path=adapter_path, data=data)
    if as_json:
        print_json({"phase": phase_number, "domain": domain, "changed": changed})
    elif changed:
        click.echo(f"{domain} is in phase {phase_number}" + (", with the given adapter" if adapter_path else ""))
        _tell_of_missing_data(workspace, phase_number)
    else:
        click.echo(f"{domain} was in phase {phase_number} already; nothing changed")


@click.command("remove-domain")
@click.argument("phase_number", type=NUMBER)
@click.argument("domain")
@root_option
@json_option
def remove_domain(phase_number: int, domain: str, root: str | None, as_json: bool) -> None:
    """Take DOMAIN out of phase PHASE_NUMBER; its adapter and measurements stay."""
    from core.phases import removal

    removal.remove_domain(workspace_of(root), phase_number, domain)
    if as_json:
        print_json({"phase": phase_number, "domain": domain})
    else:
        click.echo(f"{domain} is no longer in phase {phase_number}; add-domain puts it into one, with what was trained")


@click.command("update-domain")
@click.argument("domain")
@click.option("--status", metavar="STATUS", help="pending, complete or failed.")
@click.option("--quality", type=float, metavar="0..1", help="A quality you vouch for; shown as declared.")
@click.option("--train-here", is_flag=True, help="Drop an adapter from elsewhere and train one here.")
@root_option
@json_option
def update_domain(
    domain: str, status: str | None, quality: float | None, train_here: bool, root: str | None, as_json: bool
) -> None:
    """Declare the status or quality of DOMAIN; measured values stay beside it."""
    from core.cli.show import domain_json
    from core.phases import declaring
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    declaring.update_domain(workspace, domain, status=status, quality=quality, train_here=train_here)
    with open_reader(workspace) as reader:
        view = next(view for view in reader.domains() if view.name == domain)
    if as_json:
        print_json(domain_json(view))
        return
    said = [f"status {view.status}" + (" (declared)" if view.status_declared else "")]
    if quality is not None:
        said.append(f"quality {quality:g} (declared)")
    click.echo(f"{domain}: {', '.join(said)}")


@click.command("advance-phase")
@click.option("--force", is_flag=True, help="Advance though the current phase is not deployed; it is recorded.")
@root_option
@json_option
def advance_phase(force: bool, root: str | None, as_json: bool) -> None:
    """Make the next phase the current one, once the current one is deployed."""
    from core.phases import declaring

    old, new = declaring.advance_phase(workspace_of(root), force=force)
    if as_json:
        print_json({"from": old, "to": new, "forced": force})
    else:
        click.echo(f"current phase: {new} (was {old})")


@click.command("rollback")
@click.argument("phase_number", type=NUMBER)
@click.option("--to", type=NUMBER, metavar="VERSION", help="The version to go back to (default: the one before).")
@click.option("--target", metavar="DIR", help="The deployed folder (default: where it was deployed last).")
@root_option
@json_option
def rollback(phase_number: int, to: int | None, target: str | None, root: str | None, as_json: bool) -> None:
    """Switch a deployed phase back to an earlier version."""
    from core.deploy import service

    left, now, folder = service.rollback(workspace_of(root), phase_number, to=to, target=target)
    if as_json:
        print_json({"phase": phase_number, "from": left, "to": now, "target": str(folder)})
    else:
        click.echo(f"phase {phase_number}: version {now} is current in {folder} (was {left})")


@click.command("cleanup-phase")
@click.argument("phase_number", type=NUMBER)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option("--undo", is_flag=True, help="Bring back what the last clean-up of this phase moved away.")
@root_option
@json_option
def cleanup_phase(phase_number: int, dry_run: bool, yes: bool, undo: bool, root: str | None, as_json: bool) -> None:
    """Move a phase, and the artifacts only it uses, to the workspace's trash. Releases stay where they are."""
    from core.phases import cleanup

    if as_json and not (undo or dry_run or yes):
        raise InvalidInput("cleanup-phase --json does not ask", "add --yes, or --dry-run to see what would go")
    workspace = workspace_of(root)
    if undo:
        restored = cleanup.undo(workspace, phase_number)
        if as_json:
            print_json({"phase": phase_number, "restored": restored})
        else:
            click.echo(f"phase {phase_number} is back, with {len(restored)} artifacts and runs")
        return
    plan = cleanup.plan(workspace, phase_number)
    if as_json and dry_run:
        print_json({**plan.as_dict(), "done": False})
        return
    if not as_json:
        click.echo(
            f"phase {phase_number}: {len(plan.paths)} artifacts and runs, {size(plan.bytes)}, go to {plan.trash}"
        )
        for path in plan.paths:
            click.echo(f"  {path}")
    if dry_run:
        return
    if not yes and not click.confirm("Move them to the trash?", default=False):
        click.echo("nothing was changed")
        return
    cleanup.carry_out(workspace, plan)
    if as_json:
        print_json({**plan.as_dict(), "done": True})
    else:
        click.echo(f"done; undo: tara cleanup-phase {phase_number} --undo; for good: delete {plan.trash}")
