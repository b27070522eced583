"""`tara domain`: the catalogue's domains."""

from pathlib import Path

import click

from core.cli.common import json_option, print_json, root_option, workspace_of
from core.errors import InvalidInput
from core.text import table


@click.group("domain")
def domain() -> None:
    """Show the catalogue's domains, and add one."""


@domain.command("list")
@root_option
@json_option
def list_domains(root: str | None, as_json: bool) -> None:
    """All domains of the catalogue: group, planned phase, base now and planned, and whether there is data."""
    from core.catalog import load_catalog
    from core.errors import TaraError
    from core.training.data import find_data

    workspace = workspace_of(root)
    catalog = load_catalog(workspace)
    rows = []
    for name, entry in catalog.domains.items():
        try:
            data = workspace.relative(find_data(workspace, name))
        except TaraError:
            data = ""
        mapped = catalog.mapping[name]
        rows.append((name, entry.group, entry.phase, mapped.current, mapped.planned, data))
    headers = ("name", "group", "phase", "base", "planned", "data")
    if as_json:
        print_json([dict(zip(headers, row, strict=True)) for row in rows])
    else:
        click.echo(table(headers, [["" if cell is None else cell for cell in row] for row in rows]))


@domain.command("add")
@click.argument("name")
@click.option("--description", required=True, metavar="TEXT", help="One sentence: what it is for.")
@click.option("--keywords", required=True, metavar="A,B,…", help="Words people use for it, separated by commas.")
@click.option("--system-prompt", metavar="TEXT", help="Put before every training example and chat.")
@click.option("--base", metavar="NAME", help="Generic name of its base (default: the one most domains are on).")
@click.option("--group", default="other", show_default=True, metavar="NAME")
@click.option(
    "--safety-tier", default="standard", show_default=True, metavar="NAME", help="standard, elevated, critical."
)
@click.option("--examples", metavar="FILE", help="Training data; copied to data/NAME.jsonl or .json.")
@root_option
@json_option
def add(
    name: str,
    description: str,
    keywords: str,
    system_prompt: str | None,
    base: str | None,
    group: str,
    safety_tier: str,
    examples: str | None,
    root: str | None,
    as_json: bool,
) -> None:
    """Add a domain NAME to the catalogue; it can be put into a phase and trained at once."""
    from core.catalog.edit import add_domain_entry
    from core.files import write_atomically
    from core.training.data import read_examples

    workspace = workspace_of(root)
    source = Path(examples).expanduser().resolve() if examples is not None else None
    if source is not None:
        if not source.is_file():
            raise InvalidInput(f"there is no file {source}")
        read_examples(source)
        for taken in (workspace.data / f"{name}.jsonl", workspace.data / f"{name}.json"):
            if taken.exists():
                raise InvalidInput(f"{taken} exists already", "move it away, or leave out --examples")
    entry = add_domain_entry(
        workspace,
        name,
        description,
        [word.strip() for word in keywords.split(",") if word.strip()],
        group=group,
        safety_tier=safety_tier,
        system_prompt=system_prompt,
        base=base,
    )
    if source is not None:
        workspace.data.mkdir(exist_ok=True)
        write_atomically(workspace.data / f"{entry.name}{source.suffix}", source.read_bytes())
    if as_json:
        print_json({"name": entry.name, "title": entry.title, "keywords": list(entry.keywords)})
    else:
        click.echo(
            f"{entry.name} is in the catalogue; next: tara add-domain N {entry.name}, or train-domain {entry.name}"
        )
