"""`tara init`: a workspace in a folder."""

import shutil
from pathlib import Path

import click

from core.catalog.shipped import template
from core.cli.common import json_option, print_json
from core.errors import EnvironmentLacks, Refused
from core.workspace import MARKER, Workspace


@click.command("init")
@click.argument("directory", metavar="DIR")
@json_option
def init(directory: str, as_json: bool) -> None:
    """Make a workspace in DIR: the catalogue, presets and starter data, and an empty store."""
    from core.store.engine import open_store

    root = Path(directory).expanduser().resolve()
    if (root / MARKER).exists():
        raise Refused(f"{root} is a workspace already", f"tara --root {root} list-phases")
    if root.exists() and not root.is_dir():
        raise Refused(f"{root} is a file", "name a folder")
    if (root / "configs").exists():
        raise Refused(f"{root / 'configs'} exists and is not TARA's", "name another folder")
    staged = root / ".tmp-configs"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(template(), staged)
        staged.rename(root / "configs")
    except OSError as error:  # copytree's own has no strerror
        shutil.rmtree(staged, ignore_errors=True)
        raise EnvironmentLacks(
            f"{root} cannot be written: {error.strerror or error}", "name a folder you may write to"
        ) from error
    workspace = Workspace(root)
    open_store(workspace).close()
    if as_json:
        print_json({"root": str(root)})
    else:
        click.echo(f"workspace {root}")
        click.echo(f"next: cd {root} && tara quickstart, or tara create-phase 1 --domains …")
