"""Commands that queue work and follow it: train, build, export, deploy."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from core.cli.common import NUMBER, TARGET, json_option, print_json, root_option, see_to_jobs, workspace_of
from core.cli.follow import follow, leave_where_failed
from core.cli.merging import merge_options, merge_table, repair_option
from core.text import clean, size
from core.workspace import Workspace

if TYPE_CHECKING:
    from core.phases.kinds import TargetWish
    from core.phases.merging import MergeWish
    from core.phases.unfinished import Choice
    from core.store.views import JobView

F = TypeVar("F", bound=Callable[..., Any])
detach_option = click.option("--detach", is_flag=True, help="Queue the jobs and return at once.")


def unfinished_options(command: F) -> F:
    """`--resume-old` and `--fresh`: what becomes of an unfinished training whose settings were others."""
    old = click.option("--resume-old", is_flag=True, help="Go on with an unfinished training, with its old settings.")
    fresh = click.option("--fresh", is_flag=True, help="Start at step 0; old checkpoints stay until they are removed.")
    return old(fresh(command))


def chosen(resume_old: bool, fresh: bool) -> "Choice | None":
    """The choice that two options stand for. Raises UsageError where both were given."""
    if resume_old and fresh:
        raise click.UsageError("--resume-old and --fresh exclude each other", click.get_current_context())
    return "old" if resume_old else "fresh" if fresh else None


@click.command("train-domain")
@click.argument("domain")
@click.option("--preset", metavar="NAME", help="A training preset of configs/presets.yaml.")
@click.option("--data", metavar="FILE", help="Training data (default: data/DOMAIN.jsonl, then the starter data).")
@unfinished_options
@detach_option
@root_option
@json_option
def train_domain(
    domain: str,
    preset: str | None,
    data: str | None,
    resume_old: bool,
    fresh: bool,
    detach: bool,
    root: str | None,
    as_json: bool,
) -> None:
    """Train an adapter for DOMAIN and measure it on held-out examples."""
    from core.phases import service

    workspace = workspace_of(root)
    choice = chosen(resume_old, fresh)
    see_to_jobs(root)  # whether another training of the domain is at work must be true
    ids = service.train_domain(workspace, domain, preset=preset, data=data, unfinished=choice)
    if not _followed(workspace, ids, detach, as_json, f"{domain} is trained as asked: nothing to do"):
        return
    from core.cli.show import domain_json
    from core.store.reads import open_reader

    with open_reader(workspace) as reader:
        view = next(view for view in reader.domains() if view.name == domain)
    if as_json:
        print_json({"jobs": ids, "domain": domain_json(view)})
        return
    found = view.measurements
    for name, label in (("base_loss", "base loss"), ("tuned_loss", "tuned loss"), ("quality", "quality")):
        if name in found:
            click.echo(f"{label} {float(found[name].value):.3f}  ({found[name].method})")


@click.command("build-phase")
@click.argument("phase_number", type=NUMBER)
@click.option("--quantization", metavar="TYPE", help="Q2_K, Q4_K_M, Q5_K_M, Q8_0 or as-is (default: the phase's own).")
@click.option("--compression-type", metavar="NAME", help="standard, sparse, hybrid, distilled (default: as set).")
@click.option("--target-size", type=TARGET, metavar="MB|none",
              help="Not with standard: bytes of each base's file, in 10^6 (default: as set).")  # fmt: skip
@merge_options
@repair_option
@click.option("--quality-threshold", type=float, metavar="0..1", help="Least measured quality of each domain.")
@click.option("--override-quality", metavar="REASON", help="Go on below the quality threshold; it is recorded.")
@click.option("--dry-run", is_flag=True, help="Only show the plan.")
@unfinished_options
@detach_option
@root_option
@json_option
def build_phase(
    phase_number: int,
    quantization: str | None,
    compression_type: str | None,
    target_size: "TargetWish",
    merge: "MergeWish | None",
    repair: bool | None,
    quality_threshold: float | None,
    override_quality: str | None,
    dry_run: bool,
    resume_old: bool,
    fresh: bool,
    detach: bool,
    root: str | None,
    as_json: bool,
) -> None:
    """Build what is missing of phase PHASE_NUMBER: train, evaluate, convert, quantize, verify, package."""
    from core.phases import service
    from core.store.reads import open_reader

    workspace, choice = workspace_of(root), chosen(resume_old, fresh)
    wanted = service.Asked(
        quantization, compression_type, target_size, merge, repair, quality_threshold, override_quality
    )
    if dry_run:
        if choice == "old":
            raise click.UsageError("--dry-run shows the plan with the settings of now, so not with --resume-old")
        plan = service.plan_build(workspace, phase_number, wanted)
        asked = service.asked_about(workspace, phase_number, wanted) if choice is None else ()
        jobs = [
            {"kind": job.kind, "title": job.title, "done": job.done, "out": str(job.out)} for job in plan.jobs.values()
        ]
        if as_json:
            print_json({"phase": phase_number, "jobs": jobs, "unfinished": list(asked)})
        else:
            for job in plan.jobs.values():
                click.echo(f"{'there   ' if job.done else 'to do   '}{job.title}")
            for line in asked:
                click.echo(f"to choose, --resume-old or --fresh: {clean(line)}")
        return
    see_to_jobs(root)
    ids = service.build_phase(workspace, phase_number, wanted, unfinished=choice)

    def losses(jobs: "Sequence[JobView]") -> None:
        if any(job.kind == "accept-merge" and job.state == "failed" for job in jobs):
            with open_reader(workspace) as reader:
                click.echo(merge_table(reader, reader.phase(phase_number)))

    if not _followed(workspace, ids, detach, as_json, f"phase {phase_number} is built: nothing to do", losses):
        return
    with open_reader(workspace) as reader:
        phase = reader.phase(phase_number)
        if as_json:
            from core.cli.show import phase_json

            print_json({"jobs": ids, "phase": phase_json(phase, reader)})
            return
        kept = merge_table(reader, phase)
        if kept:
            click.echo(kept)
        click.echo(f"built: {phase.bundle_path} ({size(phase.bundle_bytes)}); next: {phase.next_step}")


@click.command("export-domain")
@click.argument("domain")
@click.option("--quantization", default="F16", show_default=True, metavar="TYPE", help="F16, or one of the four types.")
@detach_option
@root_option
@json_option
def export_domain(domain: str, quantization: str, detach: bool, root: str | None, as_json: bool) -> None:
    """Merge the adapter of DOMAIN into its base, write one GGUF, load it and try it."""
    from core.phases import service
    from core.phases.verified import answers_line, verified_file
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    ids, path = service.export_domain(workspace, domain, quantization)
    if not _followed(workspace, ids, detach, as_json, f"there already: {path}"):
        return
    with open_reader(workspace) as reader:
        verified = verified_file(reader, workspace.relative(path))
    if as_json:
        print_json({"jobs": ids, "path": str(path), "bytes": path.stat().st_size, "verification": verified})
    elif ids:
        click.echo(f"{path} ({size(path.stat().st_size)})")
        click.echo(answers_line(verified))


@click.command("deploy-phase")
@click.argument("phase_number", type=NUMBER)
@click.option("--target", metavar="DIR", help="The folder to release into (default: releases/phase-N).")
@click.option("--override-quality", metavar="REASON", help="Deploy below the quality threshold; it is recorded.")
@detach_option
@root_option
@json_option
def deploy_phase(
    phase_number: int, target: str | None, override_quality: str | None, detach: bool, root: str | None, as_json: bool
) -> None:
    """Release the built bundle of phase PHASE_NUMBER into a folder, as a version that can be rolled back."""
    from core.deploy import service
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    job = service.deploy_phase(workspace, phase_number, target=target, override_quality=override_quality)
    folder = service.target_of(workspace, phase_number, target)
    ids = [job] if job is not None else []
    if not _followed(workspace, ids, detach, as_json, f"{folder} has this build as its current version"):
        return
    with open_reader(workspace) as reader:
        release = next((one for one in reader.releases(phase_number) if one.active and one.target == str(folder)), None)
    if as_json:
        print_json(
            {
                "jobs": ids,
                "phase": phase_number,
                "target": str(folder),
                "version": release.version if release else None,
                "bytes": release.bytes if release else None,
            }
        )
    elif ids and release is not None:
        click.echo(f"version {release.version} is current in {release.target} ({size(release.bytes)})")


def _followed(
    workspace: Workspace,
    ids: Sequence[int],
    detach: bool,
    as_json: bool,
    nothing: str,
    over: "Callable[[Sequence[JobView]], None] | None" = None,
) -> bool:
    """Follow jobs, or say that they were queued, or that there are none. False where the command is done with that.
    `over` has the word when they are over, before the command leaves because one failed."""
    if detach:
        if as_json:
            print_json({"jobs": list(ids)})
        else:
            click.echo(f"queued jobs {', '.join(map(str, ids))}" if ids else nothing)
        return False
    if not ids:
        if not as_json:
            click.echo(nothing)
        return as_json
    jobs = follow(workspace, ids, quiet=as_json)
    if over is not None and not as_json:
        over(jobs)
    leave_where_failed(jobs)
    return True
