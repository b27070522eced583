"""`tara console`, and `tara` alone: opens the console."""

import gc
import os
import sys

import click

from core.cli.common import root_option, workspace_of
from core.errors import EnvironmentLacks

SELDOM = 50_000  # new objects between two collections


@click.command("console")
@root_option
def console(root: str | None) -> None:
    """Open the console on the workspace."""
    workspace = workspace_of(root)
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") in (None, "", "dumb"):
        raise EnvironmentLacks("the console needs a terminal", "tara list-phases, tara jobs list and the others do not")
    # What is loaded stays: looking through it for garbage again and again costs a tenth of the time to the first paint.
    gc.disable()
    from tara_tui.app import run_console

    gc.freeze()
    gc.set_threshold(SELDOM)
    gc.enable()
    click.get_current_context().exit(run_console(workspace))
