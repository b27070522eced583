"""`tara plan`: what a phase or a domain will take on this machine, and how far earlier predictions were off."""

import textwrap
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import NUMBER, TARGET, json_option, print_json, root_option, see_to_jobs, workspace_of
from core.cli.merging import merge_options, repair_option
from core.errors import ExitCode
from core.text import clean, percent, size, span, table

if TYPE_CHECKING:
    from core.phases.kinds import TargetWish
    from core.phases.merging import MergeWish

WIDTH = 80
LONGEST_TITLE = 33
MARKS = "e estimated, m measured, s scaled from jobs of the kind, p from a probe of this machine"


@click.group("plan")
def plan() -> None:
    """What work will take, before it is queued: memory, disk, time, and whether it fits."""


@plan.command("phase")
@click.argument("phase_number", type=NUMBER)
@click.option("--quantization", metavar="TYPE", help="As if built with this type (default: the phase's own).")
@click.option("--compression-type", metavar="NAME", help="As if built with this technique (default: the phase's own).")
@click.option("--target-size", type=TARGET, metavar="MB|none",
              help="As if each base's file had at most so many 10^6 bytes (default: the phase's own).")  # fmt: skip
@merge_options
@repair_option
@click.option("--quality-threshold", type=float, metavar="0..1", help="As if each domain had to be at least so good.")
@root_option
@json_option
def phase(
    phase_number: int,
    quantization: str | None,
    compression_type: str | None,
    target_size: "TargetWish",
    merge: "MergeWish | None",
    repair: bool | None,
    quality_threshold: float | None,
    root: str | None,
    as_json: bool,
) -> None:
    """What building phase PHASE_NUMBER will take; status 4 where a job does not fit this machine."""
    from core.phases.outlook import outlook_of_phase

    see_to_jobs(root)
    found = outlook_of_phase(
        workspace_of(root), phase_number, quantization=quantization, merge=merge, compression_type=compression_type,
        target_size_mb=target_size, repair=repair, quality_threshold=quality_threshold,
    )  # fmt: skip
    _tell(found, as_json)


@plan.command("domain")
@click.argument("name")
@click.option("--preset", metavar="NAME", help="As if trained with this preset.")
@root_option
@json_option
def domain(name: str, preset: str | None, root: str | None, as_json: bool) -> None:
    """What training and evaluating domain NAME will take; status 4 where a job does not fit this machine."""
    from core.phases.outlook import outlook_of_domain

    see_to_jobs(root)
    _tell(outlook_of_domain(workspace_of(root), name, preset=preset), as_json)


@plan.command("check")
@click.option("--phase", "phase_number", type=NUMBER, help="Only this phase's jobs.")
@root_option
@json_option
def check(phase_number: int | None, root: str | None, as_json: bool) -> None:
    """Finished jobs: what was predicted of each when it was queued, what it took, and the error; and of files their
    size."""
    from core.phases.measured import label, size_checks
    from core.phases.outlook import checked
    from core.store.reads import open_reader

    see_to_jobs(root)
    workspace = workspace_of(root)
    errors, kinds = checked(workspace, phase=phase_number)
    with open_reader(workspace) as reader:
        sizes = size_checks(reader, phase=phase_number)
    if as_json:
        print_json(
            {
                "jobs": [
                    {
                        "job": one.job.id, "kind": one.job.kind, "title": one.job.title, "whole": one.job.whole,
                        "predicted_memory_bytes": one.job.predicted_memory_bytes, "memory_bytes": one.job.peak_bytes,
                        "memory_error": one.memory, "predicted_seconds": one.job.predicted_seconds,
                        "predicted_by": one.job.predicted_by, "seconds": one.job.seconds, "seconds_error": one.seconds,
                    }
                    for one in errors
                ],
                "kinds": [
                    {"kind": one.kind, "jobs": one.jobs, "memory_error": one.memory, "seconds_error": one.seconds}
                    for one in kinds
                ],
                "sizes": [
                    {
                        "artifact": one.artifact["id"], "name": label(one.artifact), "path": one.artifact["path"],
                        "predicted_bytes": one.predicted, "bytes": one.bytes, "error": one.error,
                    }
                    for one in sizes
                ],
            }
        )  # fmt: skip
        return
    if sizes:
        files = [(label(one.artifact), size(one.predicted), size(one.bytes), f"{one.error:+.3%}") for one in sizes]
        click.echo(table(("file", "predicted", "built", "error"), files, right=(1, 2, 3)) + "\n")
    if not errors:
        click.echo("no finished job of which something was predicted")
        return
    rows = [
        (
            one.job.id, _cut(one.job.title, 21), size(one.job.predicted_memory_bytes), size(one.job.peak_bytes),
            percent(one.memory), span(one.job.predicted_seconds), span(one.job.seconds), percent(one.seconds),
        )
        for one in errors
    ]  # fmt: skip
    headers = ("job", "what", "memory", "took", "error", "time", "took", "error")
    click.echo(table(headers, rows, right=(0, 2, 3, 4, 5, 6, 7)))
    click.echo("\nmedian error, without its sign")
    medians = [(one.kind, one.jobs, percent(one.memory, sign=""), percent(one.seconds, sign="")) for one in kinds]
    click.echo(table(("kind", "jobs", "memory", "time"), medians, right=(1, 2, 3)))
    if any(not one.job.whole for one in errors):
        click.echo("no error is given for jobs that went on from a checkpoint or ran smaller than they were set")


