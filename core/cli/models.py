"""`tara clean-model` and `tara validate`."""

from dataclasses import asdict
from pathlib import Path

import click

from core.cli.common import json_option, print_json, root_option, workspace_of
from core.errors import ExitCode, InvalidInput
from core.text import clean as cleaned
from core.text import size


@click.command("clean-model")
@click.argument("model_path", metavar="DIR")
@click.option("--output-path", metavar="DIR", help="Where the clean copy goes (default: DIR_cleaned beside it).")
@click.option("--dry-run", is_flag=True, help="Only say what would be left out and fixed.")
@root_option
@json_option
def clean_model(model_path: str, output_path: str | None, dry_run: bool, root: str | None, as_json: bool) -> None:
    """Copy a model or adapter without garbage, with what can be fixed fixed, and check the copy. DIR is not touched."""
    from core.cli.follow import wait_for
    from core.hygiene.clean import plan_clean
    from core.phases.cleaning import queue_clean

    source = Path(model_path).expanduser().resolve()
    output = Path(output_path).expanduser().resolve() if output_path else source.with_name(f"{source.name}_cleaned")
    plan = plan_clean(source, output)
    if dry_run:
        if as_json:
            print_json(plan.as_dict())
        else:
            for dropped in plan.dropped:
                click.echo(f"leaves out {cleaned(str(dropped.path))}: {dropped.reason}")
            click.echo(f"keeps {len(plan.kept)} files, {size(plan.bytes_after)} of {size(plan.bytes_before)}")
        return
    workspace = workspace_of(root)
    wait_for(workspace, [queue_clean(workspace, source, output)], quiet=as_json)
    if as_json:
        print_json({**plan.as_dict(), "output": str(output)})
    else:
        click.echo(
            f"{output}: {len(plan.kept)} files, {size(plan.bytes_after)}; report: {output / 'clean_report.json'}"
        )


@click.command("validate")
@click.argument("path")
@json_option
def validate(path: str, as_json: bool) -> None:
    """Check PATH: an adapter, model folder, GGUF, bundle, release or training data. Status 1 where it has errors."""
    target = Path(path).expanduser().resolve()
    if not target.exists():
        raise InvalidInput(f"there is no {target}")
    if target.suffix in (".jsonl", ".json") and target.is_file():
        _validate_data(target, as_json)
        return
    from core.hygiene.validate import validate_model

    report = validate_model(target)
    if as_json:
        print_json(report.as_dict())
    else:
        for finding in report.findings:
            where = f" {cleaned(str(finding.file))}:" if finding.file else ""
            fix = f" — {cleaned(finding.fix)}" if finding.fix else ""
            click.echo(f"{finding.severity}:{where} {cleaned(finding.message)}{fix}")
        click.echo(f"{report.kind}: {'good' if report.ok else 'has errors'}")
    if not report.ok:
        click.get_current_context().exit(int(ExitCode.FAILED))


def _validate_data(path: Path, as_json: bool) -> None:
    from core.training.data import data_report, read_examples

    found = asdict(data_report(read_examples(path)))
    if as_json:
        print_json({"kind": "data", "path": str(path), **found})
    else:
        for name, value in found.items():
            click.echo(f"{name}: {value}")
