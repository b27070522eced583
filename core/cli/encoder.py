"""`tara encoder`: the sentence encoder the router compares messages with."""

from pathlib import Path

import click

from core.cli.common import json_option, print_json, root_option, workspace_of
from core.errors import InvalidInput, TaraError
from core.text import clean, size

# What only the shipped encoder gives: the gate's adapter and the emotion heads are for that.
LESS = "the crisis gate finds far less and emotions are read by a word list (docs/routing.md)"


@click.group("encoder")
def encoder() -> None:
    """Show the router's sentence encoder, and install one."""


@encoder.command("show")
@root_option
@json_option
def show(root: str | None, as_json: bool) -> None:
    """Which encoder is used: file, identity and length of its vectors. Status 5 where it is not installed."""
    from core.encoder import Encoder, find_encoder
    from core.encoder.graph_file import read_by
    from core.routing.crisis_model import adapter_of

    path = find_encoder(_configured(root))
    if path is None:
        if as_json:
            nothing = dict.fromkeys(("file", "identity", "dimension", "bytes", "read_by"))
            print_json({**nothing, "crisis_gate": False})
        else:
            click.echo(f"switched off: messages are routed by keywords, {LESS}")
        return
    found = Encoder(path)
    count, gate = path.stat().st_size, adapter_of(path) is not None
    about = {"file": str(path), "identity": found.identity, "dimension": found.dimension, "bytes": count}
    if as_json:
        print_json({**about, "read_by": read_by(path), "crisis_gate": gate})
        return
    click.echo(f"{clean(str(path))}\nidentity {found.identity}, vectors of {found.dimension}, {size(count)}")
    click.echo(f"read by {clean(read_by(path))}")
    if not gate:
        click.echo(f"not the shipped one: {LESS}")


@encoder.command("install")
@click.argument("folder", required=False, metavar="[FOLDER]")
@root_option
@json_option
def install(folder: str | None, root: str | None, as_json: bool) -> None:
    """Convert the shipped encoder, or that of a model FOLDER, once; what is there already stays. Without FOLDER the
    folder of `routing.encoder` is taken where it names one."""
    from core.encoder.install import install_encoder, make_graphs

    setting = _configured(root)
    named = Path(folder).expanduser() if folder else None
    if named is None and setting and Path(setting).is_dir():
        named = Path(setting)
    if named is not None and not named.is_dir():
        raise InvalidInput(f"there is no folder {named}", "name a folder with config.json and safetensors")
    path, made = install_encoder(named)
    if failed := make_graphs(path):
        click.echo(clean(failed), err=True)
    if as_json:
        print_json({"file": str(path), "made": made})
    else:
        click.echo(f"{'installed' if made else 'installed already'}: {clean(str(path))}")


def _configured(root: str | None) -> str:
    """`routing.encoder` of the workspace; the shipped encoder outside of any."""
    from core.catalog.loading import load_settings

    try:
        workspace = workspace_of(root)
    except TaraError:
        if root:
            raise
        return ""  # the encoder belongs to the machine: it can be looked at without a workspace
    return load_settings(workspace).encoder