def _tell(found: Any, as_json: bool) -> None:
    if as_json:
        print_json(_as_json(found))
    elif not found.jobs:
        click.echo(f"{found.title}: nothing to do, {found.there} jobs are done")
    else:
        _print(found)
    if not found.fits:
        click.get_current_context().exit(int(ExitCode.REFUSED))


def _print(found: Any) -> None:
    rows: list[tuple[Any, ...]] = [
        (
            _cut(one.job.title, LONGEST_TITLE),
            f"{size(one.expected.memory)} {one.expected.memory_by[0]}",
            size(one.job.need.disk),
            "not known"
            if one.expected.seconds is None
            else f"{span(one.expected.seconds)} {one.expected.seconds_by[0]}",
            one.verdict.word,
        )
        for one in found.jobs
    ]
    time = f"{'over ' if found.unknown else ''}{span(found.seconds)}  "
    word = "fits" if found.fits else "does not fit"
    rows.append((f"all {len(rows)}, one after the other", f"{size(found.memory)}  ", size(found.disk), time, word))
    click.echo(table(("job", "memory  ", "disk", "time  ", ""), rows, right=(1, 2, 3)))
    notes = [MARKS]
    if found.there:
        notes.append(f"{found.there} job{'s are' if found.there > 1 else ' is'} done already and not listed")
    for note in [*notes, *found.notes()]:
        click.echo(textwrap.fill(clean(note), WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _as_json(found: Any) -> dict[str, Any]:
    machine = found.machine
    return {
        "of": found.title,
        "fits": found.fits,
        "done": found.there,
        "jobs": [
            {
                "kind": one.job.kind, "title": one.job.title, "domain": one.job.domain,
                "memory_bytes": one.expected.memory, "memory_by": one.expected.memory_by,
                "disk_bytes": one.job.need.disk, "scratch_bytes": one.job.need.scratch,
                "seconds": one.expected.seconds, "seconds_by": one.expected.seconds_by,
                "verdict": one.verdict.word, "why": one.verdict.why, "alternative": one.alternative,
            }
            for one in found.jobs
        ],
        "total": {
            "memory_bytes": found.memory, "disk_bytes": found.disk, "seconds": found.seconds,
            "jobs_of_unknown_time": found.unknown,
        },
        "machine": {
            "memory_free": machine.memory_free, "memory_total": machine.memory_total,
            "memory_reserve": machine.memory_reserve, "memory_held_by_jobs": machine.memory_held,
            "disk_free": machine.disk_free, "disk_reserve": machine.disk_reserve,
        },
    }  # fmt: skip
