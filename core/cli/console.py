"""`tara console`, and `tara` alone: opens the console."""

import os
import sys

import click

from core.cli.common import root_option, workspace_of
from core.errors import EnvironmentLacks
from core.loading import loading


@click.command("console")
@root_option
def console(root: str | None) -> None:
    """Open the console on the workspace."""
    workspace = workspace_of(root)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") in (None, "", "dumb"):
        raise EnvironmentLacks("the console needs a terminal", "tara list-phases, tara jobs list and the others do not")
    with loading():
        from tara_tui.app import run_console

    click.get_current_context().exit(run_console(workspace))
