"""Entry of the `tara` command: finds the subcommand's module by name and loads only that."""

import sys

import core


def main() -> None:
    """Run the command line; exits with the documented status."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        print(f"tara {core.__version__}")  # answered before anything is loaded
        return
    from core.cli.group import tara

    tara(prog_name="tara")
