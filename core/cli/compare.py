"""`tara measure` and `tara compare`: what a file cost and what it lost, and several side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from core.cli.build import detach_option
from core.cli.common import json_option, print_json, root_option, true_reader, workspace_of
from core.cli.follow import wait_for
from core.text import table

if TYPE_CHECKING:
    from core.phases.measured import Artifact, Figures
    from core.store.reads import Reader

WIDTH = 80


@click.command("measure")
@click.argument("artifact")
@click.option("--max-tokens", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N",
              help="Scored tokens a domain.")  # fmt: skip
@click.option("--text", metavar="FILE", help="Measure on this plain text too.")
@detach_option
@root_option
@json_option
def measure(artifact: str, max_tokens: int, text: str | None, detach: bool, root: str | None, as_json: bool) -> None:
    """Measure ARTIFACT (a number, a path or phase:N) against the F16 file it was made from, of a sparse or distilled
    one against that of the whole model: divergence, loss of each domain on held-out examples, speed, memory."""
    from core.phases.measuring import measure_artifact
    from core.store.reads import open_reader

    workspace = workspace_of(root)
    ids, artifacts = measure_artifact(workspace, artifact, max_tokens=max_tokens, text=text)
    if detach:
        if as_json:
            print_json({"jobs": ids})
        else:
            click.echo(f"queued jobs {', '.join(map(str, ids))}" if ids else "measured already: nothing to do")
        return
    if ids:
        wait_for(workspace, ids, quiet=as_json)
    with open_reader(workspace) as reader:
        _show(reader, artifacts, as_json, jobs=ids)


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="ARTIFACT…")
@root_option
@json_option
def compare(names: Sequence[str], root: str | None, as_json: bool) -> None:
    """Put artifacts side by side: size, divergence, losses, speed, memory. Each is named by its number, its path or
    file name, or phase:N for the models of that phase's bundle."""
    from core.phases.measured import artifacts_of

    with true_reader(root) as reader:
        _show(reader, artifacts_of(reader, names), as_json)


def _show(reader: "Reader", artifacts: Sequence["Artifact"], as_json: bool, jobs: Sequence[int] | None = None) -> None:
    from core.phases.compared import tables
    from core.phases.measured import figures

    known = [figures(reader, artifact) for artifact in artifacts]
    if as_json:
        shown = [_json(artifact, one) for artifact, one in zip(artifacts, known, strict=True)]
        print_json(shown if jobs is None else {"jobs": list(jobs), "artifacts": shown})
        return
    shown_tables = tables(artifacts, known, WIDTH)
    click.echo("\n\n".join(table(headers, rows) for headers, rows in shown_tables))


def _json(artifact: "Artifact", known: "Figures") -> dict[str, Any]:
    from core.phases.compared import DOMAIN_ROWS, ROWS

    names = {name: None for _, name, _ in (*ROWS, *DOMAIN_ROWS)}
    measured: dict[str, Any] = dict(names)
    for (name, subject), one in known.items():
        value = {"value": one.value, "method": one.method, "n": one.n, "unit": one.unit, "measured_at": one.measured_at}
        if subject:
            measured[name] = {**(measured.get(name) or {}), subject: value}
        else:
            measured[name] = {**(measured.get(name) or {}), "": value}
    kept = ("id", "kind", "name", "path", "sha256", "phase", "domain")
    return {**{name: artifact[name] for name in kept}, "figures": measured}
