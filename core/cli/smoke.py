"""`tara smoke`: a canned set asked of a phase's bundle, and the answers judged."""

import sys

import click

from core.cli.common import NUMBER, json_option, print_json, root_option, see_to_jobs, workspace_of
from core.errors import ExitCode
from core.text import clean


@click.command("smoke")
@click.argument("phase_number", type=NUMBER, metavar="PHASE")
@click.option("--domain", metavar="NAME", help="Only this domain's set.")
@root_option
@json_option
@click.pass_context
def smoke(context: click.Context, phase_number: int, domain: str | None, root: str | None, as_json: bool) -> None:
    """Ask PHASE's bundle the prompts of configs/smoke.yaml and judge the answers. Status 1 where one fails."""
    from core.chat.smoke import Result
    from core.phases.smoked import report_lines
    from core.phases.smoking import smoke_phase

    see_to_jobs(root)

    def told(result: Result, done: int, total: int) -> None:
        if not as_json and sys.stderr.isatty():
            word = "pass" if result.passed else "FAIL"
            click.echo(f"{done}/{total}  {word}  {clean(result.asked)} {clean(result.name)}", err=True)

    report = smoke_phase(workspace_of(root), phase_number, domain, told)
    if as_json:
        print_json(report.as_json())
    else:
        click.echo("\n".join(clean(line) for line in report_lines(report.as_json())))
    if not report.passed:
        context.exit(int(ExitCode.FAILED))
